"""What the NPU server holds in memory besides the model, and how long it takes to start."""

import time

from bench import report
from bench.client import Connection, get
from bench.memory import memory_of
from bench.npu_board import SUBJECT, Board, ask
from bench.npu_direct import DirectRuntime
from bench.report import Cell, Figure, Report, Table, median
from bench.server import NodeProcess

_ANSWERS = 50
_TOKENS = 16
_STARTS = 7
_PATIENCE = 30.0
_QUESTIONS = tuple(f"What is {number} + {number + 9}?" for number in range(10, 100, 9))

_WANTED_MB = 90.0
_WANTED_SECONDS = 1.0

_LISTENING, _READY, _LOADED, _ANSWERED = (
    "until a connection is accepted",
    "until /ready is answered with 200",
    "of which loading the model, in a process of its own",
    "until the first chat is answered",
)


def measure() -> Report:
    with Board() as board:
        rows, besides = _measure_memory(board)
        _start(board)  # compiles bytecode and fills the page cache
        starts = [_start(board) for _ in range(_STARTS)]
    moments = {moment: [start[moment] for start in starts] for moment in starts[0]}
    return Report(
        name="Memory and start of the NPU server",
        method=(
            f"{SUBJECT} Memory is from `/proc/PID/smaps_rollup` in MB of 10⁶ bytes, after {_ANSWERS} answers "
            f"of {_TOKENS} tokens; USS is what ending the process would free, and RSS counts what processes "
            "share in each of them. The model is what a process without a server has more after the same "
            f"{_ANSWERS} runs than before it loaded library and model. Start is from the start of the "
            f"process, polled every 2 ms, {_STARTS} starts after one to warm up (page cache and bytecode); "
            "the model loads when it is asked for."
        ),
        tables=(
            Table(("MB", "RSS", "PSS", "USS"), rows),
            Table(
                ("seconds", "median", "best", "worst"),
                tuple(
                    (moment, median(values), min(values), max(values)) for moment, values in moments.items()
                ),
            ),
        ),
        figures=(
            Figure("NPU server and worker, RSS besides the model", besides[0], _WANTED_MB, "MB", "at most"),
            Figure("NPU server and worker, PSS besides the model", besides[1], _WANTED_MB, "MB", "at most"),
            Figure("NPU server, start to ready", median(moments[_READY]), _WANTED_SECONDS, "s", "at most"),
        ),
        notes=("Other servers of this runtime: 370 to 700 MB besides the model, 5.9 to 6.5 s to start.",),
    )


def _measure_memory(board: Board) -> tuple[tuple[tuple[Cell, ...], ...], tuple[float, ...]]:
    """Rows of a table, and its last row, which the figures are about. The two ways are not there at once:
    what they share would count for neither."""
    with board.server() as node:
        connection = node.connect()
        for index in range(_ANSWERS):
            connection.ask(ask(_QUESTIONS[index % len(_QUESTIONS)], _TOKENS))
        time.sleep(0.5)  # lets go what ends with an answer
        (worker,) = node.children
        server, of_worker = memory_of(node.pid), memory_of(worker)
    with board.direct() as direct:
        model = _model_memory(board, direct)
    both = [first + second for first, second in zip(server, of_worker, strict=True)]
    besides = tuple(together - part for together, part in zip(both, model, strict=True))
    rows: tuple[tuple[Cell, ...], ...] = (
        ("server", *server),
        ("worker, with the model", *of_worker),
        ("the model, alone", *model),
        ("both without the model", *besides),
    )
    return rows, besides


def _model_memory(board: Board, direct: DirectRuntime) -> tuple[float, ...]:
    before = memory_of(direct.pid)
    for index in range(_ANSWERS):
        direct.run(board.prompt(_QUESTIONS[index % len(_QUESTIONS)]), _TOKENS)
    time.sleep(0.5)
    return tuple(later - once for later, once in zip(memory_of(direct.pid), before, strict=True))


def _start(board: Board) -> dict[str, float]:
    with board.server() as node:
        connection = node.connect()
        listening = time.perf_counter() - node.spawned
        _await_ready(node, connection)
        ready = time.perf_counter() - node.spawned
        connection.ask(ask(_QUESTIONS[0], 8))
        answered = time.perf_counter() - node.spawned
        loaded = connection.metric("rkllm_model_load_duration_seconds_sum")
    return {_LISTENING: listening, _READY: ready, _ANSWERED: answered, _LOADED: loaded}


def _await_ready(node: NodeProcess, connection: Connection) -> None:
    """Asks until the answer is 200. A server that is not ready says so, and why, with 503."""
    while True:
        try:
            connection.ask(get("/ready"))
            return
        except RuntimeError:
            if time.perf_counter() - node.spawned > _PATIENCE:
                raise
            time.sleep(0.002)


if __name__ == "__main__":
    report.main(measure, __doc__)
