"""How many tokens a second a node can stream: from the scripted engine, on one core."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import uvloop

from bench import report
from bench.client import Connection, Stream, chat, read_streams
from bench.report import Cell, Figure, Report, Table, median
from bench.server import NodeProcess
from exo.chat import ChatRequest, Message, Text
from exo.engines.scripted import Script, ScriptedModel

_TOKENS = 240_000
_RUNS = 5
_STREAMS = (1, 8)
_WANTED = 50_000.0
_TOKEN = " token"
_MARK = b'"content":" token"'
# Of a stream without usage: the role, the finish, and [DONE].
_OTHER_EVENTS = 3


class _Run(msgspec.Struct):
    per_second: float
    megabytes: float
    node_cpu: float
    client_cpu: float


def measure() -> Report:
    scripts = {f"script-{n}": _script(_TOKENS // n) for n in _STREAMS}
    files = {f"{name}.script.json": msgspec.json.encode(script) for name, script in scripts.items()}
    flags = ("--inference-engine", "dummy", "--idle-unload", "0")
    cores = sorted(os.sched_getaffinity(0))
    direct: list[float] = []
    runs: dict[int, list[_Run]] = {n: [] for n in _STREAMS}
    with NodeProcess(*flags, models=files, core=cores[0]) as node, _pinned(cores[-1]):
        connections = [node.connect() for _ in range(max(_STREAMS))]
        for turn in range(1 + _RUNS):
            alone = uvloop.run(_consume(scripts["script-1"]))
            taken = {n: _run(node, connections[:n]) for n in _STREAMS}
            if turn:  # the first warms up
                direct.append(alone)
                for n, run in taken.items():
                    runs[n].append(run)
    rows: list[tuple[Cell, ...]] = [
        ("scripted engine alone, in process", median(direct), max(direct), None, None, None)
    ]
    for n, taken_runs in runs.items():
        speeds = [run.per_second for run in taken_runs]
        megabytes = median([run.megabytes for run in taken_runs])
        shares = median([run.node_cpu for run in taken_runs]), median([run.client_cpu for run in taken_runs])
        rows.append((f"HTTP, {n} at once", median(speeds), max(speeds), megabytes, *shares))
    columns = ("", "tokens/s, median", "best", "MB/s", "node's CPU", "client's CPU")
    return Report(
        name="Streaming throughput",
        method=(
            f"`dummy` engine without a pace, {_TOKENS:,} tokens of `{_TOKEN!r}`, {_RUNS} runs. The "
            "node is pinned to one core, the client to another; it counts bytes and checks that every "
            "event came, once. CPU is the share of a core each had: where the node's is below 1, "
            "something else took the rest."
        ),
        tables=(Table(columns, tuple(rows)),),
        figures=tuple(
            Figure(
                f"throughput, {n} at once",
                median([run.per_second for run in runs[n]]),
                _WANTED,
                "tokens/s",
                "at least",
            )
            for n in _STREAMS
        ),
        notes=() if len(cores) > 1 else ("Only one core here: node and client shared it.",),
    )


def _script(tokens: int) -> Script:
    return Script(steps=(Text(_TOKEN),), repeat=tokens, slots=max(_STREAMS), context=2 * _TOKENS)


def _run(node: NodeProcess, connections: list[Connection]) -> _Run:
    n = len(connections)
    request = chat(f"script-{n}", "Go.", stream=True)
    cpu, own_cpu, began = node.cpu_seconds(), time.process_time(), time.perf_counter()
    streams = read_streams(connections, [request] * n, _MARK)
    seconds = time.perf_counter() - began
    for stream in streams:
        _check(stream, _TOKENS // n)
    return _Run(
        per_second=sum(stream.marks for stream in streams) / seconds,
        megabytes=sum(stream.bytes for stream in streams) / seconds / 1e6,
        node_cpu=(node.cpu_seconds() - cpu) / seconds,
        client_cpu=(time.process_time() - own_cpu) / seconds,
    )


def _check(stream: Stream, tokens: int) -> None:
    if stream.marks != tokens or stream.events != tokens + _OTHER_EVENTS:
        raise RuntimeError(f"{tokens} tokens were to come, and {stream} came")


async def _consume(script: Script) -> float:
    """Tokens a second of the engine with nothing around it."""
    model = ScriptedModel(script)
    request = ChatRequest(model="script", messages=(Message("user", "Go."),))
    began = time.perf_counter()
    count = 0
    async for _ in model.respond(request):
        count += 1
    return (count - 1) / (time.perf_counter() - began)


@contextmanager
def _pinned(core: int) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    report.main(measure, __doc__)
