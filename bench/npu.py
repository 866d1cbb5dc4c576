"""What the NPU server adds to the runtime's own time, and how much of the time it keeps the runtime busy."""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from bench import report
from bench.client import Connection, read_streams
from bench.npu_board import RELEASE, RELEASES, SUBJECT, Board, ask
from bench.npu_direct import DirectRuntime, Run
from bench.report import Cell, Figure, Report, Table, median, p95

TOKEN_MARK = b'"delta":{"content":"'
"""What each token's event has in it, and the one before them has not."""

_TOKENS = 16
# 1 ms a token, and 40 ms for a prompt of 128: a little slower than the stand-in computes, so that what else
# the machine does changes a run's length little.
_PACE = "40/1000"
_ROUNDS = {RELEASE: 100}
_ROUNDS_OF_OTHERS = 25
_WARM_UP = 5
_AT_ONCE = 8
_REQUESTS_EACH = 10
_LOOPS = {RELEASE: 5}
_LOOPS_OF_OTHERS = 1
_CYCLES_ALONE = 3
# Each has an answer of more than the tokens asked for.
_QUESTIONS = tuple(f"Is {number} a prime number? Explain." for number in (17, 23, 29, 31, 37, 41, 43, 47))
_ON_NPU = "rkllm_inference_duration_seconds_sum"

_WANTED_MS = 5.0
_WANTED_FIRST_MS = 5.0
_WANTED_BUSY = 0.95


class _Turns(msgspec.Struct):
    """Milliseconds, a value a round."""

    alone: list[float] = []
    http: list[float] = []

    @property
    def added(self) -> list[float]:
        return [http - alone for http, alone in zip(self.http, self.alone, strict=True)]


class _Busy(msgspec.Struct):
    """Closed loops of clients, and the runtime's share of each one's time by three clocks.

    `alone` takes each request for as long as the same run takes without a server; `inside` sums what the
    runtime said of these very runs (not before 1.2.1); `metric` is the server's, which includes
    what passes between its processes.
    """

    requests: int = 0
    seconds: float = 0.0
    alone: list[float] = []
    inside: list[float] = []
    metric: list[float] = []


class _Measured(msgspec.Struct, frozen=True):
    whole: _Turns
    first: _Turns
    busy: _Busy


def measure() -> Report:
    with Board() as board:
        measured = {release: _measure(board, release) for release in reversed(RELEASES)}
    main = measured[RELEASE]
    columns = ("alone", "HTTP", "added", "p95")
    return Report(
        name="The NPU server beside its runtime",
        method=(
            f"{SUBJECT} {_TOKENS} tokens of 1 ms, temperature 0; the texts must be the same. "
            "One client: a run alone, an answer over HTTP and a streamed one take turns in "
            f"{_ROUNDS[RELEASE]} rounds ({_ROUNDS_OF_OTHERS} for other releases), the prompt cached; `added` "
            "is the median of the differences within a round, p95 theirs. The first token is alone the "
            "runtime's first callback, and over HTTP its event at the client. "
            f"{_AT_ONCE} clients: each asks a question of its own, and again as soon as it has the answer, "
            f"{_REQUESTS_EACH} times, in {_LOOPS[RELEASE]} loops ({_LOOPS_OF_OTHERS} for other releases). "
            "Busy is the runtime's time ÷ the clock's, the median of the loops: alone counts what the same "
            "questions in the same order take alone, measured before and after each loop; inside, what the "
            "runtime says of these very runs (from 1.2.1 on); metric is the rise of "
            "`rkllm_inference_duration_seconds_sum`, which includes the way to the worker and back."
        ),
        tables=(
            Table(("ms, whole answer", *columns), tuple(_row(r, each.whole) for r, each in measured.items())),
            Table(("ms, first token", *columns), tuple(_row(r, each.first) for r, each in measured.items())),
            Table(
                (f"{_AT_ONCE} clients", "requests", "seconds", "busy, alone", "busy, inside", "busy, metric"),
                tuple(_busy_row(release, each.busy) for release, each in measured.items()),
            ),
        ),
        figures=(
            Figure("NPU server, overhead", median(main.whole.added), _WANTED_MS, "ms", "at most"),
            Figure(
                "NPU server, overhead of the first token",
                median(main.first.added),
                _WANTED_FIRST_MS,
                "ms",
                "at most",
            ),
            Figure(
                f"NPU busy with {_AT_ONCE} clients", median(main.busy.alone), _WANTED_BUSY, "", "at least"
            ),
        ),
        notes=(
            "Other servers of this runtime: 340 to 356 ms a request, 266 to 305 ms to the first token, busy "
            "0.05 to 0.11.",
        ),
    )


