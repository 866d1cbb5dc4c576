"""The official `openai` client's Responses against a node: it is understood, and gets what it expects."""

from typing import Any

import msgspec
import openai
import pytest
from openai.types.responses import ResponseReasoningItem

from .conftest import Start, sdk
from .node import HANG, Node, Wire, eventually, raw_post, text

SUM = "What is 12 + 35?"
# The bundled model as it answers the same each time.
EXACT: dict[str, Any] = {"model": "exo-demo", "temperature": 0}
QUICK: dict[str, Any] = {**EXACT, "reasoning": {"effort": "none"}}
ADD: Any = {
    "type": "function",
    "name": "add",
    "description": "Adds numbers.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
}


def thoughts(answer: Any) -> str:
    items = [item for item in answer.output if isinstance(item, ResponseReasoningItem)]
    return "".join(part.text for item in items for part in item.content or item.summary)


# Answers


@pytest.mark.parametrize("name", ["exo-demo", "hello", "thinker"])
def test_streamed_and_whole_answers_are_the_same(client: openai.OpenAI, name: str) -> None:
    asked: dict[str, Any] = {"model": name, "input": SUM, "temperature": 0}
    whole = client.responses.create(**asked)
    with client.responses.stream(**asked) as stream:
        streamed = stream.get_final_response()
    assert (whole.status, streamed.status) == ("completed", "completed")
    assert streamed.output_text == whole.output_text != ""
    assert thoughts(streamed) == thoughts(whole)
    assert whole.usage is not None
    assert streamed.usage is not None
    assert whole.usage.output_tokens == streamed.usage.output_tokens > 0


def test_it_answers_as_a_chat_does(client: openai.OpenAI) -> None:
    answer = client.responses.create(input=SUM, **QUICK)
    chat = client.chat.completions.create(
        messages=[{"role": "user", "content": SUM}],
        extra_body={"enable_thinking": False},
        **EXACT,
    )
    assert answer.output_text == chat.choices[0].message.content
    assert answer.usage is not None
    assert chat.usage is not None
    assert answer.usage.input_tokens == chat.usage.prompt_tokens


async def test_async_client(node: Node) -> None:
    async with openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key="unused", max_retries=0) as client:
        whole = await client.responses.create(model="hello", input="hi")
        assert whole.output_text == "Hello, wörld!"
        stream = await client.responses.create(model="hello", input="hi", stream=True)
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
        assert "".join(deltas) == "Hello, wörld!"


@pytest.mark.parametrize(("effort", "thinks"), [("none", False), ("minimal", False), ("high", True)])
def test_thinking_is_switched(client: openai.OpenAI, effort: Any, thinks: bool) -> None:
    for summary in (None, "auto"):
        form: Any = {"effort": effort, "summary": summary}
        answer = client.responses.create(input=SUM, reasoning=form, **EXACT)
        assert bool(thoughts(answer)) is thinks
        assert "think>" not in answer.output_text
        assert answer.usage is not None
        assert bool(answer.usage.output_tokens_details.reasoning_tokens) is thinks


def test_an_answer_that_is_cut(client: openai.OpenAI) -> None:
    answer = client.responses.create(input=SUM, max_output_tokens=3, **QUICK)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.usage is not None
    assert answer.usage.output_tokens == 3


def test_probabilities(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        input=SUM, include=["message.output_text.logprobs"], top_logprobs=3, **QUICK
    )
    [message] = answer.output
    assert message.type == "message"
    [part] = message.content
    assert part.type == "output_text"
    assert part.logprobs
    assert "".join(each.token for each in part.logprobs) == answer.output_text
    assert all(len(each.top_logprobs) == 3 for each in part.logprobs)


class Result(msgspec.Struct, forbid_unknown_fields=True):
    sum: int
    word: str


@pytest.mark.parametrize("temperature", [0, 2])
def test_json_schema(client: openai.OpenAI, temperature: float) -> None:
    schema = {
        "type": "object",
        "properties": {
            "sum": {"type": "integer", "minimum": 0, "maximum": 1999},
            "word": {"enum": ["small", "große"]},
        },
        "required": ["sum", "word"],
        "additionalProperties": False,
    }
    answer = client.responses.create(
        model="exo-demo",
        input=SUM,
        temperature=temperature,
        text={"format": {"type": "json_schema", "name": "result", "schema": schema, "strict": True}},
    )
    assert answer.status == "completed"
    result = msgspec.json.decode(answer.output_text, type=Result)
    assert result.word in ("small", "große")


# Conversations


