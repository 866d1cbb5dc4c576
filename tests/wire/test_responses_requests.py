"""What the Responses dialect accepts, how items become a conversation, and how it says what it does not."""

import json
from contextlib import suppress
from typing import Any, NoReturn

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.chat import ChatRequest, Message, Sampling, Tool, ToolCall
from exo.errors import BadRequest, NotFound
from exo.wire import responses
from exo.wire.responses import items
from exo.wire.responses import request_types as types

RESPONSE = f"resp_{'0' * 31}1"
HI = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"}
DONE = {"type": "function_call_output", "call_id": "c1", "output": "5"}
THOUGHT = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]}
ADD = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}
SUB = {"type": "function", "name": "sub", "parameters": None, "strict": True, "defer_loading": False}
MISSING = {"type": "function", "name": "x"}
SCHEMA = {"type": "json_schema", "name": "a", "schema": {"type": "array"}, "strict": True}


def nothing(id: str) -> NoReturn:
    raise NotFound(f"response '{id}' is not kept here")


def decode(**keys: Any) -> responses.ResponseCall:
    body = json.dumps({"model": "m", "input": "hi", **keys}).encode()
    return responses.decode_response(body, id="r", response=RESPONSE, find=nothing)


def conversation(*sent: object) -> tuple[Message, ...]:
    return decode(input=sent).request.messages


def test_least_request() -> None:
    call = decode()
    assert call.request == ChatRequest(id="r", model="m", messages=(Message("user", "hi"),))
    assert (call.stream, call.store, call.summary) == (False, True, None)


@pytest.mark.parametrize(
    ("keys", "field", "expected"),
    [
        ({"temperature": 0}, "sampling", Sampling(temperature=0.0)),
        ({"top_p": 1}, "sampling", Sampling(top_p=1.0)),
        ({"max_output_tokens": 5}, "sampling", Sampling(max_tokens=5)),
        ({"instructions": "x"}, "messages", (Message("system", "x"), Message("user", "hi"))),
        ({"instructions": ""}, "messages", (Message("user", "hi"),)),
        ({"reasoning": {"effort": "none"}}, "thinking", False),
        ({"reasoning": {"effort": "minimal"}}, "thinking", False),
        ({"reasoning": {"effort": "low"}}, "thinking_budget", 512),
        ({"reasoning": {"effort": "medium"}}, "thinking_budget", 2048),
        ({"reasoning": {"effort": "high"}}, "thinking_budget", None),
        ({"reasoning": {"effort": "high"}}, "thinking", True),
        ({"reasoning": {"effort": None, "summary": "auto"}}, "thinking", None),
        ({"text": {"format": {"type": "text"}, "verbosity": "medium"}}, "json_schema", None),
        ({"text": {"format": {"type": "json_object"}}}, "json_schema", {"type": "object"}),
        ({"text": {"format": SCHEMA}}, "json_schema", {"type": "array"}),
        ({"include": ["message.output_text.logprobs"]}, "logprobs", 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 20}, "logprobs", 20),
        ({"include": ["reasoning.encrypted_content"], "top_logprobs": 0}, "logprobs", None),
        ({"parallel_tool_calls": False}, "parallel_calls", False),
        ({"tools": [ADD]}, "tools", (Tool("add", "", {"type": "object", "properties": {}}),)),
        ({"tools": [ADD, SUB], "tool_choice": "auto"}, "must_call", ()),
        ({"tools": [ADD], "tool_choice": "none"}, "tools", ()),
        ({"tools": [ADD], "text": {"format": SCHEMA}}, "json_schema", {"type": "array"}),
        ({"tools": [ADD, SUB], "tool_choice": "required"}, "must_call", ("add", "sub")),
        (
            {"tools": [ADD, SUB], "tool_choice": {"type": "function", "name": "sub"}},
            "must_call",
            ("sub",),
        ),
    ],
)
def test_request(keys: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(decode(**keys).request, field) == expected


@pytest.mark.parametrize(("mode", "must"), [("auto", ()), ("required", ("sub",))])
def test_of_the_allowed_tools_only_these_are_shown(mode: str, must: tuple[str, ...]) -> None:
    allowed = {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": "sub"}] * 2}
    request = decode(tools=[ADD, SUB], tool_choice=allowed).request
    assert [tool.name for tool in request.tools] == ["sub"]
    assert request.must_call == must


@pytest.mark.parametrize(
    "keys",
    [
        {"metadata": {"a": "b"}},
        {"client_metadata": {"a": "b"}},
        {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "prompt_cache_retention": "24h"},
        {"service_tier": "auto"},
        {"prompt_cache_options": {"mode": "implicit"}},
        {"truncation": "disabled", "background": False, "store": False},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
        {"reasoning": {"context": "auto", "mode": "standard", "generate_summary": "auto"}},
        {key: None for key in types.ResponsesBody.__struct_fields__ if key not in ("model", "input")},
    ],
    ids=str,
)
def test_what_has_no_effect_on_the_conversation(keys: dict[str, Any]) -> None:
    assert decode(**keys).request == decode().request


# Items


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (HI, Message("user", "hi")),
        ({"type": None, **HI}, Message("user", "hi")),
        ({"role": "system", "content": "x"}, Message("system", "x")),
        ({"role": "developer", "content": "x"}, Message("system", "x")),
        ({"role": "assistant", "content": "x"}, Message("assistant", "x")),
        ({"role": "assistant", "content": "x", "phase": "commentary"}, Message("assistant", "x")),
        ({"type": "message", "role": "user", "content": "", "status": "completed"}, Message("user", "")),
        (
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
            },
            Message("user", "ab"),
        ),
        (
            {**SAID, "id": "msg_1", "content": [{"type": "refusal", "refusal": "no"}]},
            Message("assistant", "no"),
        ),
        (CALL, Message("assistant", "", (ToolCall(0, "c1", "add", "{}"),))),
        (
            {**CALL, "id": None, "namespace": None, "caller": None},
            Message("assistant", "", (ToolCall(0, "c1", "add", "{}"),)),
        ),
        (DONE, Message("tool", "5", tool_call_id="c1")),
        ({**DONE, "output": [{"type": "input_text", "text": "6"}]}, Message("tool", "6", tool_call_id="c1")),
        (THOUGHT, Message("assistant", "", reasoning="Hm.")),
        (
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
            Message("assistant", "", reasoning="Hm."),
        ),
        ({**THOUGHT, "encrypted_content": "xyz"}, Message("assistant", "", reasoning="Hm.")),
    ],
)
def test_item(sent: object, message: Message) -> None:
    assert conversation(sent) == (message,)


