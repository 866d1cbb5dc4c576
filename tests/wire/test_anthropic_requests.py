"""What Anthropic's dialect accepts, and how it says what it does not."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.chat import ChatRequest, Message, Sampling, SoFar, Tool, ToolCall
from exo.errors import BadRequest
from exo.wire import anthropic
from exo.wire.efforts import effort

HI = {"role": "user", "content": "hi"}
ADD = {"name": "add", "description": "Adds.", "input_schema": {"type": "object", "properties": {}}}
SUB = {"name": "sub", "input_schema": {"type": "object"}, "type": "custom"}
CALL = {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 2}}
RESULT = {"type": "tool_result", "tool_use_id": "c1", "content": "5"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "schema": SCHEMA}
MARKED = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}


def body(**keys: Any) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 4096, "messages": [HI], **keys}).encode()


def decode(**keys: Any) -> anthropic.MessagesCall:
    return anthropic.decode_messages(body(**keys), id="r")


def request(**keys: Any) -> ChatRequest:
    return decode(**keys).request


def history(*messages: dict[str, Any]) -> tuple[Message, ...]:
    return request(messages=list(messages)).messages


def test_the_least_there_can_be() -> None:
    assert decode() == anthropic.MessagesCall(
        request=ChatRequest(
            id="r", model="m", messages=(Message("user", "hi"),), sampling=Sampling(max_tokens=4096)
        ),
        stream=False,
        shows_thinking=True,
        edits_context=False,
    )


def test_how_an_answer_is_drawn() -> None:
    asked = request(temperature=1, top_p=0.5, top_k=0, max_tokens=7, stop_sequences=["a", "b"])
    assert asked.sampling == Sampling(temperature=1.0, top_p=0.5, top_k=0, max_tokens=7)
    assert asked.stop == ("a", "b")
    assert decode(stream=True).stream


# Conversations


@pytest.mark.parametrize(
    ("system", "text"),
    [
        ("Be brief.", "Be brief."),
        ([{"type": "text", "text": "Be brief.", **MARKED}, {"type": "text", "text": "Rhyme."}], None),
        ([], ""),
        ("", ""),
        (None, ""),
    ],
)
def test_system(system: Any, text: str | None) -> None:
    *before, user = request(system=system).messages
    assert user == Message("user", "hi")
    expected = "Be brief.\nRhyme." if text is None else text
    assert before == ([Message("system", expected)] if expected else [])


@pytest.mark.parametrize(
    "system",
    [
        "x-anthropic-billing-header: cc_version=2.1.177.01c; cc_entrypoint=cli; cch=36ee5;\nBe brief.",
        "x-anthropic-billing-header: cc_version=2.1.177.01c; cch=36ee5;Be brief.",
        [
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.177; cch=0aaa9;"},
            {"type": "text", "text": "Be brief."},
        ],
    ],
)
def test_accounting_in_the_system_prompt_does_not_reach_the_model(system: Any) -> None:
    assert request(system=system).messages[0] == Message("system", "Be brief.")


def test_what_is_said_of_the_accounting_reaches_the_model() -> None:
    said = "What is x-anthropic-billing-header: a=1;?"
    assert request(system=said).messages[0] == Message("system", said)


def test_blocks_of_a_turn_stand_on_lines_of_their_own() -> None:
    blocks = [{"type": "text", "text": "one", **MARKED}, {"type": "text", "text": "two"}]
    assert history({"role": "user", "content": blocks}) == (Message("user", "one\ntwo"),)


def test_turns_of_the_same_role_are_one() -> None:
    answered = {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, CALL]}
    again = {"role": "assistant", "content": [{"type": "text", "text": "so"}, {**CALL, "id": "c2"}]}
    results = {"role": "user", "content": [RESULT, {**RESULT, "tool_use_id": "c2"}]}
    assert history(HI, HI, answered, again, results, HI, HI) == (
        Message("user", "hi\nhi"),
        Message(
            "assistant",
            "so",
            (ToolCall(0, "c1", "add", '{"a":2}'), ToolCall(1, "c2", "add", '{"a":2}')),
            reasoning="hm",
        ),
        Message("tool", "5", tool_call_id="c1"),
        Message("tool", "5", tool_call_id="c2"),
        Message("user", "hi\nhi"),
    )


def test_an_earlier_answer_is_what_was_said_and_thought() -> None:
    answer = [
        {"type": "thinking", "thinking": "one", "signature": "s"},
        {"type": "redacted_thinking", "data": "AAAA"},
        {"type": "thinking", "thinking": "two", "signature": anthropic.SIGNATURE},
        {"type": "text", "text": "Hel", "citations": None},
        {"type": "text", "text": "lo", **MARKED},
        {**CALL, **MARKED, "caller": {"type": "direct"}},
    ]
    said = history(HI, {"role": "assistant", "content": answer}, {"role": "user", "content": [RESULT]})[1]
    assert said == Message("assistant", "Hello", (ToolCall(0, "c1", "add", '{"a":2}'),), reasoning="one\ntwo")


def test_results_of_tools_come_before_what_is_said_with_them() -> None:
    calls = {"role": "assistant", "content": [CALL, {**CALL, "id": "c2"}]}
    turn = [
        {"type": "text", "text": "Go on."},
        {**RESULT, "tool_use_id": "c2", "content": [{"type": "text", "text": t} for t in ("a", "b")]},
        {**RESULT, **MARKED, "is_error": False},
        {"type": "text", "text": "Now."},
    ]
    assert history(HI, calls, {"role": "user", "content": turn})[2:] == (
        Message("tool", "a\nb", tool_call_id="c2"),
        Message("tool", "5", tool_call_id="c1"),
        Message("user", "Go on.\nNow."),
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("no such file", "Error: no such file"),
        (None, "Error: "),
        ([{"type": "text", "text": "x"}], "Error: x"),
    ],
)
def test_a_tool_that_failed_is_said_to_have(content: Any, text: str) -> None:
    result = {"type": "tool_result", "tool_use_id": "c1", "content": content, "is_error": True}
    calls = {"role": "assistant", "content": [CALL]}
    assert history(HI, calls, {"role": "user", "content": [result]})[-1] == Message(
        "tool", text, tool_call_id="c1"
    )


def test_instructions_in_the_middle_stay_there() -> None:
    middle = {"role": "system", "content": [{"type": "text", "text": "Rhyme."}]}
    assert history(HI, middle, HI) == (
        Message("user", "hi"),
        Message("system", "Rhyme."),
        Message("user", "hi"),
    )


@pytest.mark.parametrize(
    ("content", "so_far"),
    [
        ("It is", SoFar("It is")),
        ([{"type": "text", "text": "It is"}], SoFar("It is")),
        ([{"type": "thinking", "thinking": "hm"}], SoFar("", "hm")),
        ("", None),
        ([], None),
    ],
)
def test_a_last_message_of_the_assistant_is_the_beginning_of_the_answer(
    content: Any, so_far: SoFar | None
) -> None:
    asked = request(messages=[HI, {"role": "assistant", "content": content}])
    assert asked.messages == (Message("user", "hi"),)
    assert asked.so_far == so_far


# Tools


def test_tools() -> None:
    hints = {**MARKED, "strict": True, "eager_input_streaming": True, "defer_loading": True}
    asked = request(tools=[{**ADD, **hints, "allowed_callers": ["direct"]}, SUB])
    assert asked.tools == (Tool("add", "Adds.", ADD["input_schema"]), Tool("sub", "", {"type": "object"}))  # type: ignore[arg-type]
    assert (asked.must_call, asked.parallel_calls) == ((), True)


@pytest.mark.parametrize(
    ("choice", "tools", "must_call", "parallel"),
    [
        ({"type": "auto"}, 2, (), True),
        ({"type": "auto", "disable_parallel_tool_use": True}, 2, (), False),
        ({"type": "any"}, 2, ("add", "sub"), True),
        ({"type": "any", "disable_parallel_tool_use": False}, 2, ("add", "sub"), True),
        ({"type": "tool", "name": "sub", "disable_parallel_tool_use": True}, 2, ("sub",), False),
        ({"type": "none"}, 0, (), True),
        (None, 2, (), True),
    ],
)
def test_which_tools_may_and_have_to_be_called(
    choice: Any, tools: int, must_call: tuple[str, ...], parallel: bool
) -> None:
    asked = request(tools=[ADD, SUB], tool_choice=choice)
    assert (len(asked.tools), asked.must_call, asked.parallel_calls) == (tools, must_call, parallel)


# Thinking and form


@pytest.mark.parametrize(
    ("thinking", "wanted", "budget", "shown"),
    [
        (None, None, None, True),
        ({"type": "enabled", "budget_tokens": 1024}, True, 1024, True),
        ({"type": "enabled", "budget_tokens": 4095, "display": "omitted"}, True, 4095, False),
        ({"type": "disabled"}, False, None, True),
        ({"type": "adaptive"}, None, None, True),
        ({"type": "adaptive", "display": "omitted", "block_binding": {}}, None, None, False),
        ({"type": "adaptive", "display": "summarized"}, None, None, True),
        ({"type": "between_tools"}, False, None, True),
    ],
)
def test_thinking(thinking: Any, wanted: bool | None, budget: int | None, shown: bool) -> None:
    call = decode(thinking=thinking)
    assert (call.request.thinking, call.request.thinking_budget) == (wanted, budget)
    assert call.shows_thinking is shown


def test_between_tools_a_model_may_think_over_what_they_said() -> None:
    messages = [HI, {"role": "assistant", "content": [CALL]}, {"role": "user", "content": [RESULT]}]
    assert request(messages=messages, thinking={"type": "between_tools"}).thinking is None


@pytest.mark.parametrize("name", ["low", "medium", "high", "xhigh", "max"])
def test_effort_bounds_a_thought_that_nothing_else_bounds(name: Any) -> None:
    config = {"effort": name}
    assert request(output_config=config).thinking_budget == effort(name)[1]
    assert request(output_config=config, thinking={"type": "adaptive"}).thinking is None
    assert request(output_config=config, thinking={"type": "disabled"}).thinking_budget is None
    enabled = request(output_config=config, thinking={"type": "enabled", "budget_tokens": 2000})
    assert (enabled.thinking, enabled.thinking_budget) == (True, 2000)


@pytest.mark.parametrize("keys", [{"output_config": {"format": FORMAT}}, {"output_format": FORMAT}])
def test_a_schema_for_the_answer(keys: dict[str, Any]) -> None:
    assert request(**keys).json_schema == SCHEMA
    assert request(**keys, tools=[ADD], tool_choice={"type": "auto"}).json_schema == SCHEMA


@pytest.mark.parametrize(
    "keys",
    [
        {"metadata": {"user_id": "u"}},
        {"service_tier": "auto"},
        {"speed": "fast"},
        {"diagnostics": {"previous_message_id": "msg_1"}},
        {"mcp_servers": []},
        {"fallbacks": "default"},
        {"billing_policy": {"type": "self"}},
        MARKED,
    ],
)
def test_keys_without_effect(keys: dict[str, Any]) -> None:
    assert decode(**keys) == decode()


def test_context_is_said_to_be_left_as_it_is() -> None:
    edits = [
        {"type": "clear_thinking_20251015", "keep": "all"},
        {"type": "clear_tool_uses_20250919", "trigger": {"type": "input_tokens", "value": 9}},
    ]
    call = decode(context_management={"edits": edits})
    assert call.edits_context
    assert call.request == request()


def test_null_is_absent() -> None:
    keys = ("system", "stop_sequences", "temperature", "tools", "tool_choice", "thinking", "container")
    assert decode(**dict.fromkeys(keys)) == decode()


# What is refused


@pytest.mark.parametrize(
    ("keys", "param", "words"),
    [
        ({"model": None}, "model", "string"),
        ({"max_tokens": None}, "max_tokens", "integer"),
        ({"max_tokens": 0}, "max_tokens", "from 1 to"),
        ({"messages": []}, "messages", "non-empty"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].role",
            '"user", "assistant" or "system"',
        ),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "non-empty list"),
        ({"temperature": 1.5}, "temperature", "from 0 to 1"),
        ({"top_p": 0}, "top_p", "above 0"),
        ({"top_k": -1}, "top_k", "from 0 to"),
        ({"stop_sequences": [""]}, "stop_sequences[0]", "non-empty"),
        ({"max_token": 5}, "max_token", 'did you mean "max_tokens"'),
        ({"container": "c"}, "container", "runs no code"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers", "not supported"),
        ({"thread": {"type": "create"}}, "thread", "whole conversation"),
        ({"inference_geo": "us"}, "inference_geo", "owner's machines"),
        ({"fallbacks": [{"model": "n"}]}, "fallbacks", "no other model"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1023}}, "thinking.budget_tokens", "1024"),
        ({"thinking": {"type": "enabled", "budget_tokens": 4096}}, "thinking.budget_tokens", "less than"),
        ({"thinking": {"type": "often"}}, "thinking", "adaptive"),
        ({"context_management": {"edits": [{"type": "compact_20260112"}]}}, None, "shorten"),
        ({"output_config": {"format": {"type": "text"}}}, "output_config.format", "json_schema"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort", "medium"),
        ({"output_config": {"task_budget": {}}}, "output_config.task_budget", "max_tokens"),
        (
            {"output_config": {"format": FORMAT}, "output_format": {**FORMAT, "schema": {}}},
            "output_format",
            "contradicts",
        ),
        (
            {"tools": [ADD], "tool_choice": {"type": "any"}, "output_format": FORMAT},
            "output_format",
            "tool_choice",
        ),
        (
            {"tools": [ADD], "tool_choice": {"type": "any"}, "output_config": {"format": FORMAT}},
            "output_config.format",
            "of no use",
        ),
        ({"tools": [ADD, ADD]}, "tools[1].name", 'two tools "add"'),
        ({"tools": [{**ADD, "name": "a b"}]}, "tools[0].name", "letters"),
        ({"tools": [{"name": "a"}]}, "tools[0].input_schema", "required"),
        ({"tools": [{**ADD, "input_schema": {"type": "array"}}]}, "tools[0].input_schema", "object"),
        ({"tools": [{**ADD, "input_examples": [{}]}]}, "tools[0].input_examples", "description"),
        ({"tools": [{**ADD, "allowed_callers": ["code_execution_20260120"]}]}, None, "runs no code"),
        (
            {"tools": [{"type": "web_search_20260318", "name": "web_search"}]},
            "tools[0].type",
            "web_search_2026",
        ),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type", "no tools of its own"),
        ({"tool_choice": {"type": "any"}}, "tool_choice", "no tools"),
        ({"tools": [ADD], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice.name", 'no tool "x"'),
        ({"tools": [ADD], "tool_choice": {"type": "must"}}, "tool_choice", "none"),
    ],
)
def test_refusals_name_the_key_and_the_remedy(keys: dict[str, Any], param: str | None, words: str) -> None:
    with pytest.raises(BadRequest, match=r".") as caught:
        decode(**keys)
    assert words in caught.value.message
    assert param is None or caught.value.param == param


@pytest.mark.parametrize(
    ("messages", "param", "words"),
    [
        (
            [{"role": "user", "content": [{"type": "text", "text": "see"}, IMAGE]}],
            "messages[0].content[1]",
            'not "image": images, documents',
        ),
        (
            [{"role": "user", "content": [{"type": "document", "source": {}}]}],
            "messages[0].content[0]",
            'not "document"',
        ),
        (
            [HI, {"role": "assistant", "content": [{"type": "server_tool_use", "id": "x"}]}],
            "messages[1].content[0]",
            "a server's own tools",
        ),
        (
            [
                HI,
                {"role": "assistant", "content": [CALL]},
                {"role": "user", "content": [{**RESULT, "content": [IMAGE]}]},
            ],
            "messages[2].content[0].content[0]",
            'not "image"',
        ),
        ([{"role": "user", "content": [RESULT]}], "messages[0].content[0].tool_use_id", "message before"),
        ([HI, {"role": "assistant", "content": [CALL]}], "messages[1]", "tool_result"),
        ([{"role": "assistant", "content": "It is"}], "messages[0]", "nothing was asked"),
    ],
)
def test_what_no_conversation_can_be(messages: list[Any], param: str, words: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(messages=messages)
    assert caught.value.param == param
    assert words in caught.value.message


# Counting


def test_what_is_counted_is_the_same_conversation() -> None:
    keys = {"system": "Be brief.", "tools": [ADD], "tool_choice": {"type": "any"}, "thinking": None}
    asked = {"model": "m", "messages": [HI], **keys}
    counted = anthropic.decode_count_tokens(json.dumps(asked).encode(), id="r")
    answered = request(**keys)
    assert (counted.messages, counted.tools, counted.must_call) == (
        answered.messages,
        answered.tools,
        answered.must_call,
    )
    with pytest.raises(BadRequest, match="max_tokens"):
        anthropic.decode_count_tokens(body(), id="r")


# Anything at all

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
KEYS = [
    "model",
    "max_tokens",
    "messages",
    "role",
    "content",
    "type",
    "text",
    "tool_use",
    "tool_result",
    "thinking",
    "system",
    "tools",
    "name",
    "input",
    "input_schema",
    "tool_choice",
    "any",
    "auto",
    "user",
    "assistant",
    "id",
    "tool_use_id",
    "is_error",
    "stop_sequences",
    "stream",
    "enabled",
    "budget_tokens",
    "output_config",
    "format",
    "json_schema",
    "schema",
    "context_management",
    "edits",
    "cache_control",
]
VALUES = st.recursive(
    LEAVES | st.sampled_from(KEYS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=20,
)


def refuses(data: bytes) -> None:
    for read in (anthropic.decode_messages, anthropic.decode_count_tokens):
        with suppress(BadRequest):
            read(data, id="r")


@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_worse(data: bytes) -> None:
    refuses(data)


@given(VALUES)
def test_any_json_is_read_or_refused(value: Any) -> None:
    refuses(json.dumps(value).encode())


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4), st.lists(VALUES, max_size=3))
def test_any_keys_and_blocks_are_read_or_refused(keys: dict[str, Any], blocks: list[Any]) -> None:
    messages = [HI, {"role": "assistant", "content": [CALL, *blocks]}, {"role": "user", "content": blocks}]
    refuses(json.dumps({"model": "m", "max_tokens": 5, "messages": messages, **keys}).encode())