def test_a_conversation_is_the_same_kept_and_sent_whole(client: openai.OpenAI) -> None:
    first = client.responses.create(input=SUM, **QUICK)
    kept = client.responses.create(input="What is 3 + 4?", previous_response_id=first.id, **QUICK)
    sent: list[Any] = [
        {"role": "user", "content": SUM},
        *first.output,
        {"role": "user", "content": "What is 3 + 4?"},
    ]
    whole = client.responses.create(input=sent, store=False, **QUICK)
    assert kept.output_text == whole.output_text
    assert kept.usage is not None
    assert whole.usage is not None
    assert first.usage is not None
    assert kept.usage.input_tokens == whole.usage.input_tokens > first.usage.input_tokens
    assert client.responses.retrieve(kept.id) == kept
    items = client.responses.input_items.list(kept.id, order="asc")
    assert [item.type for item in items] == ["message"] * 3
    client.responses.delete(kept.id)
    with pytest.raises(openai.NotFoundError, match="store: false"):
        client.responses.create(input="And now?", previous_response_id=kept.id, **QUICK)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(whole.id)


@pytest.mark.parametrize("stream", [True, False])
def test_a_tool_is_called_and_answered(client: openai.OpenAI, stream: bool) -> None:
    asked: dict[str, Any] = {"model": "caller", "input": "2 + 3", "tools": [ADD]}
    if stream:
        with client.responses.stream(**asked) as events:
            first: Any = events.get_final_response()
    else:
        first = client.responses.create(**asked)
    [call] = first.output
    assert (call.type, call.call_id, call.name, call.arguments) == (
        "function_call",
        "call_1",
        "add",
        '{"a":2}',
    )
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "5"}
    for model in ("hello", "exo-demo"):
        for given in (
            {"input": [result], "previous_response_id": first.id},
            {"input": [{"role": "user", "content": "2 + 3"}, call, result], "store": False},
        ):
            answer = client.responses.create(model=model, tools=[ADD], max_output_tokens=5, **given)
            assert answer.status in ("completed", "incomplete")


def test_nothing_is_kept_over_a_restart(start: Start) -> None:
    node = start(scripts={"hello": [text("Hello")]})
    with sdk(node) as client:
        id = client.responses.create(model="hello", input="hi").id
    node.stop()
    with sdk(start()) as client, pytest.raises(openai.NotFoundError, match="none over a restart"):
        client.responses.create(model="hello", input="hi", previous_response_id=id)


# Errors


def test_errors_before_the_first_word(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match="the wheel came off") as failed:
            client.responses.create(model="broken", input="hi", stream=stream)
        assert (failed.value.status_code, failed.value.code) == (502, "engine_failed")
        with pytest.raises(openai.NotFoundError, match="exo-demo") as missing:
            client.responses.create(model="exo-dmo", input="hi", stream=stream)
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
        with pytest.raises(openai.BadRequestError, match="web_search") as refused:
            client.responses.create(model="hello", input="hi", tools=[{"type": "web_search"}], stream=stream)
        assert refused.value.param == "tools[0]"


def test_a_failure_in_the_middle_of_a_stream(client: openai.OpenAI) -> None:
    with client.responses.create(model="breaks-midway", input="hi", stream=True) as stream:
        *events, error, failed = list(stream)
    assert "".join(each.delta for each in events if each.type == "response.output_text.delta") == "so far"
    assert error.type == "error"
    assert (error.code, error.message) == ("engine_failed", "the wheel came off")
    assert failed.type == "response.failed"
    assert failed.response.error is not None
    assert failed.response.error.message == "the wheel came off"


def test_a_client_that_leaves_ends_its_answer(start: Start) -> None:
    node = start(scripts={"hangs": [text("started"), HANG]})
    with Wire(node) as wire:
        wire.send(raw_post("/v1/responses", {"model": "hangs", "input": "hi", "stream": True}, id="left"))
        wire.until(b"started")
    eventually(lambda: node.metric("exo_requests_in_progress") == 0)
    assert node.access("left")["status"] == 499


def test_key(start: Start) -> None:
    node = start(env={"EXO_API_KEY": "s3cret"}, scripts={"hello": [text("Hello")]})
    with sdk(node, key="wrong") as client, pytest.raises(openai.AuthenticationError):
        client.responses.create(model="hello", input="hi")
    with sdk(node, key="s3cret") as client:
        answer = client.responses.create(model="hello", input="hi")
        assert answer.output_text == "Hello"
    with sdk(node, key="wrong") as client, pytest.raises(openai.AuthenticationError):
        client.responses.retrieve(answer.id)