def test_thoughts_text_and_calls_are_one_turn() -> None:
    called = (ToolCall(0, "c1", "add", "{}"), ToolCall(1, "c1", "add", "{}"))
    assert conversation(THOUGHT, SAID, CALL, CALL, DONE, THOUGHT, SAID) == (
        Message("assistant", "x", called, reasoning="Hm."),
        Message("tool", "5", tool_call_id="c1"),
        Message("assistant", "x", reasoning="Hm."),
    )


def test_what_breaks_the_order_begins_another_turn() -> None:
    assert conversation(SAID, SAID, THOUGHT, THOUGHT, CALL, SAID, HI, SAID) == (
        Message("assistant", "x"),
        Message("assistant", "x"),
        Message("assistant", "", (ToolCall(0, "c1", "add", "{}"),), reasoning="Hm.Hm."),
        Message("assistant", "x"),
        Message("user", "hi"),
        Message("assistant", "x"),
    )


def test_thoughts_that_are_only_there_encrypted_leave_nothing() -> None:
    secret: dict[str, Any] = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": None,
        "encrypted_content": "xyz",
    }
    assert conversation(HI, secret, CALL, secret, secret, SAID, secret) == conversation(HI, CALL, SAID)


def test_what_is_kept_are_whole_items_with_ids_and_nothing_superfluous() -> None:
    logprobs = [{"token": "x"}]
    said = {**SAID, "id": "msg_x", "content": [{"type": "output_text", "text": "x", "logprobs": logprobs}]}
    [turn] = decode(input=[HI, said, {**THOUGHT, "encrypted_content": "xyz"}, DONE]).turns
    number = RESPONSE.removeprefix("resp_")
    assert json.loads(turn) == [
        {
            "type": "message",
            "id": f"msg_{number}_in0",
            "status": "completed",
            "role": "user",
            "content": [{"type": "input_text", "text": "hi"}],
        },
        {
            "type": "message",
            "id": "msg_x",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "x", "annotations": []}],
        },
        {
            "type": "reasoning",
            "id": f"rs_{number}_in2",
            "status": "completed",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "Hm."}],
        },
        {
            "type": "function_call_output",
            "id": f"fco_{number}_in3",
            "status": "completed",
            "call_id": "c1",
            "output": [{"type": "input_text", "text": "5"}],
        },
    ]


