"""What traces cost a request: off, on, and on for a caller who does not record."""

import http.server
import os
import statistics
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench import report
from bench.client import post
from bench.report import Figure, Report, Table, median, p95
from bench.server import NodeProcess
from exo.chat import ChatRequest, Delta
from exo.traces import OFF, asking
from exo.traces.context import headers, read
from exo.traces.phases import phases

_ROUNDS = 400
_WARM_UP = 40
_CALLS = 5_000
_TOKENS = 16
_OFF_US, _ON_US = 20.0, 1000.0
_MODELS = {
    "quick.script.json": b'{"steps": [{"type": "text", "text": "word "}], "repeat": %d, "slots": 4}' % _TOKENS
}
_SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def measure() -> Report:
    with (
        _sink() as collector,
        NodeProcess(models=_MODELS) as off,
        NodeProcess("--traces", collector, models=_MODELS) as on,
    ):
        ways = {
            "off": _Way(off, ""),
            "off, `traceparent` passed on": _Way(off, _SAMPLED),
            "on": _Way(on, _SAMPLED),
            "on, not sampled": _Way(on, _SAMPLED[:-1] + "0"),
        }
        for turn in range(_WARM_UP + _ROUNDS):
            # Forth and back, as the second turn of a process finds its caches warm.
            for way in list(ways.values())[:: 1 if turn % 2 else -1]:
                if turn == _WARM_UP:
                    way.forget()
                way.take_turn()
        resident = {"off": _resident(off.pid), "on": _resident(on.pid)}
    base = ways["off"].microseconds
    rows = tuple(
        (name, median(way.microseconds), p95(way.microseconds), _added(way.microseconds, base), way.cpu())
        for name, way in ways.items()
    )
    return Report(
        name="Cost of traces",
        method=(
            f"Whole answers of {_TOKENS} tokens from a script that takes no time, {_ROUNDS} rounds in which "
            "each way takes one turn, forth and back, at a node that records and at one that does not. "
            "`added` is the median of the differences to the first row within a round; CPU is the node's, "
            "all threads, that which sends spans included. The calls are those that one request makes where "
            f"nothing is recorded, {_CALLS:,} times over in this process."
        ),
        tables=(
            Table(("microseconds of an answer", "median", "p95", "added", "CPU, mean"), rows),
            Table(("resident memory of the node", "MB"), tuple(resident.items())),
        ),
        figures=(
            Figure("calls of a request without traces", _calls(), _OFF_US, "µs", "at most"),
            Figure(
                "traces added to a request", _added(ways["on"].microseconds, base), _ON_US, "µs", "at most"
            ),
        ),
    )


class _Way:
    def __init__(self, node: NodeProcess, traceparent: str) -> None:
        self._node, self._connection = node, node.connect()
        body = {"model": "quick", "messages": [{"role": "user", "content": "hi"}]}
        line, rest = post("/v1/chat/completions", body).split(b"\r\n", 1)
        trace = f"\r\ntraceparent: {traceparent}".encode() if traceparent else b""
        self._request = line + trace + b"\r\n" + rest
        self.microseconds: list[float] = []
        self._cpu: list[float] = []

    def take_turn(self) -> None:
        cpu, began = self._node.cpu_seconds(), time.perf_counter()
        self._connection.ask(self._request)
        self.microseconds.append((time.perf_counter() - began) * 1e6)
        self._cpu.append((self._node.cpu_seconds() - cpu) * 1e6)

    def cpu(self) -> float:
        """The mean, as batches of spans are sent now and then."""
        return statistics.fmean(self._cpu)

    def forget(self) -> None:
        self.microseconds.clear()
        self._cpu.clear()


def _calls() -> float:
    """Microseconds of what one request asks of traces that are off."""
    request = ChatRequest(model="quick", prompt="hi")

    def once() -> None:
        above, began = read([_SAMPLED]), time.time_ns()
        server = OFF.begin("", "server", above)
        with OFF.begin("", "internal", server.trace, began=began):
            pass
        with asking(OFF, msgspec.structs.replace(request, trace=server.trace), "") as client:
            headers(client.trace)
        phases(OFF, request, _NO_DELTAS)
        server.end()

    began = time.perf_counter()
    for _ in range(_CALLS):
        once()
    return (time.perf_counter() - began) / _CALLS * 1e6


async def _no_deltas() -> AsyncGenerator[Delta, None]:
    return
    yield


_NO_DELTAS = _no_deltas()


def _added(times: Sequence[float], base: Sequence[float]) -> float:
    return median([time - least for time, least in zip(times, base, strict=True)])


def _resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class _Takes(http.server.BaseHTTPRequestHandler):
    """A collector that takes everything and keeps nothing."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def _sink() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Takes) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


if __name__ == "__main__":
    report.main(measure, __doc__)
