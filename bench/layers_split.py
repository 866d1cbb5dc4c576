"""How fast a model decodes whose layers are split over two machines, beside the same one whole on one."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bench import layers_model, report
from bench.client import Connection, Stream, chat, read_streams
from bench.cluster_nodes import Machines, Nodes, Process
from bench.report import Cell, Figure, Report, Table, median

_ENGINES = ("tinygrad", "mlx")
_SPLIT, _WHOLE = layers_model.NAME, f"{layers_model.NAME}-whole"
_TOKENS, _ROUNDS = 17, 12
_AT_ONCE = 4
_WANTED = {1: 0.9, _AT_ONCE: 1.6}
_WHY = (
    "With one answer each machine rests while the other one computes, and its processes sleep. Tokens go "
    "from process to process, past the two nodes' event loops: by way of those a token took 2 to 3 ms more, "
    "and tinygrad's ratios were 0.873 and 1.72."
)


class _Round(msgspec.Struct, frozen=True):
    """Tokens a second of all answers, one after the other."""

    split: float
    whole: float

    @property
    def ratio(self) -> float:
        return self.split / self.whole


_Rounds = dict[int, list[_Round]]  # by answers at once


def measure() -> Report:
    with tempfile.TemporaryDirectory(prefix="exo-bench-") as home:
        folder = layers_model.write(Path(home))
        measured: dict[str, _Rounds] = {}
        with Machines(2) as machines:
            for engine in _ENGINES:
                with _two_nodes(machines, engine, folder) as connections:
                    measured[engine] = _take_turns(connections)
            where = machines.words
    cases = [(engine, count) for engine in _ENGINES for count in _WANTED]
    half = layers_model.LAYERS // 2
    return Report(
        name="Layers split over two machines",
        method=(
            f"{layers_model.ABOUT}. Two `exo` nodes, each {where}, and each pinned to one core with all its "
            f"processes, {half} layers on each (`--split`); the same weights whole are on the first one "
            f"alone. It is asked for both in turns, for 1 answer and for {_AT_ONCE} at once, of {_TOKENS} "
            f"tokens, {_ROUNDS} rounds after one to warm up. All tokens, from the first one of any answer to "
            "the last one of any, by the client's clock. The ratio is the median of those within a round."
        ),
        tables=(
            Table(
                ("tokens/s", "whole", "best", "split", "best", "ratio", "worst"),
                tuple(_row(engine, count, measured[engine][count]) for engine, count in cases),
            ),
        ),
        figures=tuple(
            Figure(
                f"{engine} over two machines ÷ on one, {count} at once",
                median([each.ratio for each in measured[engine][count]]),
                _WANTED[count],
                "",
                "at least",
            )
            for engine, count in cases
        ),
        notes=(_WHY,),
    )


def _row(engine: str, count: int, rounds: Sequence[_Round]) -> tuple[Cell, ...]:
    split, whole, ratios = ([getattr(each, name) for each in rounds] for name in ("split", "whole", "ratio"))
    return (
        f"{engine}, {count} at once",
        *(median(whole), max(whole)),
        *(median(split), max(split)),
        *(median(ratios), min(ratios)),
    )


@contextlib.contextmanager
def _two_nodes(machines: Machines, engine: str, folder: Path) -> Iterator[Sequence[Connection]]:
    """Connections to the first of them."""
    with contextlib.ExitStack() as running, tempfile.TemporaryDirectory(prefix="exo-bench-") as shelves:
        nodes = Nodes(machines)
        half = layers_model.LAYERS // 2
        split = f"{_SPLIT}=node-0:0-{half - 1},node-1:{half}-{layers_model.LAYERS - 1}"
        for number, (names, flags) in enumerate(
            (((_SPLIT, _WHOLE), ("--split", split)), ((_SPLIT,), ()))  # what is whole is on no other node
        ):
            shelf = Path(shelves) / str(number)
            shelf.mkdir()
            for name in names:
                (shelf / name).symlink_to(folder)
            with _pinned(number):
                node = nodes.add(
                    *("--inference-engine", engine, "--models-seed-dir", str(shelf), "--threads", "1"),
                    *("--context", str(layers_model.CONTEXT), *flags),
                )
            running.callback(node.remove)
        nodes.wait(_SPLIT, 0)
        with _explained(nodes[0], nodes[1]):
            yield [
                running.enter_context(contextlib.closing(nodes[0].connect(nodes.port)))
                for _ in range(_AT_ONCE)
            ]


@contextlib.contextmanager
def _pinned(core: int) -> Iterator[None]:
    """What is started meanwhile has only this core, and so has all that it starts."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[core]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _explained(*nodes: Process) -> Iterator[None]:
    try:
        yield
    except (ConnectionError, RuntimeError, TimeoutError) as error:
        for node in nodes:
            error.add_note(f"{node.address} logged:\n{node.log[-2000:]}")
        raise


def _take_turns(connections: Sequence[Connection]) -> _Rounds:
    rounds: _Rounds = {count: [] for count in _WANTED}
    for turn in range(1 + _ROUNDS):
        for count, measured in rounds.items():
            first, second = (_SPLIT, _WHOLE) if turn % 2 else (_WHOLE, _SPLIT)
            speeds = {model: _decode(connections[:count], model) for model in (first, second)}
            if turn:
                measured.append(_Round(speeds[_SPLIT], speeds[_WHOLE]))
    return rounds


def _decode(connections: Sequence[Connection], model: str) -> float:
    """Tokens a second of all answers."""
    request = chat(
        model,
        "What is 145 + 278?",
        temperature=0,
        max_tokens=_TOKENS,
        stream=True,
        logit_bias={str(layers_model.LETTER_TOKEN): 100},
    )
    mark = f'"content":"{layers_model.LETTER}"'.encode()
    answers: Sequence[Stream] = read_streams(connections, [request] * len(connections), mark)
    for answer in answers:
        if answer.marks != _TOKENS:
            raise RuntimeError(f"{_TOKENS} tokens were to come, and {answer} came")
    first = min(answer.first for answer in answers)
    return (sum(answer.marks for answer in answers) - 1) / (max(answer.last for answer in answers) - first)


if __name__ == "__main__":
    report.main(measure, __doc__)