def test_a_conversation_goes_on_from_a_kept_one() -> None:
    before = responses.KeptResponse(b"", (*decode(input="a").turns, *decode(input=[SAID]).turns))
    body = b'{"input":"b","previous_response_id":"resp_x","instructions":"i"}'
    call = responses.decode_response(body, id="r", response=RESPONSE, find={"resp_x": before}.__getitem__)
    assert call.request.messages == (
        Message("system", "i"),
        Message("user", "a"),
        Message("assistant", "x"),
        Message("user", "b"),
    )
    assert all(ours is theirs for ours, theirs in zip(call.turns, before.turns, strict=False))
    assert len(call.turns) == 3
    [own] = items.decode_items(call.turns[2:])
    assert own.role == "user"


def test_going_on_from_what_is_not_kept() -> None:
    with pytest.raises(NotFound, match="is not kept") as refused:
        decode(previous_response_id="resp_x")
    assert refused.value.param == "previous_response_id"


# Refusals


@pytest.mark.parametrize(
    ("keys", "param", "words"),
    [
        ({"input": None}, "input", "a string or a list"),
        ({"input": []}, "input", "empty"),
        ({"input": [{}]}, "input[0].type", "is required"),
        ({"input": [{"id": "a", "status": "completed"}]}, "input[0].type", "is required"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role", '"user"'),
        ({"input": [{"role": "user"}]}, "input[0].content", "is required in an item of type message"),
        ({"input": [{**HI, "name": "Ann"}]}, "input[0].name", "no place in an item of type message"),
        ({"input": [{**HI, "nam": "Ann"}]}, "input[0].nam", "did you mean"),
        ({"input": [HI, {**CALL, "name": ""}]}, "input[1].name", "is required"),
        ({"input": [{**CALL, "arguments": None}]}, "input[0].arguments", "is required"),
        ({"input": [{**CALL, "namespace": "mcp"}]}, "input[0].namespace", "their own names"),
        ({"input": [{**DONE, "call_id": None}]}, "input[0].call_id", "is required"),
        ({"input": [{"type": "item_reference"}]}, "input[0].id", "is required"),
        ({"input": [{"id": "msg_1"}]}, "input[0].id", "no id of this server"),
        ({"input": [{"id": f"msg_{'a' * 32}_0"}]}, "input[0].id", "is not kept"),
        ({"input": [{"type": "web_search_call"}]}, "input[0].type", "other than functions"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0]",
            "images, audio and files are not supported",
        ),
        (
            {"input": [{**DONE, "output": [{"type": "input_file", "file_id": "x"}]}]},
            "input[0].output[0]",
            "images, audio and files are not supported",
        ),
        ({"input": [{**SAID, "content": THOUGHT["content"]}]}, "input[0].content[0]", "only there"),
        ({"input": [{**THOUGHT, "content": SAID["content"]}]}, "input[0].content[0]", "reasoning_text"),
        ({"messages": [HI]}, "messages", "unknown"),
        ({"max_tokens": 5}, "max_tokens", "unknown"),
        ({"max_output_tokens": 0}, "max_output_tokens", "from 1"),
        ({"temperature": 3}, "temperature", "from 0 to 2"),
        ({"top_logprobs": 1}, "top_logprobs", "message.output_text.logprobs"),
        ({"include": ["x"]}, "include[0]", "message.output_text.logprobs"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options", "needs stream"),
        ({"background": True}, "background", "must be false"),
        ({"conversation": "conv_1"}, "conversation", "previous_response_id"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "not supported"),
        ({"max_tool_calls": 1}, "max_tool_calls", "not supported"),
        ({"truncation": "auto"}, "truncation", "never cut"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "instructions"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema", "is required"),
        (
            {"text": {"format": SCHEMA}, "tools": [ADD], "tool_choice": "required"},
            "text.format",
            "has to be called",
        ),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", '"xhigh"'),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context", "template"),
        (
            {"reasoning": {"summary": "auto", "generate_summary": "concise"}},
            "reasoning.generate_summary",
            "contradicts",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0]", 'not "web_search": this server runs no tools'),
        ({"tools": [ADD, {"type": "mcp", "server_label": "x"}]}, "tools[1]", 'not "mcp"'),
        ({"tools": [ADD, ADD]}, "tools[1].name", 'two tools "add"'),
        ({"tools": [{**ADD, "defer_loading": True}]}, "tools[0].defer_loading", "must be false"),
        ({"tools": [{**ADD, "output_schema": {"a": 2**64}}]}, "tools[0].output_schema", "64 bits"),
        ({"tools": [{**ADD, "parameters": {"type": "array"}}]}, "tools[0].parameters", '"object"'),
        ({"tools": [{"type": "function", "function": {"name": "a"}}]}, "tools[0].function", "unknown"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tool_choice": "any"}, "tool_choice", '"required"'),
        ({"tool_choice": MISSING, "tools": [ADD]}, "tool_choice.name", "no tool"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice", '"function"'),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [MISSING]}},
            "tool_choice.tools[0].name",
            "no tool",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_refused(keys: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        decode(**keys)
    assert refused.value.param == param
    assert words in refused.value.message


# Whatever comes

KEYS = [
    *types.ResponsesBody.__struct_fields__,
    *types.ResponsesItem.__struct_fields__,
    *("text", "refusal", "format", "schema", "effort", "parameters", "mode"),
]
WORDS = [
    "message",
    "function_call",
    "function_call_output",
    "reasoning",
    "item_reference",
    "user",
    "assistant",
]
PARTS = [
    "input_text",
    "output_text",
    "reasoning_text",
    "summary_text",
    "function",
    "allowed_tools",
    "required",
]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(WORDS + PARTS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
)
parts = st.dictionaries(st.sampled_from(["type", "text", "refusal"]), st.sampled_from(PARTS), max_size=2)
sent_items = st.dictionaries(
    st.sampled_from(types.ResponsesItem.__struct_fields__),
    st.sampled_from(WORDS) | st.lists(parts, max_size=2) | st.none(),
    max_size=4,
)
bodies = st.builds(
    lambda keys, sent: json.dumps({"model": "m", "input": sent, **keys}).encode(),
    st.dictionaries(st.sampled_from(KEYS), json_values, max_size=3),
    st.lists(sent_items, max_size=4),
)


def decoded_or_refused(body: bytes) -> None:
    with suppress(BadRequest, NotFound):
        call = responses.decode_response(body, id="r", response=RESPONSE, find=nothing)
        kept = tuple(items.messages(items.decode_items(call.turns)))
        instructions = 1 if call.asked.instructions else 0
        assert kept == call.request.messages[instructions:], "what is kept is what was asked"
        msgspec.json.encode(responses.begun(call, RESPONSE, 0, "m"))


@given(st.binary() | bodies | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    decoded_or_refused(body)


@given(bodies, st.data())
def test_damaged_bodies_are_decoded_or_refused(body: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(body)))
    end = data.draw(st.integers(start, len(body)))
    decoded_or_refused(body[:start] + data.draw(st.binary(max_size=3)) + body[end:])


items_that_are_right = st.sampled_from([HI, CALL, DONE, THOUGHT, SAID, {"role": "developer", "content": "x"}])


@given(st.lists(items_that_are_right, min_size=1, max_size=8), st.integers(0, 8))
def test_a_conversation_is_the_same_in_one_piece_and_in_two(sent: list[Any], cut: int) -> None:
    """As it is sent whole each time, or goes on from a kept response."""
    first, second = sent[:cut], sent[cut:]
    whole = decode(input=sent).request.messages
    if not first or not second:
        return
    kept = responses.KeptResponse(b"", decode(input=first).turns)
    body = json.dumps({"model": "m", "input": second, "previous_response_id": "x"}).encode()
    call = responses.decode_response(body, id="r", response=RESPONSE, find=lambda _: kept)
    assert call.request.messages == whole


def test_nothing_at_all_is_not_sent_but_may_go_on() -> None:
    kept = responses.KeptResponse(b"", decode(input=[HI]).turns)
    body = b'{"model":"m","input":[],"previous_response_id":"x"}'
    call = responses.decode_response(body, id="r", response=RESPONSE, find=lambda _: kept)
    assert call.request.messages == (Message("user", "hi"),)
