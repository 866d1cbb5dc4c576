"""A board, PCs with llama.cpp and with scripts, and one that has everything: each answers for all."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.cluster.machines import Exo, Lan, Stream, node_of
from tests.cluster.nodes import took
from tests.e2e.node import HANG, Node, chat_body, eventually, text, write_script

SUM = "What is 12 + 7?"
KEYS: dict[str, Any] = {"temperature": 0, "enable_thinking": False}
# Seconds from a hang-up until the hardware of another machine is free.
HUNG_UP = 0.2
ROUNDS = 5


class Mixed:
    """Each of three nodes has a model that the others have not; "idle" would have an NPU
    server's, but there is none."""

    def __init__(self, lan: Lan) -> None:
        self.board = lan.board("board", env={"STANDIN_TOKEN_MS": "20"})
        pc = lan.machine("pc", "--inference-engine", "llamacpp")
        scripted = lan.machine("scripted", "--inference-engine", "dummy", "--max-waiting", "1")
        scripted.put({"hello": [text("Hello")], "hangs": [text("started"), HANG]})
        write_script(scripted.home, "short", [text("Hello")], context=8)
        idle = lan.machine("idle", "--inference-engine", "rkllm")
        self.nodes = lan.start(self.board, pc, scripted, idle)
        _, self.pc, self.scripted, self.idle = self.nodes


@pytest.fixture(scope="module")
def mixed(lasting_lan: Lan) -> Mixed:
    return Mixed(lasting_lan)


@pytest.fixture(autouse=True)
def idle_again(mixed: Mixed) -> Iterator[None]:
    yield
    for node in mixed.nodes:
        eventually(lambda node=node: node.metric("exo_requests_in_progress") == 0)  # type: ignore[misc]
        node.sees_all_idle()


def test_each_answers_for_all(mixed: Mixed) -> None:
    for entry in mixed.nodes:
        assert {"demo", "exo-demo", "hello"} <= set(entry.models())
        for model, where, answer in (
            ("demo", "board", "12 + 7 = 19"),
            ("exo-demo", "pc", "12 + 7 = 19"),
            ("hello", "scripted", "Hello"),
        ):
            reply = entry.chat(model, SUM, **KEYS)
            assert reply.status == 200, (entry.id, model, reply)
            assert reply.json()["choices"][0]["message"]["content"] == answer
            assert node_of(reply) == where
            with Stream(entry, model, SUM, **KEYS) as stream:
                assert stream.rest() == answer


def test_vectors_too(mixed: Mixed) -> None:
    def vector(node: Node, model: str) -> list[float]:
        reply = node.request("POST", "/v1/embeddings", {"model": model, "input": "two words"})
        assert reply.status == 200, reply
        found: list[float] = reply.json()["data"][0]["embedding"]
        return found

    for model, direct in (("demo", mixed.board.npu), ("exo-demo", mixed.pc)):
        expected = vector(direct, model)
        assert len(expected) == 128
        for entry in mixed.nodes:
            assert vector(entry, model) == pytest.approx(expected, abs=1e-5)


def test_a_node_offers_what_an_engine_of_it_loads(mixed: Mixed) -> None:
    """The bundled model is on the disk of each of them, for llama.cpp."""
    cluster = mixed.idle.get("/v1/cluster").json()
    offering = [
        node["id"] for node in cluster["peers"] if "exo-demo" in {card["id"] for card in node["cards"]}
    ]
    assert offering == ["pc"]
    assert mixed.scripted.chat("exo-demo", SUM).status == 200
    assert mixed.scripted.failovers("before") == 0


def test_an_error_is_the_same_from_afar(mixed: Mixed) -> None:
    long = " ".join(["word"] * 9000)
    for model, near in (("short", mixed.scripted), ("exo-demo", mixed.pc), ("demo", mixed.board.exo)):
        for entry in mixed.nodes:
            reply, direct = entry.chat(model, long), near.chat(model, long)
            assert (reply.status, reply.error()["code"]) == (400, "context_length_exceeded"), (
                entry.id,
                model,
            )
            assert reply.error() == direct.error()
    # The fourth cannot tell whether the NPU server that does not answer has it.
    for entry in mixed.nodes[:3]:
        reply = entry.chat("exo-dmo")
        assert (reply.status, reply.error()["code"], reply.error()["param"]) == (
            404,
            "model_not_found",
            "model",
        )
        assert "exo-demo" in reply.error()["message"]
        reply = entry.chat("hello", temperature=-1)
        assert (reply.status, reply.error()["param"]) == (400, "temperature")


def test_full_queues_are_429_from_afar(mixed: Mixed) -> None:
    with Stream(mixed.idle, "hangs") as first, ThreadPoolExecutor(1) as pool:
        first.until("started")
        second = pool.submit(Stream, mixed.pc, "hangs")
        eventually(lambda: mixed.scripted.waiting() == 1)
        for entry in mixed.nodes:
            asked = time.monotonic()
            reply = entry.chat("hangs")
            assert (reply.status, reply.error()["code"]) == (429, "overloaded"), entry.id
            assert int(reply.headers["retry-after"]) >= 1
            assert time.monotonic() - asked < 1.0
        assert mixed.idle.ask("demo", SUM, **KEYS) == "12 + 7 = 19"
        first.close()
        with second.result() as stream:
            stream.until("started")


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_a_hang_up_reaches_the_hardware_of_another_machine(mixed: Mixed, streamed: bool) -> None:
    def gone(hardware: Exo | Node, model: str, content: str) -> float:
        """Seconds from the hang-up until nothing runs there."""
        connection = mixed.idle.connection()
        body = json.dumps(chat_body(model, content, stream=streamed, max_tokens=2000, **KEYS))
        connection.request("POST", "/v1/chat/completions", body)
        eventually(lambda: hardware.running() == 1)
        connection.close()
        left = time.monotonic()
        eventually(lambda: hardware.running() == 0)
        return time.monotonic() - left

    took(
        "hang-up, NPU",
        HUNG_UP,
        *(gone(mixed.board.npu, "demo", "Count from 1 to 40.") for _ in range(ROUNDS)),
    )
    took("hang-up, script", HUNG_UP, *(gone(mixed.scripted, "hangs", "hi") for _ in range(ROUNDS)))
