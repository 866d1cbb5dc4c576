"""What Ollama's dialect accepts, and how it says what it does not."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from exo.cards import Recipe
from exo.chat import ChatRequest, EmbedRequest, Message, Sampling, Tool, ToolCall
from exo.errors import BadRequest
from exo.wire import ollama
from exo.wire.ollama import request_types as types
from tests.doubles import card

HI = {"role": "user", "content": "hi"}
ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALL = {"function": {"name": "add", "arguments": {"a": 2}}}
ARGUMENTS = '{"a":2}'
SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}}


def chat(**keys: Any) -> ollama.AskCall:
    return ollama.decode_chat(json.dumps({"model": "m", "messages": [HI], **keys}).encode(), id="r")


def generate(**keys: Any) -> ollama.AskCall:
    return ollama.decode_generate(json.dumps({"model": "m", "prompt": "p", **keys}).encode(), id="r")


def test_least_chat() -> None:
    call = chat()
    assert call == ollama.AskCall(
        request=ChatRequest(id="r", model="m", messages=(Message("user", "hi"),)),
        stream=True,
        keep_alive=UNSET,
        context=None,
    )
    assert call.asks


@pytest.mark.parametrize(
    ("option", "value", "field", "expected"),
    [
        ("temperature", 0, "temperature", 0.0),
        ("top_p", 1, "top_p", 1.0),
        ("top_k", 0, "top_k", 0),
        ("min_p", 0.1, "min_p", 0.1),
        ("repeat_penalty", 1.1, "repeat_penalty", 1.1),
        ("presence_penalty", -2, "presence_penalty", -2.0),
        ("frequency_penalty", 2, "frequency_penalty", 2.0),
        ("seed", 0, "seed", 0),
        ("seed", -1, "seed", None),
        ("seed", -7, "seed", -7),
        ("num_predict", 5, "max_tokens", 5),
        ("num_predict", -1, "max_tokens", None),
        ("num_predict", -2, "max_tokens", None),
    ],
)
def test_options_that_are_honoured(option: str, value: object, field: str, expected: Any) -> None:
    assert chat(options={option: value}).request.sampling == Sampling(**{field: expected})


HINTS = {
    "num_keep": 5,
    "num_batch": 2,
    "num_gpu": 1,
    "main_gpu": 0,
    "num_thread": 8,
    "numa": True,
    "low_vram": True,
    "f16_kv": False,
    "logits_all": True,
    "use_mmap": False,
    "use_mlock": True,
    "mirostat_tau": 0.8,
    "mirostat_eta": 0.6,
}
UNCHANGING = {
    "mirostat": 0,
    "tfs_z": 1.0,
    "typical_p": 1,
    "repeat_last_n": 64,
    "penalize_newline": True,
    "vocab_only": False,
    "embedding_only": False,
}


@pytest.mark.parametrize("option", [*HINTS.items(), *UNCHANGING.items()], ids=lambda option: option[0])
def test_hints_and_values_that_change_nothing_are_taken(option: tuple[str, object]) -> None:
    assert chat(options=dict([option])) == chat()


def test_every_option_is_decided_upon() -> None:
    honoured = {"temperature", "top_p", "top_k", "min_p", "repeat_penalty", "presence_penalty", "seed"}
    honoured |= {"frequency_penalty", "num_predict", "num_ctx", "stop"}
    assert set(types.OllamaOptions.__struct_fields__) == honoured | set(HINTS) | set(UNCHANGING)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("mirostat", 1),
        ("tfs_z", 0.5),
        ("typical_p", 0.7),
        ("repeat_last_n", -1),
        ("repeat_last_n", 33),
        ("penalize_newline", False),
        ("vocab_only", True),
        ("embedding_only", True),
        ("num_predict", 0),
        ("num_predict", -3),
        ("num_ctx", 0),
        ("temperature", 2.1),
        ("top_p", 0),
        ("seed", 2**63),
        ("stop", ""),
        ("temprature", 1),
    ],
)
def test_options_that_cannot_be_honoured_are_named(option: str, value: object) -> None:
    for ask in (chat, generate):
        with pytest.raises(BadRequest, match=f"options.{option}") as refused:
            ask(options={option: value})
        assert refused.value.param == f"options.{option}"


def test_context() -> None:
    assert chat(options={"num_ctx": 4096}).context == 4096
    ollama.check_context(4096, card("m"))
    ollama.check_context(None, card("m"))
    with pytest.raises(BadRequest, match=r"num_ctx is 4097 and the context of 'm' holds 4096") as refused:
        ollama.check_context(4097, card("m"))
    assert refused.value.param == "options.num_ctx"


@pytest.mark.parametrize(
    ("keys", "field", "expected"),
    [
        ({"options": {"stop": "a"}}, "stop", ("a",)),
        ({"options": {"stop": ["a", "b"]}}, "stop", ("a", "b")),
        ({"format": "json"}, "json_schema", {"type": "object"}),
        ({"format": ""}, "json_schema", None),
        ({"format": SCHEMA}, "json_schema", SCHEMA),
        ({"think": True}, "thinking", True),
        ({"think": False}, "thinking", False),
        ({"think": "low"}, "thinking", True),
        ({"think": "low"}, "thinking_budget", 512),
        ({"think": True}, "thinking_budget", None),
        ({"format": SCHEMA, "tools": [ADD]}, "json_schema", SCHEMA),
        ({"logprobs": True}, "logprobs", 0),
        ({"logprobs": True, "top_logprobs": 3}, "logprobs", 3),
        ({"tools": [ADD]}, "tools", (Tool("add", "", {"type": "object", "properties": {}}),)),
        ({"tools": [{"function": {"name": "add"}}]}, "tools", (Tool("add"),)),
        ({"tools": []}, "tools", ()),
        ({"truncate": True, "shift": True}, "messages", (Message("user", "hi"),)),
    ],
)
def test_request(keys: dict[str, Any], field: str, expected: object) -> None:
    assert getattr(chat(**keys).request, field) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (0, 0.0),
        (300, 300.0),
        (1.5, 1.5),
        (-1, None),
        (-0.5, None),
        ("0", 0.0),
        ("300", 300.0),
        ("-1", None),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("10m0s", 600.0),
        ("300ms", 0.3),
        (".5s", 0.5),
        ("-1m", None),
        ("9999999h", None),
        (1e300, None),
    ],
)
def test_keep_alive(given: float | str, expected: float | None) -> None:
    assert chat(keep_alive=given).keep_alive == expected
    assert generate(keep_alive=given).keep_alive == expected


@pytest.mark.parametrize("given", ["", "m", "5 m", "5x", "1h30", "forever", "5m!", "٣s", [], True, {}])
def test_what_is_no_duration_is_refused(given: object) -> None:
    with pytest.raises(BadRequest, match="keep_alive") as refused:
        chat(keep_alive=given)
    assert refused.value.param == "keep_alive"


@pytest.mark.parametrize("empty", [{"messages": []}, {"messages": None}], ids=str)
def test_a_chat_without_messages_asks_nothing(empty: dict[str, Any]) -> None:
    call = chat(**empty, keep_alive=0)
    assert not call.asks
    assert call.keep_alive == 0
    assert not ollama.decode_chat(b'{"model":"m"}', id="r").asks


# Conversations


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"role": "system", "content": "x"}, Message("system", "x")),
        ({"role": "user", "content": ""}, Message("user", "")),
        ({"role": "assistant", "content": "x", "thinking": "hm"}, Message("assistant", "x", reasoning="hm")),
        ({"role": "assistant", "thinking": "hm"}, Message("assistant", "", reasoning="hm")),
        ({"role": "user", "content": "x", "images": []}, Message("user", "x")),
        (
            {"role": "assistant", "content": "", "tool_calls": [CALL, {**CALL, "id": "c9"}]},
            Message(
                "assistant",
                "",
                (ToolCall(0, "call_0", "add", ARGUMENTS), ToolCall(1, "c9", "add", ARGUMENTS)),
            ),
        ),
    ],
)  # fmt: skip
def test_message(sent: object, message: Message) -> None:
    assert chat(messages=[HI, sent]).request.messages[1] == message


def calling(*names: str) -> dict[str, Any]:
    calls = [{"function": {"name": name, "arguments": {}}} for name in names]
    return {"role": "assistant", "tool_calls": calls}


def answering(content: str, **keys: str) -> dict[str, Any]:
    return {"role": "tool", "content": content, **keys}


def answered(*sent: dict[str, Any]) -> list[tuple[str, str]]:
    """Which call each tool's message answers."""
    messages = chat(messages=[HI, *sent]).request.messages
    return [(message.content, message.tool_call_id) for message in messages if message.role == "tool"]


