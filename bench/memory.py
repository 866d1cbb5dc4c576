"""What a node holds in memory: idle, with the bundled model loaded, and after a thousand answers."""

import time
from pathlib import Path

from bench import report
from bench.client import Connection, chat
from bench.report import Figure, Report, Table
from bench.server import NodeProcess

_MB = 1e6
_WANTED_IDLE = 70.0
# Over the last nine tenths of the answers; what allocators keep moves by about this.
_WANTED_GROWTH = 3.0
_ANSWERS = (1, 100, 1000)
_ORIGINAL = {"idle": 168, "after 1,000 answers": 489}
_QUESTIONS = (
    "What is 145 + 278?",
    "What is Python in one sentence?",
    "Is 17 a prime number? Explain.",
    "12 + 9?",
)


def measure() -> Report:
    with NodeProcess() as node:
        connection = node.connect()
        _settle()
        states = {"idle": memory_of(node.pid)}
        given = 0
        for answers in _ANSWERS:
            for index in range(given, answers):
                _ask(connection, index)
            given = answers
            _settle()
            states[f"after {answers:,} answer{'s' if answers > 1 else ''}"] = memory_of(node.pid)
    rows = [(state, *memory, _ORIGINAL.get(state)) for state, memory in states.items()]
    idle, late, last = (states[state][0] for state in ("idle", "after 100 answers", "after 1,000 answers"))
    return Report(
        name="Memory of a node",
        method=(
            "From `/proc/PID/smaps_rollup`, in MB of 10⁶ bytes. Answers of 16 tokens from `exo-demo`, "
            "every second one streamed. USS is what ending the process would free; RSS counts shared "
            "libraries whole."
        ),
        tables=(Table(("MB", "RSS", "PSS", "USS", "the original's RSS"), tuple(rows)),),
        figures=(
            Figure("memory, idle, RSS", idle, _WANTED_IDLE, "MB", "at most"),
            Figure("memory, growth from answer 100 to 1,000", last - late, _WANTED_GROWTH, "MB", "at most"),
        ),
    )


def _ask(connection: Connection, index: int) -> None:
    question = _QUESTIONS[index % len(_QUESTIONS)]
    if index % 2:
        connection.stream(chat("exo-demo", question, max_tokens=16, stream=True))
    else:
        connection.ask(chat("exo-demo", question, max_tokens=16))


def _settle() -> None:
    """Lets threads that end with an answer end."""
    time.sleep(0.5)


def memory_of(pid: int) -> tuple[float, float, float]:
    """RSS, PSS and USS in MB."""
    kilobytes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, _, value = line.partition(":")
        kilobytes[name] = int(value.split()[0])
    unique = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
    rss, pss, uss = (value * 1024 / _MB for value in (kilobytes["Rss"], kilobytes["Pss"], unique))
    return rss, pss, uss


if __name__ == "__main__":
    report.main(measure, __doc__)
