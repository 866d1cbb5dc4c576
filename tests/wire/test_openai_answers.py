"""Answers and streams are what OpenAI's own client expects, and what our own structs say they are."""

import base64
import json
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2
import msgspec
import openai as sdk
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from exo import errors
from exo.cards import ModelCard
from exo.chat import (
    Alternative,
    Delta,
    Embeddings,
    EmbedRequest,
    Finished,
    Reasoning,
    Text,
    Timings,
    TokenLogprob,
    ToolCall,
    Usage,
)
from exo.wire import openai
from exo.wire.openai import answer_types as types

WHO = ("chatcmpl-1", 1700000000, "mo\0del")
USAGE = Usage(prompt_tokens=10, completion_tokens=5, reasoning_tokens=2, cached_tokens=4)
LIKELY = TokenLogprob(
    Alternative("é", -0.1, (195, 169)),
    (Alternative("é", -0.1, (195, 169)), Alternative("e", float("-inf"), (101,))),
)
DELTAS: list[Delta] = [
    Reasoning("hm"),
    Text('say "é\n\0'),
    Text("é", (LIKELY,)),
    ToolCall(0, "c0", "add", '{"a"'),
    ToolCall(0, arguments=":1}"),
    ToolCall(1, "c1", "now", "{}"),
    Finished("tool_calls", USAGE),
]


def events(stream: bytes) -> Iterator[Any]:
    """The parsed data of each event, the last being the text [DONE]."""
    assert stream.endswith(b"\n\n")
    for event in stream.removesuffix(b"\n\n").split(b"\n\n"):
        assert event.startswith(b"data: ")
        data = event.removeprefix(b"data: ")
        yield "[DONE]" if data == b"[DONE]" else json.loads(data)


def exact(kind: type[Any], data: object) -> Any:
    """`data` as `kind`, which must know every key of it."""
    value = msgspec.convert(data, kind)
    assert json.loads(msgspec.json.encode(value)) == data
    return value


def chat_stream(deltas: Sequence[Delta], *, include_usage: bool = True) -> bytes:
    stream = openai.ChatStream(*WHO, include_usage=include_usage)
    said = b"".join(stream.delta(0, delta) for delta in deltas)
    return stream.start(0) + said + stream.end(USAGE)


def text_stream(deltas: Sequence[Delta], echo: Sequence[str] = ()) -> bytes:
    stream = openai.CompletionStream(*WHO, include_usage=True, echo=echo)
    return stream.start(0) + b"".join(stream.delta(0, delta) for delta in deltas) + stream.end(USAGE)


