"""The original NPU server's dialect, the client's side: what is asked, and every way an answer may arrive."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.chat import ChatRequest, Delta, Finished, Message, Sampling, Text, Tool, ToolCall, Usage
from exo.errors import BadRequest, EngineFailed
from exo.wire import rkllama

HI = (Message("user", "hi"),)
roles = st.sampled_from(["system", "user", "assistant"])


@given(st.lists(st.builds(Message, roles, st.text()), min_size=1).map(tuple))
def test_a_conversation_goes_round(messages: tuple[Message, ...]) -> None:
    body = rkllama.encode_generate(ChatRequest(model="m", messages=messages))
    call = rkllama.decode_generate(body, id="")
    assert call == rkllama.GenerateCall(ChatRequest(model="", messages=messages), stream=True)


def test_the_conversation_is_all_that_is_sent() -> None:
    request = ChatRequest(model="m", messages=HI, stop=("x",), sampling=Sampling(max_tokens=5), id="1")
    assert json.loads(rkllama.encode_generate(request)) == {
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"sampling": Sampling(temperature=0)}, "temperature"),
        ({"sampling": Sampling(seed=0)}, "seed"),
        ({"sampling": Sampling(top_k=0)}, "top_k"),
        ({"sampling": Sampling(logit_bias={1: 2.0})}, "logit_bias"),
        ({"tools": (Tool("f"),)}, "tools"),
        ({"logprobs": 0}, "logprobs"),
        ({"json_schema": {}}, "response_format"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"thinking": False}, "enable_thinking"),
        ({"messages": (), "prompt": ""}, "prompt"),
        ({"messages": (*HI, Message("tool", "4", tool_call_id="1"))}, "messages[1]"),
        ({"messages": (Message("assistant", "", (ToolCall(0, "1", "f"),)),)}, "messages[0]"),
    ],
)
def test_what_the_dialect_cannot_carry_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        rkllama.encode_generate(ChatRequest(**{"model": "m", "messages": HI, **fields}))
    assert refused.value.param == param


def test_lists_and_names_are_read() -> None:
    assert rkllama.decode_models(rkllama.models_answer(["a", "b"])) == ("a", "b")
    assert rkllama.decode_current_model(rkllama.current_model_answer("a")) == "a"
    assert rkllama.decode_load_model(rkllama.encode_load_model("a")).model == "a"
    with pytest.raises(EngineFailed, match="<html>"):
        rkllama.decode_models(b"<html>")


# Answers


def read_into(pieces: list[str], *parts: bytes) -> rkllama.AnswerReader:
    reader = rkllama.AnswerReader()
    for part in parts:
        pieces += reader.feed(part)
    reader.finish()
    return reader


def read(*parts: bytes) -> tuple[list[str], rkllama.AnswerReader]:
    pieces: list[str] = []
    return pieces, read_into(pieces, *parts)


def one(content: str, reason: str | None = None, **usage: int | None) -> dict[str, Any]:
    """An object as the original writes it."""
    choice = {"role": "assistant", "content": content, "logprobs": None, "finish_reason": reason}
    return {"id": "rkllm_chat", "object": "rkllm_chat", "created": None, "choices": [choice], "usage": usage}


texts = st.text(st.characters(codec="utf-8") | st.sampled_from('{}"\\\n')).filter(bool)
gaps = st.sampled_from(["\n\n", "", "\n", "\r\n\r\n", "  "])


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[str], list[bytes]]:
    """The pieces of an answer, and the bytes of its stream cut anywhere."""
    pieces = draw(st.lists(texts, min_size=1, max_size=6))
    escaped, indent = draw(st.booleans()), draw(st.sampled_from([None, 2]))
    objects = [one(piece) for piece in pieces[:-1]] + [one(pieces[-1], "stop")]
    sent = draw(gaps).encode()
    for each in objects:
        sent += (json.dumps(each, ensure_ascii=escaped, indent=indent) + draw(gaps)).encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(sent)), max_size=8)))
    edges = [0, *cuts, len(sent)]
    return pieces, [sent[a:b] for a, b in pairwise(edges)]


@given(streams())
def test_an_answer_is_the_same_however_it_is_cut_and_glued(stream: tuple[list[str], list[bytes]]) -> None:
    pieces, parts = stream
    got, reader = read(*parts)
    assert got == pieces
    assert reader.reason == "stop"


@pytest.mark.parametrize("piece", ['"}', '\\"{', "ü\\", '{"\\}"'])
def test_an_answer_may_come_byte_by_byte(piece: str) -> None:
    sent = (json.dumps(one(piece, "stop"), ensure_ascii=False) + "\n\n").encode()
    assert read(*(sent[i : i + 1] for i in range(len(sent))))[0] == [piece]


@given(st.lists(texts, max_size=5))
def test_what_our_own_server_says_is_understood(pieces: list[str]) -> None:
    stream = rkllama.GenerateStream(0, lambda: 0.0)
    deltas: list[Delta] = [*map(Text, pieces), Finished("length", Usage(3, len(pieces)))]
    got, reader = read(*(stream.delta(0, delta) for delta in deltas))
    assert got == pieces
    assert (reader.reason, reader.usage) == ("length", Usage(3, len(pieces)))


def test_a_whole_answer_is_a_stream_of_one() -> None:
    pieces, reader = read(rkllama.generate_answer(0, [Text("all of it"), Finished("stop", Usage(3, 9))], 1.0))
    assert pieces == ["all of it"]
    assert (reader.reason, reader.usage) == ("stop", Usage(3, 9))


def test_tokens_are_counted_by_pieces_where_the_server_does_not() -> None:
    objects = [one("a", prompt_tokens=None, completion_tokens=None), one("b", "stop")]
    assert read(*(json.dumps(each).encode() for each in objects))[1].usage == Usage(0, 2)


def test_the_servers_last_count_holds() -> None:
    objects = [one("a", prompt_tokens=5, completion_tokens=1), one("b", prompt_tokens=5, completion_tokens=4)]
    assert read(*(json.dumps(each).encode() for each in objects))[1].usage == Usage(5, 4)


def test_an_end_without_a_reason_is_left_to_the_caller() -> None:
    assert read(json.dumps(one("a")).encode())[1].reason is None


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b"\n\n",
        json.dumps(one("")).encode(),
        json.dumps(one("a")).encode()[:-1],
        json.dumps(one("a")).encode() + b'\n\n{"choices',
        json.dumps(one("a", "timeout")).encode(),
        b"<html>Internal Server Error</html>",
        b'{"choices": []}',
        b'{"choices": [{"content": 5}]}',
        b"[]",
        b'{"status": "error", "message": "Invalid JSON data!"}',
    ],
)
def test_what_is_no_whole_answer_is_a_failure(stream: bytes) -> None:
    with pytest.raises(EngineFailed):
        read(stream)


@given(st.integers(0, 400))
def test_an_error_comes_after_the_pieces_before_it(cut: int) -> None:
    sent = json.dumps(one("a")).encode() + b'\n\n{"error": "the NPU is gone"}\n\n'
    pieces: list[str] = []
    with pytest.raises(EngineFailed, match="the NPU is gone"):
        read_into(pieces, sent[:cut], sent[cut:])
    assert pieces == ["a"]


def test_an_object_without_an_end_is_not_kept_for_ever() -> None:
    reader = rkllama.AnswerReader()
    for _ in range(15):
        assert reader.feed(b'{"choices": "' + b"x" * 2**20) == []
    with pytest.raises(EngineFailed, match="more than"):
        reader.feed(b"x" * 2**20)
