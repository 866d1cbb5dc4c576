"""exo in front of rkllama: what the first exo-rkllama did wrong on this way, and right here."""

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.node import Node, Wire, events, eventually, raw_chat
from tests.e2e.npu import RELEASES, Bench, NpuServer

# Folder on the board, and what exo calls it.
FOLDER, MODEL = "Qwen2.5-1.5B-Instruct", "qwen2.5-1.5b-instruct-rkllm"
LONG = "Count from 1 to 40."
KEYS: dict[str, Any] = {"temperature": 0, "enable_thinking": False}


class Pair:
    """An NPU server and the node in front of it."""

    def __init__(self, bench: Bench, home: Path, token_ms: int = 30) -> None:
        self._bench = bench
        self._env = {"STANDIN_TOKEN_MS": str(token_ms)}
        bench.put(FOLDER)
        bench.put("other")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.npu = self.start_npu()
        self.node = Node(home, "--inference-engine", "rkllm", env={"RKLLM_SERVER_PORT": str(self.port)})

    def start_npu(self) -> NpuServer:
        self.npu = self._bench.start(env=self._env, port=self.port)
        return self.npu

    def ask(self, question: str, **keys: Any) -> str:
        reply = self.node.chat(MODEL, question, **{**KEYS, **keys})
        assert reply.status == 200, reply
        content: str = reply.json()["choices"][0]["message"]["content"]
        return content


@pytest.fixture(scope="module", params=RELEASES)
def pair(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    build: Path,
    file_for: Callable[..., Path],
) -> Iterator[Pair]:
    home = tmp_path_factory.mktemp("through")
    pair = Pair(Bench(home / "npu", build, file_for, request.param), home / "exo")
    try:
        yield pair
        pair.node.stop()
        pair.npu.stop()
    finally:
        pair.node.kill()
        for server in pair._bench.servers:
            server.kill()


@pytest.fixture(autouse=True)
def idle(pair: Pair) -> Iterator[None]:
    yield
    eventually(lambda: (pair.npu.running(), pair.npu.waiting()) == (0, 0))
    pair.node.check_log()
    pair.npu.check_log()


def test_its_models_have_the_names_they_always_had(pair: Pair) -> None:
    listed = [model["id"] for model in pair.node.get("/v1/models").json()["data"]]
    assert sorted(listed) == ["auto", "other", MODEL]


def test_the_whole_conversation_is_answered(pair: Pair) -> None:
    messages = [
        {"role": "user", "content": "What is 20 + 4?"},
        {"role": "assistant", "content": "20 + 4 = 24"},
        {"role": "user", "content": "What is 31 + 8?"},
    ]
    body = {"model": MODEL, "messages": messages, **KEYS}
    reply = pair.node.request("POST", "/v1/chat/completions", body)
    assert "39" in reply.json()["choices"][0]["message"]["content"]


def test_no_token_is_dropped_however_slow_they_are(pair: Pair) -> None:
    """The first one gave up on tokens that took more than 10 ms; these take 30."""
    direct = pair.npu.chat(FOLDER, LONG, **KEYS).json()["choices"][0]["message"]["content"]
    assert pair.ask(LONG) == direct
    assert "40" in direct


def test_sampling_max_tokens_and_stop_reach_the_npu(pair: Pair) -> None:
    reply = pair.node.chat(MODEL, LONG, max_tokens=5, **KEYS).json()
    assert (reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"]) == ("length", 5)
    assert pair.ask(LONG, stop=["7"]) == pair.ask(LONG, max_tokens=40).partition("7")[0]


def test_a_stream_has_no_special_tokens_and_ends_with_done(pair: Pair) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "What is 12 + 7?"}], "stream": True}
    reply = pair.node.request("POST", "/v1/chat/completions", body | {"temperature": 0})
    assert events(reply.body)[-1] == "[DONE]"
    assert b"<|" not in reply.body


def test_a_hang_up_reaches_the_npu(pair: Pair) -> None:
    with Wire(pair.node) as wire:
        wire.send(raw_chat(MODEL, LONG, stream=True, **KEYS))
        wire.until(b'"content":"3"')
        assert pair.npu.running() == 1
    left = time.monotonic()
    eventually(lambda: pair.npu.running() == 0)
    assert time.monotonic() - left < 1.0


def test_another_model_asked_for_ends_nobody_elses_answer(pair: Pair) -> None:
    whole = pair.ask(LONG, max_tokens=40)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(pair.ask, LONG, max_tokens=40)
        eventually(lambda: pair.npu.running() == 1)
        assert pair.node.chat("other", "What is 12 + 7?", **KEYS).status == 200
        assert answer.result() == whole


def test_a_dead_npu_server_is_said_and_a_restarted_one_answers_again(pair: Pair) -> None:
    pair.ask("What is 12 + 7?")
    pair.npu.kill()
    reply = pair.node.chat(MODEL, "What is 12 + 7?", **KEYS)
    assert reply.status == 503
    assert f"http://localhost:{pair.port}" in reply.error()["message"]
    assert pair.node.get("/ready").status == 503
    pair.start_npu()
    eventually(lambda: pair.node.get("/ready").status == 200)
    assert "19" in pair.ask("What is 12 + 7?")


def test_a_model_that_crashes_fails_one_answer_with_its_cause(pair: Pair) -> None:
    pair.ask("What is 1 + 1?")
    with ThreadPoolExecutor(1) as pool:
        dying = pool.submit(pair.node.chat, MODEL, LONG, **KEYS)
        eventually(lambda: pair.npu.running() == 1)
        for child in pair.npu.children():
            os.kill(child, signal.SIGKILL)
        assert dying.result().status == 502
        assert "SIGKILL" in dying.result().error()["message"]
    assert "19" in pair.ask("What is 12 + 7?")


def test_ollama_clients_are_answered_through_exo_too(pair: Pair) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is 12 + 7?"}],
        "stream": False,
        "think": False,
        "options": {"temperature": 0},
    }
    reply = pair.node.request("POST", "/api/chat", body).json()
    assert "19" in reply["message"]["content"]
    assert reply["eval_duration"] > 0
