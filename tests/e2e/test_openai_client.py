"""The official `openai` client against a node: it is understood, and gets what it expects."""

import asyncio
import json
import struct
from base64 import b64decode
from typing import Any

import msgspec
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from .conftest import Start, sdk
from .node import HANG, Node, Wire, eventually, raw_chat, text, token

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
SUM: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is 12 + 35?"}]
QUICK = {"enable_thinking": False}
# A text that is no chat and means nothing, continued without filters: of its sums the model is too sure.
HOT: dict[str, Any] = {
    "model": "exo-demo",
    "prompt": "qx zv",
    "temperature": 2,
    "top_p": 1,
    "max_tokens": 30,
    "extra_body": {"min_p": 0, "top_k": 0},
}
ADD: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


def said(client: openai.OpenAI, **keys: Any) -> str:
    """The bundled model's answer without thinking, at temperature 0 unless told otherwise."""
    keys = {"model": "exo-demo", "messages": SUM, "temperature": 0, "extra_body": QUICK, **keys}
    return str(client.chat.completions.create(**keys).choices[0].message.content)


def guessed(client: openai.OpenAI, **keys: Any) -> str:
    return str(client.completions.create(**HOT, **keys).choices[0].text)


# Models


def test_models(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert {"exo-demo", "hello"} <= set(models)
    assert models["exo-demo"].object == "model"
    assert models["exo-demo"].created > 1_600_000_000
    assert client.models.retrieve("exo-demo") == models["exo-demo"]


# Chats


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="hello", messages=HI)
    assert answer.object == "chat.completion"
    assert answer.model == "hello"
    [choice] = answer.choices
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "stop", None)
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello, wörld!")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        1,
        4,
        5,
    )


def test_streamed_chat(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model="hello", messages=HI, stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello, wörld!"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert last.usage is not None
    assert (last.choices, last.usage.total_tokens) == ([], 5)


def test_the_clients_own_accumulator(client: openai.OpenAI) -> None:
    """It is strict about the order and the indices of what comes."""
    with client.chat.completions.stream(
        model="hello", messages=HI, n=2, stream_options={"include_usage": True}
    ) as stream:
        whole = stream.get_final_completion()
    assert [choice.message.content for choice in whole.choices] == ["Hello, wörld!"] * 2
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8


async def test_async_client(node: Node) -> None:
    async with openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key="unused", max_retries=0) as client:
        assert "hello" in {model.id async for model in client.models.list()}
        whole = await client.chat.completions.create(model="hello", messages=HI)
        assert whole.choices[0].message.content == "Hello, wörld!"

        async def streamed() -> str:
            stream = await client.chat.completions.create(model="hello", messages=HI, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        assert await asyncio.gather(*(streamed() for _ in range(20))) == ["Hello, wörld!"] * 20


@pytest.mark.parametrize("name", ["exo-demo", "hello"])
def test_streamed_and_whole_answers_are_the_same(client: openai.OpenAI, name: str) -> None:
    with client.chat.completions.create(model=name, messages=SUM, temperature=0, stream=True) as stream:
        chunks = list(stream)
    whole = client.chat.completions.create(model=name, messages=SUM, temperature=0)
    pieces = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(piece.content or "" for piece in pieces) == whole.choices[0].message.content
    thought = "".join((piece.model_extra or {}).get("reasoning_content") or "" for piece in pieces)
    assert thought == ((whole.choices[0].message.model_extra or {}).get("reasoning_content") or "")


def test_several_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="exo-demo", messages=SUM, n=3, temperature=2, seed=1, extra_body=QUICK, max_tokens=20
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.message.content for choice in answer.choices)
    one = client.chat.completions.create(model="exo-demo", messages=SUM, extra_body=QUICK, max_tokens=1)
    assert answer.usage is not None
    assert one.usage is not None
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens, "the prompt counts once"
    assert answer.usage.completion_tokens > 3


