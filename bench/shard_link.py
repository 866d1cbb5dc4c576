"""What the way to layers on another node costs: hidden states there and back over loopback."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import uvloop
from aiohttp import web

from bench import report
from bench.report import Figure, Report, Table, median, p95
from exo.cards import Span
from exo.chat import Text
from exo.cluster.pipeline import Credentials, RemoteShard
from exo.engines.scripted import Script, ScriptedModel
from exo.http import shard_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.metrics import Metrics
from exo.nodes import Cluster
from exo.partition import Plan
from exo.settings import HttpSettings
from exo.shards.frames import Rows
from exo.wire.shards import OpenShard
from tests.cluster.node import node
from tests.doubles import card, served

_WIDTH = 4096
_TOKENS = 1024
_ROUNDS, _BIG_ROUNDS, _WARM_UP = 2000, 60, 20
_AT_ONCE = 4
_WANTED_MS, _WANTED_GB = 1.0, 1.0


class _Echo:
    """Layers that give what they are given."""

    span, width, alive = Span(1, 2), _WIDTH, True

    def __init__(self) -> None:
        self.bytes = 0

    async def forward(self, slot: int, position: int, hidden: bytes, *, rows: Rows = "all") -> bytes:
        return b"" if rows == "none" else hidden

    async def free(self, slot: int) -> None:
        pass

    async def stop(self) -> None:
        pass


class _Host:
    async def plan(self, model: str, split: str = "") -> Plan:
        raise NotImplementedError

    @asynccontextmanager
    async def shard(
        self, open: OpenShard, via: str, progress: Callable[[float], None]
    ) -> AsyncIterator[_Echo]:
        yield _Echo()


async def _serve() -> None:
    """Serves at a free port, which it prints, until its input ends."""
    here = served(ScriptedModel(Script(steps=(Text("hi"),))), card("m"))
    me = here.cluster().me
    here.cluster = lambda: Cluster(me=me, peers=(node("a"),))  # type: ignore[method-assign]
    desk = Desk(here, Metrics("0", ()), HttpSettings(), lambda: None)
    runner = web.AppRunner(
        build(desk, shard_routes.routes(_Host())), handler_cancellation=True, access_log=None
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


class _Times(msgspec.Struct):
    """Milliseconds there and back for a token, and for one of several at once; GB/s of a prompt one way."""

    token: list[float] = []
    at_once: list[float] = []
    prompt: list[float] = []


async def _ask(port: int) -> _Times:
    open = OpenShard(model="m", span=Span(1, 2), slots=_AT_ONCE, context=_TOKENS)
    shard = await RemoteShard.start(f"http://127.0.0.1:{port}", "node b", open, Credentials("a"))
    token, prompt, times = bytes(_WIDTH * 4), bytes(_TOKENS * _WIDTH * 4), _Times()

    async def trip(slot: int) -> None:
        began = time.perf_counter()
        await shard.forward(slot, 0, token)
        (times.at_once if slot else times.token).append((time.perf_counter() - began) * 1e3)

    for _ in range(_WARM_UP + _ROUNDS):
        await trip(0)
    for _ in range(_ROUNDS // _AT_ONCE):
        await asyncio.gather(*(trip(slot) for slot in range(1, _AT_ONCE)))
    for _ in range(3 + _BIG_ROUNDS):
        began = time.perf_counter()
        await shard.forward(0, 0, prompt, rows="none")
        times.prompt.append(len(prompt) / (time.perf_counter() - began) / 1e9)
    await shard.stop()
    return _Times(times.token[_WARM_UP:], times.at_once, times.prompt[3:])


def measure() -> Report:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-m", __spec__.name, "serve"], stdin=pipe, stdout=pipe) as server:
        try:
            assert server.stdout is not None
            times = uvloop.run(_ask(int(server.stdout.readline())))
        finally:
            server.kill()
    return Report(
        name="Layers on another node",
        method=(
            "Two processes on loopback, the real route and the real client, and layers that give "
            f"back what they get. A token is {_WIDTH} numbers of float32 (16 KB), there and back; a prompt "
            f"{_TOKENS} of them (16 MB), one way, to its acknowledgement."
        ),
        tables=(
            Table(
                ("", "median", "p95", "best"),
                (
                    ("token, ms", median(times.token), p95(times.token), min(times.token)),
                    (
                        f"token, {_AT_ONCE - 1} at once, ms",
                        median(times.at_once),
                        p95(times.at_once),
                        min(times.at_once),
                    ),
                    ("prompt, GB/s", median(times.prompt), None, max(times.prompt)),
                ),
            ),
        ),
        figures=(
            Figure("layers on another node, a token", median(times.token), _WANTED_MS, "ms", "at most"),
            Figure("layers on another node, a prompt", median(times.prompt), _WANTED_GB, "GB/s", "at least"),
        ),
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        uvloop.run(_serve())
    else:
        report.main(measure, __doc__)
