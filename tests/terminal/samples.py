"""Snapshots as a node could make them."""

import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from exo.cards import ModelCard
from exo.nodes import Cluster, Device, Node, Residence, Speed
from exo.terminal.snapshot import Download, Line, Request, Snapshot

NOW = 1_790_000_000.0
_BOARD = Device(
    name="board",
    cores=8,
    memory=8_000_000_000,
    free=5_300_000_000,
    chip="RK3588",
    temperature=54.2,
    npu_load=0.0,
)
_MAC = Device(name="mac", cores=8, memory=24_000_000_000, free=12_100_000_000, chip="Apple M2")
HOSTILE = "\x1b[31mred\x1b]0;title\x07[bold]not bold[/bold]\r\n\u202egnp.exe\x9b2J\udc80"
"""What a terminal must not see: colours, a title, ends of lines, text turned around, half a character."""


def card(model: str, size: int = 1_900_000_000) -> ModelCard:
    return ModelCard(id=model, format="gguf", context=8192, bytes=size, memory=size)


def residence(model: str, running: int = 0, waiting: int = 0, state: str = "ready") -> Residence:
    return Residence(
        model=model, state=state, bytes=1_900_000_000, slots=4, running=running, waiting=waiting, used=1
    )


def node(
    name: str,
    *models: str,
    loaded: Sequence[Residence] = (),
    waiting: int = 0,
    leaving: bool = False,
    chip: str = "RK3588",
) -> Node:
    return Node(
        id=name,
        url=f"http://{name}:52415",
        version="2.0.0",
        device=_BOARD if chip == "RK3588" else _MAC,
        cards=tuple(map(card, models)),
        loaded=tuple(loaded),
        waiting=waiting,
        speeds=tuple(Speed(model=each.model, decode=14.9) for each in loaded),
        leaving=leaving,
    )


def line(text: str, level: int = logging.INFO, at: float = NOW) -> Line:
    return Line(at, level, text, f"{logging.getLevelName(level)} {text}")


def snapshot(*peers: Node, me: Node | None = None, **more: Any) -> Snapshot:
    cluster = Cluster(me=me or node("rock-1", "qwen2.5-1.5b"), peers=peers)
    usual = Snapshot(
        version="2.0.0",
        urls=("http://192.168.1.20:52415", "http://localhost:52415"),
        access="open",
        cluster=cluster,
    )
    return msgspec.structs.replace(usual, **more)


def busy() -> Snapshot:
    """A cluster at work, of which every section has something to say."""
    qwen, deepseek = "qwen2.5-1.5b-instruct-w8a8", "deepseek-r1-distill-qwen-7b"
    me = node("rock-1", qwen, "exo-demo", loaded=[residence(qwen, 1, 2)], waiting=2)
    peers = (
        node(
            "rock-2", qwen, deepseek, loaded=[residence(deepseek, 1), residence("exo-demo", 0, 0, "loading")]
        ),
        node("macbook", "llama-3.2-3b", chip="Apple M2", leaving=True),
    )
    asked = [
        Request(at=NOW - 3, model=qwen, node="rock-1", tokens=212, seconds=14.6, ttft=0.31),
        Request(at=NOW - 20, model=deepseek, node="rock-2", tokens=1034, seconds=188.0, ttft=2.4),
        Request(at=NOW - 31, model=qwen, node="rock-1", status=499, tokens=12, seconds=1.9, ttft=0.4),
        Request(at=NOW - 64, model="qwen3", status=404, error="model_not_found", seconds=0.002),
    ]
    return snapshot(
        *peers,
        me=me,
        rates={qwen: 14.7},
        under_way=2,
        answered=217,
        failed=1,
        requests=tuple(asked),
        downloads=(
            Download(model="Qwen/Qwen2.5-3B", done=1_200_000_000, total=3_100_000_000, rate=11_400_000),
        ),
        lines=(
            line("listening on http://0.0.0.0:52415"),
            line("models: exo-demo, qwen2.5-1.5b-instruct-w8a8"),
            line(
                "anyone on this network can use this node: set EXO_API_KEY, or --host 127.0.0.1",
                logging.WARNING,
            ),
            line("rock-2 is here"),
            line("rock-3 failed: it says nothing any more", logging.ERROR),
        ),
    )
