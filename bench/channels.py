"""What telling thoughts, answers, calls and stop strings apart costs, per token."""

import json
import re
import time
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from pathlib import Path

import msgspec

from bench import report
from bench.report import Cell, Figure, Report, Table, median
from exo.chat import Alternative, TokenLogprob
from exo.text.calls import HERMES
from exo.text.channels import Channels
from exo.text.thoughts import THINK

_TEXT = Path(__file__).parents[1] / "ARCHITECTURE.md"
# As vocabularies of 100 000 tokens and more have them: a word with the space before it, signs, white space.
_PIECE = re.compile(r" ?\w+| ?[^\w\s]+|\s+")
_TOKENS = 2000
_ANSWERS = 30
_WARM_UP = 3
_WANTED_MICROSECONDS = 10.0
_STOPS = ("\n\nUser:", "###", "</answer>", "END OF TEXT")


class _Case(msgspec.Struct, frozen=True):
    """A kind of answer: what reads it, what is read before the clock runs, and the tokens behind that."""

    name: str
    channels: Callable[[], Channels]
    tokens: Sequence[str]
    before: str = ""
    logprobs: Sequence[TokenLogprob] = ()


class _Times(msgspec.Struct):
    """Microseconds: of each token by the wall clock, and of CPU time for each answer by its tokens."""

    each: list[float] = []
    mean: list[float] = []


def measure() -> Report:
    cases = _cases(_PIECE.findall(_TEXT.read_text(encoding="utf-8")))
    times = {case.name: _Times() for case in cases}
    for turn in range(_WARM_UP + _ANSWERS):
        for case in cases:
            _feed(case, times[case.name] if turn >= _WARM_UP else _Times())
    return Report(
        name="Channels",
        method=(
            f"`Channels.feed` alone, in one process without an engine: {_ANSWERS} answers of {_TOKENS} "
            f"tokens of each kind, which take turns, after {_WARM_UP} to warm up. The text is "
            f"`{_TEXT.name}`, cut into words with the space before them, signs, and white space, as large "
            "vocabularies do. In the call it is the items of an array. `mean` is the CPU time of a whole "
            "answer by its tokens, the median of the answers, and what the figures are about. Median and "
            "p99 are of single tokens by the wall clock, where what else the machine does shows. The clocks' "
            "own time, 0.1 µs or so a token, is not taken off."
        ),
        tables=(
            Table(
                ("µs per token", "mean", "median", "p99"),
                tuple(_row(name, each) for name, each in times.items()),
            ),
        ),
        figures=tuple(
            Figure(
                f"channels add per token, {name}", median(each.mean), _WANTED_MICROSECONDS, "µs", "at most"
            )
            for name, each in times.items()
        ),
    )


def _cases(pieces: list[str]) -> tuple[_Case, ...]:
    text = (pieces * (_TOKENS // len(pieces) + 1))[:_TOKENS]
    quoted = [json.dumps(piece, ensure_ascii=False)[1:-1] for piece in text[: _TOKENS // 2]]
    items = [*chain.from_iterable(zip(quoted, repeat('", "')))][:_TOKENS]
    begun = HERMES.openings[0] + HERMES.before_name + "f" + HERMES.before_arguments + '{"words": ["'
    likely = Alternative("word", -0.5, tuple(b"word"))
    return (
        _Case("plain answer", Channels, text, "It"),
        _Case("with stop strings", lambda: Channels(stop=_STOPS), text, "It"),
        _Case("with tools", lambda: Channels(style=HERMES, held=True), text, "It"),
        _Case(
            "with tools, stop strings and logprobs",
            lambda: Channels(style=HERMES, held=True, stop=_STOPS),
            text,
            "It",
            (TokenLogprob(likely, (likely,) * 5),),
        ),
        _Case("within a thought", Channels, text, THINK.begin),
        _Case("within a call held to its form", lambda: Channels(style=HERMES, held=True), items, begun),
    )


def _feed(case: _Case, times: _Times) -> None:
    """Times one answer."""
    channels, clock, each = case.channels(), time.perf_counter_ns, []
    channels.feed(case.before)
    came = 0
    cpu = time.thread_time_ns()
    for token in case.tokens:
        began = clock()
        deltas = channels.feed(token, logprobs=case.logprobs)
        each.append(clock() - began)
        came += len(deltas)
    cpu = time.thread_time_ns() - cpu
    if channels.stopped or came < len(case.tokens) // 2:
        raise RuntimeError(f"{case.name}: of {len(case.tokens)} tokens, {came} deltas came")
    times.each += [nanoseconds / 1e3 for nanoseconds in each]
    times.mean.append(cpu / len(case.tokens) / 1e3)


def _row(name: str, times: _Times) -> tuple[Cell, ...]:
    p99 = sorted(times.each)[len(times.each) * 99 // 100]
    return (name, median(times.mean), median(times.each), p99)


if __name__ == "__main__":
    report.main(measure, __doc__)