def test_chat_stream() -> None:
    *chunks, done = events(chat_stream(DELTAS))
    assert done == "[DONE]"
    for chunk in chunks:
        exact(types.ChatChunk, chunk)
        parsed = ChatCompletionChunk.model_validate(chunk)
        assert (parsed.id, parsed.created, parsed.model) == WHO
    *said, usage = chunks
    assert [chunk["usage"] for chunk in said] == [None] * len(said)
    assert [chunk["choices"][0]["delta"] for chunk in said] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "hm"},
        {"content": 'say "é\n\0'},
        {"content": "é"},
        {
            "tool_calls": [
                {"index": 0, "id": "c0", "type": "function", "function": {"name": "add", "arguments": '{"a"'}}
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
        {
            "tool_calls": [
                {"index": 1, "id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
            ]
        },
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in said] == [None] * 7 + ["tool_calls"]
    assert said[3]["choices"][0]["logprobs"]["content"] == [
        {
            "token": "é",
            "logprob": -0.1,
            "bytes": [195, 169],
            "top_logprobs": [
                {"token": "é", "logprob": -0.1, "bytes": [195, 169]},
                {"token": "e", "logprob": -9999.0, "bytes": [101]},
            ],
        }
    ]
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }


def test_chat_stream_without_usage() -> None:
    *chunks, done = events(chat_stream(DELTAS, include_usage=False))
    assert done == "[DONE]"
    assert all("usage" not in chunk for chunk in chunks)
    assert len(chunks) == len(DELTAS) + 1


TIMED = Finished("stop", USAGE, Timings(prefill=0.25, decode=1.5004567))
TIMINGS = {"cache_n": 4, "prompt_n": 6, "prompt_ms": 250.0, "predicted_n": 5, "predicted_ms": 1500.457}


def test_a_finish_has_its_timings_as_llama_cpps_server_sends_them() -> None:
    chat = openai.ChatStream(*WHO), types.ChatChunk
    text = openai.CompletionStream(*WHO), types.TextAnswer
    for stream, kind in (chat, text):
        said, finish = events(stream.delta(0, Text("a")) + stream.delta(0, TIMED))
        assert "timings" not in said
        assert finish["timings"] == TIMINGS
        exact(kind, finish)
    for answer in (openai.chat_answer(*WHO, [[TIMED]]), openai.completion_answer(*WHO, [[TIMED]])):
        assert json.loads(answer)["timings"] == TIMINGS


def test_timings_of_several_choices_and_those_not_known_are_left_out() -> None:
    for choices in ([[TIMED], [TIMED]], [[Finished("stop", USAGE)]]):
        assert "timings" not in json.loads(openai.chat_answer(*WHO, choices))
        assert "timings" not in json.loads(openai.completion_answer(*WHO, choices, n=len(choices)))


def test_choices_of_a_stream_keep_apart() -> None:
    stream = openai.ChatStream(*WHO, n=3)
    for index in range(3):
        for said in (
            stream.start(index),
            stream.delta(index, Text("a")),
            stream.delta(index, Finished("stop")),
        ):
            (chunk,) = events(said)
            assert chunk["choices"][0]["index"] == index


@given(st.text())
def test_any_text_arrives_as_it_is(text: str) -> None:
    for stream in (openai.ChatStream(*WHO), openai.CompletionStream(*WHO)):
        (chunk,) = events(stream.delta(0, Text(text)))
        choice = chunk["choices"][0]
        assert choice.get("delta", {}).get("content", choice.get("text")) == text


def test_completion_stream() -> None:
    deltas: list[Delta] = [
        Text("a"),
        Text("é", (LIKELY,)),
        Reasoning("r"),
        Text("b"),
        Finished("tool_calls", USAGE),
    ]
    *chunks, done = events(text_stream(deltas, echo=["Hi "]))
    assert done == "[DONE]"
    for chunk in chunks:
        exact(types.TextAnswer, chunk)
        # OpenAI's own type claims a finish_reason on every chunk, while its server sends null.
        for choice in chunk["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        Completion.model_validate(chunk)
    *said, usage = chunks
    assert "".join(chunk["choices"][0]["text"] for chunk in said) == "Hi aérb"
    assert said[2]["choices"][0]["logprobs"] == {
        "tokens": ["é"],
        "token_logprobs": [-0.1],
        "top_logprobs": [{"é": -0.1, "e": -9999.0}],
        "text_offset": [4],
    }
    assert said[-1]["choices"][0]["finish_reason"] == "stop"
    assert usage["usage"]["total_tokens"] == 15
    assert openai.CompletionStream(*WHO).start(0) == b""


def test_text_offsets_count_characters() -> None:
    tokens = [TokenLogprob(Alternative(token, -0.1, ())) for token in ("one", " two", "!")]
    said = json.loads(openai.completion_answer(*WHO, [[Text("one two!", tuple(tokens)), Finished("stop")]]))
    assert said["choices"][0]["logprobs"]["text_offset"] == [0, 3, 7]


def test_a_model_may_be_called_like_the_mark() -> None:
    (chunk,) = events(openai.ChatStream("\0", 1, "\0").delta(0, Text("a")))
    assert chunk["choices"][0]["delta"] == {"content": "a"}


def test_completion_calls_no_tools() -> None:
    with pytest.raises(errors.EngineFailed):
        openai.CompletionStream(*WHO).delta(0, ToolCall(0, "c", "f"))
    with pytest.raises(errors.EngineFailed):
        openai.completion_answer(*WHO, [[ToolCall(0, "c", "f"), Finished("stop")]])


def test_chat_answer() -> None:
    said = json.loads(openai.chat_answer(*WHO, [DELTAS, [Text("b"), Finished("length", USAGE)]]))
    exact(types.ChatAnswer, said)
    parsed = ChatCompletion.model_validate(said)
    first, second = said["choices"]
    assert first["message"] == {
        "role": "assistant",
        "content": 'say "é\n\0é',
        "refusal": None,
        "reasoning_content": "hm",
        "tool_calls": [
            {"id": "c0", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}},
            {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}},
        ],
    }
    assert first["finish_reason"] == "tool_calls"
    assert parsed.choices[0].logprobs
    assert second == {
        "index": 1,
        "message": {"role": "assistant", "content": "b", "refusal": None},
        "logprobs": None,
        "finish_reason": "length",
    }
    assert parsed.usage
    assert (parsed.usage.prompt_tokens, parsed.usage.completion_tokens) == (10, 10)


