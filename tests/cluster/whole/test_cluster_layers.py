"""A model that no machine holds alone, over several: shards in processes of real nodes on real networks."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from exo.cards import Span
from exo.http.headers import HOP_HEADER, PROOF_HEADER, proof
from exo.http.shard_stream import encode
from exo.store import checkpoint
from exo.store.cards import read_card
from exo.wire.shards import OpenShard
from tests import checkpoints
from tests.cluster.machines import PORT, Exo, Lan, Machine, Stream, node_of
from tests.cluster.nodes import took
from tests.e2e.node import PATIENCE, eventually, token

MODEL = "layered"
LAYERS, CONTEXT, SLOTS = 8, 512, 4
# A kill is noticed at once, a cable that is pulled after two seconds.
NOTICED = 3.0
# The end of random weights' answers is not to be had by chance.
ENDLESS = {str(token(end)): -100 for end in ("<|im_end|>", "<|endoftext|>")}


# 19 million weights: 76 MB of float32, and 50 MB of KV caches.
SHAPE: dict[str, Any] = {
    "layers": LAYERS,
    "width": 384,
    "intermediate": 1536,
    "heads": 6,
    "kv_heads": 6,
    "dtype": "bfloat16",
    "context": CONTEXT,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / MODEL
    checkpoints.write(folder, **SHAPE)
    return folder


class Together:
    """Machines that have the model, and of the memory that it takes such shares as `parts` says."""

    def __init__(
        self, lan: Lan, folder: Path, *, env: Mapping[str, str] | None = None, **parts: float
    ) -> None:
        self._lan, self._folder = lan, folder
        self.whole = read_card(MODEL, folder, slots=SLOTS).memory
        for name, part in parts.items():
            self.machine(name, "--memory", f"{int(part * self.whole)}", env=env)
        self.nodes = lan.start(*lan.machines)
        agree(self.nodes)

    def machine(self, name: str, *flags: str, env: Mapping[str, str] | None = None) -> Machine:
        machine = self._lan.machine(name, *flags, env=env)
        (machine.home / "models").mkdir(parents=True)
        (machine.home / "models" / MODEL).symlink_to(self._folder)
        return machine

    def named(self, name: str) -> Machine:
        return next(machine for machine in self._lan.machines if machine.exo.id == name)

    def spans(self, asked: Exo) -> dict[str, str]:
        """Which node has which layers, first to last, as a node says."""
        plan = asked.get(f"/v1/cluster/plan?model={MODEL}").json()
        return {part["node"]: f"{part['first_layer']}-{part['last_layer']}" for part in plan["parts"]}


def agree(nodes: Sequence[Exo], model: str = MODEL) -> None:
    """Waits until each knows of each, itself included, that it has the model split over just them, and all
    say the same of who comes first. What it says of itself may be a second old."""
    ids = {node.id for node in nodes}

    def said_to(node: Exo) -> list[tuple[str, ...]]:
        cluster = node.get("/v1/cluster").json()
        cards = [card for each in (cluster["me"], *cluster["peers"]) for card in each["cards"]]
        return [tuple(share["node"] for share in card["split"]) for card in cards if card["id"] == model]

    def agreed() -> bool:
        said = [said_to(node) for node in nodes]
        orders = {order for each in said for order in each}
        return all(len(each) == len(ids) for each in said) and [{*order} for order in orders] == [ids]

    eventually(agreed)


def greedy(node: Exo, most: int = 12, model: str = MODEL) -> str:
    return node.ask(model, "Hello", temperature=0, max_tokens=most, logit_bias=ENDLESS)


def under_way(node: Exo) -> Stream:
    """A long answer that has begun."""
    stream = Stream(node, MODEL, "Hello", temperature=0, logit_bias=ENDLESS)
    assert stream.status == 200, stream.read()
    more(stream)
    return stream


def more(stream: Stream) -> None:
    wanted = len(stream.chunks) + 3
    while len(stream.chunks) < wanted:
        assert stream.more(), (stream.error, stream.chunks)


def end_of(stream: Stream) -> float:
    """Reads to the end; when that was."""
    while stream.more():
        pass
    return time.monotonic()


@contextlib.contextmanager
def bounded(*nodes: Exo) -> Iterator[None]:
    """Ends the nodes where the body takes for ever: one that never answers keeps its streams open."""

    def end() -> None:
        for node in nodes:
            node.process.kill()

    timer = threading.Timer(3 * PATIENCE, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def workers(*nodes: Exo) -> list[psutil.Process]:
    """Processes of shards."""
    children = [child for node in nodes for child in psutil.Process(node.process.pid).children()]
    return [child for child in children if "exo.shards.worker" in child.cmdline()]


def computed(processes: Sequence[psutil.Process]) -> float:
    """Seconds of a CPU that they have had."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def come_to_rest(processes: Sequence[psutil.Process]) -> None:
    """Waits until they compute nothing for half a second."""
    last, since = computed(processes), time.monotonic()

    def rests() -> bool:
        nonlocal last, since
        if (now := computed(processes)) != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > 0.5

    eventually(rests)


