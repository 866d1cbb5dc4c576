"""A cluster under load while everything happens to it that can: what its answers come to, and what grows.

`python -m bench.soak --minutes 1` is a short one; `scripts/bench soak --write docs/benchmarks.md` writes its
section. Linux only; the network is cut only where there are network namespaces, which takes root.
"""

import argparse
import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench import soak_asks
from bench.cluster_nodes import Machines
from bench.npu_board import Board
from bench.report import Cell, Figure, Report, Table, machine, markdown, stop_on_sigterm, write_json
from bench.soak_cluster import LLAMA, NODES, NPU_NODE, NPU_SERVER, SoakCluster
from bench.soak_faults import Fault, Faults
from bench.soak_load import Load, Loss
from bench.soak_samples import MEASURES, Sample, Trend, left_over, look, trend

_MINUTES, _SEED = 20.0, 1
# In this share of the time each process is ended, too; after it, only `script` is, so that the others live
# long enough to show what grows.
_WARM_UP = 0.3
_PERIOD = 3.0
_QUESTIONS = 12
_CLIENTS, _BOARD_CLIENTS = 6, 2
# What a process may gain from warm-up to the end: what chance does, as models and connections come and go;
# and nothing of what nobody has a use for.
_ALLOWED: Mapping[str, float] = {
    "RSS, MB": 12.0,
    "PSS, MB": 12.0,
    "files open": 6.0,
    "threads": 4.0,
    "children": 1.0,
    "CLOSE_WAIT": 0.0,
    "temporary files": 0.0,
    "EXO_HOME, MB": 0.1,
}
_TO_RECOVER = 30.0


class Soak:
    """One run of it, on a cluster that has been started."""

    def __init__(self, cluster: SoakCluster, minutes: float, seed: int) -> None:
        self.cluster = cluster
        self.load = Load(cluster.url, cluster.key, seed)
        self.faults = Faults(cluster, self.load, seed)
        self.samples: dict[str, list[Sample]] = defaultdict(list)
        self.seconds = minutes * 60
        self.trouble: list[str] = []
        self._random = random.Random(seed)
        self._measured = 0.0  # from when samples count

    async def run(self) -> None:
        asks = soak_asks.asks(soak_asks.questions(_QUESTIONS))
        board = [soak_asks.board(text) for text in soak_asks.questions(4)]
        async with self.load.connected():
            await self.faults.well()
            await self.load.learn([*asks, *board])
            clients = [
                *(self.load.converse(asks, lambda: self._random.uniform(0, 0.2)) for _ in range(_CLIENTS)),
                *(self.load.converse(board, lambda: 0.1) for _ in range(_BOARD_CLIENTS)),
            ]
            tasks = [asyncio.create_task(work) for work in (*clients, self._watch())]
            try:
                await self._disturb()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            await self._check_idle()

    @property
    def measured(self) -> dict[str, list[Sample]]:
        """The samples of the processes that lived from the warm-up to the end."""
        return {
            name: [each for each in self.samples[name] if each.at >= self._measured]
            for name in (LLAMA, NPU_NODE, NPU_SERVER)
        }

    async def _disturb(self) -> None:
        began = time.monotonic()
        try:
            await self.faults.happen(began + self.seconds * _WARM_UP)
            self._measured = time.monotonic()
            await self.faults.happen(began + self.seconds, spare=(LLAMA, NPU_NODE, NPU_SERVER))
        except (RuntimeError, TimeoutError) as error:
            self.trouble.append(f"after {self.faults.happened[-1].name}: {error}")

    async def _watch(self) -> None:
        while True:
            now = time.monotonic()
            for name, process in self.cluster.processes.items():
                if process.pid and (seen := await asyncio.to_thread(look, process.pid, process.home, now)):
                    self.samples[name].append(seen)
            await asyncio.sleep(_PERIOD)

    async def _check_idle(self) -> None:
        """Nothing runs or waits anywhere when nobody asks any more."""
        busy = ""
        for _ in range(100):
            if not (busy := await self.load.busy()):
                return
            await asyncio.sleep(0.2)
        self.trouble.append(f"without clients there is still {busy}")


def measure(minutes: float = _MINUTES, seed: int = _SEED, logs: Path | None = None) -> Report:
    with Board() as board, Machines(len(NODES)) as machines:
        cluster = SoakCluster(machines, board)
        cluster.start()
        soak = Soak(cluster, minutes, seed)
        asyncio.run(soak.run())
        statuses = cluster.stop()
        defects = cluster.defects()
        if logs:
            cluster.keep_logs(logs)
        soak.trouble += [f"{name} ended with {status}" for name, status in statuses.items() if status != 0]
        soak.trouble += [f"left over: {each}" for each in left_over(cluster.homes)]
        where = machines.words
    return _report(soak, defects, where)


