"""What becomes of a cluster's tokens per second, and of its answers, when a node is killed and comes back."""

import asyncio
import contextlib
import time

import msgspec

from bench import cluster_model, report
from bench.client import get
from bench.cluster_load import BEYOND, Load, clients
from bench.cluster_model import CLIENTS_EACH, MODEL
from bench.cluster_nodes import Machines, Nodes, Process
from bench.report import Figure, Report, Table, median

_NODES = 4
_ROUNDS = 2
_WARM_UP, _WINDOW = 1.0, 3.0
# From the event to the window after it.
_SETTLING = 2.0


class _Round(msgspec.Struct, frozen=True):
    """Tokens per second before a node is killed, while it is gone, and when it is back; seconds from the
    start of its process until all see it again. Answers that came whole, those that did not, and those that
    another node than the first had to begin or go on with."""

    before: float
    without: float
    after: float
    back: float
    whole: int
    lost: tuple[str, ...]
    elsewhere: int


def measure() -> Report:
    with Machines(_NODES) as machines:
        nodes = Nodes(machines)
        for _ in range(_NODES):
            cluster_model.add(nodes)
        nodes.wait(MODEL, _NODES)
        # Not the entry, and another one each time.
        rounds = [asyncio.run(_kill(nodes, nodes[_NODES - 1 - turn])) for turn in range(_ROUNDS)]
        where = machines.words
    without = [each.without / each.before for each in rounds]
    after = [each.after / each.before for each in rounds]
    lost = [each for one in rounds for each in one.lost]
    return Report(
        name="A node that is killed",
        method=(
            f"{_NODES} `exo` nodes, each {where}. {cluster_model.SUBJECT} All of them ask one node. Another "
            "one gets SIGKILL, and is started again; each rate is that of "
            f"{_WINDOW:g} s, which begin {_SETTLING:g} s after the event. Ratios are within a round, and "
            f"medians of {_ROUNDS}. An answer is lost that does not come whole, once, in one stream."
        ),
        tables=(
            Table(
                ("tokens/s", "before", "one killed", "÷ before", "back again", "÷ before"),
                (
                    (
                        f"{_NODES} nodes",
                        median([each.before for each in rounds]),
                        median([each.without for each in rounds]),
                        median(without),
                        median([each.after for each in rounds]),
                        median(after),
                    ),
                ),
            ),
            Table(
                ("answers", "whole", "given by another node", "lost", "back after, s"),
                (
                    (
                        f"{_NODES} nodes",
                        sum(each.whole for each in rounds),
                        sum(each.elsewhere for each in rounds),
                        len(lost),
                        median([each.back for each in rounds]),
                    ),
                ),
            ),
        ),
        figures=(Figure("answers lost with a node", len(lost), 0, "", "at most"),),
        notes=tuple(f"Lost: {each}" for each in lost[:3]),
    )


async def _kill(nodes: Nodes, victim: Process) -> _Round:
    questions = cluster_model.questions()
    elsewhere = _elsewhere(nodes)
    targets = [nodes.targets[0]] * (CLIENTS_EACH * len(nodes))
    async with clients(targets, lambda: next(questions)) as load:
        await asyncio.sleep(_WARM_UP)
        before = await _rate(load)
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(_SETTLING)
        without = await _rate(load)
        started = time.perf_counter()
        victim.start()
        await asyncio.to_thread(nodes.wait, MODEL, len(nodes))
        back = time.perf_counter() - started
        await asyncio.sleep(_SETTLING)
        after = await _rate(load)
    lost = tuple(load.lost)
    return _Round(before, without, after, back, load.whole, lost, _elsewhere(nodes) - elsewhere)


async def _rate(load: Load) -> float:
    begin = time.perf_counter()
    await asyncio.sleep(_WINDOW)
    end = time.perf_counter()
    await asyncio.sleep(BEYOND)
    return load.rate(begin, end)


def _elsewhere(nodes: Nodes) -> int:
    """Answers that the entry has had begun, or gone on with, by another node than the one it chose first."""
    with contextlib.closing(nodes[0].connect(nodes.port)) as connection:
        lines = connection.ask(get("/metrics")).decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("exo_failovers_total"))


if __name__ == "__main__":
    report.main(measure, __doc__)
