"""What it costs that layers are on another node: hidden states there and back, beside layers of this node."""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from aiohttp import web

from bench import report
from bench.report import Figure, Report, Table, median, p95
from exo.cards import Span
from exo.chat import Text
from exo.cluster.pipeline import Credentials, RemoteShard
from exo.cluster.planning import Planner
from exo.cluster.shard_host import ShardHost
from exo.engines.scripted import Script, ScriptedModel
from exo.http import shard_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.metrics import Metrics
from exo.nodes import Cluster
from exo.residency.residency import Limits, Residency
from exo.settings import HttpSettings
from exo.shards.engine import LayersEngine
from exo.shards.frames import Open
from exo.shards.process import RunningShard, ShardProcess
from exo.store.catalogue import Catalogue
from exo.wire.shards import OpenShard
from tests import checkpoints
from tests.cluster.node import node
from tests.doubles import SilentObserver, card, served

_ENGINE = "bench.layers_identity"
_MODEL = "identity"
_SPAN = Span(1, 2)
_WIDTH, _TOKENS, _SLOTS = 4096, 1024, 4
_ROUNDS, _BIG_ROUNDS, _WARM_UP = 2000, 60, 20
_WANTED_MS, _WANTED_GB = 1.0, 1.0
_TOKEN, _PROMPT = bytes(_WIDTH * 4), bytes(_TOKENS * _WIDTH * 4)


class _Way(msgspec.Struct):
    """Seconds there and back for a token, for one of several at once, and to the acknowledgement of a
    prompt."""

    token: list[float] = []
    at_once: list[float] = []
    prompt: list[float] = []


def measure() -> Report:
    with tempfile.TemporaryDirectory(prefix="exo-bench-") as home:
        # Only its config.json counts, of which the width is 4096.
        checkpoints.write(
            Path(home) / _MODEL, layers=2, width=_WIDTH, intermediate=16, heads=1, kv_heads=1, head_width=16
        )
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "bench.layers_hop", "serve", home]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe) as server:
            try:
                assert server.stdout is not None
                here, there = uvloop.run(_ask(int(server.stdout.readline()), Path(home)))
            finally:
                # The end of its input ends it, and it the layers' process.
                server.communicate()
    hops, prompt_hops = (
        [b - a for a, b in zip(getattr(here, name), getattr(there, name), strict=True)]
        for name in ("token", "prompt")
    )
    return Report(
        name="Layers on another node",
        method=(
            "Two processes on loopback, with the real client, route and host of layers, and layers in a "
            "process of theirs that give back what they get; in turns with the same call to layers of this "
            f"node, in a process of theirs, too. A token is {_WIDTH} numbers of float32 (16 KB), there and "
            f"back, {_ROUNDS} rounds. A prompt is {_TOKENS} of them (16 MB), one way, from "
            "the call to the acknowledgement of the layers' process, and so through two connections: to the "
            "node, and from it to that process. The hop is what the call to the other node took longer in "
            "the same round."
        ),
        tables=(
            Table(
                ("ms", "median", "p95", "best"),
                (
                    _times("token, layers here", here.token),
                    _times("token, layers there", there.token),
                    _times("token, the hop", hops),
                    _times(f"token, {_SLOTS} at once, layers here", here.at_once),
                    _times(f"token, {_SLOTS} at once, layers there", there.at_once),
                    _times("prompt, layers here", here.prompt),
                    _times("prompt, layers there", there.prompt),
                    _times("prompt, the hop", prompt_hops),
                ),
            ),
        ),
        figures=(
            Figure("a token, the hop to layers there", median(hops) * 1e3, _WANTED_MS, "ms", "at most"),
            *(
                Figure(
                    f"a prompt, {what}", len(_PROMPT) / median(times) / 1e9, _WANTED_GB, "GB/s", "at least"
                )
                for what, times in (
                    ("the hop to layers there", prompt_hops),
                    ("all the way to their process", there.prompt),
                )
            ),
        ),
    )


def _times(name: str, seconds: list[float]) -> tuple[str, float, float, float]:
    return name, median(seconds) * 1e3, p95(seconds) * 1e3, min(seconds) * 1e3


async def _ask(port: int, home: Path) -> tuple[_Way, _Way]:
    remote = OpenShard(model=_MODEL, span=_SPAN, slots=_SLOTS, context=_TOKENS)
    local = Open(engine=_ENGINE, folder=home / _MODEL, span=_SPAN, ends=False, slots=_SLOTS, context=_TOKENS)
    here = await ShardProcess.start(local)
    try:
        there = await RemoteShard.start(f"http://127.0.0.1:{port}", "node b", remote, Credentials("a"))
        try:
            return await _take_turns(here, there)
        finally:
            await there.stop()
    finally:
        await here.stop()


async def _take_turns(*shards: RunningShard) -> tuple[_Way, _Way]:
    here, there = _Way(), _Way()
    ways = tuple(zip((here, there), shards, strict=True))

    async def took(call: Coroutine[Any, Any, bytes]) -> float:
        began = time.perf_counter()
        await call
        return time.perf_counter() - began

    for turn in range(_WARM_UP + _ROUNDS):
        for way, shard in ways:
            seconds = await took(shard.forward(0, 0, _TOKEN))
            if turn >= _WARM_UP:
                way.token.append(seconds)
    for _ in range(_ROUNDS // _SLOTS):
        for way, shard in ways:
            calls = (took(shard.forward(slot, 0, _TOKEN)) for slot in range(_SLOTS))
            way.at_once += await asyncio.gather(*calls)
    for turn in range(_WARM_UP + _BIG_ROUNDS):
        for way, shard in ways:
            seconds = await took(shard.forward(0, 0, _PROMPT, rows="none"))
            if turn >= _WARM_UP:
                way.prompt.append(seconds)
    return here, there


async def _serve(home: Path) -> None:
    """A node that has layers for another one, at a free port, which it prints, until its input ends."""
    shelf = Catalogue(home, formats=("safetensors",))
    here = served(ScriptedModel(Script(steps=(Text("hi"),))), card("m"))
    cluster = Cluster(me=here.cluster().me, peers=(node("a"),))
    here.cluster = lambda: cluster  # type: ignore[method-assign]
    residency = Residency([], shelf, Limits(1 << 30, 64, None), SilentObserver())
    planner = Planner(shelf, lambda: cluster, slots=_SLOTS, context=_TOKENS)
    engines = {"identity": LayersEngine("identity", _ENGINE)}
    host = ShardHost(planner, residency, engines, shelf.pull_part, kind="cpu")
    desk = Desk(here, Metrics("0", ()), HttpSettings(), lambda: None)
    runner = web.AppRunner(build(desk, shard_routes.routes(host)), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()
    await residency.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        uvloop.run(_serve(Path(sys.argv[2])))
    else:
        report.main(measure, __doc__)
