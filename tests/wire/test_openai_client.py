"""What the client's side says, the server's side understands, and the other way round."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo import errors
from exo.cards import ModelCard
from exo.chat import (
    Alternative,
    ChatRequest,
    Delta,
    Embeddings,
    EmbedRequest,
    Finished,
    Message,
    Reasoning,
    Sampling,
    SoFar,
    Text,
    Timings,
    TokenLogprob,
    Tool,
    ToolCall,
    Usage,
)
from exo.wire import openai
from exo.wire.openai import ChunkReader, decode_error, encode_chat, encode_completion

# Requests

INT32 = 2**31 - 1
texts = st.text(max_size=8)
words = st.text(min_size=1, max_size=8)
maybe = st.none()


def numbers(low: float, high: float, **bounds: Any) -> st.SearchStrategy[float | None]:
    return maybe | st.floats(low, high, **bounds)


samplings = st.builds(
    Sampling,
    temperature=numbers(0, 2),
    top_p=numbers(0, 1, exclude_min=True),
    top_k=maybe | st.integers(0, INT32),
    min_p=numbers(0, 1),
    repeat_penalty=maybe | st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    presence_penalty=numbers(-2, 2),
    frequency_penalty=numbers(-2, 2),
    logit_bias=st.dictionaries(st.integers(0, INT32), st.floats(-100, 100), max_size=3),
    seed=maybe | st.integers(-(2**63), 2**63 - 1),
    max_tokens=maybe | st.integers(1, INT32),
)
calls = st.lists(st.tuples(words, words, texts), max_size=3).map(
    lambda rows: tuple(ToolCall(i, *row) for i, row in enumerate(rows))
)
messages = st.one_of(
    st.builds(Message, st.sampled_from(["system", "user"]), texts),
    st.builds(Message, st.just("assistant"), texts, calls, reasoning=texts),
    st.builds(Message, st.just("tool"), texts, tool_call_id=words),
)
schemas = st.dictionaries(
    texts,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False, allow_infinity=False)
        | texts,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
        max_leaves=4,
    ),
    max_size=3,
)
tools = st.lists(
    st.builds(
        Tool,
        name=st.from_regex(r"[a-zA-Z0-9_-]{1,64}", fullmatch=True),
        description=texts,
        parameters=schemas.map(lambda schema: {key: value for key, value in schema.items() if key != "type"})
        | schemas.map(lambda schema: {**schema, "type": "object"}),
    ),
    max_size=2,
    unique_by=lambda tool: tool.name,
).map(tuple)


@st.composite
def with_tools(draw: st.DrawFn) -> dict[str, Any]:
    """Tools, and what is wanted of them."""
    offered = draw(tools)
    names = [tool.name for tool in offered]
    must = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    return {"tools": offered, "must_call": tuple(must), "parallel_calls": draw(st.booleans()) or not names}


constraints = st.one_of(
    with_tools(),
    st.fixed_dictionaries({"json_schema": schemas}),
    st.fixed_dictionaries({"grammar": words}),
)
common: dict[str, st.SearchStrategy[Any]] = {
    "id": texts,
    "model": words,
    "sampling": samplings,
    "stop": st.lists(words, max_size=16).map(tuple),
}


@given(
    st.fixed_dictionaries(
        {
            **common,
            "messages": st.lists(messages, min_size=1, max_size=4).map(tuple),
            "logprobs": maybe | st.integers(0, 20),
            "thinking": maybe | st.just(True),
            "thinking_budget": maybe | st.integers(1, 1000),
            "so_far": maybe | st.builds(SoFar, texts, texts),
        }
    ),
    constraints,
)
def test_chat_goes_round(fields: dict[str, Any], constraint: dict[str, Any]) -> None:
    request = ChatRequest(**fields, **constraint)
    call = openai.decode_chat(encode_chat(request), id=request.id)
    in_order = [tool.name for tool in call.request.tools if tool.name in request.must_call]
    assert sorted(call.request.must_call) == sorted(request.must_call) == sorted(in_order)
    # Where several tools may be chosen from, no other one is shown to the model.
    shown = request.tools
    if len(request.must_call) > 1:
        shown = tuple(tool for tool in request.tools if tool.name in request.must_call)
    expected = msgspec.structs.replace(request, must_call=call.request.must_call, tools=call.request.tools)
    assert sorted(tool.name for tool in call.request.tools) == sorted(tool.name for tool in shown)
    assert call == openai.ChatCall(expected, n=1, stream=True, include_usage=True)


def test_no_thinking_goes_round() -> None:
    request = ChatRequest(model="m", messages=(Message("user", "Hi"),), thinking=False)
    assert openai.decode_chat(encode_chat(request), id="").request == request


@given(
    st.fixed_dictionaries({**common, "prompt": texts, "logprobs": maybe | st.integers(0, 5)}),
    constraints.filter(lambda constraint: "tools" not in constraint),
)
def test_completion_goes_round(fields: dict[str, Any], constraint: dict[str, Any]) -> None:
    request = ChatRequest(**fields, **constraint)
    call = openai.decode_completion(encode_completion(request), id=request.id)
    assert call == openai.CompletionCall((request,), n=1, stream=True, include_usage=True, echo=False)


def test_only_what_is_set_is_sent() -> None:
    request = ChatRequest(model="m", messages=(Message("user", "x"),), sampling=Sampling(temperature=0))
    assert json.loads(encode_chat(request)) == {
        "model": "m",
        "messages": [{"role": "user", "content": "x"}],
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_request_goes_to_the_route_that_can_say_it() -> None:
    with pytest.raises(ValueError, match="prompt"):
        encode_chat(ChatRequest(model="m", prompt="x"))
    for request in (
        ChatRequest(model="m", messages=(Message("user", "x"),)),
        ChatRequest(model="m", prompt="x", thinking=True),
        ChatRequest(model="m", prompt="x", tools=(Tool("f"),)),
    ):
        with pytest.raises(ValueError, match="prompt"):
            encode_completion(request)


# Streams

alternatives = st.builds(
    lambda token, logprob: Alternative(token, logprob, tuple(token.encode())), words, st.floats(-50, 0)
)
logprobs = st.lists(
    st.builds(TokenLogprob, alternatives, st.lists(alternatives, max_size=2).map(tuple)), max_size=2
)
said = st.one_of(
    st.builds(Text, words),
    st.builds(Text, words, logprobs.map(tuple)),
    st.builds(Reasoning, words),
)
usages = st.builds(Usage, *[st.integers(0, 1000)] * 4)
timings = st.builds(Timings, *[st.integers(0, 10**10).map(lambda microseconds: microseconds / 1e6)] * 2)


@st.composite
def call_pieces(draw: st.DrawFn) -> list[Delta]:
    pieces: list[Delta] = []
    for index, (id_, name, arguments) in enumerate(
        draw(st.lists(st.tuples(words, words, st.lists(words)), max_size=2))
    ):
        pieces.append(ToolCall(index, id_, name))
        pieces += [ToolCall(index, arguments=argument) for argument in arguments]
    return pieces


answers = st.builds(
    lambda texts, pieces, finish: [*texts, *pieces, finish],
    st.lists(said, max_size=5),
    call_pieces(),
    st.builds(Finished, st.sampled_from(["stop", "length", "tool_calls"]), usages, timings),
)


def stream_of(deltas: list[Delta]) -> bytes:
    stream = openai.ChatStream("i", 1, "m", include_usage=True)
    finished = deltas[-1]
    assert isinstance(finished, Finished)
    return stream.start(0) + b"".join(stream.delta(0, delta) for delta in deltas) + stream.end(finished.usage)


def read(data: bytes, cuts: list[int] | None = None) -> list[Delta]:
    reader, deltas = ChunkReader(), []
    bounds = [0, *sorted(cuts or []), len(data)]
    for start, end in itertools.pairwise(bounds):
        deltas += reader.feed(data[start:end])
    return deltas + reader.finish()


@given(answers, st.data())
def test_stream_goes_round_however_it_is_cut(deltas: list[Delta], data: st.DataObject) -> None:
    stream = stream_of(deltas)
    stream = stream.replace(
        b"\n\n", data.draw(st.sampled_from([b"\n\n", b"\n\n: alive\n\n", b"\nid: 1\n\n\n"]))
    )
    stream = stream.replace(b"\n", data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"])))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    assert read(stream, cuts) == deltas


def test_data_of_several_lines_may_be_cut_within_a_line_end() -> None:
    stream = b'data: {"choices":\r\ndata: [{"text":"a","finish_reason":"stop"}]}\r\n\r\n'
    assert read(stream, list(range(len(stream)))) == [Text("a"), Finished("stop")]


def test_stream_goes_round_byte_by_byte() -> None:
    deltas: list[Delta] = [
        Text("é😀"),
        ToolCall(0, "c", "f", "{"),
        ToolCall(0, arguments="}"),
        Finished("stop", Usage(1, 2)),
    ]
    stream = stream_of(deltas).replace(b"\n", b"\r\n")
    assert read(stream, list(range(len(stream)))) == deltas


@given(st.lists(st.builds(Text, words), max_size=5), usages, timings, st.data())
def test_completion_stream_goes_round(
    texts: list[Text], usage: Usage, timings: Timings, data: st.DataObject
) -> None:
    stream = openai.CompletionStream("i", 1, "m", include_usage=True)
    deltas: list[Delta] = [*texts, Finished("length", usage, timings)]
    body = b"".join(stream.delta(0, delta) for delta in deltas) + stream.end(usage)
    assert read(body, data.draw(st.lists(st.integers(0, len(body)), max_size=5))) == deltas


def test_completion_logprobs_are_read() -> None:
    chosen = Alternative("é", -0.5, tuple("é".encode()))
    stream = openai.CompletionStream("i", 1, "m")
    body = stream.delta(0, Text("é", (TokenLogprob(chosen, (Alternative("e", -0.1, (101,)),)),)))
    (text,) = ChunkReader().feed(body)
    assert text == Text("é", (TokenLogprob(chosen, (Alternative("e", -0.1, (101,)), chosen)),))


def chunk(**keys: Any) -> bytes:
    return b"data: " + json.dumps(keys).encode() + b"\n\n"


def choice(finish: str | None = None, **delta: Any) -> bytes:
    return chunk(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


DONE = b"data: [DONE]\n\n"
CALL = {"id": "c", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("stream", "deltas"),
    [
        (choice(content="a") + choice("stop") + DONE, [Text("a"), Finished("stop")]),
        (choice("stop", content="a") + DONE, [Text("a"), Finished("stop")]),
        (choice("stop"), [Finished("stop")]),
        (choice(reasoning="r") + choice("stop") + DONE, [Reasoning("r"), Finished("stop")]),
        (choice(content=None, tool_calls=None) + choice("length"), [Finished("length")]),
        (chunk(choices=None) + chunk(choices=[{"delta": None}]) + choice("stop"), [Finished("stop")]),
        (
            chunk(choices=[{"delta": {}, "finish_reason": "stop"}], usage={"prompt_tokens": 3}) + DONE,
            [Finished("stop", Usage(3))],
        ),
        (
            choice("stop")
            + chunk(choices=[], usage={"prompt_tokens": 3, "completion_tokens_details": None})
            + DONE,
            [Finished("stop", Usage(3))],
        ),
        (
            chunk(choices=[{"finish_reason": "stop"}], usage={"prompt_tokens": 3})
            + chunk(choices=[], usage={"prompt_tokens": 5}),
            [Finished("stop", Usage(5))],
        ),
        (
            choice(content="a")
            + chunk(choices=[{"finish_reason": "stop"}], timings={"prompt_ms": 1})
            + chunk(
                choices=[],
                usage={"prompt_tokens": 3},
                timings={"prompt_n": 3, "prompt_ms": 12.5, "predicted_ms": 250, "predicted_per_second": 4.0},
            ),
            [Text("a"), Finished("stop", Usage(3), Timings(0.0125, 0.25))],
        ),
        (
            chunk(choices=[{"finish_reason": "stop"}], timings=[{"prompt_ms": 1}]) + DONE,
            [Finished("stop")],
        ),
        (
            chunk(choices=[{"finish_reason": "stop"}], timings={"prompt_ms": -1, "predicted_ms": None}),
            [Finished("stop")],
        ),
        (choice("function_call"), [Finished("tool_calls")]),
        (
            choice(tool_calls=[CALL, CALL]) + choice("stop"),
            [ToolCall(0, "c", "f", "{}"), ToolCall(1, "c", "f", "{}"), Finished("stop")],
        ),
        (
            choice(tool_calls=[{**CALL, "index": 0}]) * 2 + choice("stop"),
            [ToolCall(0, "c", "f", "{}"), ToolCall(0, arguments="{}"), Finished("stop")],
        ),
        (
            choice(tool_calls=[{"index": 2, "function": {"name": "f"}}]) + choice("stop"),
            [ToolCall(2, "call_2", "f"), Finished("stop")],
        ),
        (chunk(choices=[{"index": 1, "delta": {"content": "b"}}]) + choice("stop"), [Finished("stop")]),
        (
            b'data: {"choices":\ndata:[{"text":"a","finish_reason":"stop"}]}\n\n',
            [Text("a"), Finished("stop")],
        ),
        (b"event: message\nretry: 5\n" + choice("stop") + DONE + choice(content="late"), [Finished("stop")]),
    ],
)
def test_habits_of_other_servers(stream: bytes, deltas: list[Delta]) -> None:
    assert read(stream) == deltas


@pytest.mark.parametrize(
    ("stream", "kind", "words"),
    [
        (b"", errors.EngineFailed, "ended without a finish"),
        (choice(content="a"), errors.EngineFailed, "ended without a finish"),
        (choice(content="a") + DONE, errors.EngineFailed, "ended without a finish"),
        (choice("stop")[:-1], errors.EngineFailed, "ended without a finish"),
        (choice("content_filter"), errors.EngineFailed, '"content_filter"'),
        (b"data: {\n\n", errors.EngineFailed, "cannot be read"),
        (b'data: {"choices":5}\n\n', errors.EngineFailed, "cannot be read"),
        (b'data: {"x":1\ndata: 2}\n\n', errors.EngineFailed, "cannot be read"),
        (b"data: \xff\n\n", errors.EngineFailed, "cannot be read"),
        (b'data: {"x":' + b"[" * 10_000 + b"\n\n", errors.EngineFailed, "cannot be read"),
        (chunk(error="broke"), errors.EngineFailed, "broke"),
        (chunk(error={"message": "m", "code": "odd"}), errors.EngineFailed, "m"),
        (chunk(error={"message": "m", "code": None}), errors.EngineFailed, "m"),
        (chunk(error={"message": "m", "code": 429}), errors.Overloaded, "m"),
        (chunk(error={"message": "m", "code": "timeout"}), errors.Timeout, "m"),
        (chunk(error={"a": 1}), errors.EngineFailed, "broke off the answer: {'a': 1}"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_broken_streams(stream: bytes, kind: type[errors.ExoError], words: str) -> None:
    with pytest.raises(errors.ExoError) as failed:
        read(stream)
    assert type(failed.value) is kind
    assert words in failed.value.message


def test_endless_line_is_not_kept() -> None:
    reader = ChunkReader()
    for _ in range(16):
        assert reader.feed(b"x" * 2**20) == []
    with pytest.raises(errors.EngineFailed, match="a line of more than"):
        reader.feed(b"x")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (choice(content="a") + openai.ChatStream("i", 1, "m").failed(errors.NotReady("x")), errors.NotReady),
        (choice("content_filter", content="a"), errors.EngineFailed),
    ],
)
def test_deltas_ahead_of_an_error_are_not_lost(body: bytes, kind: type[errors.ExoError]) -> None:
    reader = ChunkReader()
    assert reader.feed(body) == [Text("a")]
    for _ in range(2):
        with pytest.raises(kind):
            reader.feed(DONE)
    with pytest.raises(kind):
        reader.finish()


def test_done() -> None:
    reader = ChunkReader()
    reader.feed(choice("stop"))
    assert not reader.done
    assert reader.feed(DONE) == [Finished("stop")]
    assert reader.done
    assert reader.finish() == []


@given(
    st.lists(
        st.binary(max_size=30) | st.sampled_from([b"data: ", b"\n\n", b"{}", b'{"choices":[{}]}', b"[DONE]"])
    )
)
def test_any_bytes_are_read_or_fail(parts: list[bytes]) -> None:
    reader = ChunkReader()
    try:
        for part in parts:
            reader.feed(part)
        reader.finish()
    except errors.EngineFailed:
        pass


# Embeddings


def test_embeddings_are_asked_for() -> None:
    request = EmbedRequest(model="m", texts=("a", "b"), id="r")
    call = openai.decode_embeddings(openai.encode_embeddings(request), id="r")
    assert call == openai.EmbedCall(request, base64=False)


@pytest.mark.parametrize("as_base64", [True, False])
def test_vectors_go_round(as_base64: bool) -> None:
    vectors = Embeddings(((0.6, -0.8), (1.0, 0.0)), 7)
    call = openai.EmbedCall(EmbedRequest(model="m", texts=("a", "b")), as_base64)
    back = openai.decode_embeddings_answer(openai.embeddings_answer(call, "m", vectors), 2)
    assert back.prompt_tokens == 7
    for vector, sent in zip(back.vectors, vectors.vectors, strict=True):
        assert vector == pytest.approx(sent, abs=1e-7 if as_base64 else 0)


def embedded(*vectors: object, **keys: object) -> bytes:
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return json.dumps({"data": data, **keys}).encode()


def test_vectors_of_other_servers_are_put_in_order_and_made_as_long_as_1() -> None:
    body = json.dumps(
        {"data": [{"index": 1, "embedding": [0, 0]}, {"index": 0, "embedding": [3, 4]}], "object": "list"}
    )
    back = openai.decode_embeddings_answer(body.encode(), 2)
    assert back == Embeddings(((0.6, 0.8), (0.0, 0.0)), 0)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "cannot be read"),
        (b"{}", "cannot be read"),
        (embedded(["x"]), "cannot be read"),
        (embedded("!"), "cannot be read"),
        (embedded("AAA="), "cannot be read"),
        (embedded("AADAfw=="), "cannot be read"),  # not a number
        (embedded([1.0], [1.0]), "2 embeddings for 1 texts"),
        (embedded(), "0 embeddings for 1 texts"),
        (b'{"data":[{"index":1,"embedding":[1]}]}', "1 embeddings for 1 texts"),
        (b'{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}', "2 embeddings for 1 texts"),
    ],
)
def test_broken_embeddings(body: bytes, words: str) -> None:
    with pytest.raises(errors.EngineFailed, match=words):
        openai.decode_embeddings_answer(body, 1)


# Models


def test_models_go_round() -> None:
    card = ModelCard(id="m", format="remote", context=0, bytes=0, memory=0, created=5, owned_by="me")
    assert openai.decode_models(openai.models_answer([card]), "remote") == (card,)


def test_models_of_other_servers_need_no_more_than_a_name() -> None:
    body = json.dumps(
        {
            "data": [
                {"id": "a", "meta": {"n_params": 1}},
                {"id": "b", "created": "x", "owned_by": None},
                {"id": ""},
            ]
        }
    )
    a, b = openai.decode_models(body.encode(), "rkllm")
    assert (a.id, a.format, a.created, a.owned_by) == ("a", "rkllm", 0, "")
    assert b == msgspec.structs.replace(a, id="b")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"models":[]}', b'{"data":[{"id":1}]}', b"\xff"])
def test_what_is_no_list_of_models(body: bytes) -> None:
    with pytest.raises(errors.EngineFailed, match="no list of models"):
        openai.decode_models(body, "remote")


# Errors


@pytest.mark.parametrize("kind", errors.STATUS)
def test_kinds_survive_a_hop(kind: type[errors.ExoError]) -> None:
    error = kind("why", param="messages[0]", retry_after=3)
    there = decode_error(errors.STATUS[kind], openai.error_answer(error), retry_after=3)
    assert type(there) is kind
    assert (there.message, there.param, there.retry_after) == ("why", "messages[0]", 3)
    with pytest.raises(kind) as failed:
        ChunkReader().feed(openai.ChatStream("i", 1, "m").failed(error))
    assert type(failed.value) is kind
    assert (failed.value.message, failed.value.param) == ("why", "messages[0]")


@pytest.mark.parametrize(
    ("status", "body", "kind", "message"),
    [
        (400, b'{"error":"no"}', errors.BadRequest, "no"),
        (401, b'{"error":{"message":"no","code":"invalid_api_key"}}', errors.Unauthorized, "no"),
        (
            403,
            b'{"detail":"no"}',
            errors.Forbidden,
            'the server answered with status 403: {"detail":"no"}',
        ),
        (404, b"<html>", errors.NotFound, "the server answered with status 404: <html>"),
        (408, b"", errors.Timeout, "the server answered with status 408: "),
        (409, b"[]", errors.BadRequest, "the server answered with status 409: []"),
        (413, b"", errors.RequestTooLarge, "the server answered with status 413: "),
        (422, b'{"message":"no"}', errors.BadRequest, "no"),
        (429, b"", errors.Overloaded, "the server answered with status 429: "),
        (
            500,
            b"\xff" + b"x" * 1000,
            errors.EngineFailed,
            f"the server answered with status 500: \ufffd{'x' * 199}",
        ),
        (502, b"null", errors.EngineFailed, "the server answered with status 502: null"),
        (503, b'{"error":{}}', errors.NotReady, 'the server answered with status 503: {"error":{}}'),
        (504, b"5", errors.Timeout, "the server answered with status 504: 5"),
        (302, b"", errors.EngineFailed, "the server answered with status 302: "),
        (400, b"[" * 10_000, errors.BadRequest, f"the server answered with status 400: {'[' * 200}"),
        (
            400,
            b'{"error":{"code":400,"message":"too long","type":"exceed_context_size_error"}}',
            errors.ContextLengthExceeded,
            "too long",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_errors_of_other_servers(status: int, body: bytes, kind: type[errors.ExoError], message: str) -> None:
    error = decode_error(status, body)
    assert type(error) is kind
    assert error.message == message


@given(st.integers(100, 599), st.binary() | st.text().map(lambda text: json.dumps({"error": text}).encode()))
def test_any_error_is_decoded(status: int, body: bytes) -> None:
    error = decode_error(status, body)
    assert type(error) in errors.STATUS
    assert error.message


def test_embeddings_that_failed_late_raise_what_failed() -> None:
    body = b'   {"error": {"message": "no room", "type": "server_error", "param": null, "code": "not_ready"}}'
    with pytest.raises(errors.NotReady, match="no room"):
        openai.decode_embeddings_answer(body, 1)


@pytest.mark.parametrize(("said", "stop"), [('"\\n"', "\n"), ("null", ""), ("151645", "")])
def test_the_stop_string_that_ended_an_answer_is_read(said: str, stop: str) -> None:
    chunk = f'{{"choices": [{{"delta": {{}}, "finish_reason": "stop", "stop_reason": {said}}}]}}'
    reader = ChunkReader()
    assert reader.feed(f"data: {chunk}\n\ndata: [DONE]\n\n".encode()) == [Finished("stop", stop=stop)]


def test_the_stop_string_goes_round() -> None:
    deltas: list[Delta] = [Text("4"), Finished("stop", stop="###")]
    stream = openai.ChatStream("id", 1, "m")
    sent = b"".join(stream.delta(0, delta) for delta in deltas) + stream.end(Usage())
    assert ChunkReader().feed(sent) == deltas
    whole = json.loads(openai.chat_answer("id", 1, "m", [deltas]))
    assert whole["choices"][0]["stop_reason"] == "###"
    assert (
        "stop_reason" not in json.loads(openai.chat_answer("id", 1, "m", [[Finished("stop")]]))["choices"][0]
    )
