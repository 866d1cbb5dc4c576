"""How long the choice between a quick model and one that reasons takes, by what is asked."""

import time
from collections.abc import Mapping

from bench import report
from bench.report import Figure, Report, Table, median
from exo.cards import ModelCard
from exo.chat import ChatRequest, Message
from exo.choice.auto import Candidate, Raised, pick

_ROUNDS = 3000
_WARM_UP = 100
_WANTED_MS = 1.0

_PROSE = (
    "A bus leaves the depot every 12 minutes, and each driver may drive for at most four hours at a time. "
    "How many drivers are needed on a line that takes 95 minutes, if none may end anywhere but at the depot? "
)
_CODE = "for i in range(n):\n    if seen[i] == total - i:\n        return i, seen[i]\n"
_CHINESE = "一辆公共汽车每十二分钟发一班。每位司机最多连续工作四小时。如果必须回到起点。至少需要多少位司机。"
_TURNS = 20


def measure() -> Report:
    raised = _filled()
    first = _milliseconds(_asked(_line(_PROSE)), raised)
    kinds = _requests()
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(_WARM_UP + _ROUNDS):
        for name, request in kinds.items():
            taken = _milliseconds(request, raised)
            if turn >= _WARM_UP:
                times[name].append(taken)
    rows = [(name, median(taken), _p99(taken), min(taken)) for name, taken in times.items()]
    return Report(
        name="The choice between a quick and a reasoning model",
        method=(
            "`exo.choice.auto.pick` and whether the conversation was raised before, among 1,000 that were; "
            f"{_ROUNDS:,} rounds in which each kind of request takes one turn. Milliseconds by the clock."
        ),
        tables=(Table(("milliseconds", "median", "p99", "best"), tuple(rows)),),
        figures=tuple(
            Figure(f"choice, {name}, {what}", value, _WANTED_MS, "ms", "at most")
            for name, middle, late, _ in rows
            for what, value in (("median", middle), ("p99", late))
            if "4,000" in name
        ),
        notes=(f"The first choice of a process reads the weights, too: {first:.1f} ms.",),
    )


def _requests() -> Mapping[str, ChatRequest]:
    each = 4000 // _TURNS
    turns = (
        Message(
            "user" if number % 2 == 0 else "assistant", _line(_PROSE)[number * each : (number + 1) * each]
        )
        for number in range(_TURNS)
    )
    last = Message("user", _PROSE)
    return {
        "a short question": _asked("What is 145 + 278?"),
        "500 characters, all of them read": _asked(_line(_PROSE)[:500]),
        "4,000 characters in one line": _asked(_line(_PROSE)),
        "4,000 characters of code": _asked(_line(_CODE)),
        "4,000 characters of Chinese": _asked(_line(_CHINESE)),
        f"4,000 characters in {_TURNS} turns": ChatRequest(model="auto", messages=(*turns, last)),
        "100,000 characters": _asked(_PROSE * (100_000 // len(_PROSE))),
    }


def _line(text: str) -> str:
    """The text again and again, up to 4,000 characters."""
    return (text * (4000 // len(text) + 1))[:4000]


def _asked(text: str) -> ChatRequest:
    return ChatRequest(model="auto", messages=(Message("user", text),))


_QUICK = Candidate(card=ModelCard(id="quick", format="gguf", context=0, bytes=1, memory=1), seconds=2.0)
_REASONING = Candidate(
    card=ModelCard(id="reasoning", format="gguf", context=0, bytes=1, memory=1),
    seconds=3.0,
    thinking_seconds=60.0,
)


def _filled() -> Raised:
    raised = Raised()
    for number in range(1000):
        raised.remember(_asked(str(number)), 0.0)
    return raised


def _milliseconds(request: ChatRequest, raised: Raised) -> float:
    began = time.perf_counter()
    pick(request, "", _QUICK, _REASONING, raised=raised.holds(request, 1.0))
    return (time.perf_counter() - began) * 1e3


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


if __name__ == "__main__":
    report.main(measure, __doc__)