def test_tools_answers_find_their_calls() -> None:
    both = calling("add", "sub")
    by_name = answered(both, answering("s", tool_name="sub"), answering("a", tool_name="add"))
    assert by_name == [("s", "call_1"), ("a", "call_0")]
    assert answered(both, answering("a"), answering("s")) == [("a", "call_0"), ("s", "call_1")]
    assert answered(both, answering("s", tool_call_id="call_1")) == [("s", "call_1")]
    again = answered(calling("add"), answering("1"), calling("add"), answering("2", tool_name="add"))
    assert again == [("1", "call_0"), ("2", "call_1")]


@pytest.mark.parametrize(
    "sent",
    [
        [answering("x")],
        [calling("add"), answering("x", tool_name="sub")],
        [calling("add"), answering("x"), answering("y")],
    ],
)
def test_an_answer_to_no_call_is_refused(sent: list[dict[str, Any]]) -> None:
    with pytest.raises(BadRequest, match="answers no tool call"):
        answered(*sent)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"model": ""}, "model", "non-empty"),
    ({"model": None}, "model", "non-empty string"),
    ({"stream": "yes"}, "stream", "true or false"),
    ({"messages": [{"role": "developer", "content": "x"}]}, "messages[0].role", '"assistant", "system"'),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "required"),
    ({"messages": [{**HI, "images": ["aGk="]}]}, "messages[0].images", "text only"),
    ({"messages": [{**HI, "tool_calls": [CALL]}]}, "messages[0].tool_calls", 'no place in a "user"'),
    ({"messages": [{**HI, "tool_name": "add"}]}, "messages[0].tool_name", 'no place in a "user"'),
    ({"messages": [{**HI, "name": "Ann"}]}, "messages[0].name", "unknown"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{}"}}]}]},
        "messages[0].tool_calls[0].function.arguments",
        "an object, not a string",
    ),
    ({"format": "xml"}, "format", '"json"'),
    ({"format": {"maximum": 2**64}}, "format", "64 bits"),
    ({"think": "maximal"}, "think", '"low"'),
    ({"top_logprobs": 3}, "top_logprobs", "needs logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "from 0 to 20"),
    ({"tools": [ADD, ADD]}, "tools[1].function.name", "two tools"),
    ({"tools": [{"type": "custom", "function": {"name": "a"}}]}, "tools[0].type", '"function"'),
    (
        {"tools": [{"function": {"name": "a", "parameters": {"type": "array"}}}]},
        "tools[0].function.parameters",
        "of an object",
    ),
    ({"temperature": 1}, "temperature", "unknown"),
    ({"promt": "x"}, "promt", "unknown"),
    ({"option": {}}, "option", '"options"'),
]


