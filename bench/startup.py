"""How long a node takes from its process's start to the first answer of the bundled model.

With --imports, which modules that time goes to (by -X importtime, which slows everything down a little).
"""

import subprocess
import sys
import time

from bench import report
from bench.client import chat, get
from bench.report import Figure, Report, Table, median
from bench.server import NodeProcess

_RUNS = 7
_WANTED = 1.5
_SHOWN_IMPORTS = 25
_INTERPRETER, _LISTENING, _HEALTHY, _LOADED, _ANSWERED = (
    "Python itself (`python -c pass`, of its own)",
    "until a connection is accepted",
    "until /healthcheck is answered",
    "of which loading the model",
    "until the first chat is answered",
)


def measure() -> Report:
    _start()  # compiles bytecode and fills the page cache
    runs = [_start() for _ in range(_RUNS)]
    rows = [(moment, *_spread([run[moment] for run in runs])) for moment in runs[0]]
    answered = median([run[_ANSWERED] for run in runs])
    return Report(
        name="Start of a node",
        method=(
            f"From the start of the process, polled every 2 ms, {_RUNS} starts after one to warm up "
            "(page cache and bytecode). The answer is `exo-demo`'s to `What is 145 + 278?`, 8 tokens; "
            "the model loads when it is asked for."
        ),
        tables=(Table(("seconds", "median", "best", "worst"), tuple(rows)),),
        figures=(Figure("start to first chat answer", answered, _WANTED, "s", "at most"),),
        notes=("The original took 4.6 s to be healthy, without a model.",),
    )


def _start() -> dict[str, float]:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    interpreter = time.perf_counter() - began
    with NodeProcess() as node:
        connection = node.connect()
        listening = time.perf_counter() - node.spawned
        connection.ask(get("/healthcheck"))
        healthy = time.perf_counter() - node.spawned
        connection.ask(chat("exo-demo", "What is 145 + 278?", temperature=0, max_tokens=8))
        answered = time.perf_counter() - node.spawned
        metrics = connection.ask(get("/metrics")).decode()
    return {
        _INTERPRETER: interpreter,
        _LISTENING: listening,
        _HEALTHY: healthy,
        _ANSWERED: answered,
        _LOADED: _metric(metrics, "exo_model_load_seconds_sum"),
    }


def _metric(exposition: str, name: str) -> float:
    return next(float(line.split()[-1]) for line in exposition.splitlines() if line.startswith(name))


def _spread(values: list[float]) -> tuple[float, float, float]:
    return median(values), min(values), max(values)


def print_imports() -> None:
    """The modules whose import took longest, with what they import, up to the first chat answer."""
    with NodeProcess(python=("-X", "importtime")) as node:
        connection = node.connect()
        connection.ask(chat("exo-demo", "Hello", max_tokens=1))
        lines = [
            line.partition(":")[2].split("|")
            for line in node.log.splitlines()
            if line.startswith("import time:")
        ]
    timed = [(int(whole), int(own), name.rstrip()) for own, whole, name in lines if own.strip().isdigit()]
    print(f"\n{'ms':>7} {'own':>7}  module, indented by depth")
    for whole, own, name in sorted(timed, reverse=True)[:_SHOWN_IMPORTS]:
        print(f"{whole / 1e3:7.1f} {own / 1e3:7.1f} {name}")


if __name__ == "__main__":
    if "--imports" in sys.argv:
        sys.argv.remove("--imports")
        print_imports()
    else:
        report.main(measure, __doc__)