def test_content_is_null_only_beside_tool_calls() -> None:
    called = json.loads(openai.chat_answer(*WHO, [[ToolCall(0, "c", "f", "{}"), Finished("tool_calls")]]))
    silent = json.loads(openai.chat_answer(*WHO, [[Reasoning("hm"), Finished("length")]]))
    assert called["choices"][0]["message"]["content"] is None
    assert silent["choices"][0]["message"]["content"] == ""


def test_unfinished_answer_is_no_answer() -> None:
    with pytest.raises(errors.EngineFailed, match="without a finish"):
        openai.chat_answer(*WHO, [[Text("a")]])


def test_completion_answer() -> None:
    choices: list[list[Delta]] = [
        [Text("é", (LIKELY,)), Finished("stop", USAGE)],
        [Reasoning("r"), Text("b"), Finished("length", USAGE)],
    ]
    said = json.loads(openai.completion_answer(*WHO, choices, n=2, echo=["1+", "1+"]))
    exact(types.TextAnswer, said)
    parsed = Completion.model_validate(said)
    assert [choice.text for choice in parsed.choices] == ["1+é", "1+rb"]
    assert [choice.finish_reason for choice in parsed.choices] == ["stop", "length"]
    assert said["choices"][0]["logprobs"]["text_offset"] == [2]
    assert parsed.usage
    assert parsed.usage.prompt_tokens == 10


@pytest.mark.parametrize(("n", "prompt", "cached"), [(1, 60, 9), (2, 40, 1), (4, 20, 0)])
def test_total_usage(n: int, prompt: int, cached: int) -> None:
    usages = [Usage(10, 1, 1, 0), Usage(10, 1, 0, 8), Usage(20, 1, 0, 1), Usage(20, 1, 0, 0)]
    if n == 2:
        usages[3] = Usage(30, 1, 0, 1)
        assert openai.total_usage(usages, n) == Usage(prompt, 4, 1, cached)
    else:
        assert openai.total_usage(usages, n) == Usage(prompt, 4, 1, cached)


