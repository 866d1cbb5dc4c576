"""How much of an engine's decode speed a client of the node sees."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench import random_model, report
from bench.client import Connection, Stream, chat, get, read_streams
from bench.direct import DEMO, DirectEngine
from bench.report import Cell, Figure, Report, Table, median
from bench.server import NodeProcess
from exo.chat import Sampling
from exo.store import gguf

_AT_ONCE = 4
_WANTED = 0.97
_QUESTION = "What is 145 + 278?"
_LETTER = "a"


class _Case(msgspec.Struct, frozen=True):
    """A model, and how much of it: the larger takes seconds for an answer."""

    name: str
    about: str
    tokens: int
    rounds: int


_CASES = (_Case("exo-demo", "1.2 M", 600, 12), _Case(random_model.NAME, "104 M, Q8_0", 64, 10))


class _Speeds(msgspec.Struct):
    """Tokens a second of each way, a value a round."""

    api: list[float] = []
    api_inside: list[float] = []
    streamed: list[float] = []
    streamed_inside: list[float] = []
    whole_inside: list[float] = []
    api_together: list[float] = []
    streamed_together: list[float] = []


def measure() -> Report:
    with tempfile.TemporaryDirectory(prefix="exo-bench-") as folder:
        path = Path(folder) / f"{random_model.NAME}.gguf"
        random_model.write(path, like=DEMO)
        with NodeProcess("--threads", "1", models={path.name: path}) as node:
            files = {"exo-demo": DEMO, random_model.NAME: path}
            speeds = {case: _measure(node, case, files[case.name]) for case in _CASES}
    rows = [row for case, measured in speeds.items() for row in _rows(case, measured)]
    return Report(
        name="Decode speed through the API",
        method=(
            f"Answers of {' and '.join(str(case.tokens) for case in _CASES)} tokens, all the same "
            "letter (`logit_bias` +100), so that all are as long and every token is a character; from "
            "the first token to the last by the client's clock. The ways take turns. llama.cpp "
            "computes in one thread, as more would spin on the core that the node needs. `inside` is "
            "llama.cpp's own clock, which on the streamed ways runs while tokens are handed over. "
            f"{_AT_ONCE} at once: all tokens, from the first one of any to the last one of any."
        ),
        tables=(Table(("tokens/s", "median", "best", "inside", "÷ streamed alone"), tuple(rows)),),
        figures=tuple(figure for case, measured in speeds.items() for figure in _figures(case, measured)),
        notes=(
            "Alone is bare xllamacpp streaming to a callback that only counts, in a process of its own.",
            "`exo-demo` decodes a token in well under a millisecond: what a server adds to a token "
            f"shows there as nowhere else. `{random_model.NAME}` (random weights) is what a small real "
            "model is like.",
            "With several answers at once on two cores, the client, the node's threads and llama.cpp share "
            "what the bare call has nearly to itself: on the machine of `docs/benchmarks.md` the ratio of "
            "`exo-demo` was 1.02, 1.04 and 0.963 in three runs. Fewer wake-ups of the loop per token would "
            "steady it.",
        ),
    )


def _measure(node: NodeProcess, case: _Case, path: Path) -> _Speeds:
    speeds = _Speeds()
    bias = {_token(path): 100.0}
    request = chat(
        case.name,
        _QUESTION,
        temperature=0,
        max_tokens=case.tokens,
        stream=True,
        logit_bias={str(t): b for t, b in bias.items()},
    )
    with DirectEngine(path, case.name, threads=1) as engine, _connections(node) as connections:
        asked = engine.request(_QUESTION, Sampling(temperature=0.0, max_tokens=case.tokens, logit_bias=bias))
        streamed, whole = engine.body(asked, stream=True), engine.body(asked, stream=False)
        for turn in range(1 + case.rounds):
            speeds_now = speeds if turn else _Speeds()  # the first warms up
            answer = _answers(connections[:1], request, case.tokens)[0]
            speeds_now.api.append(answer.per_second)
            speeds_now.api_inside.append(_speed_inside(connections[0], case.name))
            alone, timings = engine.stream(streamed)
            speeds_now.streamed.append(alone.per_second)
            speeds_now.streamed_inside.append(timings["predicted_per_second"])
            speeds_now.whole_inside.append(engine.complete(whole)[1]["predicted_per_second"])
            speeds_now.api_together.append(_together(_answers(connections, request, case.tokens)))
            speeds_now.streamed_together.append(_together(engine.streams(streamed, _AT_ONCE)))
    return speeds


def _answers(connections: Sequence[Connection], request: bytes, tokens: int) -> list[Stream]:
    answers = read_streams(connections, [request] * len(connections), f'"content":"{_LETTER}"'.encode())
    for answer in answers:
        if answer.marks != tokens:
            raise RuntimeError(f"{tokens} tokens were to come, and {answer} came")
    return answers


def _together(answers: Sequence[Stream]) -> float:
    """Tokens a second of all answers."""
    first = min(answer.first for answer in answers)
    return (sum(answer.marks for answer in answers) - 1) / (max(answer.last for answer in answers) - first)


def _speed_inside(connection: Connection, model: str) -> float:
    """What llama.cpp said of the node's latest answer, which the node's metrics pass on."""
    name = f'exo_tokens_per_second{{model="{model}"}}'
    lines = connection.ask(get("/metrics")).decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name))


def _rows(case: _Case, speeds: _Speeds) -> Iterator[tuple[Cell, ...]]:
    label = f"{case.name} ({case.about})"
    together, api_together = speeds.streamed_together, speeds.api_together
    for name, seen, inside, alone in (
        ("xllamacpp, whole", None, speeds.whole_inside, speeds.streamed),
        ("xllamacpp, streamed", speeds.streamed, speeds.streamed_inside, None),
        ("API, streamed", speeds.api, speeds.api_inside, speeds.streamed),
        (f"xllamacpp, {_AT_ONCE} at once", together, None, None),
        (f"API, {_AT_ONCE} at once", api_together, None, together),
    ):
        yield (
            f"{label}, {name}",
            median(seen) if seen else None,
            max(seen) if seen else None,
            median(inside) if inside else None,
            _ratio(seen or inside or [], alone) if alone else None,
        )


def _figures(case: _Case, speeds: _Speeds) -> Iterator[Figure]:
    for name, value in (
        ("÷ xllamacpp streamed", _ratio(speeds.api, speeds.streamed)),
        ("÷ xllamacpp whole, inside", _ratio(speeds.api, speeds.whole_inside)),
        (f"÷ xllamacpp streamed, {_AT_ONCE} at once", _ratio(speeds.api_together, speeds.streamed_together)),
    ):
        yield Figure(f"decode, {case.name}, API {name}", value, _WANTED, "", "at least")


def _ratio(speeds: Sequence[float], alone: Sequence[float]) -> float:
    """The median of the ratios within a round: what slows a whole round down cancels out."""
    return median([speed / base for speed, base in zip(speeds, alone, strict=True)])


def _token(path: Path) -> int:
    vocabulary = int(gguf.read(path)["qwen2.vocab_size"])
    return next(id for id, text in gguf.tokens(path, range(vocabulary)).items() if text == _LETTER)


@contextmanager
def _connections(node: NodeProcess) -> Iterator[list[Connection]]:
    connections = [node.connect() for _ in range(_AT_ONCE)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()


if __name__ == "__main__":
    report.main(measure, __doc__)
