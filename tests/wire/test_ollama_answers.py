"""What Ollama's dialect answers, whole and line by line."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.cards import ModelCard, Progress
from exo.chat import (
    Alternative,
    Delta,
    Embeddings,
    Finished,
    Reasoning,
    Sampling,
    Text,
    Timings,
    TokenLogprob,
    ToolCall,
    Usage,
)
from exo.errors import EngineFailed, ExoError, ModelNotFound, NotReady
from exo.nodes import Residence
from exo.wire import ollama
from tests.doubles import card

CREATED = "2026-01-02T03:04:05Z"
END = Finished("stop", Usage(3, 2), Timings(0.25, 0.5))
MEASURED = {
    "done": True,
    "done_reason": "stop",
    "total_duration": 2_000_000_000,
    "load_duration": 1_250_000_000,
    "prompt_eval_count": 3,
    "prompt_eval_duration": 250_000_000,
    "eval_count": 2,
    "eval_duration": 500_000_000,
}
CALL = [ToolCall(0, "c", "add"), ToolCall(0, arguments='{"a":\n'), ToolCall(0, arguments="2}")]
CALLED = [{"id": "c", "function": {"index": 0, "name": "add", "arguments": {"a": 2}}}]
SURE = TokenLogprob(Alternative("a", -0.5, (97,)), (Alternative("b", float("-inf"), (98,)),))


def streamed(form: ollama.Form, *deltas: Delta, model: str = "m") -> list[dict[str, Any]]:
    """The lines of a whole stream."""
    stream = form.stream(model, CREATED, lambda: 2.0)
    sent = stream.start(0) + b"".join(stream.delta(0, delta) for delta in deltas) + stream.end(Usage(3, 2))
    return lines(sent)


def lines(sent: bytes) -> list[dict[str, Any]]:
    assert sent.endswith(b"\n")
    return [json.loads(line) for line in sent.splitlines()]


def line(**keys: Any) -> dict[str, Any]:
    return {"model": "m", "created_at": CREATED, "done": False, **keys}


def message(content: str, **keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **keys}


def test_a_streamed_chat() -> None:
    sent = streamed(ollama.CHAT, Reasoning("Hm"), Text("Hello"), Text(", wörld\n"), END)
    assert sent == [
        line(message=message("", thinking="Hm")),
        line(message=message("Hello")),
        line(message=message(", wörld\n")),
        line(message=message(""), **MEASURED),
    ]


def test_a_streamed_prompt() -> None:
    assert streamed(ollama.GENERATE, Reasoning("Hm"), Text("Hello"), END) == [
        line(response="", thinking="Hm"),
        line(response="Hello"),
        line(response="", **MEASURED),
    ]


def test_whole_answers() -> None:
    deltas: list[Delta] = [Reasoning("H"), Reasoning("m"), Text("Hello"), Text("!"), END]
    whole = json.loads(ollama.CHAT.whole("m", CREATED, 2.0, deltas))
    assert whole == line(message=message("Hello!", thinking="Hm"), **MEASURED)
    whole = json.loads(ollama.GENERATE.whole("m", CREATED, 2.0, deltas))
    assert whole == line(response="Hello!", thinking="Hm", **MEASURED)


def test_a_tool_call_is_sent_whole_and_on_one_line() -> None:
    assert streamed(ollama.CHAT, Text("I add."), *CALL, END)[1:] == [
        line(message=message("", tool_calls=CALLED)),
        line(message=message(""), **MEASURED),
    ]
    called = json.loads(ollama.CHAT.whole("m", CREATED, 2.0, [*CALL, Finished("tool_calls")]))
    assert called["message"] == message("", tool_calls=CALLED)
    assert called["done_reason"] == "stop"


def test_several_tool_calls() -> None:
    both: list[Delta] = [*CALL, ToolCall(1, "d", "now"), Text("x"), END]
    second = {"id": "d", "function": {"index": 1, "name": "now", "arguments": {}}}
    made = [sent["message"].get("tool_calls") for sent in streamed(ollama.CHAT, *both)]
    assert made == [CALLED, [second], None, None]
    whole = json.loads(ollama.CHAT.whole("m", CREATED, 2.0, both))
    assert whole["message"]["tool_calls"] == [*CALLED, second]


def test_a_call_that_max_tokens_cut_off_is_left_out() -> None:
    deltas: list[Delta] = [ToolCall(0, "c", "add", '{"a": '), Finished("length")]
    [last] = streamed(ollama.CHAT, *deltas)
    assert (last["done_reason"], "tool_calls" in last["message"]) == ("length", False)
    whole = json.loads(ollama.CHAT.whole("m", CREATED, 2.0, deltas))
    assert (whole["done_reason"], "tool_calls" in whole["message"]) == ("length", False)


@pytest.mark.parametrize("arguments", ["[]", "{", '"x"', "{} {}", "[" * 100_000])
def test_arguments_that_are_no_object_fail_the_answer(arguments: str) -> None:
    deltas: list[Delta] = [ToolCall(0, "c", "add", arguments), END]
    with pytest.raises(EngineFailed, match="'add' with broken arguments"):
        streamed(ollama.CHAT, *deltas)
    with pytest.raises(EngineFailed, match="'add' with broken arguments"):
        ollama.CHAT.whole("m", CREATED, 2.0, deltas)


def test_a_prompt_has_no_tools() -> None:
    with pytest.raises(EngineFailed, match="called a tool"):
        streamed(ollama.GENERATE, *CALL, END)
    with pytest.raises(EngineFailed, match="called a tool"):
        ollama.GENERATE.whole("m", CREATED, 2.0, [*CALL, END])


def test_logprobs() -> None:
    said = {"token": "a", "logprob": -0.5, "bytes": [97]}
    expected = [{**said, "top_logprobs": [{"token": "b", "logprob": -9999.0, "bytes": [98]}]}]
    for form in (ollama.CHAT, ollama.GENERATE):
        assert streamed(form, Text("a", (SURE,)), END)[0]["logprobs"] == expected
        assert json.loads(form.whole("m", CREATED, 2.0, [Text("a", (SURE,)), END]))["logprobs"] == expected


@pytest.mark.parametrize(("reason", "told"), [("stop", "stop"), ("length", "length"), ("tool_calls", "stop")])
def test_reasons(reason: Any, told: str) -> None:
    assert streamed(ollama.CHAT, Text("a"), Finished(reason))[-1]["done_reason"] == told


def test_times_that_an_engine_cannot_tell_are_zero() -> None:
    [end] = streamed(ollama.CHAT, Finished("stop", Usage(1, 1)))
    assert (end["load_duration"], end["prompt_eval_duration"], end["eval_duration"]) == (0, 0, 0)
    assert end["total_duration"] == 2_000_000_000


def test_times_of_an_engine_that_counts_more_than_we_do() -> None:
    [end] = streamed(ollama.CHAT, Finished("stop", Usage(1, 1), Timings(1.5, 1.5)))
    assert end["load_duration"] == 0


def test_a_failure_in_the_middle_is_a_line_and_no_end() -> None:
    stream = ollama.CHAT.stream("m", CREATED, lambda: 2.0)
    sent = lines(stream.delta(0, Text("a")) + stream.failed(NotReady("gone")))
    assert sent == [line(message=message("a")), {"error": "gone"}]


def test_an_answer_without_an_end_is_a_failure() -> None:
    assert streamed(ollama.CHAT, Text("a"))[-1] == {"error": "the answer ended without a finish"}
    with pytest.raises(EngineFailed, match="without a finish"):
        ollama.GENERATE.whole("m", CREATED, 2.0, [Text("a")])


def test_answers_that_say_nothing() -> None:
    chat = json.loads(ollama.CHAT.held("m", CREATED, "load"))
    assert chat == line(message=message(""), done=True, done_reason="load")
    prompt = json.loads(ollama.GENERATE.held("m", CREATED, "unload"))
    assert prompt == line(response="", done=True, done_reason="unload")


@given(st.lists(st.text()), st.text())
def test_any_text_comes_through(texts: list[str], model: str) -> None:
    sent = streamed(ollama.CHAT, *map(Text, texts), *map(Reasoning, texts), END, model=model)
    assert "".join(each["message"]["content"] for each in sent) == "".join(texts)
    assert "".join(each["message"].get("thinking", "") for each in sent) == "".join(texts)
    assert {each["model"] for each in sent} == {model}


# Everything else


def test_embeddings() -> None:
    vectors = Embeddings(((0.5, 0.25), (1.0, 0.0)), 7)
    assert json.loads(ollama.embed_answer("m", 0.5, vectors)) == {
        "model": "m",
        "embeddings": [[0.5, 0.25], [1.0, 0.0]],
        "total_duration": 500_000_000,
        "load_duration": 0,
        "prompt_eval_count": 7,
    }
    assert json.loads(ollama.embeddings_answer(vectors)) == {"embedding": [0.5, 0.25]}
    assert json.loads(ollama.embeddings_answer(Embeddings((), 0))) == {"embedding": []}


def test_progress() -> None:
    known = {"status": "pulling a.gguf", "total": 9, "completed": 3}
    assert json.loads(ollama.progress_answer(Progress("a.gguf", 3, 9))) == known
    unknown = {"status": "pulling a.gguf", "completed": 3}
    assert json.loads(ollama.progress_answer(Progress("a.gguf", 3, 0))) == unknown


def test_errors() -> None:
    assert json.loads(ollama.error_answer(NotReady("gone \udcff"))) == {"error": "gone ?"}
    assert json.loads(ollama.error_answer(ExoError("x"))) == {"error": "x"}
    missing = json.loads(ollama.error_answer(ModelNotFound("model 'x' is not here")))
    assert missing == {"error": "model not found: model 'x' is not here"}


QWEN = ModelCard(
    id="qwen",
    format="gguf",
    context=4096,
    bytes=1000,
    memory=2000,
    architecture="qwen2",
    parameters=1_543_714_304,
    created=1_700_000_000,
    quantization="Q8_0",
    sampling=Sampling(temperature=0.7, max_tokens=50),
    system='Say "hi".',
    thinking=True,
)
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "qwen2",
    "families": ["qwen2"],
    "parameter_size": "1.5B",
    "quantization_level": "Q8_0",
}


def test_tags() -> None:
    [model] = json.loads(ollama.tags_answer([QWEN]))["models"]
    digest = model.pop("digest")
    assert model == {
        "name": "qwen",
        "model": "qwen",
        "modified_at": "2023-11-14T22:13:20Z",
        "size": 1000,
        "details": DETAILS,
    }
    assert len(bytes.fromhex(digest)) == 32
    assert json.loads(ollama.tags_answer([QWEN]))["models"][0]["digest"] == digest
    assert json.loads(ollama.tags_answer([card("qwen")]))["models"][0]["digest"] != digest


@pytest.mark.parametrize(
    ("parameters", "size"),
    [(0, ""), (12, "12"), (1200, "1.2K"), (1_200_000, "1.2M"), (7 * 10**9, "7.0B"), (10**12, "1.0T")],
)
def test_parameter_sizes(parameters: int, size: str) -> None:
    made = ModelCard(id="m", format="gguf", context=1, bytes=1, memory=1, parameters=parameters)
    assert json.loads(ollama.tags_answer([made]))["models"][0]["details"]["parameter_size"] == size


def test_show() -> None:
    assert json.loads(ollama.show_answer(QWEN)) == {
        "modelfile": "FROM qwen\nPARAMETER temperature 0.7\nPARAMETER num_predict 50\n"
        'SYSTEM """Say "hi"."""\n',
        "parameters": "temperature                    0.7\nnum_predict                    50",
        "template": "",
        "system": 'Say "hi".',
        "details": DETAILS,
        "model_info": {
            "general.architecture": "qwen2",
            "general.parameter_count": 1_543_714_304,
            "qwen2.context_length": 4096,
        },
        "capabilities": ["completion", "thinking"],
        "modified_at": "2023-11-14T22:13:20Z",
    }


def test_a_model_of_which_little_is_known() -> None:
    far = ModelCard(id="far", format="rkllm", context=0, bytes=0, memory=0)
    shown = json.loads(ollama.show_answer(far))
    assert shown["model_info"] == {}
    assert shown["details"]["families"] == []


def test_running_models() -> None:
    now = 1_700_000_000.0
    loaded = [
        Residence(model="qwen", state="ready", bytes=7, slots=1, running=0, expires_in=60.0),
        Residence(model="a", state="ready", bytes=7, slots=1, running=1),
        Residence(model="deleted meanwhile", state="leaving", bytes=7, slots=1, running=0),
    ]
    cards = {"qwen": QWEN, "a": card("a")}
    soon, never = json.loads(ollama.running_answer(loaded, cards, now))["models"]
    assert (soon["name"], soon["model"], soon["size"], soon["size_vram"]) == ("qwen", "qwen", 7, 0)
    assert (soon["expires_at"], soon["context_length"]) == ("2023-11-14T22:14:20Z", 4096)
    assert soon["details"] == DETAILS
    far = datetime.fromisoformat(never["expires_at"]) - datetime.fromtimestamp(now, UTC)
    assert far > timedelta(days=36_000)