def test_two_that_are_too_small_alone_answer_together_by_themselves(lan: Lan, folder: Path) -> None:
    together = Together(lan, folder, a=0.7, b=0.5)
    a, b = together.nodes
    assert together.spans(a) == together.spans(b) == {"a": "0-3", "b": "4-7"}
    command = [sys.executable, "-m", "exo.main", "plan", MODEL, "--url", f"http://127.0.0.1:{PORT}"]
    pipe = subprocess.PIPE
    shown, _ = lan.hosts[1].run(*command, stdout=pipe, text=True).communicate(timeout=PATIENCE)
    rows = [line.split() for line in shown.splitlines()]
    assert [(row[0], row[1], row[-1]) for row in rows if row[0] in "ab"] == [
        ("a", "0-3", "yes"),
        ("b", "4-7", "yes"),
    ]
    said = greedy(a)
    for node in (a, b):
        reply = node.chat(MODEL, "Hello", temperature=0, max_tokens=12, logit_bias=ENDLESS)
        assert reply.json()["choices"][0]["message"]["content"] == said
        assert node_of(reply) == "a"
    assert [len(workers(node)) for node in (a, b)] == [1, 1]
    held = {resident["model"] for resident in b.me()["loaded"]}
    assert held == {f"{MODEL} (layers 4-7 for a)"}
    for node in (a, b):
        for resident in node.me()["loaded"]:
            assert resident["bytes"] < together.whole / 4 * 3
    # Whole, on a machine of its own, it says the same.
    alone = together.machine("alone", "--cluster-name", "elsewhere").start()
    assert greedy(alone) == said


def test_two_with_the_files_of_their_parts_only_answer_together(lan: Lan, tmp_path: Path) -> None:
    # With a name that a hub may know, so that one without all files is planned with.
    model = f"user/{MODEL}"
    whole = tmp_path / "whole"
    checkpoints.write(whole, **SHAPE, split=True)
    config, index = checkpoint.read(whole), checkpoint.index(whole)
    memory = read_card(model, whole, slots=SLOTS).memory
    for name, share, span in (("a", 0.7, Span(0, 4)), ("b", 0.5, Span(4, 8))):
        part = lan.machine(name, "--memory", f"{int(share * memory)}").home / "models" / model
        part.mkdir(parents=True)
        weights = checkpoint.files(index, span, ends=name == "a", tied=config.tied)
        for file in whole.iterdir():
            if file.suffix != ".safetensors" or file.name in weights:
                (part / file.name).symlink_to(file)
    a, b = lan.start(*lan.machines)
    agree([a, b], model)
    said = greedy(b, model=model)
    assert greedy(a, model=model) == said
    assert [len(workers(node)) for node in (a, b)] == [1, 1]
    held = {resident["model"] for resident in b.me()["loaded"]}
    assert held == {f"{model} (layers 4-7 for a)"}
    # Whole, on a machine of its own, it says the same.
    alone = lan.machine("alone", "--cluster-name", "elsewhere")
    (alone.home / "models" / "user").mkdir(parents=True)
    (alone.home / "models" / model).symlink_to(whole)
    assert greedy(alone.start(), model=model) == said


def test_a_node_that_is_killed_is_told_and_the_rest_take_its_layers(lan: Lan, folder: Path) -> None:
    together = Together(lan, folder, a=0.7, b=0.6, c=0.5)
    a, _, c = together.nodes
    spans = together.spans(a)
    assert [*spans] == ["a", "b", "c"]
    said = greedy(a)
    with under_way(a) as stream:
        together.named("b").kill()
        killed = time.monotonic()
        took("the end of an answer that lost a node", NOTICED, end_of(stream) - killed)
        # It was far from its end, so there is no complete one.
        assert not stream.done
        assert stream.error
        assert "node b" in stream.error["message"]
    agree([a, c])
    assert greedy(a) == greedy(c) == said
    assert [len(workers(node)) for node in (a, c)] == [1, 1]
    assert together.spans(a) == together.spans(c)


