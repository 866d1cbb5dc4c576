"""What it adds to an answer that the node asked has not got the model, and passes the request on."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from bench import report
from bench.client import Connection, post, read_streams
from bench.cluster_nodes import Machines, Nodes
from bench.report import Figure, Report, Table, median, p95
from exo.chat import Text
from exo.engines.scripted import Script

_MODEL = "board"
_TOKENS = 8
_PACE = 0.005
_MARK = b'"content":" word-'
_ROUNDS = 100
_WARM_UP = 10
_TURNS, _WORDS_EACH = 24, 100
_WANTED_MS = 3.0

_SHORT, _LONG = "a question", f"a conversation of {_TURNS * _WORDS_EACH:,} words"


class _Ways(msgspec.Struct):
    """Milliseconds, a value a round: to the first token and for each one after it, asked of the node that has
    the model, and of the one that has not; CPU time of that one for the answer."""

    first_direct: list[float] = []
    first_through: list[float] = []
    token_direct: list[float] = []
    token_through: list[float] = []
    cpu: list[float] = []

    @property
    def first_added(self) -> list[float]:
        return [b - a for a, b in zip(self.first_direct, self.first_through, strict=True)]

    @property
    def token_added(self) -> list[float]:
        return [b - a for a, b in zip(self.token_direct, self.token_through, strict=True)]


def measure() -> Report:
    steps = tuple(Text(f" word-{number:02}") for number in range(_TOKENS))
    script = msgspec.json.encode(Script(steps=steps, pace=_PACE))
    with Machines(2) as machines:
        nodes = Nodes(machines)
        entry = nodes.add("--inference-engine", "dummy")
        holder = nodes.add(
            "--inference-engine", "dummy", "--preload", _MODEL, models={f"{_MODEL}.script.json": script}
        )
        nodes.wait(_MODEL, 1)
        through, direct = entry.connect(nodes.port), holder.connect(nodes.port)
        short = _take_turns(_questions(), direct, through, entry.cpu_seconds)
        long = _take_turns(_conversations(), direct, through, entry.cpu_seconds)
        where = machines.words
    measured = {_SHORT: short, _LONG: long}
    return Report(
        name="A request that another node answers",
        method=(
            f"Two `exo` nodes, each {where}. One has the model, {_TOKENS} tokens of {_PACE * 1e3:g} ms "
            "(`dummy` engine). It and the other one are asked in turns over connections kept alive, "
            f"{_ROUNDS} rounds, each about something else; `added` is the median of the differences within a "
            "round, p95 theirs. A token after the first takes the time from the first to the last, by their "
            "number. CPU is that of the node that passes the request on, for a whole answer."
        ),
        tables=(
            Table(
                ("ms, first token", "direct", "through", "added", "p95", "CPU"),
                tuple(
                    (
                        name,
                        *map(median, (ways.first_direct, ways.first_through, ways.first_added)),
                        p95(ways.first_added),
                        median(ways.cpu),
                    )
                    for name, ways in measured.items()
                ),
            ),
            Table(
                ("ms, each token after it", "direct", "through", "added", "p95"),
                tuple(
                    (
                        name,
                        *map(median, (ways.token_direct, ways.token_through, ways.token_added)),
                        p95(ways.token_added),
                    )
                    for name, ways in measured.items()
                ),
            ),
        ),
        figures=tuple(
            Figure(
                f"forwarding, first token of {name}", median(ways.first_added), _WANTED_MS, "ms", "at most"
            )
            for name, ways in measured.items()
        ),
    )


def _questions() -> Iterator[bytes]:
    for number in itertools.count():
        yield _request([{"role": "user", "content": f"What is {number} + {number * 7 % 1000}?"}])


def _conversations() -> Iterator[bytes]:
    for number in itertools.count():
        turns = [
            {
                "role": ("user", "assistant")[turn % 2],
                "content": " ".join(f"w{number}-{turn}-{word}" for word in range(_WORDS_EACH)),
            }
            for turn in range(_TURNS - 1)
        ]
        yield _request([*turns, {"role": "user", "content": " ".join(["go"] * _WORDS_EACH)}])


def _request(messages: list[dict[str, str]]) -> bytes:
    body: dict[str, Any] = {"model": _MODEL, "messages": messages, "stream": True}
    return post("/v1/chat/completions", body)


def _take_turns(
    requests: Iterator[bytes], direct: Connection, through: Connection, cpu: Callable[[], float]
) -> _Ways:
    ways = _Ways()
    for turn in range(_WARM_UP + _ROUNDS):
        if turn == _WARM_UP:
            ways = _Ways()
        first, token = _times(direct, next(requests))
        ways.first_direct.append(first)
        ways.token_direct.append(token)
        before = cpu()
        first, token = _times(through, next(requests))
        ways.cpu.append((cpu() - before) * 1e3)
        ways.first_through.append(first)
        ways.token_through.append(token)
    return ways


def _times(connection: Connection, request: bytes) -> tuple[float, float]:
    """Milliseconds to the first token, and for each after it."""
    began = time.perf_counter()
    stream = read_streams([connection], [request], _MARK)[0]
    if stream.marks != _TOKENS:
        raise RuntimeError(f"{_TOKENS} tokens were to come, and {stream} came")
    return (stream.first - began) * 1e3, (stream.last - stream.first) / (_TOKENS - 1) * 1e3


if __name__ == "__main__":
    report.main(measure, __doc__)
