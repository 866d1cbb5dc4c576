"""How answers, events, errors and models look to Anthropic's clients, who can send back what they got."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from anthropic.types import Message as TheirMessage
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from exo.chat import Alternative as Drawn
from exo.chat import Delta, Finished, Message, Reasoning, Text, TokenLogprob, ToolCall, Usage
from exo.errors import (
    STATUS,
    BadRequest,
    ContextLengthExceeded,
    EngineFailed,
    ExoError,
    Forbidden,
    MethodNotAllowed,
    ModelNotFound,
    NotReady,
    Overloaded,
    RequestTooLarge,
    Timeout,
    Unauthorized,
)
from exo.wire import anthropic
from tests.doubles import card

USAGE = Usage(prompt_tokens=12, completion_tokens=7, reasoning_tokens=3, cached_tokens=4)
USED = {
    "input_tokens": 8,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 4,
    "output_tokens": 7,
    "output_tokens_details": {"thinking_tokens": 3},
}
STOP, CUT, CALLS = (Finished(reason, USAGE) for reason in ("stop", "length", "tool_calls"))
ALL: list[Delta] = [
    Reasoning("Hm"),
    Reasoning("."),
    Text("Let me "),
    Text("add."),
    ToolCall(0, "c1", "add"),
    ToolCall(0, arguments='{"a": '),
    ToolCall(0, arguments="2}"),
    ToolCall(1, "c2", "now"),
    CALLS,
]
BLOCKS = [
    {"type": "thinking", "thinking": "Hm.", "signature": anthropic.SIGNATURE},
    {"type": "text", "text": "Let me add."},
    {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 2}},
    {"type": "tool_use", "id": "c2", "name": "now", "input": {}},
]
EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)


def whole(deltas: Sequence[Delta], **form: bool) -> Any:
    answer = anthropic.message_answer("r", "m", deltas, **form)
    TheirMessage.model_validate_json(answer)
    return json.loads(answer)


def events(data: bytes) -> list[Any]:
    found = []
    for event in data.decode().split("\n\n")[:-1]:
        name, payload = event.split("\n")
        value = json.loads(payload.removeprefix("data: "))
        assert name == f"event: {value['type']}"
        if value["type"] not in ("ping", "error"):
            EVENT.validate_python(value)
        found.append(value)
    return found


def streamed(deltas: Sequence[Delta], **form: bool) -> list[Any]:
    stream = anthropic.MessageStream("r", "m", **form)
    usage = next((delta.usage for delta in deltas if isinstance(delta, Finished)), Usage())
    said = b"".join(stream.delta(0, delta) for delta in deltas)
    return events(stream.start(0) + said + stream.end(usage))


def put_together(told: list[Any]) -> Any:
    """What a client makes of the events of an answer."""
    message, arguments = told[0]["message"], ""
    blocks: list[dict[str, Any]] = []
    for event in told:
        match event:
            case {"type": "content_block_start", "index": index, "content_block": block}:
                assert index == len(blocks)
                blocks.append(dict(block))
                arguments = ""
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                assert index == len(blocks) - 1
                for key in {"text", "thinking", "signature"} & delta.keys():
                    blocks[-1][key] += delta[key]
                arguments += delta.get("partial_json", "")
            case {"type": "content_block_stop", "index": index}:
                assert index == len(blocks) - 1
                if arguments:
                    blocks[-1]["input"] = json.loads(arguments)
            case {"type": "message_delta", "delta": delta, "usage": usage, **rest}:
                message |= delta | {"usage": usage} | {key: rest[key] for key in rest.keys() - {"type"}}
    return message | {"content": blocks}


def test_a_whole_answer() -> None:
    assert whole(ALL) == {
        "type": "message",
        "id": "msg_r",
        "role": "assistant",
        "model": "m",
        "content": BLOCKS,
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": USED,
    }


def test_a_streamed_answer() -> None:
    told = streamed(ALL)
    assert [event["type"].removeprefix("content_") for event in told] == [
        "message_start",
        *("block_start", *["block_delta"] * 3, "block_stop"),
        *("block_start", *["block_delta"] * 2, "block_stop"),
        *("block_start", *["block_delta"] * 2, "block_stop"),
        *("block_start", "block_stop"),
        "message_delta",
        "message_stop",
    ]
    assert [event["delta"]["type"] for event in told if event["type"] == "content_block_delta"] == [
        *("thinking_delta", "thinking_delta", "signature_delta"),
        *("text_delta", "text_delta"),
        *("input_json_delta", "input_json_delta"),
    ]
    assert told[0]["message"]["stop_reason"] is None
    assert told[0]["message"]["content"] == []
    assert put_together(told) == whole(ALL)


PIECES = st.one_of(
    st.builds(Text, st.text(max_size=4)),
    st.builds(Reasoning, st.text(max_size=4)),
    st.just(Text("", (TokenLogprob(Drawn("", 0.0, ())),))),
)


@given(st.lists(PIECES, max_size=12), st.sampled_from([STOP, CUT]), st.booleans(), st.booleans())
def test_both_ways_say_the_same(pieces: list[Delta], end: Finished, shows: bool, edits: bool) -> None:
    deltas, form = [*pieces, end], {"shows_thinking": shows, "edits_context": edits}
    assert put_together(streamed(deltas, **form)) == whole(deltas, **form)


@pytest.mark.parametrize("text", ["\0", '"\0"', "\n\nevent: error\ndata: {}\n\n", "wörld \U0001f600"])
def test_any_text_stays_in_its_event(text: str) -> None:
    for delta in (Text(text), Reasoning(text)):
        assert put_together(streamed([delta, STOP])) == whole([delta, STOP])
    [block] = whole([Text(text), STOP])["content"]
    assert block["text"] == text


def test_a_stop_sequence_is_named() -> None:
    deltas: list[Delta] = [Text("4"), Finished("stop", USAGE, stop="\n\n")]
    for message in (whole(deltas), put_together(streamed(deltas))):
        assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "\n\n")


@pytest.mark.parametrize(("end", "reason"), [(STOP, "end_turn"), (CUT, "max_tokens"), (CALLS, "tool_use")])
def test_why_it_stopped(end: Finished, reason: str) -> None:
    assert whole([end])["stop_reason"] == reason
    assert streamed([end])[-2]["delta"] == {"stop_reason": reason, "stop_sequence": None}


def test_a_thought_that_is_not_shown_is_a_signature() -> None:
    unseen = {"type": "thinking", "thinking": "", "signature": anthropic.SIGNATURE}
    assert whole([Reasoning("Hm."), Text("4"), STOP], shows_thinking=False)["content"][0] == unseen
    told = streamed([Reasoning("H"), Reasoning("m."), Text("4"), STOP], shows_thinking=False)
    assert "Hm" not in json.dumps(told)
    assert put_together(told)["content"] == [unseen, {"type": "text", "text": "4"}]


def test_no_edit_is_said_to_have_been_applied() -> None:
    nothing: dict[str, list[Any]] = {"applied_edits": []}
    assert whole([STOP], edits_context=True)["context_management"] == nothing
    assert streamed([STOP], edits_context=True)[-2]["context_management"] == nothing


def test_a_client_may_send_back_what_it_got() -> None:
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": whole(ALL)["content"]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": id, "content": "5"} for id in ("c1", "c2")],
        },
    ]
    body = json.dumps({"model": "m", "max_tokens": 5, "messages": messages}).encode()
    assert anthropic.decode_messages(body, id="r").request.messages[1] == Message(
        "assistant",
        "Let me add.",
        (ToolCall(0, "c1", "add", '{"a":2}'), ToolCall(1, "c2", "now", "{}")),
        reasoning="Hm.",
    )


# What went wrong


@pytest.mark.parametrize("arguments", ['{"a": ', "[1]", "null", "x"])
def test_a_broken_call_is_no_answer(arguments: str) -> None:
    deltas: list[Delta] = [ToolCall(0, "c1", "add", arguments), CALLS]
    for encode in (whole, streamed):
        with pytest.raises(EngineFailed, match="'add' with broken arguments"):
            encode(deltas)
        with pytest.raises(EngineFailed, match="'add' with broken arguments"):
            encode([deltas[0], ToolCall(1, "c2", "now"), CUT])


def test_a_call_that_was_cut_off_is_left_out() -> None:
    deltas: list[Delta] = [Text("so "), ToolCall(0, "c1", "add", '{"a": '), CUT]
    answer = whole(deltas)
    assert (answer["content"], answer["stop_reason"]) == ([{"type": "text", "text": "so "}], "max_tokens")
    told = streamed(deltas)
    assert [event["type"] for event in told[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert told[-2]["delta"]["stop_reason"] == "max_tokens"


def test_an_answer_without_an_end_is_none() -> None:
    for deltas in ([], [Text("so")]):
        with pytest.raises(EngineFailed, match="without a finish"):
            whole(deltas)
    assert streamed([Text("so")])[-1]["error"]["type"] == "api_error"


def test_a_failure_in_the_middle_ends_the_stream_without_an_end() -> None:
    stream = anthropic.MessageStream("r", "m")
    data = stream.start(0) + stream.delta(0, Text("so")) + stream.failed(Overloaded("full"))
    last = events(data)[-1]
    assert last == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "full"},
        "request_id": "r",
    }


def test_a_silence_is_a_ping() -> None:
    assert events(anthropic.MessageStream("r", "m").keepalive) == [{"type": "ping"}]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadRequest("x"), "invalid_request_error"),
        (Unauthorized("x"), "authentication_error"),
        (Forbidden("x"), "permission_error"),
        (ModelNotFound("x"), "not_found_error"),
        (MethodNotAllowed("x"), "invalid_request_error"),
        (RequestTooLarge("x"), "request_too_large"),
        (Overloaded("x"), "rate_limit_error"),
        (EngineFailed("x"), "api_error"),
        (NotReady("x"), "overloaded_error"),
        (Timeout("x"), "timeout_error"),
        (ExoError("x"), "api_error"),
    ],
)
def test_errors(error: ExoError, kind: str) -> None:
    told = json.loads(anthropic.error_answer(error))
    assert told == {"type": "error", "error": {"type": kind, "message": "x"}, "request_id": None}


def test_every_kind_of_error_has_a_type() -> None:
    for kind in STATUS:
        assert json.loads(anthropic.error_answer(kind("x"), "r"))["request_id"] == "r"


def test_a_prompt_that_is_too_long_is_called_what_clients_look_for() -> None:
    told = json.loads(anthropic.error_answer(ContextLengthExceeded("5000 tokens, and 4096 fit")))
    assert told["error"]["message"] == "prompt is too long: 5000 tokens, and 4096 fit"


def test_a_message_that_is_no_text_is_told_all_the_same() -> None:
    assert json.loads(anthropic.error_answer(EngineFailed("\udcff")))["error"]["message"] == "?"


# Models


def test_models() -> None:
    told = json.loads(anthropic.models_answer([card("a"), card("b")]))
    assert told["data"][0] == {
        "type": "model",
        "id": "a",
        "display_name": "a",
        "created_at": "1970-01-01T00:00:00Z",
        "max_input_tokens": 4096,
        "lifecycle": "active",
    }
    assert (told["first_id"], told["last_id"], told["has_more"]) == ("a", "b", False)
    assert told["data"][0] == json.loads(anthropic.model_answer(card("a")))
    assert json.loads(anthropic.models_answer([]))["last_id"] is None
