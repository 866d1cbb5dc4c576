"""How a cluster's tokens per second grow with its nodes, beside nginx before the same ones."""

import asyncio
import contextlib
import time
from collections.abc import Iterator

import msgspec

from bench import cluster_model, cluster_nginx, report
from bench.cluster_load import Target, measured, to_this_node
from bench.cluster_model import CLIENTS_EACH, MODEL
from bench.cluster_nodes import Machines, Nodes
from bench.report import Cell, Figure, Report, Table, median

_SIZES = (1, 2, 4, 8, 16)
_ROUNDS = 5
_WARM_UP, _WINDOW = 1.0, 2.0
# What nodes say of each other is up to a second old; so it is not of the run before.
_REST = 1.1

_WANTED_LINEAR = 0.97

_BY_CHANCE = (
    "All three ways keep every board busy, so what is left of their ratios is chance. What counts as no less "
    "than nginx is what nginx itself reaches of its own median in the least of its rounds."
)

_NGINX, _ONE, _ALL = "nginx", "one entry", "every entry"


class _Size(msgspec.Struct, frozen=True):
    """What was measured with so many nodes: tokens per second of one of them alone, and by each way, a
    value a round."""

    nodes: int
    alone: float
    rates: dict[str, list[float]]

    def by_nginx(self, way: str) -> float:
        """The median of the ratios within a round."""
        pairs = zip(self.rates[way], self.rates[_NGINX], strict=True)
        return median([ours / theirs for ours, theirs in pairs])

    @property
    def nginx_by_itself(self) -> float:
        """Its least round by the median of its rounds: so much less is a ratio by chance."""
        return min(self.rates[_NGINX]) / median(self.rates[_NGINX])


def measure() -> Report:
    with Machines(max(_SIZES) + 1) as machines:
        nodes = Nodes(machines)
        sizes: list[_Size] = []
        for count in _SIZES:
            while len(nodes) < count:
                cluster_model.add(nodes)
            nodes.wait(MODEL, count)
            sizes.append(_measure(machines, nodes))
        where = machines.words
    alone = median([size.alone for size in sizes])
    missing = cluster_nginx.missing()
    return Report(
        name="A cluster's tokens per second",
        method=(
            f"`exo` nodes, each {where}. {cluster_model.SUBJECT} All of them ask one node (one entry), or "
            f"{CLIENTS_EACH} ask each (every entry), or all ask nginx, set up for streams with `least_conn` "
            "and one worker, which has the same nodes answer by themselves. Linear is as many times what "
            f"{CLIENTS_EACH} clients get of one node alone, the median of {len(_SIZES)} measurements between "
            f"the others. {_ROUNDS} rounds in which each way takes a turn, of {_WINDOW:g} s after "
            f"{_WARM_UP:g} s of warm-up; tokens are counted at the clients, one on its way at either end by "
            "the part of its time that had passed. All values are medians; ratios to nginx are within a "
            "round."
        ),
        tables=(
            Table(
                (
                    *("tokens/s, nodes", "linear", _ONE, "÷ linear", "worst", _ALL, "÷ linear", "worst"),
                    *(_NGINX, "÷ linear", f"{_ONE} ÷ nginx", f"{_ALL} ÷ nginx"),
                ),
                tuple(_row(size, alone) for size in sizes),
            ),
        ),
        figures=tuple(_figures(sizes, alone)),
        notes=(f"Nothing was compared with nginx: {missing}.",) if missing else (_BY_CHANCE,),
    )


def _measure(machines: Machines, nodes: Nodes) -> _Size:
    count = len(nodes)
    alone = _run([nodes.targets[count - 1]] * CLIENTS_EACH, alone=True)
    if count == 1:
        return _Size(count, alone, {})
    targets = {_ONE: [nodes.targets[0]] * (CLIENTS_EACH * count), _ALL: nodes.targets * CLIENTS_EACH}
    with contextlib.ExitStack() as held:
        if not cluster_nginx.missing():
            front = held.enter_context(cluster_nginx.front(machines, max(_SIZES), nodes.targets))
            targets = {_NGINX: [front] * (CLIENTS_EACH * count), **targets}
        rates: dict[str, list[float]] = {way: [] for way in targets}
        for _ in range(_ROUNDS):
            for way, addresses in targets.items():
                if way != _NGINX:
                    time.sleep(_REST)
                rates[way].append(_run(addresses))
    return _Size(count, alone, rates)


def _run(targets: list[Target], *, alone: bool = False) -> float:
    questions = cluster_model.questions()
    ask = (lambda: to_this_node(next(questions))) if alone else (lambda: next(questions))
    return asyncio.run(measured(targets, ask, warm_up=_WARM_UP, seconds=_WINDOW))


def _row(size: _Size, alone: float) -> tuple[Cell, ...]:
    linear = size.nodes * alone
    if not size.rates:
        return (str(size.nodes), linear, *[None] * 10)
    cells: list[Cell] = [str(size.nodes), linear]
    for way in (_ONE, _ALL):
        rates = size.rates[way]
        cells += [median(rates), median(rates) / linear, min(rates) / linear]
    if _NGINX not in size.rates:
        return (*cells, *[None] * 4)
    theirs = median(size.rates[_NGINX])
    return (*cells, theirs, theirs / linear, *(size.by_nginx(way) for way in (_ONE, _ALL)))


def _figures(sizes: list[_Size], alone: float) -> Iterator[Figure]:
    for size in sizes[1:]:
        for way in (_ONE, _ALL):
            name = f"{size.nodes} nodes, {way}"
            linear = median(size.rates[way]) / (size.nodes * alone)
            yield Figure(f"{name}, ÷ linear", linear, _WANTED_LINEAR, "", "at least")
            if _NGINX in size.rates:
                yield Figure(f"{name}, ÷ nginx", size.by_nginx(way), size.nginx_by_itself, "", "at least")


if __name__ == "__main__":
    report.main(measure, __doc__)
