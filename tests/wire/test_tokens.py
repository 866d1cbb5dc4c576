"""The three dialects of tokens, decoded and encoded."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.chat import ChatRequest, Message, Sampling, SoFar, Tool
from exo.engine import SpellRequest, spelled
from exo.errors import BadRequest, EngineFailed, NotReady
from exo.wire import tokens
from exo.wire.tokens import DetokenizeCall, TokenizeCall

HI = {"messages": [{"role": "user", "content": "hi"}]}


def tokenize(**body: Any) -> TokenizeCall:
    return tokens.decode_tokenize(json.dumps(body).encode(), id="r")


def text(prompt: str, model: str = "") -> ChatRequest:
    return ChatRequest(id="r", model=model, prompt=prompt)


def test_as_llamacpp_has_it() -> None:
    assert tokenize(content="hi", model="m") == TokenizeCall(text("hi", "m"), begin=False)
    assert tokenize(content="hi", add_special=True).begin
    assert tokenize(content="", with_pieces=True) == TokenizeCall(text(""), begin=False, pieces=True)
    assert tokenize(content="hi", parse_special=True, add_special=False) == TokenizeCall(
        text("hi"), begin=False
    )


def test_as_vllm_has_it() -> None:
    assert tokenize(prompt="hi", model="m") == TokenizeCall(text("hi", "m"), begin=True)
    assert not tokenize(prompt="hi", add_special_tokens=False).begin
    assert tokenize(prompt="hi", return_token_strs=True).strings
    call = tokenize(
        **HI, model="m", add_generation_prompt=True, chat_template_kwargs={"enable_thinking": False}
    )
    assert call.request == ChatRequest(id="r", model="m", messages=(Message("user", "hi"),), thinking=False)
    assert call.begin


def test_a_conversation_is_decoded_as_for_an_answer() -> None:
    function = {"name": "add", "parameters": {"type": "object"}}
    call = tokenize(**HI, tools=[{"type": "function", "function": function}], with_pieces=True)
    assert call.request.tools == (Tool("add", "", {"type": "object"}),)
    assert call.pieces
    said = {"role": "assistant", "content": "1 2"}
    begun = tokenize(
        messages=[*HI["messages"], said], continue_final_message=True, add_generation_prompt=False
    )
    assert begun.request.so_far == SoFar("1 2")


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "content", "content is required"),
        ({"content": None}, "content", "content is required"),
        ({"content": ["a", 1]}, "content", "must be a string"),
        ({"content": "a", "prompt": "b"}, "prompt", "contradicts content"),
        (
            {"content": "a", "add_special": True, "add_special_tokens": False},
            "add_special_tokens",
            "contradicts",
        ),
        ({"content": "a", "parse_special": False}, "parse_special", "read as themselves"),
        ({"content": "a", "temperature": 1}, "temperature", "unknown parameter"),
        ({"contents": "a"}, "contents", "did you mean"),
        ({**HI, "content": "a"}, "content", "a text or messages"),
        ({**HI, "prompt": "a"}, "prompt", "a text or messages"),
        ({**HI, "add_special_tokens": True}, "add_special_tokens", "begins as the model reads it"),
        ({**HI, "add_special": False}, "add_special", "begins as the model reads it"),
        ({"messages": []}, "messages", "non-empty list"),
        ({"messages": None}, "messages", "list"),
        ({**HI, "temperature": 3}, "temperature", "from 0"),
        ({**HI, "add_generation_prompt": False}, "add_generation_prompt", "opposite"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(BadRequest, match=words) as refused:
        tokenize(**body)
    assert refused.value.param == param


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"1", b'{"content": "a", "content": "a"}', b"\xff", b"[" * 9999]
)
def test_what_is_no_such_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        tokens.decode_tokenize(body, id="")
    with pytest.raises(BadRequest):
        tokens.decode_detokenize(body, id="")


def test_tokens_to_detokenize() -> None:
    call = tokens.decode_detokenize(b'{"tokens": [1, 2], "model": "m"}', id="r")
    assert call == DetokenizeCall(SpellRequest(model="m", tokens=(1, 2), id="r"), pieces=False)
    for wrong in ({}, {"tokens": "1"}, {"tokens": [1.5]}, {"tokens": [-1]}, {"tokens": [2**31]}):
        with pytest.raises(BadRequest) as refused:
            tokens.decode_detokenize(json.dumps(wrong).encode(), id="r")
        assert (refused.value.param or "").startswith("tokens")


def test_an_answer_has_the_keys_of_both_dialects() -> None:
    call = tokenize(content="fü", model="m")
    said = json.loads(tokens.tokenize_answer(call, 512, (5, 6, 7)))
    assert said == {"model": "m", "tokens": [5, 6, 7], "count": 3, "max_model_len": 512, "token_strs": None}
    assert json.loads(tokens.tokenize_answer(call, 0, ()))["max_model_len"] is None


def test_pieces_are_texts_or_bytes() -> None:
    call = tokenize(content="fü", with_pieces=True, return_token_strs=True)
    said = json.loads(tokens.tokenize_answer(call, 1, (5, 6, 7), (b"f", b"\xc3", b"\xbc")))
    assert said["tokens"] == [
        {"id": 5, "piece": "f"},
        {"id": 6, "piece": [195]},
        {"id": 7, "piece": [188]},
    ]
    assert said["token_strs"] == ["f", "\ufffd", "\ufffd"]


def test_a_text_is_told_under_both_names() -> None:
    call = DetokenizeCall(SpellRequest(model="m", tokens=(1, 2)), pieces=False)
    said = json.loads(tokens.detokenize_answer(call, (b"\xc3", b"\xbc")))
    assert said == {"model": "m", "content": "ü", "prompt": "ü"}


def test_the_first_exos_answer() -> None:
    said = json.loads(tokens.encoded_answer((1, 2, 3), (b"f", b"\xc3", b"\xbc")))
    assert said == {"length": 2, "num_tokens": 3, "encoded_tokens": [1, 2, 3], "encoded_prompt": "fü"}


# A client's side, and the way between two nodes


CHAT = ChatRequest(
    model="m",
    messages=(Message("system", "s"), Message("user", "hi")),
    sampling=Sampling(temperature=0.5, max_tokens=3),
    tools=(Tool("add", "Adds.", {"type": "object"}),),
    thinking=True,
    id="r",
)


@pytest.mark.parametrize(
    "request_",
    [
        CHAT,
        msgspec.structs.replace(CHAT, tools=(), thinking=None, json_schema={"type": "object"}),
        msgspec.structs.replace(CHAT, so_far=SoFar("ab")),
    ],
)
def test_a_conversation_is_the_same_on_the_next_node(request_: ChatRequest) -> None:
    call = tokens.decode_tokenize(tokens.encode_tokenize(request_, begin=True), id="r")
    assert call == TokenizeCall(request_)


@given(st.text(), st.booleans(), st.text(min_size=1, max_size=9))
def test_a_text_is_the_same_on_the_next_node(prompt: str, begin: bool, model: str) -> None:
    body = tokens.encode_tokenize(ChatRequest(model=model, prompt=prompt), begin=begin)
    assert tokens.decode_tokenize(body, id="r") == TokenizeCall(text(prompt, model), begin=begin)


_IDS = st.integers(0, 2**31 - 1)


@given(st.lists(_IDS))
def test_tokens_are_the_same_on_the_next_node(ids: list[int]) -> None:
    asked = SpellRequest(model="m", tokens=tuple(ids), id="r")
    assert tokens.decode_detokenize(tokens.encode_spell(asked), id="r") == DetokenizeCall(asked, pieces=True)


@given(st.lists(st.tuples(_IDS, st.binary())))
def test_what_is_told_is_read_as_it_was(told: list[tuple[int, bytes]]) -> None:
    ids, pieces = tuple(id for id, _ in told), tuple(piece for _, piece in told)
    body = tokens.tokenize_answer(TokenizeCall(text("")), 1, ids)
    assert tokens.decode_tokens(body, CHAT) == ids
    body = tokens.detokenize_answer(DetokenizeCall(SpellRequest(model="m", tokens=ids), pieces=True), pieces)
    assert tokens.decode_pieces(body) == pieces


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    [
        "model",
        "content",
        "prompt",
        "messages",
        "tokens",
        "with_pieces",
        "add_special",
        "parse_special",
        "tools",
    ]
)


@given(st.binary() | st.dictionaries(_KEYS | st.text(), _JSON).map(lambda body: json.dumps(body).encode()))
def test_nothing_but_a_bad_request_comes_of_anything(body: bytes) -> None:
    for decode in (tokens.decode_tokenize, tokens.decode_detokenize):
        with contextlib.suppress(BadRequest):
            call: Any = decode(body, id="r")
            assert call.request.id == "r"


@given(st.binary() | _JSON.map(lambda body: json.dumps(body).encode()))
def test_nothing_but_a_failure_comes_of_any_answer(body: bytes) -> None:
    for decode in (lambda body: tokens.decode_tokens(body, CHAT), tokens.decode_pieces):
        with pytest.raises(EngineFailed):
            decode(body)


def test_servers_that_say_less() -> None:
    plain = text("hi")
    assert tokens.decode_tokens(b'{"tokens": [1, 2]}', plain) == (1, 2)  # llama.cpp's
    assert tokens.decode_tokens(b'{"count": 2, "max_model_len": 9, "tokens": [1, 2]}', CHAT) == (
        1,
        2,
    )  # vLLM's
    assert tokens.decode_pieces('{"content": "fü"}'.encode()) == ("fü".encode(),)
    assert spelled(tokens.decode_pieces('{"prompt": "fü"}'.encode())) == "fü"


def test_a_server_that_overlooks_a_conversation_has_not_answered() -> None:
    # llama.cpp's, which reads `content` only.
    with pytest.raises(BadRequest, match="texts only, not of conversations") as refused:
        tokens.decode_tokens(b'{"tokens": []}', CHAT)
    assert refused.value.param == "messages"


def test_a_failure_may_come_late() -> None:
    late = b'   {"error": {"message": "no", "type": "server_error", "param": null, "code": "not_ready"}}'
    with pytest.raises(NotReady, match="no"):
        tokens.decode_tokens(late, CHAT)
    with pytest.raises(NotReady, match="no"):
        tokens.decode_pieces(late)


def test_bytes_that_are_none_are_a_failure() -> None:
    with pytest.raises(EngineFailed, match="bytes that are none"):
        tokens.decode_pieces(b'{"pieces": [[256]]}')
