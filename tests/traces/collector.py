"""A collector of OpenTelemetry traces: takes OTLP over HTTP, as Jaeger and Tempo do, and keeps it.

It runs on a loop of its own, in a thread, so that tests of real processes may wait for it.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.common.v1 import common_pb2 as common
from opentelemetry.proto.trace.v1 import trace_pb2 as wire

from tests.e2e.node import PATIENCE

SOON = {"OTEL_BSP_SCHEDULE_DELAY": "20"}
"""For processes: what is recorded is sent in milliseconds."""

_KINDS = {
    wire.Span.SPAN_KIND_INTERNAL: "internal",
    wire.Span.SPAN_KIND_SERVER: "server",
    wire.Span.SPAN_KIND_CLIENT: "client",
}


class Seen(NamedTuple):
    """A span as it was sent; ids are hexadecimal, times nanoseconds since the epoch."""

    service: str
    instance: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    state: str
    began: int
    ended: int
    attributes: Mapping[str, Any]
    failed: bool

    @property
    def seconds(self) -> float:
        return (self.ended - self.began) / 1e9

    @property
    def error(self) -> str:
        return str(self.attributes.get("error.type", ""))


class Collector:
    """Listens on 127.0.0.1, at `port` or a free one. Answers each batch with `status`."""

    def __init__(self, port: int = 0) -> None:
        self.spans: list[Seen] = []
        self.batches = 0
        self.status = 200
        self.raw = b""
        self.headers: Mapping[str, str] = {}
        self._port = port
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(PATIENCE)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def until(self, enough: Callable[[Sequence[Seen]], bool]) -> Sequence[Seen]:
        """All spans, once they are enough."""
        with self._news:
            assert self._news.wait_for(lambda: enough(self.spans), PATIENCE), "\n".join(map(str, self.spans))
            return list(self.spans)

    def of(self, trace: str, *names: str) -> Sequence[Seen]:
        """The spans of a trace in the order of their beginnings, once all with these names have come; a name
        that is there twice is waited for twice."""

        def enough(spans: Sequence[Seen]) -> bool:
            there = [span.name for span in spans if span.trace == trace]
            return all(there.count(name) >= names.count(name) for name in names)

        found = [span for span in self.until(enough) if span.trace == trace]
        return sorted(found, key=lambda span: (span.began, span.kind != "server"))

    def refused(self, batches: int) -> None:
        """Waits until so many batches have come in all."""
        with self._news:
            assert self._news.wait_for(lambda: self.batches >= batches, PATIENCE), self.batches

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", self._port)
            await site.start()
            self._port = runner.addresses[0][1]
            self._ready.set()
            await self._over.wait()
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        with self._news:
            self.batches += 1
            self.headers = request.headers.copy()
            if self.status == 200:
                self.raw += body
                self.spans += _spans(body)
            self._news.notify_all()
        return web.Response(
            status=self.status,
            body=service.ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )


def _spans(body: bytes) -> Sequence[Seen]:
    found = []
    for resource in service.ExportTraceServiceRequest.FromString(body).resource_spans:
        process = _values(resource.resource.attributes)
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            found.append(
                Seen(
                    process["service.name"],
                    process["service.instance.id"],
                    span.name,
                    _KINDS[span.kind],
                    span.trace_id.hex(),
                    span.span_id.hex(),
                    span.parent_span_id.hex(),
                    span.trace_state,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    _values(span.attributes),
                    span.status.code == wire.Status.STATUS_CODE_ERROR,
                )
            )
            assert not span.status.message, "a message may quote a prompt"
            assert not span.events, "an event may quote a prompt"
    return found


def _values(attributes: Sequence[common.KeyValue]) -> Mapping[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: common.AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, str(kind))


def with_header(request: bytes, name: str, value: str) -> bytes:
    """The bytes of a request with one more header."""
    line, rest = request.split(b"\r\n", 1)
    return line + f"\r\n{name}: {value}\r\n".encode() + rest


class Clock:
    """What is between two moments, for spans to lie in."""

    def __init__(self) -> None:
        self.began = time.time_ns()

    def holds(self, *spans: Seen) -> bool:
        now = time.time_ns()
        return all(self.began <= span.began <= span.ended <= now for span in spans)
