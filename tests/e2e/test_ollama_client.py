"""The official `ollama` client against a node: it is understood, and gets what it expects."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import msgspec
import ollama
import pytest

from exo.store.catalogue import BUNDLED

from .conftest import Start
from .node import HANG, PATIENCE, Node, eventually, text

HI = [{"role": "user", "content": "hi"}]
SUM = [{"role": "user", "content": "What is 12 + 35?"}]
EXACT = {"temperature": 0}
ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds numbers.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


def sdk(node: Node, **headers: str) -> ollama.Client:
    return ollama.Client(host=node.url, timeout=PATIENCE, headers=headers)


@pytest.fixture
def client(node: Node) -> Iterator[ollama.Client]:
    with sdk(node) as client:
        yield client


# Models


def test_list(client: ollama.Client) -> None:
    models = {model.model: model for model in client.list().models}
    assert {"exo-demo", "hello"} <= set(models)
    demo = models["exo-demo"]
    assert demo.size == (BUNDLED / "exo-demo" / "model.gguf").stat().st_size
    assert demo.modified_at is not None
    assert demo.details is not None
    assert (demo.details.format, demo.details.family) == ("gguf", "qwen2")
    assert (demo.details.parameter_size, demo.details.quantization_level) == ("1.2M", "F32")


def test_show(client: ollama.Client) -> None:
    shown = client.show("exo-demo:latest")
    assert shown.modelfile == "FROM exo-demo\n"
    assert shown.modelinfo is not None
    assert shown.modelinfo["qwen2.context_length"] == 2048
    assert shown.capabilities == ["completion", "thinking", "tools"]


def test_ps_and_keep_alive(start: Start) -> None:
    node = start(scripts={"hello": [text("Hello")]})
    with sdk(node) as client:
        assert client.ps().models == []
        assert client.chat("hello", [], keep_alive="1h").done_reason == "load"
        [running] = client.ps().models
        assert (running.model, running.context_length) == ("hello", 4096)
        first = running.expires_at
        assert first is not None
        client.chat("hello", HI, keep_alive=-1)
        [running] = client.ps().models
        assert running.expires_at is not None
        assert (running.expires_at - first).days > 30_000
        client.chat("hello", HI, keep_alive=0)
        eventually(lambda: client.ps().models == [])
        client.generate("hello", "hi")
        assert client.generate("hello", "", keep_alive=0).done_reason == "unload"
        eventually(lambda: client.ps().models == [])
    assert node.metric("exo_model_unloads_total", model="hello", why="idle") == 2


def test_delete(start: Start) -> None:
    node = start()
    copied = node.home / "models" / "copied"
    copied.mkdir(parents=True)
    shutil.copy(BUNDLED / "exo-demo" / "model.gguf", copied)
    with sdk(node) as client:
        assert client.generate("copied", "What is 2 + 2?", think=False, options=EXACT).response == "2 + 2 = 4"
        assert client.delete("copied").status == "success"
        assert not copied.exists()
        assert "copied" not in {model.model for model in client.list().models}
        with pytest.raises(ollama.ResponseError) as caught:
            client.delete("copied")
        assert caught.value.status_code == 404
        with pytest.raises(ollama.ResponseError, match="cannot be deleted") as caught:
            client.delete("exo-demo")
        assert caught.value.status_code == 403


# Answers


def test_chat(client: ollama.Client) -> None:
    answer = client.chat("exo-demo:latest", SUM, think=False, options=EXACT)
    assert (answer.model, answer.message.role, answer.message.content) == (
        "exo-demo",
        "assistant",
        "12 + 35 = 47",
    )
    assert (answer.done, answer.done_reason, answer.message.thinking) == (True, "stop", None)
    assert answer.prompt_eval_count is not None
    assert answer.prompt_eval_count > 10
    assert answer.eval_count is not None
    assert answer.eval_count > 5
    assert answer.total_duration is not None
    parts = (answer.load_duration, answer.prompt_eval_duration, answer.eval_duration)
    assert all(part is not None and part > 0 for part in parts)
    assert answer.total_duration == sum(part or 0 for part in parts)


def test_streamed_chat(client: ollama.Client) -> None:
    *pieces, last = client.chat("exo-demo", SUM, stream=True, think=False, options=EXACT)
    assert "".join(piece.message.content or "" for piece in pieces) == "12 + 35 = 47"
    assert len(pieces) > 3
    assert not any(piece.done for piece in pieces)
    assert (last.done, last.done_reason, last.eval_count) == (True, "stop", len(pieces) + 1)


@pytest.mark.parametrize("think", [True, "high", None])
def test_thinking(client: ollama.Client, think: Any) -> None:
    whole = client.chat("exo-demo", SUM, think=think, options=EXACT)
    assert whole.message.thinking
    assert whole.message.content == "12 + 35 = 47"
    pieces = list(client.chat("exo-demo", SUM, think=think, options=EXACT, stream=True))
    assert "".join(piece.message.thinking or "" for piece in pieces) == whole.message.thinking
    assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content


class Result(msgspec.Struct, forbid_unknown_fields=True):
    sum: int
    even: bool


def test_format(client: ollama.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 999}, "even": {"type": "boolean"}},
        "required": ["sum", "even"],
        "additionalProperties": False,
    }
    answer = client.chat("exo-demo", SUM, format=schema, options=EXACT)
    msgspec.json.decode(answer.message.content or "", type=Result)
    prompt = client.generate("exo-demo", "What is 12 + 35?", format=schema, options=EXACT)
    msgspec.json.decode(prompt.response or "", type=Result)
    thought = client.chat("exo-demo", SUM, format=schema, think=True, options=EXACT)
    assert thought.message.thinking
    msgspec.json.decode(thought.message.content or "", type=Result)


def test_options(client: ollama.Client) -> None:
    cut = client.chat("exo-demo", SUM, think=False, options={"num_predict": 3, **EXACT})
    assert (cut.done_reason, cut.eval_count) == ("length", 3)
    stopped = client.chat("exo-demo", SUM, think=False, options={"stop": ["="], **EXACT})
    assert stopped.message.content == "12 + 35 "
    client.chat("hello", HI, options=ollama.Options(num_gpu=1, num_thread=2, use_mmap=True, mirostat=0))
    for options in ({"mirostat": 2}, {"num_ctx": 1 << 20}, {"temprature": 1}):
        with pytest.raises(ollama.ResponseError, match=next(iter(options))) as caught:
            client.chat("exo-demo", SUM, options=options)
        assert caught.value.status_code == 400


def test_seed(client: ollama.Client) -> None:
    def guessed(seed: int) -> str | None:
        hot = {"temperature": 2, "top_p": 1, "top_k": 0, "min_p": 0, "num_predict": 30, "seed": seed}
        return client.generate("exo-demo", "qx zv", raw=True, options=hot).response

    # A prompt that comes out of the cache gives other roundings than one that is read.
    guessed(7)
    assert guessed(7) == guessed(7)
    assert len({guessed(seed) for seed in range(5)}) > 1


def test_logprobs(client: ollama.Client) -> None:
    answer = client.chat("exo-demo", SUM, think=False, options=EXACT, logprobs=True, top_logprobs=2)
    assert answer.logprobs is not None
    assert "".join(each.token for each in answer.logprobs) == answer.message.content
    assert all(len(each.top_logprobs or ()) == 2 for each in answer.logprobs)


def test_tools(client: ollama.Client) -> None:
    answer = client.chat("caller", HI, tools=[ADD])
    [call] = answer.message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("add", {"a": 2})
    assert answer.done_reason == "stop"
    streamed = client.chat("caller", HI, tools=[ADD], stream=True)
    calls = [call for piece in streamed for call in piece.message.tool_calls or []]
    assert [(each.function.name, each.function.arguments) for each in calls] == [("add", {"a": 2})]
    result = {"role": "tool", "tool_name": "add", "content": "4"}
    # The bundled model's template takes tools, though it has never learned to call one.
    for model in ("hello", "exo-demo"):
        again = client.chat(model, [*HI, answer.message, result], tools=[ADD], options={"num_predict": 5})
        assert again.done


def test_generate(client: ollama.Client) -> None:
    answer = client.generate("exo-demo", "What is 12 + 35?", system="Be exact.", think=False, options=EXACT)
    assert (answer.response, answer.done_reason, answer.context) == ("12 + 35 = 47", "stop", None)
    *pieces, last = client.generate("exo-demo", "What is 12 + 35?", stream=True, options=EXACT)
    assert "".join(piece.response or "" for piece in pieces) == "12 + 35 = 47"
    assert any(piece.thinking for piece in pieces)
    assert (last.done, last.response) == (True, "")


def test_a_raw_prompt_is_continued_as_it_stands(client: ollama.Client) -> None:
    start = (
        "<|im_start|>user\nCount from 1 to 9.<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n1, 2,"
    )
    answer = client.generate("exo-demo", start, raw=True, options={"num_predict": 2, **EXACT})
    assert answer.response == " 3"


def test_embeddings(client: ollama.Client) -> None:
    answer = client.embed("exo-demo", ["What is 2 + 2?", "apple"])
    first, second = answer.embeddings
    assert abs(sum(x * x for x in first) - 1) < 1e-3
    assert first != second
    assert answer.prompt_eval_count is not None
    assert answer.prompt_eval_count > 2
    assert client.embed("exo-demo", "apple").embeddings == [second]
    assert client.embeddings("exo-demo", "apple").embedding == second


# Failures


def test_unknown_model(client: ollama.Client) -> None:
    for stream in (False, True):
        with pytest.raises(ollama.ResponseError, match=r"not found.*exo-demo") as caught:
            list(client.chat("exo-dmo", HI, stream=stream))
        assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="not found"):
        client.show("exo-dmo:latest")


def test_failure_of_the_engine(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="the wheel came off") as caught:
        client.chat("broken", HI)
    assert caught.value.status_code == 502
    pieces = client.chat("breaks-midway", HI, stream=True)
    assert next(pieces).message.content == "so far"
    with pytest.raises(ollama.ResponseError, match="the wheel came off"):
        next(pieces)


def test_what_this_node_does_not_do(client: ollama.Client) -> None:
    asked: list[Any] = [
        lambda: client.copy("exo-demo", "other"),
        lambda: client.push("exo-demo"),
        lambda: client.create("other", from_="exo-demo", system="Be brief."),
    ]
    for ask in asked:
        with pytest.raises(ollama.ResponseError) as caught:
            ask()
        assert caught.value.status_code == 400
        assert caught.value.error


def test_key(start: Start) -> None:
    node = start(env={"EXO_API_KEY": "s3cret"})
    with sdk(node) as client, pytest.raises(ollama.ResponseError, match="Bearer") as caught:
        client.list()
    assert caught.value.status_code == 401
    with sdk(node, authorization="Bearer s3cret") as client:
        assert client.list().models


def test_a_client_that_hangs_up_frees_the_slot(start: Start) -> None:
    node = start(scripts={"hangs": [text("started"), HANG]})
    for _ in range(2):
        with sdk(node) as client:
            pieces = client.chat("hangs", HI, stream=True)
            assert next(pieces).message.content == "started"
            assert node.running() == 1
            pieces.close()
        eventually(lambda: (node.running(), node.waiting()) == (0, 0))
    assert node.metric("exo_requests_total", model="hangs", status="cancelled") == 2


def test_lines_are_what_is_streamed(node: Node) -> None:
    reply = node.request("POST", "/api/chat", {"model": "hello", "messages": HI})
    assert reply.headers["content-type"] == "application/x-ndjson"
    *pieces, last = [json.loads(line) for line in reply.body.splitlines()]
    assert "".join(piece["message"]["content"] for piece in pieces) == "Hello, wörld!"
    assert (last["done"], last["prompt_eval_count"], last["eval_count"]) == (True, 1, 4)