def test_choices_of_a_hot_model_differ(client: openai.OpenAI) -> None:
    """With a seed, too: three times the same answer is not what `n` is for."""
    for seed in (None, 7):
        answer = client.completions.create(n=4, seed=seed, **HOT)
        assert len({choice.text for choice in answer.choices}) > 1


def test_seed(client: openai.OpenAI) -> None:
    first = guessed(client, seed=7)
    assert [guessed(client, seed=7) for _ in range(3)] == [first] * 3
    assert len({guessed(client, seed=seed) for seed in range(5)}) > 1


def test_stop(client: openai.OpenAI) -> None:
    for stop in ("wör", ["nowhere", "wör"]):
        [choice] = client.chat.completions.create(model="hello", messages=HI, stop=stop).choices
        assert (choice.message.content, choice.finish_reason) == ("Hello, ", "stop")
    whole = said(client)
    assert "=" in whole
    assert said(client, stop="=") == whole.split("=")[0]


def test_max_tokens(client: openai.OpenAI) -> None:
    for keys in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
        answer = client.chat.completions.create(model="hello", messages=HI, **keys)  # type: ignore[call-overload]
        assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 2)
        assert answer.choices[0].message.content == "Hello, "
    cut = client.chat.completions.create(model="exo-demo", messages=SUM, max_tokens=3, extra_body=QUICK)
    assert cut.usage is not None
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 3)


def test_logprobs(client: openai.OpenAI) -> None:
    keys: dict[str, Any] = {"temperature": 0, "logprobs": True, "top_logprobs": 3, "extra_body": QUICK}
    [choice] = client.chat.completions.create(model="exo-demo", messages=SUM, **keys).choices
    assert choice.logprobs is not None
    tokens = choice.logprobs.content
    assert tokens
    assert "".join(each.token for each in tokens) == choice.message.content
    for each in tokens:
        assert each.bytes == list(each.token.encode())
        assert each.logprob <= 0
        assert len(each.top_logprobs) == 3
        assert each.top_logprobs[0].token == each.token, "at temperature 0 the likeliest is taken"
        assert each.top_logprobs[0].logprob == max(top.logprob for top in each.top_logprobs)
    with client.chat.completions.create(model="exo-demo", messages=SUM, stream=True, **keys) as stream:
        streamed = [
            each.token
            for chunk in stream
            if chunk.choices[0].logprobs
            for each in chunk.choices[0].logprobs.content or []
        ]
    assert streamed == [each.token for each in tokens]
    keys["top_logprobs"] = 0
    [choice] = client.chat.completions.create(model="exo-demo", messages=SUM, **keys).choices
    assert choice.logprobs is not None
    assert [each.top_logprobs for each in choice.logprobs.content or []] == [[]] * len(tokens)


def test_logit_bias(client: openai.OpenAI) -> None:
    assert said(client, logit_bias={str(token("7")): 100}, max_tokens=5) == "77777"
    assert "7" not in said(client, logit_bias={str(token("7")): -100}, max_tokens=50)


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty"])
def test_penalties_change_what_is_said(client: openai.OpenAI, penalty: str) -> None:
    """With one seed, what is drawn differs only where the chances do."""
    assert guessed(client, seed=3) == guessed(client, seed=3)
    assert guessed(client, seed=3, **{penalty: -2}) != guessed(client, seed=3, **{penalty: 2})


# A fixed form


class Result(msgspec.Struct, forbid_unknown_fields=True):
    sum: int
    even: bool
    word: str


def test_json_schema(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {
            "sum": {"type": "integer", "minimum": 0, "maximum": 1999},
            "even": {"type": "boolean"},
            "word": {"enum": ["small", "große"]},
        },
        "required": ["sum", "even", "word"],
        "additionalProperties": False,
    }
    for temperature in (0, 2):
        answer = client.chat.completions.create(
            model="exo-demo",
            messages=SUM,
            temperature=temperature,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "result", "schema": schema, "strict": True},
            },
        )
        assert answer.choices[0].finish_reason == "stop"
        result = msgspec.json.decode(answer.choices[0].message.content or "", type=Result)
        assert 0 <= result.sum <= 1999
        assert result.word in ("small", "große")
        assert "reasoning_content" not in (answer.choices[0].message.model_extra or {})