def test_a_coordinator_that_is_killed_leaves_nothing_and_the_rest_answer(lan: Lan, folder: Path) -> None:
    together = Together(lan, folder, a=0.7, b=0.6, c=0.5)
    _, b, c = together.nodes
    said = greedy(c)
    with under_way(c) as stream:
        assert stream.node == "a"
        left = workers(b, c)
        together.named("a").kill()
        killed = time.monotonic()
        took("the end of an answer that lost its coordinator", NOTICED, end_of(stream) - killed)
        assert not stream.done
        assert stream.error
    psutil.wait_procs(left, PATIENCE)
    assert not [process for process in left if process.is_running()]
    agree([b, c])
    assert greedy(c) == greedy(b) == said


def test_a_newcomer_with_more_memory_takes_the_lead(lan: Lan, folder: Path) -> None:
    together = Together(lan, folder, a=0.6, b=0.55)
    a, b = together.nodes
    said = greedy(b)
    c = together.machine("c", "--memory", f"{int(0.65 * together.whole)}").start()
    agree([a, b, c])
    assert [*together.spans(a)] == ["c", "a", "b"]
    # What a has of the model, and what b has for a, is in nobody's way.
    assert greedy(a) == said
    assert [len(workers(node)) for node in (a, b, c)] == [1, 1, 1]


def test_a_cable_that_is_pulled_ends_the_answer_in_time(lan: Lan, folder: Path) -> None:
    together = Together(lan, folder, a=0.7, b=0.5)
    a, b = together.nodes
    said = greedy(a)
    with under_way(a) as stream:
        lan.hosts.cut(b.host)
        cut = time.monotonic()
        took("the end of an answer whose node is cut off", NOTICED, end_of(stream) - cut)
        assert not stream.done
        assert stream.error
    a.sees()
    reply = a.chat(MODEL)
    assert reply.status == 503
    assert "MB" in reply.error()["message"]
    lan.hosts.join()
    agree([a, b])
    assert greedy(a) == said


def test_clients_that_hang_up_leave_nothing_running(lan: Lan, folder: Path) -> None:
    together = Together(lan, folder, a=0.7, b=0.5)
    a, b = together.nodes
    said = greedy(b)
    with bounded(a, b):
        for entry in (a, b):
            for _ in range(SLOTS + 1):
                under_way(entry).close()
            eventually(lambda: a.running() == 0)
            come_to_rest(workers(a, b))
            # All slots are there for others.
            streams = [under_way(entry) for _ in range(SLOTS)]
            assert a.running() == SLOTS
            for stream in streams:
                more(stream)
            for stream in streams:
                stream.close()
        eventually(lambda: a.running() == 0)
        come_to_rest(workers(a, b))
        assert greedy(a) == said
    assert [len(workers(node)) for node in (a, b)] == [1, 1]


def test_only_nodes_of_the_cluster_may_have_layers(lan: Lan, folder: Path) -> None:
    together = Together(lan, folder, env={"EXO_CLUSTER_SECRET": "ours"}, a=0.7, b=0.5)
    a, b = together.nodes
    body = b"".join(encode(OpenShard(model=MODEL, span=Span(0, 1), slots=1, context=64)))
    for headers, status, code in (
        ({}, 403, "forbidden"),
        ({HOP_HEADER: "a"}, 401, "unauthorized"),
        ({HOP_HEADER: "a", PROOF_HEADER: proof(b"guessed", "a")}, 401, "unauthorized"),
        ({HOP_HEADER: "a", PROOF_HEADER: proof(b"ours", "b")}, 401, "unauthorized"),
        ({HOP_HEADER: "x", PROOF_HEADER: proof(b"ours", "x")}, 503, "not_ready"),
    ):
        reply = b.request("POST", "/v1/cluster/shard", body, headers)
        assert (reply.status, reply.error()["code"]) == (status, code), headers
    assert workers(b) == []
    proven = {HOP_HEADER: "a", PROOF_HEADER: proof(b"ours", "a")}
    assert b.request("POST", "/v1/cluster/shard", body, proven).status == 200
    assert greedy(a) == greedy(b)
    assert len(workers(b)) == 1