@pytest.mark.parametrize(("keys", "param", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_refused_chat(keys: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        chat(**keys)
    assert refused.value.param == param
    assert words in refused.value.message


# Prompts


def test_a_prompt_is_a_chat() -> None:
    assert generate().request.messages == (Message("user", "p"),)
    messages = generate(system="s", suffix="", template="", context=[], images=[]).request.messages
    assert messages == (Message("system", "s"), Message("user", "p"))


def test_a_raw_prompt_is_continued() -> None:
    call = generate(raw=True, think=False, format="json", options={"stop": "x"})
    assert call.request == ChatRequest(
        id="r", model="m", prompt="p", stop=("x",), json_schema={"type": "object"}
    )
    assert call.asks


@pytest.mark.parametrize("keys", [{}, {"raw": True}, {"system": "s"}], ids=str)
def test_an_empty_prompt_asks_nothing(keys: dict[str, Any]) -> None:
    assert not generate(prompt="", **keys).asks
    assert not generate(prompt=None, **keys).asks


@pytest.mark.parametrize(
    ("keys", "param", "words"),
    [
        ({"context": [1]}, "context", "/api/chat"),
        ({"suffix": "x"}, "suffix", "at its end only"),
        ({"template": "x"}, "template", "with raw"),
        ({"images": ["aGk="]}, "images", "text only"),
        ({"raw": True, "system": "s"}, "system", "raw"),
        ({"raw": True, "think": True}, "think", "raw"),
        ({"messages": []}, "messages", "unknown"),
        ({"prompt": ["a"]}, "prompt", "a string"),
        ({"width": 5}, "width", "unknown"),
    ],
)
def test_refused_prompt(keys: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        generate(**keys)
    assert refused.value.param == param
    assert words in refused.value.message


# Embeddings


@pytest.mark.parametrize(
    ("given", "texts"), [("a", ("a",)), (["a", "b"], ("a", "b")), ("", ()), ([], ())], ids=str
)
def test_embed(given: object, texts: tuple[str, ...]) -> None:
    body = {"model": "m", "input": given, "truncate": True, "options": {"num_ctx": 5}, "keep_alive": "5m"}
    call = ollama.decode_embed(json.dumps(body).encode(), id="r")
    request = EmbedRequest(model="m", texts=texts, id="r")
    assert call == ollama.EmbedCall(request=request, keep_alive=300.0, context=5)


def test_legacy_embeddings() -> None:
    call = ollama.decode_embeddings(b'{"model":"m","prompt":"a"}', id="r")
    assert call.request.texts == ("a",)
    assert ollama.decode_embeddings(b'{"model":"m"}', id="r").request.texts == ()


@pytest.mark.parametrize(
    ("keys", "param"),
    [({"dimensions": 5}, "dimensions"), ({"input": ["a", ""]}, "input[1]"), ({"input": [1]}, "input[0]"),
     ({"options": {"mirostat": 2}}, "options.mirostat")],
)  # fmt: skip
def test_refused_embed(keys: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        ollama.decode_embed(json.dumps({"model": "m", "input": "a", **keys}).encode(), id="r")
    assert refused.value.param == param


# Models


@pytest.mark.parametrize("decode", [ollama.decode_show, ollama.decode_delete])
def test_a_model_is_named_in_two_ways(decode: Any) -> None:
    for body in ({"model": "m"}, {"name": "m"}, {"model": "m", "name": ""}, {"model": "m", "name": "m"}):
        assert decode(json.dumps(body).encode()) == "m"
    for body, words in (
        ({}, "required"),
        ({"model": ""}, "required"),
        ({"model": "m", "name": "n"}, "contradicts"),
        ({"model": "m" * 257}, "256"),
    ):
        with pytest.raises(BadRequest, match=words):
            decode(json.dumps(body).encode())


def test_what_the_go_client_sends_to_show() -> None:
    body = {"model": "m", "system": "", "template": "", "verbose": False, "options": None, "name": ""}
    assert ollama.decode_show(json.dumps(body).encode()) == "m"


def test_pull() -> None:
    assert ollama.decode_pull(b'{"model":"a/b/c"}') == ollama.PullCall("a/b/c", True)
    assert not ollama.decode_pull(b'{"name":"a","stream":false,"insecure":false,"username":""}').stream
    with pytest.raises(BadRequest, match="insecure"):
        ollama.decode_pull(b'{"model":"a","insecure":true}')


def create(**keys: Any) -> ollama.CreateCall:
    return ollama.decode_create(json.dumps({"model": "new", "from": "old", **keys}).encode())


def test_create() -> None:
    call = create(system="s", parameters={"temperature": 0.5, "num_ctx": 512, "num_predict": 9}, stream=False)
    sampling = Sampling(temperature=0.5, max_tokens=9)
    recipe = Recipe(base="old", system="s", sampling=sampling, context=512)
    assert call == ollama.CreateCall("new", recipe, False)
    assert create() == ollama.CreateCall("new", Recipe(base="old"), True)


@pytest.mark.parametrize(
    ("keys", "param"),
    [
        ({"from": None}, "from"),
        ({"modelfile": "FROM x"}, "modelfile"),
        ({"template": "x"}, "template"),
        ({"quantize": "q8_0"}, "quantize"),
        ({"messages": [HI]}, "messages"),
        ({"license": "MIT"}, "license"),
        ({"files": {"a": "b"}}, "files"),
        ({"adapters": {"a": "b"}}, "adapters"),
        ({"parameters": {"stop": ["x"]}}, "parameters.stop"),
        ({"parameters": {"mirostat": 1}}, "parameters.mirostat"),
    ],
)
def test_refused_create(keys: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        create(**keys)
    assert refused.value.param == param


# Whatever comes


def check_decoded_or_refused(body: bytes) -> None:
    for ask in (ollama.decode_chat, ollama.decode_generate, ollama.decode_embed, ollama.decode_embeddings):
        with suppress(BadRequest):
            ask(body, id="r")
    for name in (ollama.decode_show, ollama.decode_delete, ollama.decode_pull, ollama.decode_create):
        with suppress(BadRequest):
            name(body)


BODIES = [
    types.OllamaChat, types.OllamaGenerate, types.OllamaMessage, types.OllamaOptions, types.OllamaEmbed,
    types.OllamaCreate, types.OllamaShow, types.OllamaCallMade, types.OllamaFunctionCalled,
]  # fmt: skip
KEYS = sorted({key for body in BODIES for key in body.__struct_encode_fields__} | {"1h", "assistant", "tool"})
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(KEYS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
)
history = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["assistant", "tool", "user"]), "content": st.text(max_size=3)},
        optional={
            "tool_calls": st.lists(st.just(CALL) | json_values, max_size=2),
            "tool_name": st.just("add"),
        },
    ),
    max_size=5,
)
bodies = st.tuples(st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4), history).map(
    lambda sent: json.dumps({"model": "m", "messages": sent[1], **sent[0]}).encode()
)


@given(st.binary() | bodies | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    check_decoded_or_refused(body)


@given(bodies, st.data())
def test_damaged_bodies_are_decoded_or_refused(body: bytes, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(body)))
    end = start + data.draw(st.integers(0, 3))
    check_decoded_or_refused(body[:start] + data.draw(st.binary(max_size=3)) + body[end:])


@given(st.text() | st.floats(allow_nan=False, allow_infinity=False))
def test_any_keep_alive_is_a_time_or_refused(given: str | float) -> None:
    with suppress(BadRequest):
        seconds = chat(keep_alive=given).keep_alive
        assert seconds is None or (isinstance(seconds, float) and 0 <= seconds <= 1e9)


def test_arguments_of_any_size_are_kept_or_refused() -> None:
    for number in (2**63 - 1, -(2**63), 1e308):
        call = {"function": {"name": "add", "arguments": {"a": number}}}
        [_, message] = chat(messages=[HI, {"role": "assistant", "tool_calls": [call]}]).request.messages
        assert json.loads(message.tool_calls[0].arguments) == {"a": number}
    with pytest.raises(BadRequest, match="64 bits"):
        chat(
            messages=[
                {"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": {"a": 2**64}}}]}
            ]
        )