def _measure(board: Board, release: str) -> _Measured:
    pace = {"STANDIN_PACE": _PACE}
    with board.direct(release, **pace) as direct, board.server(release, **pace) as node:
        connections = [node.connect() for _ in range(_AT_ONCE)]
        prompts = {question: board.prompt(question) for question in _QUESTIONS}
        rounds = _ROUNDS.get(release, _ROUNDS_OF_OTHERS)
        whole, first = _take_turns(direct, connections[0], prompts[_QUESTIONS[0]], rounds)
        loops = _LOOPS.get(release, _LOOPS_OF_OTHERS)
        return _Measured(whole, first, _keep_busy(direct, connections, prompts, loops))


def _take_turns(
    direct: DirectRuntime, connection: Connection, prompt: str, rounds: int
) -> tuple[_Turns, _Turns]:
    request, streamed = ask(_QUESTIONS[0], _TOKENS), ask(_QUESTIONS[0], _TOKENS, stream=True)
    whole, first = _Turns(), _Turns()
    for turn in range(_WARM_UP + rounds):
        alone = direct.run(prompt, _TOKENS)
        began = time.perf_counter()
        answer = connection.ask(request)
        seconds = time.perf_counter() - began
        began = time.perf_counter()
        stream = read_streams([connection], [streamed], TOKEN_MARK)[0]
        _check(_text(json.loads(answer)), stream.marks, alone)
        if turn >= _WARM_UP:
            whole.alone.append(alone.seconds * 1e3)
            whole.http.append(seconds * 1e3)
            first.alone.append(alone.first * 1e3)
            first.http.append((stream.first - began) * 1e3)
    return whole, first


def _keep_busy(
    direct: DirectRuntime, connections: Sequence[Connection], prompts: Mapping[str, str], loops: int
) -> _Busy:
    requests = [ask(question, _TOKENS) for question in prompts]
    busy = _Busy()
    before = _run_alone(direct, prompts)
    for _ in range(loops):
        metric = connections[0].metric(_ON_NPU)
        answers, seconds = _closed_loop(connections, requests, _REQUESTS_EACH)
        metric = connections[0].metric(_ON_NPU) - metric
        after = _run_alone(direct, prompts)
        alone = [first + second for first, second in zip(before, after, strict=True)]
        for runs, given in zip(alone, answers, strict=True):
            for answer in given:
                _check(_text(answer), answer["usage"]["completion_tokens"], runs[0])
        busy.requests += sum(len(given) for given in answers)
        busy.seconds += seconds
        busy.alone.append(
            _REQUESTS_EACH * sum(median([run.seconds for run in runs]) for runs in alone) / seconds
        )
        busy.metric.append(metric / seconds)
        if alone[0][0].inside is not None:
            busy.inside.append(sum(_inside(answer) for given in answers for answer in given) / seconds)
        before = after
    return busy


def _run_alone(direct: DirectRuntime, prompts: Mapping[str, str]) -> list[list[Run]]:
    """The runs of each question, which take turns as they do among the clients."""
    cycles = [[direct.run(prompt, _TOKENS) for prompt in prompts.values()] for _ in range(_CYCLES_ALONE)]
    return [list(runs) for runs in zip(*cycles, strict=True)]


def _closed_loop(
    connections: Sequence[Connection], requests: Sequence[bytes], each: int
) -> tuple[list[list[Any]], float]:
    """The answers to every connection's requests, one after the other on each, and the seconds of all."""

    def converse(connection: Connection, request: bytes) -> list[bytes]:
        return [connection.ask(request) for _ in range(each)]

    with ThreadPoolExecutor(len(connections)) as clients:
        began = time.perf_counter()
        answers = list(clients.map(converse, connections, requests))
        seconds = time.perf_counter() - began
    return [[json.loads(answer) for answer in given] for given in answers], seconds


def _check(text: str, tokens: int, alone: Run) -> None:
    """Different runs could not be compared."""
    if text != alone.text or not tokens == alone.tokens == _TOKENS:
        raise RuntimeError(f"{_TOKENS} tokens were to come as in {alone}, and {tokens} came: {text!r}")


def _text(answer: Any) -> str:
    return str(answer["choices"][0]["message"]["content"])


def _inside(answer: Any) -> float:
    """Seconds of prefill and decode: the runtime's own figures from release 1.2.1 on."""
    return float(answer["timings"]["prompt_ms"] + answer["timings"]["predicted_ms"]) / 1e3


def _row(release: str, turns: _Turns) -> tuple[Cell, ...]:
    return (release, median(turns.alone), median(turns.http), median(turns.added), p95(turns.added))


def _busy_row(release: str, busy: _Busy) -> tuple[Cell, ...]:
    inside = median(busy.inside) if busy.inside else None
    return (release, busy.requests, busy.seconds, median(busy.alone), inside, median(busy.metric))


if __name__ == "__main__":
    report.main(measure, __doc__)