@pytest.mark.parametrize("as_base64", [True, False])
def test_embeddings(as_base64: bool) -> None:
    call = openai.EmbedCall(EmbedRequest(model="m", texts=("a", "b")), as_base64)
    said = json.loads(openai.embeddings_answer(call, "m", Embeddings(((0.5, -1.0), (0.25, 1.0)), 7)))
    exact(types.EmbeddingsAnswer, said)
    assert said["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    if as_base64:
        raw = base64.b64decode(said["data"][1]["embedding"])
        assert struct.unpack("<2f", raw) == (0.25, 1.0)
    else:
        assert CreateEmbeddingResponse.model_validate(said).data[1].embedding == [0.25, 1.0]


def test_models() -> None:
    card = ModelCard(id="m", format="gguf", context=1, bytes=1, memory=1, created=5)
    one = json.loads(openai.model_answer(card))
    assert one == {"id": "m", "object": "model", "created": 5, "owned_by": "local"}
    Model.model_validate(exact(types.ModelAnswer, one) and one)
    assert json.loads(openai.models_answer([card])) == {"object": "list", "data": [one]}


@pytest.mark.parametrize("kind", errors.STATUS)
def test_error(kind: type[errors.ExoError]) -> None:
    said = json.loads(openai.error_answer(kind("no \udcff", param="n")))
    exact(types.ErrorAnswer, said)
    assert said["error"]["code"] == kind.code
    assert said["error"]["param"] == "n"
    assert said["error"]["message"] == "no ?"
    wanted = {401: "authentication_error", 429: "rate_limit_error"}.get(errors.STATUS[kind])
    fallback = "invalid_request_error" if errors.STATUS[kind] < 500 else "server_error"
    assert said["error"]["type"] == (wanted or fallback)


def test_unknown_error_is_the_servers() -> None:
    assert json.loads(openai.error_answer(errors.ExoError("x")))["error"]["type"] == "server_error"


# Through OpenAI's own client


def client(status: int, body: bytes, kind: str = "application/json") -> sdk.OpenAI:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status, content=body, headers={"content-type": kind})

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return sdk.OpenAI(api_key="k", base_url="http://exo/v1", http_client=http, max_retries=0)


def test_client_reads_a_stream() -> None:
    body = b": keep-alive\n\n" + chat_stream(DELTAS)
    chunks = list(
        client(200, body, "text/event-stream").chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}], stream=True
        )
    )
    assert len(chunks) == len(DELTAS) + 2
    assert chunks[-1].usage
    assert chunks[-1].usage.total_tokens == 15


def test_client_raises_a_failure_in_a_stream() -> None:
    stream = openai.ChatStream(*WHO)
    body = stream.start(0) + stream.delta(0, Text("a")) + stream.failed(errors.EngineFailed("the NPU hung"))
    chunks = client(200, body, "text/event-stream").chat.completions.create(
        model="m", messages=[{"role": "user", "content": "x"}], stream=True
    )
    assert [next(chunks).choices[0].delta.content for _ in range(2)] == ["", "a"]
    with pytest.raises(sdk.APIError, match="the NPU hung") as failed:
        next(chunks)
    assert failed.value.code == "engine_failed"


def test_client_raises_an_error_answer() -> None:
    body = openai.error_answer(errors.Overloaded("full", param="n"))
    with pytest.raises(sdk.RateLimitError, match="full") as failed:
        client(429, body).models.list()
    assert (failed.value.code, failed.value.param, failed.value.type) == (
        "overloaded",
        "n",
        "rate_limit_error",
    )


def test_client_reads_embeddings() -> None:
    call = openai.EmbedCall(EmbedRequest(model="m", texts=("a",)), base64=True)
    body = openai.embeddings_answer(call, "m", Embeddings(((0.5, -1.0),), 7))
    assert client(200, body).embeddings.create(model="m", input="x").data[0].embedding == [0.5, -1.0]


def test_client_skips_timings() -> None:
    answer = client(200, openai.chat_answer(*WHO, [[Text("a"), TIMED]])).chat.completions.create(
        model="m", messages=[{"role": "user", "content": "x"}]
    )
    assert (answer.choices[0].message.content, answer.model_extra) == ("a", {"timings": TIMINGS})


def test_an_answer_can_be_sent_back_as_history() -> None:
    plain: list[Delta] = [Text("a"), Finished("stop")]
    for deltas in (DELTAS, plain):
        answer = client(200, openai.chat_answer(*WHO, [deltas])).chat.completions.create(
            model="m", messages=[{"role": "user", "content": "x"}]
        )
        history = {"model": "m", "messages": [answer.choices[0].message.model_dump()]}
        (message,) = openai.decode_chat(json.dumps(history).encode(), id="r").request.messages
        assert message.content == answer.choices[0].message.content
        assert len(message.tool_calls) == len(answer.choices[0].message.tool_calls or ())