def test_json_object(client: openai.OpenAI) -> None:
    content = said(
        client,
        response_format={"type": "json_object"},
        # The toy has never seen an object and would go on for ever: it is nudged to end what it begins.
        logit_bias={str(token('"')): 100, str(token("}")): 50},
        max_tokens=200,
    )
    assert isinstance(json.loads(content), dict)


# Thinking and tools


def test_thoughts_are_kept_apart(client: openai.OpenAI) -> None:
    [choice] = client.chat.completions.create(model="thinker", messages=HI).choices
    assert choice.message.content == "42"
    assert choice.message.model_extra == {"reasoning_content": "Hm."}
    answer = client.chat.completions.create(model="thinker", messages=HI)
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens == 1


@pytest.mark.parametrize(
    ("thinking", "off"),
    [({"enable_thinking": True}, {"enable_thinking": False}),
     ({"chat_template_kwargs": {"enable_thinking": True}}, {"chat_template_kwargs": QUICK}),
     ({"reasoning_effort": "high"}, {"reasoning_effort": "none"})],
)  # fmt: skip
def test_thinking_is_switched(client: openai.OpenAI, thinking: object, off: object) -> None:
    def thought(switch: object) -> str:
        answer = client.chat.completions.create(
            model="exo-demo", messages=SUM, temperature=0, extra_body=switch
        )
        content = answer.choices[0].message.content or ""
        assert "think>" not in content
        return str((answer.choices[0].message.model_extra or {}).get("reasoning_content", ""))

    assert thought(thinking)
    assert not thought(off)


def test_tool_call(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="caller", messages=HI, tools=[ADD], tool_choice="auto")
    [choice] = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    [call] = choice.message.tool_calls or []
    assert call.type == "function"
    assert (call.id, call.function.name, call.function.arguments) == ("call_1", "add", '{"a":2}')


def test_streamed_tool_call(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="caller", messages=HI, tools=[ADD], stream=True) as stream:
        chunks = list(stream)
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [(delta.index, delta.id) for delta in deltas] == [(0, "call_1"), (0, None), (0, None)]
    assert all(delta.function is not None for delta in deltas)
    assert [delta.function.name for delta in deltas if delta.function] == ["add", None, None]
    assert "".join(delta.function.arguments or "" for delta in deltas if delta.function) == '{"a":2}'
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_conversation_with_a_tools_result_goes_through(client: openai.OpenAI) -> None:
    call = client.chat.completions.create(model="caller", messages=HI, tools=[ADD]).choices[0].message
    result: ChatCompletionMessageParam = {"role": "tool", "tool_call_id": "call_1", "content": "4"}
    for model in ("hello", "exo-demo"):
        answer = client.chat.completions.create(
            model=model,
            messages=[*HI, call.model_dump(), result],  # type: ignore[list-item]
            tools=[ADD],
            max_tokens=5,
        )
        assert answer.choices[0].finish_reason in ("stop", "length")


# Completions and embeddings


def test_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="hello", prompt=["one", "two words"], n=2, echo=True)
    assert answer.object == "text_completion"
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    expected = ["oneHello, wörld!"] * 2 + ["two wordsHello, wörld!"] * 2
    assert [choice.text for choice in answer.choices] == expected
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 16)


def test_streamed_completion(client: openai.OpenAI) -> None:
    texts = {0: "", 1: ""}
    with client.completions.create(model="hello", prompt=["one ", "two "], echo=True, stream=True) as stream:
        for chunk in stream:
            texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {0: "one Hello, wörld!", 1: "two Hello, wörld!"}


