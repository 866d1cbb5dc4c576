"""What a node adds to a short answer: over HTTP, beside the same engine called directly."""

import time
from collections.abc import Callable, Mapping

from bench import report
from bench.client import chat, get
from bench.direct import DEMO, DirectEngine
from bench.report import Figure, Report, Table, median, p95
from bench.server import NodeProcess
from exo.chat import Sampling

_ROUNDS = 200
_WARM_UP = 20
_TOKENS = 8
_QUESTION = "What is 145 + 278?"
_WANTED_MS = 3.0

_BARE, _BARE_STREAMED = "bare xllamacpp, whole", "bare xllamacpp, streamed"
_ENGINE = "node's engine object, `respond`"
_HTTP, _HTTP_STREAMED, _HEALTH = "HTTP, whole", "HTTP, streamed", "HTTP, /healthcheck"


def measure() -> Report:
    with DirectEngine(DEMO, "exo-demo") as engine, NodeProcess() as node:
        connection = node.connect()
        request = engine.request(_QUESTION, Sampling(temperature=0.0, max_tokens=_TOKENS))
        whole, streamed = engine.body(request, stream=False), engine.body(request, stream=True)
        asked = chat("exo-demo", _QUESTION, temperature=0, max_tokens=_TOKENS)
        asked_streamed = chat("exo-demo", _QUESTION, temperature=0, max_tokens=_TOKENS, stream=True)
        here, there = time.process_time, node.cpu_seconds
        ways = {
            _BARE: _Way(lambda: engine.complete(whole), here),
            _HTTP: _Way(lambda: connection.ask(asked), there),
            _BARE_STREAMED: _Way(lambda: engine.complete(streamed), here),
            _HTTP_STREAMED: _Way(lambda: connection.stream(asked_streamed), there),
            _ENGINE: _Way(lambda: engine.respond(request), here),
            _HEALTH: _Way(lambda: connection.ask(get("/healthcheck")), there),
        }
        _take_turns(ways)
    milliseconds = {name: way.milliseconds for name, way in ways.items()}
    rows = [
        (name, median(way.milliseconds), p95(way.milliseconds), added, min(way.milliseconds), median(way.cpu))
        for name, way in ways.items()
        for added in (None if name == _BARE else _added(way.milliseconds, milliseconds[_BARE]),)
    ]
    return Report(
        name="Overhead of the node for a short answer",
        method=(
            f"`exo-demo`, {_TOKENS} tokens, temperature 0, prompt cached, {_ROUNDS} rounds in which "
            "each way takes one turn. The client is a raw socket, kept alive, that parses nothing but "
            "the length; bare xllamacpp is given the finished prompt. `added` is the median of the "
            "differences to the first row within a round."
        ),
        tables=(Table(("milliseconds", "median", "p95", "added", "best", "CPU"), tuple(rows)),),
        figures=tuple(
            Figure(
                f"overhead, {name}",
                _added(milliseconds[name], milliseconds[_BARE]),
                _WANTED_MS,
                "ms",
                "at most",
            )
            for name in (_HTTP, _HTTP_STREAMED)
        ),
        notes=(
            "CPU is of the process that computes, all threads, llama.cpp's included: what a busy machine "
            "does not blur.",
            "The original added 180 ms.",
        ),
    )


class _Way:
    """A way to get the answer; `clock` is the CPU time of the process that computes it."""

    def __init__(self, answer: Callable[[], object], clock: Callable[[], float]) -> None:
        self._answer = answer
        self._clock = clock
        self.milliseconds: list[float] = []
        self.cpu: list[float] = []

    def take_turn(self) -> None:
        cpu, began = self._clock(), time.perf_counter()
        self._answer()
        self.milliseconds.append((time.perf_counter() - began) * 1e3)
        self.cpu.append((self._clock() - cpu) * 1e3)

    def forget(self) -> None:
        self.milliseconds.clear()
        self.cpu.clear()


def _take_turns(ways: Mapping[str, _Way]) -> None:
    for turn in range(_WARM_UP + _ROUNDS):
        for way in ways.values():
            if turn == _WARM_UP:
                way.forget()
            way.take_turn()


def _added(times: list[float], alone: list[float]) -> float:
    return median([time - base for time, base in zip(times, alone, strict=True)])


if __name__ == "__main__":
    report.main(measure, __doc__)