def _report(soak: Soak, defects: Mapping[str, int], where: str) -> Report:
    load, faults = soak.load, soak.faults.happened
    bad = [loss for loss in load.losses if not _excused(loss, faults)]
    trends = {
        name: {what: trend(samples, of, _ALLOWED[what]) for what, of in MEASURES.items()}
        for name, samples in soak.measured.items()
        if len(samples) >= 8
    }
    recovered = [fault.recovery for fault in faults]
    return Report(
        name="Soak",
        method=(
            f"Three `exo` nodes, each {where}: one with llama.cpp and layers by MLX, one with scripts, one "
            f"before `rkllama` and the stand-in runtime. For {soak.seconds / 60:.3g} minutes "
            f"{_CLIENTS + _BOARD_CLIENTS} clients ask the first one in every dialect, at temperature 0, and "
            "each answer must be the one of a quiet cluster; some hang up. Meanwhile one fault follows the "
            "other, and each must be over before the next: every model answers again. A request may fail "
            "only while one lasts, and only by saying so. Processes are looked at every "
            f"{_PERIOD:g} s; in the first {_WARM_UP:.0%} of the time all of them are killed, too, after it "
            "only the scripted node is, and growth is that of the others, by the slope of their samples."
        ),
        tables=(
            Table(("requests", "sent", "right", "hung up", "failed"), tuple(_requests(load))),
            Table(("failures", "times", "excused by a fault"), tuple(_failures(load.losses, bad))),
            Table(("faults", "times", "well again after, s", "worst"), tuple(_faults(faults))),
            Table(
                ("process", "of", "after warm-up", "at the end", "growth", "flat"),
                tuple(_trends(trends)),
            ),
        ),
        figures=(
            Figure("answers that nothing excuses", len(bad), 0, "", "at most"),
            Figure("troubles of processes", len(soak.trouble), 0, "", "at most"),
            Figure("tracebacks in logs", sum(defects.values()), 0, "", "at most"),
            Figure("slowest recovery", max(recovered, default=0.0), _TO_RECOVER, "s", "at most"),
            Figure(
                "measures that grow",
                sum(not each.flat for those in trends.values() for each in those.values()),
                *(0, "", "at most"),
            ),
        ),
        notes=tuple(_notes(soak, bad, defects)),
    )


def _excused(loss: Loss, faults: Sequence[Fault]) -> bool:
    return loss.excusable and any(fault.excuses(loss.began, loss.ended) for fault in faults)


def _requests(load: Load) -> Iterator[tuple[Cell, ...]]:
    failed = Counter(loss.ask for loss in load.losses)
    for name in sorted(load.sent):
        yield name, load.sent[name], load.whole[name], load.left[name], failed[name]
    yield "all", load.sent.total(), load.whole.total(), load.left.total(), failed.total()


def _failures(losses: Sequence[Loss], bad: Sequence[Loss]) -> Iterator[tuple[Cell, ...]]:
    not_excused = Counter(loss.kind for loss in bad)
    for kind, times in Counter(loss.kind for loss in losses).most_common():
        yield kind, times, times - not_excused[kind]


def _faults(faults: Sequence[Fault]) -> Iterator[tuple[Cell, ...]]:
    times: dict[str, list[float]] = defaultdict(list)
    for fault in faults:
        times[fault.name].append(fault.recovery)
    for name, recoveries in sorted(times.items()):
        yield name, len(recoveries), sum(recoveries) / len(recoveries), max(recoveries)


def _trends(trends: Mapping[str, Mapping[str, Trend]]) -> Iterator[tuple[Cell, ...]]:
    for name, measures in trends.items():
        for what, seen in measures.items():
            yield name, what, seen.first, seen.last, seen.growth, "yes" if seen.flat else "**no**"


def _notes(soak: Soak, bad: Sequence[Loss], defects: Mapping[str, int]) -> Iterator[str]:
    cut = "" if soak.cluster.machines.apart else " The network was not cut, as there was none to cut."
    yield f"What ends here is what a fault did, not what a client asked for.{cut}"
    yield from soak.trouble[:5]
    for loss in bad[:5]:
        yield f"Not excused: {loss.ask}: {loss.kind}: {loss.message[:200]}"
    yield from (f"{count} tracebacks in the log of {name}" for name, count in defects.items() if count)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=_MINUTES, help=f"how long; {_MINUTES:g} by default")
    parser.add_argument("--seed", type=int, default=_SEED, help="another order of faults")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep what the processes logged here")
    options = parser.parse_args()
    stop_on_sigterm()
    report = measure(options.minutes, options.seed, options.logs)
    print(f"{machine()}\n\n{markdown(report)}")
    if options.json:
        write_json(options.json, [report])


if __name__ == "__main__":
    main()
