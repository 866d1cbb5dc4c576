"""The clients people have, against a real `rkllama`: ollama's, openai's, and the first rkllama's."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import ollama
import openai
import pytest

from tests.e2e.conftest import sdk
from tests.e2e.node import eventually
from tests.e2e.npu import Bench, NpuServer

SUM = [{"role": "user", "content": "What is 12 + 7?"}]


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, build: Path, file_for: Callable[..., Path]
) -> Iterator[NpuServer]:
    bench = Bench(tmp_path_factory.mktemp("npu"), build, file_for, "1.3.0")
    bench.put("demo")
    server = bench.start()
    try:
        yield server
        server.stop()
    finally:
        server.kill()


@pytest.fixture
def client(server: NpuServer) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as client:
        yield client


def test_ollama_lists_and_shows(client: ollama.Client) -> None:
    assert [model.model for model in client.list().models] == ["demo"]
    shown = client.show("demo")
    assert shown.details is not None
    assert shown.details.format == "rkllm"
    assert (shown.parameters or "").split() == ["temperature", "0.0"]


def test_ollama_chats_whole_and_streamed(client: ollama.Client) -> None:
    whole = client.chat("demo", SUM, think=False, options={"temperature": 0})
    assert "19" in (whole.message.content or "")
    assert whole.eval_count
    streamed = list(client.chat("demo", SUM, think=False, options={"temperature": 0}, stream=True))
    assert "".join(part.message.content or "" for part in streamed) == whole.message.content
    assert streamed[-1].done_reason == "stop"


def test_ollama_thinks_and_keeps_to_a_form(client: ollama.Client) -> None:
    thought = client.chat("demo", SUM, think=True, options={"temperature": 0})
    assert thought.message.thinking
    assert "2+7=9" in thought.message.thinking
    schema = {"type": "object", "properties": {"even": {"type": "boolean"}}, "required": ["even"]}
    formed = client.chat("demo", SUM, format={**schema, "additionalProperties": False}, options={"seed": 1})
    assert isinstance(json.loads(formed.message.content or "")["even"], bool)


def test_ollama_generates_and_embeds(client: ollama.Client) -> None:
    answer = client.generate("demo", "What is 12 + 7?", think=False, options={"temperature": 0})
    assert "19" in (answer.response or "")
    embeddings = client.embed("demo", ["one", "two"]).embeddings
    assert [round(sum(x * x for x in vector), 3) for vector in embeddings] == [1.0, 1.0]


def test_ollama_sees_what_is_loaded_and_unloads_it(client: ollama.Client, server: NpuServer) -> None:
    client.generate("demo", "hi", options={"num_predict": 1})
    assert [model.model for model in client.ps().models] == ["demo"]
    client.generate("demo", "", keep_alive=0)
    eventually(lambda: client.ps().models == [])
    assert server.children() == []


def test_ollama_makes_a_model_and_deletes_it(client: ollama.Client) -> None:
    client.create("brief", from_="demo", system="Be brief.", parameters={"temperature": 0.5})
    assert sorted(model.model or "" for model in client.list().models) == ["brief", "demo"]
    assert client.chat("brief", SUM, think=False).message.content
    client.delete("brief")
    assert [model.model for model in client.list().models] == ["demo"]
    with pytest.raises(ollama.ResponseError) as failed:
        client.chat("brief", SUM)
    assert failed.value.status_code == 404


def test_openais_client(server: NpuServer) -> None:
    with sdk(server) as client:
        answer = client.chat.completions.create(model="demo", messages=SUM, temperature=0, logprobs=True)  # type: ignore[arg-type]
        assert "19" in (answer.choices[0].message.content or "")
        assert answer.choices[0].logprobs is not None
        assert len(client.embeddings.create(model="demo", input="hi").data[0].embedding) > 8
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="nowhere", messages=SUM)  # type: ignore[arg-type]


def test_the_first_rkllamas_client(server: NpuServer) -> None:
    assert server.get("/models").json() == {"models": ["demo"]}
    while server.get("/current_model").status == 200:
        assert server.request("POST", "/unload_model", {}).status == 200
    assert server.request("POST", "/generate", {"messages": SUM}).status == 400
    assert server.request("POST", "/load_model", {"model_name": "demo"}).status == 200
    assert server.get("/current_model").json() == {"model_name": "demo"}
    whole = server.request("POST", "/generate", {"messages": SUM, "stream": False}).json()
    assert "19" in whole["choices"][0]["content"]
    assert whole["usage"]["total_tokens"] > whole["usage"]["completion_tokens"] > 0
    streamed = server.request("POST", "/generate", {"messages": SUM, "stream": True})
    parts = [json.loads(part) for part in streamed.body.decode().split("\n\n") if part.strip()]
    assert "".join(part["choices"][0]["content"] or "" for part in parts) == whole["choices"][0]["content"]
    assert parts[-1]["choices"][0]["finish_reason"] == "stop"
    missing = server.request("POST", "/load_model", {"model_name": "nowhere"})
    assert (missing.status, "nowhere" in missing.json()["error"]) == (404, True)


def test_two_models_swap_where_there_is_room_for_one(
    tmp_path: Path, build: Path, file_for: Callable[..., Path]
) -> None:
    bench = Bench(tmp_path, build, file_for, "1.2.3")
    bench.put("one")
    shutil.copytree(tmp_path / "models" / "one", tmp_path / "models" / "two")
    server = bench.start("--memory", "150MB")
    try:
        for model in ("one", "two", "one"):
            assert "19" in server.chat(model, "What is 12 + 7?").json()["choices"][0]["message"]["content"]
            assert [resident["model"] for resident in server.me()["loaded"]] == [model]
            assert len(server.children()) == 1
        assert server.metric("exo_model_unloads_total", why="evicted") == 2
        server.stop()
    finally:
        server.kill()


def test_a_model_nobody_uses_leaves_when_its_time_is_up(
    tmp_path: Path, build: Path, file_for: Callable[..., Path]
) -> None:
    bench = Bench(tmp_path, build, file_for, "1.2.3")
    bench.put("demo")
    server = bench.start("--idle-unload", "0.2", "--preload", "demo")
    try:
        eventually(lambda: server.metric("exo_model_unloads_total", why="idle") == 1)
        assert server.children() == []
        server.stop()
    finally:
        server.kill()
