"""What happens to the soak's cluster, one thing after another, and how long it takes to be well again."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial

import msgspec

from bench import soak_asks
from bench.soak_asks import EXTRAS
from bench.soak_cluster import LLAMA, NODES, NPU_SERVER, SoakCluster
from bench.soak_load import Load
from bench.soak_samples import command, descendants

# Seconds until a cluster that does not become well again is given up.
_PATIENCE = 90.0
# Behind its end, what a fault has broken may still come to its client.
_AFTERMATH = 5.0
_SETTLING = 1.5
_BURST = 40


class Fault(msgspec.Struct):
    """One that happened: `began` and `over` (all answer again) are on `time.monotonic`'s clock; it is never
    over where the cluster did not become well."""

    name: str
    began: float
    over: float = float("inf")
    lasted: float = 0.0

    @property
    def recovery(self) -> float:
        """Seconds from its end until every model was answered for again."""
        return self.over - self.began - self.lasted

    def excuses(self, began: float, ended: float) -> bool:
        """Whether a request of that time may have failed by it."""
        return began <= self.over + _AFTERMATH and ended >= self.began


Deed = Callable[[], Awaitable[None]]


class Faults:
    """Does to `cluster` what can happen to one, in an order that `seed` gives."""

    def __init__(self, cluster: SoakCluster, load: Load, seed: int) -> None:
        self._cluster, self._load = cluster, load
        self._random = random.Random(seed)
        self._texts = soak_asks.questions(64)
        self.happened: list[Fault] = []

    async def happen(self, until: float, *, spare: Sequence[str] = ()) -> None:
        """Everything in turn, until that time; processes that are `spare`d are not ended, though all else
        happens to them, too."""
        while time.monotonic() < until:
            deeds = self._deeds(spare)
            self._random.shuffle(deeds)
            for name, deed in deeds:
                if time.monotonic() >= until:
                    return
                await self._happens(name, deed)
                await asyncio.sleep(self._random.uniform(1, 3))

    async def well(self) -> None:
        """Until every model is answered for. Raises `TimeoutError` where that does not come."""
        deadline = time.monotonic() + _PATIENCE
        for probe in soak_asks.probes():
            while True:
                try:
                    await self._load.said(probe)
                    break
                except Exception as error:  # whatever it is, it may pass
                    if time.monotonic() > deadline:
                        raise TimeoutError(
                            f"{probe.model} still fails after {_PATIENCE:g} s: {error}"
                        ) from error
                await asyncio.sleep(0.1)

    def _deeds(self, spare: Sequence[str]) -> list[tuple[str, Deed]]:
        ending = [name for name in (*NODES, NPU_SERVER) if name not in spare]
        kill, hang = signal.SIGKILL, signal.SIGSTOP
        npu_worker, breaks = "rkllama.process.worker", self._cluster.npu_fault.partition(":")[0]
        deeds: list[tuple[str, Deed]] = [
            *((f"SIGKILL: {name}", partial(self._killed, name)) for name in ending),
            *((f"SIGTERM: {name}", partial(self._told_to_end, name)) for name in ending),
            *((f"SIGSTOP, SIGCONT: {name}", partial(self._stopped, name)) for name in (*NODES, NPU_SERVER)),
            ("NPU worker killed", partial(self._worker, NPU_SERVER, npu_worker, kill)),
            ("NPU worker hangs", partial(self._worker, NPU_SERVER, npu_worker, hang)),
            ("shard worker killed", partial(self._worker, LLAMA, "exo.shards.worker", kill)),
            (f"NPU runtime: {breaks}", self._npu_breaks),
            ("models loaded, others evicted", self._load_others),
            ("full queue", self._full_queue),
            ("slow readers", self._slow_readers),
            ("many hang-ups", self._hang_ups),
        ]
        if self._cluster.machines.apart:
            deeds += ((f"network cut: {name}", partial(self._cut, name)) for name in NODES)
        return deeds

    async def _happens(self, name: str, deed: Deed) -> None:
        fault = Fault(name, time.monotonic())
        self.happened.append(fault)
        await deed()
        fault.lasted = time.monotonic() - fault.began
        await self.well()
        fault.over = time.monotonic()

    # Of processes

    async def _killed(self, name: str) -> None:
        await asyncio.to_thread(self._cluster.processes[name].kill)
        await asyncio.sleep(_SETTLING)
        await asyncio.to_thread(self._cluster.restart, name)

    async def _told_to_end(self, name: str) -> None:
        process = self._cluster.processes[name]
        process.terminate()
        if await asyncio.to_thread(process.ended, _PATIENCE) != 0:
            raise RuntimeError(f"{name} did not end as it was told to:\n{process.log[-2000:]}")
        await asyncio.to_thread(self._cluster.restart, name)

    async def _stopped(self, name: str) -> None:
        async with self._paused(name):
            await asyncio.sleep(self._random.uniform(1, 5))

    @contextlib.asynccontextmanager
    async def _paused(self, name: str) -> AsyncIterator[None]:
        process = self._cluster.processes[name]
        process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.signal(signal.SIGCONT)

    async def _worker(self, name: str, module: str, number: signal.Signals) -> None:
        pid = self._cluster.processes[name].pid
        workers = [each for each in descendants(pid or 0) if module in command(each)]
        if not workers:
            raise RuntimeError(f"{name} has no {module}")
        os.kill(workers[0], number)

    # Of the network

    async def _cut(self, name: str) -> None:
        machines = self._cluster.machines
        await asyncio.to_thread(machines.cut, self._cluster.number(name))
        try:
            await asyncio.sleep(self._random.uniform(2, 6))
        finally:
            await asyncio.to_thread(machines.join)

    # Of the NPU

    async def _npu_breaks(self) -> None:
        self._cluster.break_npu()
        await asyncio.gather(*(self._load.ask(ask) for ask in self._on_npu()))

    def _on_npu(self) -> list[soak_asks.Ask]:
        asks = soak_asks.asks(self._random.sample(self._texts, 2))
        return [ask for ask in asks if ask.model == soak_asks.NPU]

    # Of clients

    async def _load_others(self) -> None:
        for extra in EXTRAS:
            await self._load.ask(soak_asks.load(extra))

    async def _full_queue(self) -> None:
        texts = [self._random.choice(self._texts) for _ in range(_BURST)]
        await asyncio.gather(*(self._load.ask(soak_asks.narrow(text)) for text in texts))

    async def _slow_readers(self) -> None:
        await asyncio.gather(*(self._load.read_slowly(soak_asks.flood("hi")) for _ in range(4)))

    async def _hang_ups(self) -> None:
        asks = soak_asks.asks(self._random.sample(self._texts, 4))
        await asyncio.gather(*(self._load.hang_up(ask) for ask in asks))
