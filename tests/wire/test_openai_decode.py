"""What the OpenAI dialect accepts, and how it says what it does not."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.chat import ChatRequest, EmbedRequest, Message, Sampling, SoFar, Tool, ToolCall
from exo.errors import BadRequest
from exo.wire import openai
from exo.wire.openai import request_types as types

HI = {"role": "user", "content": "hi"}
BEGUN = {"role": "assistant", "content": "a"}
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array"}, "strict": True}}
PARAMETERS = ADD["function"]["parameters"]  # type: ignore[index]
SUB = {"type": "function", "function": {"name": "sub"}}
NAMED = {"type": "function", "function": {"name": "sub"}}


def allowed(mode: str) -> dict[str, object]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [NAMED]}}


def decode(**keys: Any) -> openai.ChatCall:
    body = {"model": "m", "messages": [HI], **keys}
    return openai.decode_chat(json.dumps(body).encode(), id="r")


def complete(**keys: Any) -> openai.CompletionCall:
    return openai.decode_completion(json.dumps({"model": "m", "prompt": "p", **keys}).encode(), id="r")


def embed(**keys: Any) -> openai.EmbedCall:
    return openai.decode_embeddings(json.dumps({"model": "m", "input": "t", **keys}).encode(), id="r")


def test_least_chat() -> None:
    assert decode() == openai.ChatCall(
        request=ChatRequest(id="r", model="m", messages=(Message("user", "hi"),)),
        n=1,
        stream=False,
        include_usage=False,
    )


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("temperature", 0, "temperature", 0.0),
        ("temperature", 2, "temperature", 2.0),
        ("top_p", 1, "top_p", 1.0),
        ("top_k", 0, "top_k", 0),
        ("min_p", 0.1, "min_p", 0.1),
        ("repeat_penalty", 1.1, "repeat_penalty", 1.1),
        ("repetition_penalty", 1.1, "repeat_penalty", 1.1),
        ("presence_penalty", -2, "presence_penalty", -2.0),
        ("frequency_penalty", 2, "frequency_penalty", 2.0),
        ("logit_bias", {"17": -100, "0": 5}, "logit_bias", {17: -100.0, 0: 5.0}),
        ("seed", -(2**63), "seed", -(2**63)),
        ("seed", 2**63 - 1, "seed", 2**63 - 1),
        ("max_tokens", 1, "max_tokens", 1),
        ("max_completion_tokens", 5, "max_tokens", 5),
    ],
)
def test_sampling(key: str, value: object, field: str, expected: Any) -> None:
    assert decode(**{key: value}).request.sampling == Sampling(**{field: expected})


@pytest.mark.parametrize(
    ("keys", "field", "expected"),
    [
        ({"stop": "a"}, "stop", ("a",)),
        ({"stop": ["a", "b"]}, "stop", ("a", "b")),
        ({"stop": []}, "stop", ()),
        ({"logprobs": True}, "logprobs", 0),
        ({"logprobs": True, "top_logprobs": 20}, "logprobs", 20),
        ({"logprobs": False}, "logprobs", None),
        ({"grammar": 'root ::= "a"'}, "grammar", 'root ::= "a"'),
        ({"response_format": {"type": "text"}}, "json_schema", None),
        ({"response_format": {"type": "json_object"}}, "json_schema", {"type": "object"}),
        ({"response_format": SCHEMA}, "json_schema", {"type": "array"}),
        ({"enable_thinking": False}, "thinking", False),
        ({"chat_template_kwargs": {"enable_thinking": True}}, "thinking", True),
        ({"chat_template_kwargs": {}}, "thinking", None),
        ({"reasoning_effort": "none"}, "thinking", False),
        ({"reasoning_effort": "minimal"}, "thinking", False),
        ({"reasoning_effort": "low"}, "thinking", True),
        ({"reasoning_effort": "low"}, "thinking_budget", 512),
        ({"reasoning_effort": "medium"}, "thinking_budget", 2048),
        ({"reasoning_effort": "high"}, "thinking_budget", None),
        ({"reasoning_effort": "high", "thinking_budget": 9}, "thinking_budget", 9),
        ({"thinking_budget": 9}, "thinking", None),
        ({"reasoning_effort": "high", "enable_thinking": True}, "thinking", True),
        ({"tools": [ADD]}, "tools", (Tool("add", "", {"type": "object", "properties": {}}),)),
        ({"tools": [ADD], "tool_choice": "auto"}, "tools", (Tool("add", "", ADD["function"]["parameters"]),)),  # type: ignore[index]
        ({"tools": [ADD], "tool_choice": "none"}, "tools", ()),
        (
            {"tools": [ADD], "tool_choice": "none", "response_format": SCHEMA},
            "json_schema",
            {"type": "array"},
        ),
        ({"tools": []}, "tools", ()),
        ({"tools": [ADD, SUB], "tool_choice": "auto"}, "must_call", ()),
        ({"tools": [ADD, SUB], "tool_choice": "required"}, "must_call", ("add", "sub")),
        ({"tools": [ADD, SUB], "tool_choice": NAMED}, "must_call", ("sub",)),
        ({"tools": [ADD, SUB], "tool_choice": NAMED}, "tools", (Tool("add", "", PARAMETERS), Tool("sub"))),
        ({"tools": [ADD, SUB], "tool_choice": allowed("auto")}, "must_call", ()),
        ({"tools": [ADD, SUB], "tool_choice": allowed("auto")}, "tools", (Tool("sub"),)),
        ({"tools": [ADD, SUB], "tool_choice": allowed("required")}, "must_call", ("sub",)),
        ({"tools": [ADD], "parallel_tool_calls": False}, "parallel_calls", False),
        ({"tools": [ADD], "response_format": SCHEMA}, "json_schema", {"type": "array"}),
    ],
)
def test_request(keys: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(decode(**keys).request, field) == expected


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"role": "system", "content": "x"}, Message("system", "x")),
        ({"role": "developer", "content": "x"}, Message("system", "x")),
        ({"role": "user", "content": "x", "name": "Ann"}, Message("user", "x")),
        ({"role": "user", "content": ""}, Message("user", "")),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            Message("user", "ab"),
        ),
        (
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            Message("assistant", "no"),
        ),
        ({"role": "assistant", "content": None, "refusal": "no"}, Message("assistant", "no")),
        (
            {"role": "assistant", "content": "x", "reasoning_content": "hm"},
            Message("assistant", "x", reasoning="hm"),
        ),
        (
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            Message("assistant", "", (ToolCall(0, "c1", "add", "{}"),)),
        ),
        (
            {"role": "assistant", "tool_calls": [CALL, {**CALL, "index": 7}]},
            Message("assistant", "", (ToolCall(0, "c1", "add", "{}"), ToolCall(1, "c1", "add", "{}"))),
        ),
        ({"role": "tool", "content": "5", "tool_call_id": "c1"}, Message("tool", "5", tool_call_id="c1")),
    ],
)
def test_message(sent: object, message: Message) -> None:
    assert decode(messages=[HI, sent]).request.messages[1] == message


@pytest.mark.parametrize(
    "keys",
    [
        {"user": "u"},
        {"metadata": {"a": "b"}},
        {"safety_identifier": "s"},
        {"prompt_cache_key": "k"},
        {"prompt_cache_retention": "24h"},
        {"service_tier": "auto"},
        {"service_tier": "default"},
        {"store": False},
        {"parallel_tool_calls": True},
        {"modalities": ["text"]},
        {"tool_choice": "auto"},
    ],
)
def test_keys_without_effect(keys: dict[str, Any]) -> None:
    assert decode(**keys) == decode()


NULLABLE = [name for name in types.ChatBody.__struct_fields__ if name not in ("model", "messages")]


@pytest.mark.parametrize("sent", [{"messages": [HI]}, {"messages": [HI], "model": None}])
def test_a_request_may_leave_the_model_to_the_node(sent: dict[str, object]) -> None:
    assert openai.decode_chat(json.dumps(sent).encode(), id="r").request.model == ""


@pytest.mark.parametrize("key", NULLABLE)
def test_null_is_absent(key: str) -> None:
    assert decode(**{key: None}) == decode()


def test_n_and_stream() -> None:
    call = decode(n=16, stream=True, stream_options={"include_usage": True, "include_obfuscation": False})
    assert (call.n, call.stream, call.include_usage) == (16, True, True)
    assert not decode(stream=True, stream_options={}).include_usage


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": 2.1}, "temperature", "a number from 0 to 2"),
    ({"temperature": -0.1}, "temperature", "a number from 0 to 2"),
    ({"temperature": "hot"}, "temperature", "a number from 0 to 2, not a string"),
    ({"temperature": True}, "temperature", "not a boolean"),
    ({"top_p": 0}, "top_p", "above 0 and at most 1"),
    ({"top_p": 1.01}, "top_p", "above 0 and at most 1"),
    ({"min_p": -1}, "min_p", "from 0 to 1"),
    ({"top_k": -1}, "top_k", "from 0 to"),
    ({"top_k": 1.5}, "top_k", "an integer"),
    ({"top_k": 2**31}, "top_k", "from 0 to"),
    ({"repeat_penalty": 0}, "repeat_penalty", "above 0"),
    ({"repetition_penalty": 0}, "repetition_penalty", "above 0"),
    ({"repeat_penalty": 1, "repetition_penalty": 2}, "repetition_penalty", "contradicts repeat_penalty"),
    ({"presence_penalty": 3}, "presence_penalty", "from -2 to 2"),
    ({"frequency_penalty": -3}, "frequency_penalty", "from -2 to 2"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "the keys of logit_bias must be an integer"),
    ({"logit_bias": {"-1": 1}}, "logit_bias", "the keys of logit_bias"),
    ({"logit_bias": {"1": 101}}, "logit_bias", "the values of logit_bias must be a number from -100 to 100"),
    ({"logit_bias": [1]}, "logit_bias", "an object"),
    ({"seed": 2**63}, "seed", "an integer from -9223372036854775808 to 9223372036854775807"),
    ({"seed": 10**400}, "seed", "an integer"),
    ({"max_tokens": 0}, "max_tokens", "an integer from 1"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "an integer from 1"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens", "contradicts max_tokens"),
    ({"n": 0}, "n", "from 1 to 16"),
    ({"n": 17}, "n", "from 1 to 16"),
    ({"stop": ""}, "stop", "a non-empty string"),
    ({"stop": ["a", ""]}, "stop[1]", "a non-empty string"),
    ({"stop": ["a"] * 17}, "stop", "at most 16"),
    ({"stop": 5}, "stop", "a non-empty string or a list"),
    ({"stream": "yes"}, "stream", "true or false"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream to be true"),
    ({"stream": True, "stream_options": {"usage": 1}}, "stream_options.usage", "unknown"),
    ({"logprobs": 1}, "logprobs", "true or false"),
    ({"top_logprobs": 1}, "top_logprobs", "needs logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
    ({"grammar": ""}, "grammar", "non-empty"),
    ({"grammar": "g", "response_format": {"type": "json_object"}}, "grammar", "only one"),
    ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs.x", "unknown"),
    ({"enable_thinking": True, "reasoning_effort": "none"}, "reasoning_effort", "contradicts"),
    ({"reasoning_effort": "maximal"}, "reasoning_effort", '"low"'),
    ({"response_format": {"type": "xml"}}, "response_format", '"json_schema", not "xml"'),
    ({"response_format": {}}, "response_format.type", "required"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "response_format.json_schema.schema",
        "required",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"n": 2**64}}}},
        "response_format.json_schema.schema",
        "64 bits",
    ),
    (
        {"response_format": SCHEMA, "tools": [ADD], "tool_choice": "required"},
        "response_format",
        "a tool has to be called",
    ),
    ({"grammar": "g", "tools": [ADD]}, "grammar", "exclude each other"),
    ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0]", '"function", not "custom"'),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "required"),
    (
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        "tools[0].function.name",
        "1 to 128 letters",
    ),
    ({"tools": [{"type": "function", "function": {"name": "a\n"}}]}, "tools[0].function.name", "1 to 128"),
    (
        {"tools": [{"type": "function", "function": {"name": "a" * 129}}]},
        "tools[0].function.name",
        "1 to 128",
    ),
    ({"tools": [ADD, ADD]}, "tools[1].function.name", 'two tools "add"'),
    (
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "string"}}}]},
        "tools[0].function.parameters",
        '"object"',
    ),
    (
        {"tools": [{"type": "function", "function": {"name": "a", "parameters": []}}]},
        "tools[0].function.parameters",
        "an object, not a list",
    ),
    ({"tool_choice": "required"}, "tool_choice", "needs tools"),
    ({"tool_choice": NAMED}, "tool_choice", '"sub", which is not among'),
    ({"tools": [ADD], "tool_choice": NAMED}, "tool_choice", '"sub", which is not among'),
    ({"tools": [ADD], "tool_choice": allowed("auto")}, "tool_choice", '"sub", which is not among'),
    ({"tools": [ADD], "tool_choice": "any"}, "tool_choice", '"required"'),
    ({"enable_thinking": False, "thinking_budget": 9}, "thinking_budget", "of no use"),
    ({"functions": []}, "functions", "use tools"),
    ({"function_call": "auto"}, "function_call", "use tool_choice"),
    ({"modalities": ["text", "audio"]}, "modalities[1]", '"text", not "audio"'),
    ({"audio": {}}, "audio", "not supported"),
    ({"prediction": {}}, "prediction", "not supported"),
    ({"verbosity": "low"}, "verbosity", '"medium", not "low"'),
    ({"web_search_options": {}}, "web_search_options", "not supported"),
    ({"moderation": {}}, "moderation", "not supported"),
    ({"store": True}, "store", "must be false"),
    ({"service_tier": "flex"}, "service_tier", '"auto" or "default", not "flex"'),
    ({"metadata": {"a": 1}}, "metadata", "the values of metadata must be a string"),
    ({"user": 5}, "user", "a string"),
    ({"temprature": 1}, "temprature", 'did you mean "temperature"?'),
    ({"xyzzy": 1}, "xyzzy", 'unknown parameter "xyzzy"'),
    ({"prompt": "x"}, "prompt", "unknown parameter"),
    ({"model": ""}, "model", "a non-empty string"),
    ({"messages": []}, "messages", "a non-empty list"),
    ({"messages": "hi"}, "messages", "a non-empty list"),
    ({"messages": ["hi"]}, "messages[0]", "an object, not a string"),
    ({"messages": [{"content": "x"}]}, "messages[0].role", "required"),
    ({"messages": [HI, {"role": "bot", "content": "x"}]}, "messages[1].role", '"tool", not "bot"'),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", '"tool" message'),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
    (
        {"messages": [{"role": "user", "content": None}]},
        "messages[0].content",
        "a string or a non-empty list",
    ),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "non-empty list"),
    ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type", "required"),
    ({"messages": [{"role": "user", "content": "x", "nam": "y"}]}, "messages[0].nam", '"name"'),
    ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content", "no tool_calls"),
    ({"messages": [{"role": "assistant", "tool_calls": []}]}, "messages[0].content", "no tool_calls"),
    ({"messages": [{"role": "assistant", "function_call": {}}]}, "messages[0].function_call", "tool_calls"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "required"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "id": ""}]}]},
        "messages[0].tool_calls[0].id",
        "non-empty",
    ),
    *(
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": ""}, {"type": kind, kind: {}}]}
                ]
            },
            "messages[0].content[1]",
            "images, audio and files are not supported",
        )
        for kind in ("image_url", "input_audio", "file")
    ),
]


@pytest.mark.parametrize(("keys", "param", "words"), REFUSED, ids=lambda value: str(value)[:60])
def test_refused(keys: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        decode(**keys)
    assert refused.value.param == param
    assert words in refused.value.message
    assert len(refused.value.message) < 400


@pytest.mark.parametrize(("missing", "body"), [("messages", {"model": "m"})])
def test_required(missing: str, body: object) -> None:
    with pytest.raises(BadRequest, match="is required") as refused:
        openai.decode_chat(json.dumps(body).encode(), id="r")
    assert refused.value.param == missing


def with_schema(schema: bytes) -> bytes:
    return (
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"response_format":'
        b'{"type":"json_schema","json_schema":{"name":"a","schema":' + schema + b"}}}"
    )


def nested(depth: int) -> bytes:
    return with_schema(b'{"a":' * depth + b"1" + b"}" * depth)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"{", "truncated"),
        (b"[]", "must be an object, not a list"),
        (b"null", "must be an object, not null"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"model":"m","messages":[{"role":"user","content":"x"}]} {}', "not valid JSON"),
        (b'{"model":"\xff"}', "not UTF-8"),
        (b"\xff\xfe{\x00}\x00", "not valid JSON"),
        (b'{"model":"\\ud800"}', "not valid JSON"),
        (b'{"model":"\\udc00 and on"}', "not valid JSON"),
        (b'{"model":"m","temperature":NaN}', "not valid JSON"),
        (b'{"model":"m","temperature":1e999}', "temperature must be"),
        (b'{"model":"m","seed":' + b"9" * 10_000 + b"}", "seed must be"),
        (b'{"model":"m","model":"n","messages":[{"role":"user","content":"x"}]}', '"model" is given twice'),
        (
            b'{"model":"m","messages":[{"role":"user","content":"x","content":"y"}]}',
            '"content" is given twice',
        ),
        (b"[" * 10_000, "must be an object"),
        (nested(100), "100 levels"),
        (with_schema(b'{"enum":[' + b"1," * 100_000 + b"1]}"), "100000 parts"),
        (with_schema(b'{"a":[' + b"{}," * 500_000 + b"1]}"), "500000 objects and lists"),
        (nested(10_000), "too deeply"),
        (b'{"' + b"x" * 100_000 + b'":1}', "unknown parameter"),
        (b'{"x` - at `$.model":1}', "unknown parameter"),
        (b'{"\\u0000":1}', "unknown parameter"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_bytes(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        openai.decode_chat(body, id="r")
    assert words in refused.value.message
    assert len(refused.value.message) < 400


# Completions


def test_schema_may_be_nested() -> None:
    assert openai.decode_chat(nested(99), id="r").request.json_schema


def test_completion_of_several_prompts() -> None:
    call = complete(prompt=["a", "b"], n=2, best_of=2, echo=True, max_tokens=3, stop="x")
    sampling = Sampling(max_tokens=3)
    assert call == openai.CompletionCall(
        requests=(
            ChatRequest(id="r-0", model="m", prompt="a", sampling=sampling, stop=("x",)),
            ChatRequest(id="r-1", model="m", prompt="b", sampling=sampling, stop=("x",)),
        ),
        n=2,
        stream=False,
        include_usage=False,
        echo=True,
    )


def test_completion() -> None:
    call = complete(prompt="a", logprobs=5, grammar="g", stream=True)
    assert call.requests == (ChatRequest(id="r", model="m", prompt="a", logprobs=5, grammar="g"),)
    assert call.stream
    assert complete(suffix=None, best_of=None).requests[0].prompt == "p"


@pytest.mark.parametrize(
    ("keys", "param", "words"),
    [
        ({"prompt": [1, 2]}, "prompt[0]", "token arrays are not supported"),
        ({"prompt": [[1, 2]]}, "prompt[0]", "token arrays are not supported"),
        ({"prompt": []}, "prompt", "non-empty list"),
        ({"prompt": None}, "prompt", "a string"),
        ({"suffix": "x"}, "suffix", "not supported"),
        ({"best_of": 2}, "best_of", "equal to n (1)"),
        ({"logprobs": 6}, "logprobs", "from 0 to 5"),
        ({"logprobs": True}, "logprobs", "an integer"),
        ({"logprobs": 1, "echo": True}, "logprobs", "echoed"),
        ({"tools": []}, "tools", "unknown"),
        ({"temperature": 3}, "temperature", "from 0 to 2"),
        ({"messages": []}, "messages", "unknown"),
    ],
)
def test_refused_completion(keys: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        complete(**keys)
    assert refused.value.param == param
    assert words in refused.value.message


# Embeddings


def test_embeddings() -> None:
    assert embed() == openai.EmbedCall(EmbedRequest(model="m", texts=("t",), id="r"), base64=False)
    assert embed(input=["a", "b"]).request.texts == ("a", "b")
    assert embed(encoding_format="base64", user="u").base64
    assert not embed(encoding_format="float").base64


@pytest.mark.parametrize(
    ("keys", "param", "words"),
    [
        ({"input": ""}, "input", "non-empty"),
        ({"input": []}, "input", "non-empty"),
        ({"input": ["a", ""]}, "input[1]", "non-empty"),
        ({"input": [1, 2]}, "input[0]", "token arrays are not supported"),
        ({"input": ["a"] * 2049}, "input", "at most 2048"),
        ({"encoding_format": "int8"}, "encoding_format", '"base64" or "float"'),
        ({"dimensions": 5}, "dimensions", "not supported"),
        ({"inputs": 5}, "inputs", '"input"'),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused_embeddings(keys: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        embed(**keys)
    assert refused.value.param == param
    assert words in refused.value.message


# Whatever comes

DECODERS = (openai.decode_chat, openai.decode_completion, openai.decode_embeddings)
KEYS = [*types.ChatBody.__struct_fields__, *types.CompletionBody.__struct_fields__, "input", "role"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(KEYS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
)
bodies = st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4).map(
    lambda keys: json.dumps({"model": "m", "messages": [HI], **keys}).encode()
)


def check_decoded_or_refused(body: bytes) -> None:
    for decode_body in DECODERS:
        with suppress(BadRequest):
            decode_body(body, id="r")


@given(st.binary() | bodies | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    check_decoded_or_refused(body)


@given(bodies, st.data())
def test_damaged_bodies_are_decoded_or_refused(body: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(body)))
    end = start + data.draw(st.integers(0, 3))
    check_decoded_or_refused(body[:start] + data.draw(st.binary(max_size=3)) + body[end:])


def test_a_last_message_may_be_the_beginning_of_the_answer() -> None:
    said = {"role": "assistant", "content": "19 is", "reasoning_content": "2+7=9"}
    request = decode(messages=[HI, said], continue_final_message=True, add_generation_prompt=False).request
    assert request.messages == (Message("user", "hi"),)
    assert request.so_far == SoFar("19 is", "2+7=9")


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"continue_final_message": True}, "continue_final_message"),
        ({"continue_final_message": True, "messages": [BEGUN]}, "continue_final_message"),
        (
            {"continue_final_message": True, "messages": [HI, {"role": "assistant", "tool_calls": [CALL]}]},
            "continue_final_message",
        ),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        (
            {"continue_final_message": True, "add_generation_prompt": True, "messages": [HI, BEGUN]},
            "add_generation_prompt",
        ),
    ],
)
def test_a_beginning_that_is_none_is_refused(keys: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        decode(**keys)
    assert refused.value.param == param


def test_thoughts_of_earlier_answers_may_be_dropped() -> None:
    said = {"role": "assistant", "content": "19", "reasoning_content": "2+7=9"}
    kept = decode(messages=[HI, said, HI], keep_reasoning=True).request.messages[1]
    dropped = decode(messages=[HI, said, HI], keep_reasoning=False).request.messages[1]
    assert (kept.reasoning, dropped.reasoning) == ("2+7=9", "")


def test_thoughts_are_shown_unless_they_are_not_wanted() -> None:
    assert decode().reasoning
    assert not decode(include_reasoning=False).reasoning
