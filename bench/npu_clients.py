"""How soon the NPU is free for the next client when one leaves, and whether each gets the answer."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec

from bench import report
from bench.client import END_OF_CHUNKS, Connection, receive_streams
from bench.npu import TOKEN_MARK
from bench.npu_board import SUBJECT, Board, ask
from bench.npu_direct import DirectRuntime
from bench.report import Figure, Report, Table, median
from bench.server import NodeProcess

_TOKEN_MS = 20
_SLOW_ABORT_MS = 100
_ROUNDS = 20
_WARM_UP = 2
_LEAVER, _WAITER = "Write a Python function to check if a number is prime.", "What is 145 + 278?"
_LEAVES_AFTER = 3
_LEAVER_TOKENS = 120

_CLIENTS = 64
_CLIENT_ROUNDS = 3
_SUM_TOKENS = 32
_CONTENT = re.compile(TOKEN_MARK[:-1].replace(b"{", rb"\{") + rb'("(?:[^"\\]|\\.)*")')
_SUMS = tuple(f"What is {100 + 7 * index} + {200 + 3 * index}?" for index in range(_CLIENTS))

_WANTED_MS = 50.0


class _Aborts(msgspec.Struct):
    """Milliseconds, a value a round: from the hang-up to the next client's first token; what the runtime
    alone takes to stop; and to the first token of the same run alone."""

    waited: list[float] = []
    stopping: list[float] = []
    first: list[float] = []

    @property
    def beyond(self) -> list[float]:
        return [
            waited - stopping - first
            for waited, stopping, first in zip(self.waited, self.stopping, self.first, strict=True)
        ]


def measure() -> Report:
    slow = f"takes {_SLOW_ABORT_MS} ms to stop"
    with Board() as board:
        aborts = {
            "stops at once": _measure_aborts(board),
            slow: _measure_aborts(board, STANDIN_FAULT=f"slow-abort:{_SLOW_ABORT_MS}"),
        }
        wrong = {"whole": _count_wrong(board, stream=False), "streamed": _count_wrong(board, stream=True)}
    return Report(
        name="Clients of the NPU server that leave, and that come together",
        method=(
            f"{SUBJECT} Leaving: a client reads {_LEAVES_AFTER} of {_LEAVER_TOKENS} tokens of {_TOKEN_MS} ms "
            "and closes its connection, at changing moments between two tokens, while another one waits. "
            "`beyond` is from there to the other one's first token, less what the runtime alone takes from "
            "an abort to the end of its run, and for the other run's prefill; a round alone and one "
            f"through the server take turns, {_ROUNDS} of them. Together: {_CLIENTS} clients each ask for "
            f"another sum at once, {_CLIENT_ROUNDS} times, as fast as the stand-in computes; every text is "
            "compared with the one the same client's question got when it was alone."
        ),
        tables=(
            Table(
                ("ms, the runtime", "waited", "stopping, alone", "prefill, alone", "beyond", "worst"),
                tuple(
                    (
                        name,
                        *map(median, (each.waited, each.stopping, each.first, each.beyond)),
                        max(each.beyond),
                    )
                    for name, each in aborts.items()
                ),
            ),
            Table(
                (f"{_CLIENTS} clients", "answers", "wrong"),
                tuple((name, _CLIENTS * _CLIENT_ROUNDS, count) for name, count in wrong.items()),
            ),
        ),
        figures=(
            *(
                Figure(
                    f"NPU free after a hang-up, runtime {name}",
                    median(each.beyond),
                    _WANTED_MS,
                    "ms",
                    "at most",
                )
                for name, each in aborts.items()
            ),
            Figure(f"wrong texts with {_CLIENTS} clients", sum(wrong.values()), 0, "", "at most"),
        ),
    )


def _measure_aborts(board: Board, **fault: str) -> _Aborts:
    pace = {"STANDIN_TOKEN_MS": str(_TOKEN_MS), **fault}
    aborts = _Aborts()
    with board.direct(**pace) as direct, board.server(**pace) as node:
        waiter, observer = node.connect(), node.connect()
        for turn in range(_WARM_UP + _ROUNDS):
            kept = aborts if turn >= _WARM_UP else _Aborts()
            _abort_alone(board, direct, kept)
            fraction = turn / _ROUNDS % 1
            kept.waited.append(_hang_up(node, waiter, observer, fraction * _TOKEN_MS / 1e3) * 1e3)
    return aborts


def _abort_alone(board: Board, direct: DirectRuntime, kept: _Aborts) -> None:
    left = direct.run(board.prompt(_LEAVER), _LEAVER_TOKENS, abort_after=_LEAVES_AFTER)
    assert left.stopping is not None, "it is aborted"
    kept.stopping.append(left.stopping * 1e3)
    kept.first.append(direct.run(board.prompt(_WAITER), 1).first * 1e3)


def _hang_up(node: NodeProcess, waiter: Connection, observer: Connection, pause: float) -> float:
    """Seconds from a client's leaving to the first token of the one who waits."""
    leaver = node.connect()
    leaver.socket.sendall(ask(_LEAVER, _LEAVER_TOKENS, stream=True))
    leaver.read_until(TOKEN_MARK, _LEAVES_AFTER)
    waiter.socket.sendall(ask(_WAITER, 1, stream=True))
    until = time.perf_counter() + _LEAVER_TOKENS * _TOKEN_MS / 1e3
    while not observer.metric("exo_requests_waiting"):
        if time.perf_counter() > until:
            raise RuntimeError("the second request does not wait for the first one's end")
    time.sleep(pause)
    left = time.perf_counter()
    leaver.close()
    return receive_streams([waiter], TOKEN_MARK)[0].first - left


def _count_wrong(board: Board, *, stream: bool) -> int:
    requests = [ask(question, _SUM_TOKENS, **({"stream": True} if stream else {})) for question in _SUMS]
    with board.server() as node, ThreadPoolExecutor(_CLIENTS) as clients:
        connections = [node.connect() for _ in requests]
        text = _streamed_text if stream else _whole_text
        alone = [text(connection, request) for connection, request in zip(connections, requests, strict=True)]
        if len(set(alone)) < _CLIENTS:
            raise RuntimeError("answers that are the same cannot be told apart")
        rounds = [list(clients.map(text, connections, requests)) for _ in range(_CLIENT_ROUNDS)]
    return sum(given != due for texts in rounds for given, due in zip(texts, alone, strict=True))


def _whole_text(connection: Connection, request: bytes) -> str:
    return str(json.loads(connection.ask(request))["choices"][0]["message"]["content"])


def _streamed_text(connection: Connection, request: bytes) -> str:
    connection.socket.sendall(request)
    data = connection.read_until(END_OF_CHUNKS)
    if b"data: [DONE]" not in data:
        raise RuntimeError(data.decode(errors="replace"))
    return "".join(json.loads(content) for content in _CONTENT.findall(data))


if __name__ == "__main__":
    report.main(measure, __doc__)