def test_completion_continues_the_text_as_it_stands(client: openai.OpenAI) -> None:
    """Without a chat template: the bundled model goes on counting."""
    start = (
        "<|im_start|>user\nCount from 1 to 9.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n1, 2,"
    )
    answer = client.completions.create(
        model="exo-demo", prompt=start, temperature=0, max_tokens=2, logprobs=2
    )
    [choice] = answer.choices
    assert choice.finish_reason == "length"
    assert choice.logprobs is not None
    assert "".join(choice.logprobs.tokens or []) == choice.text
    assert any(character.isdigit() for character in choice.text)


def test_embeddings(node: Node, client: openai.OpenAI) -> None:
    texts = ["What is 2 + 2?", "What is 2 + 3?", "apple"]
    answer = client.embeddings.create(model="exo-demo", input=texts, encoding_format="float")
    vectors = [row.embedding for row in answer.data]
    assert [row.index for row in answer.data] == [0, 1, 2]
    assert all(abs(sum(x * x for x in vector) - 1) < 1e-3 for vector in vectors)
    assert vectors[0] != vectors[1] != vectors[2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 3
    asked = {"model": "exo-demo", "input": texts, "encoding_format": "base64"}
    packed = node.request("POST", "/v1/embeddings", asked).json()["data"]
    for row, vector in zip(packed, vectors, strict=True):
        data = b64decode(row["embedding"])
        assert struct.unpack(f"<{len(vector)}f", data) == pytest.approx(vector, abs=1e-7)
    # Asked for nothing, the client asks for base64 itself and unpacks it.
    [alone] = client.embeddings.create(model="exo-demo", input=texts[0]).data
    assert alone.embedding == pytest.approx(vectors[0], abs=1e-4)


# Errors


def test_unknown_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="exo-demo") as caught:
        client.chat.completions.create(model="exo-dmo", messages=HI)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert caught.value.request_id


@pytest.mark.parametrize(
    ("keys", "param"),
    [({"temperature": 3}, "temperature"), ({"messages": []}, "messages"), ({"n": 0}, "n")],
)
def test_bad_request(client: openai.OpenAI, keys: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": "hello", "messages": HI, **keys})
    assert (caught.value.param, caught.value.type) == (param, "invalid_request_error")


def test_key(start: Start) -> None:
    node = start(env={"EXO_API_KEY": "s3cret"}, scripts={"hello": [text("Hello")]})
    with sdk(node, key="wrong") as client, pytest.raises(openai.AuthenticationError) as caught:
        client.chat.completions.create(model="hello", messages=HI)
    assert caught.value.code == "unauthorized"
    assert "s3cret" not in str(caught.value)
    with sdk(node, key="s3cret") as client:
        assert (
            client.chat.completions.create(model="hello", messages=HI).choices[0].message.content == "Hello"
        )


def test_overload(start: Start) -> None:
    node = start("--max-waiting", "1", scripts={"hangs": [text("started"), HANG]})
    with Wire(node) as running, Wire(node) as waiting, sdk(node) as client:
        running.send(raw_chat("hangs", stream=True))
        running.until(b"started")
        waiting.send(raw_chat("hangs"))
        eventually(lambda: node.waiting() == 1)
        for stream in (False, True):
            with pytest.raises(openai.RateLimitError) as caught:
                client.chat.completions.create(model="hangs", messages=HI, stream=stream)
            assert caught.value.code == "overloaded"
            assert int(caught.value.response.headers["retry-after"]) >= 1


def test_failure_of_the_engine(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError, match="the wheel came off") as caught:
            client.chat.completions.create(model="broken", messages=HI, stream=stream)
        assert (caught.value.status_code, caught.value.code) == (502, "engine_failed")
    with pytest.raises(openai.InternalServerError, match="the wheel came off"):
        client.chat.completions.create(model="breaks-midway", messages=HI)


def test_failure_in_the_middle_of_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="breaks-midway", messages=HI, stream=True) as stream:
        pieces = (chunk.choices[0].delta.content for chunk in stream)
        assert [next(pieces), next(pieces)] == ["", "so far"]
        with pytest.raises(openai.APIError, match="the wheel came off"):
            next(pieces)
