"""The official `anthropic` client against a node: it is understood, and gets what it expects."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from pydantic import BaseModel

from .conftest import Start
from .node import HANG, PATIENCE, Node, eventually, text

HI: list[Any] = [{"role": "user", "content": "hi"}]
SUM: list[Any] = [{"role": "user", "content": "What is 12 + 35?"}]
SILENT: Any = {"type": "disabled"}
EXACT = {"temperature": 0}
ADD: Any = {
    "name": "add",
    "description": "Adds numbers.",
    "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
}


def sdk(node: Node, key: str = "unused", **more: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=node.url, api_key=key, max_retries=0, timeout=PATIENCE, **more)


@pytest.fixture
def client(node: Node) -> Iterator[anthropic.Anthropic]:
    with sdk(node) as client:
        yield client


def said(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def thought(message: anthropic.types.Message) -> str:
    return "".join(block.thinking for block in message.content if block.type == "thinking")


def test_models(client: anthropic.Anthropic) -> None:
    models = {model.id: model for model in client.models.list()}
    assert {"exo-demo", "hello"} <= set(models)
    assert models["exo-demo"].max_input_tokens == 2048
    assert client.models.retrieve("exo-demo") == models["exo-demo"]


def test_message(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(
        model="exo-demo", max_tokens=100, messages=SUM, thinking=SILENT, extra_body=EXACT
    )
    assert (said(answer), answer.stop_reason, answer.model) == ("12 + 35 = 47", "end_turn", "exo-demo")
    usage = answer.usage
    assert usage.input_tokens + (usage.cache_read_input_tokens or 0) > 10
    assert usage.output_tokens > 5


def test_stream(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model="exo-demo", max_tokens=100, messages=SUM, thinking=SILENT, extra_body=EXACT
    ) as stream:
        pieces = list(stream.text_stream)
        answer = stream.get_final_message()
    assert "".join(pieces) == said(answer) == "12 + 35 = 47"
    assert len(pieces) > 3
    assert answer.usage.output_tokens == len(pieces) + 1


@pytest.mark.parametrize("thinking", [None, {"type": "adaptive"}, {"type": "enabled", "budget_tokens": 1024}])
def test_thinking(client: anthropic.Anthropic, thinking: Any) -> None:
    asked: dict[str, Any] = {"model": "exo-demo", "max_tokens": 1500, "messages": SUM, "extra_body": EXACT}
    asked |= {"thinking": thinking} if thinking else {}
    whole = client.messages.create(**asked)
    assert thought(whole)
    assert said(whole) == "12 + 35 = 47"
    with client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert (thought(streamed), said(streamed)) == (thought(whole), said(whole))
    again = client.messages.create(
        **asked | {"messages": [*SUM, {"role": "assistant", "content": whole.content}, *SUM]}
    )
    assert said(again) == "12 + 35 = 47"


def test_max_tokens_and_stop_sequences(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": "exo-demo", "messages": SUM, "thinking": SILENT, "extra_body": EXACT}
    cut = client.messages.create(max_tokens=3, **asked)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)
    stopped = client.messages.create(max_tokens=50, stop_sequences=[" ="], **asked)
    assert (said(stopped), stopped.stop_reason, stopped.stop_sequence) == ("12 + 35", "stop_sequence", " =")


def test_the_beginning_of_the_answer_is_gone_on_with(client: anthropic.Anthropic) -> None:
    begun: list[Any] = [*SUM, {"role": "assistant", "content": "12 + 35 ="}]
    answer = client.messages.create(
        model="exo-demo", max_tokens=50, messages=begun, thinking=SILENT, extra_body=EXACT
    )
    assert said(answer) == " 47"


def test_a_form_for_the_answer(client: anthropic.Anthropic) -> None:
    class Result(BaseModel):
        even: bool

    answer = client.messages.parse(
        model="exo-demo", max_tokens=100, messages=SUM, output_format=Result, extra_body=EXACT
    )
    assert isinstance(answer.parsed_output, Result)


def test_tools_in_pieces(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(model="caller", max_tokens=50, messages=HI, tools=[ADD])
    [call] = whole.content
    assert (whole.stop_reason, call.type) == ("tool_use", "tool_use")
    with client.messages.stream(model="caller", max_tokens=50, messages=HI, tools=[ADD]) as stream:
        [streamed] = stream.get_final_message().content
    assert streamed.to_dict() == call.to_dict()
    assert call.to_dict() == {"type": "tool_use", "id": "call_1", "name": "add", "input": {"a": 2}}


def test_count_tokens(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="exo-demo", messages=SUM, thinking=SILENT).input_tokens
    answer = client.messages.create(model="exo-demo", max_tokens=5, messages=SUM, thinking=SILENT)
    assert counted == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)


# What goes wrong


def test_errors(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="nobody") as missing:
        client.messages.create(model="nobody", max_tokens=5, messages=HI)
    assert missing.value.type == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="temprature") as wrong:
        client.messages.create(model="hello", max_tokens=5, messages=HI, extra_body={"temprature": 1})
    assert wrong.value.type == "invalid_request_error"
    image: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].content\[0\]"):
        client.messages.create(model="hello", max_tokens=5, messages=[{"role": "user", "content": [image]}])
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
        client.messages.create(
            model="exo-demo", max_tokens=5, messages=[{"role": "user", "content": "12 + 35 " * 2000}]
        )
    with pytest.raises(anthropic.InternalServerError, match="the wheel came off"):
        client.messages.create(model="broken", max_tokens=5, messages=HI)


def test_a_failure_in_the_middle(client: anthropic.Anthropic) -> None:
    with (
        pytest.raises(anthropic.APIStatusError, match="the wheel came off") as caught,
        client.messages.stream(model="breaks-midway", max_tokens=50, messages=HI) as stream,
    ):
        stream.get_final_message()
    assert caught.value.type == "api_error"


@pytest.mark.parametrize("header", ["x-api-key", "authorization"])
def test_a_key_in_either_header(start: Start, header: str) -> None:
    node = start(env={"EXO_API_KEY": "s3cret"}, scripts={"hello": [text("Hello")]})
    with sdk(node, "wrong") as client, pytest.raises(anthropic.AuthenticationError) as caught:
        client.messages.create(model="hello", max_tokens=5, messages=HI)
    assert caught.value.type == "authentication_error"
    value = "s3cret" if header == "x-api-key" else "Bearer s3cret"
    reply = node.request(
        "POST", "/v1/messages", {"model": "hello", "max_tokens": 5, "messages": HI}, {header: value}
    )
    assert reply.status == 200, reply.body


def test_a_client_that_hangs_up_frees_the_slot(start: Start) -> None:
    node = start(scripts={"hangs": [text("started"), HANG]})
    for _ in range(2):
        with sdk(node) as client:
            events = client.messages.create(model="hangs", max_tokens=50, messages=HI, stream=True)
            assert next(iter(events)).type == "message_start"
            assert node.running() == 1
            events.close()
        eventually(lambda: (node.running(), node.waiting()) == (0, 0))
    assert node.metric("exo_requests_total", model="hangs", status="cancelled") == 2
