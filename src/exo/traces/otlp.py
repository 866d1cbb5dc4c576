"""Spans recorded with OpenTelemetry and sent to a collector, as OTLP over HTTP. The one file that knows it.

Theory of operation. A span that ends is put into a queue, which costs microseconds and waits for nobody; a
thread of the SDK's sends what has gathered, every five seconds. The queue is bounded: while the collector is
away, old spans make room for new ones. That it is away is said once, and again that it is back, in place of
the several lines that the library has for each batch. What is left at the end is sent then, for two seconds
at most; the SDK's own end could take half a minute.

Beside the collector's address all is set by OpenTelemetry's own variables, which the SDK reads: the sampler
(OTEL_TRACES_SAMPLER), headers and certificates (OTEL_EXPORTER_OTLP_*), the queue (OTEL_BSP_*), and what this
process is called (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES).
"""

import asyncio
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from opentelemetry import trace as api
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from exo.chat import Trace
from exo.errors import NotReady
from exo.traces.spans import Kind, Span, Value, failure, unrecorded

log = logging.getLogger(__name__)

# Seconds for what is left at the end.
_LAST_WORDS = 2.0
# The standard's. The SDK would take any other for the first one.
_SAMPLERS = (
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
    "always_on",
    "always_off",
    "traceidratio",
)
# What of the library writes several lines for each batch.
_LOUD = (OTLPSpanExporter.__module__, "opentelemetry.sdk._shared_internal")
_KINDS: Mapping[Kind, api.SpanKind] = {
    "server": api.SpanKind.SERVER,
    "client": api.SpanKind.CLIENT,
    "internal": api.SpanKind.INTERNAL,
}
_NOTHING: Mapping[str, Value] = {}


class Recorded:
    """Traces that are sent to the collector at a URL. A collector that is not there is no failure."""

    recording = True

    def __init__(self, collector: str, *, service: str, version: str, instance: str) -> None:
        """`service` is what this program is called, and `instance` which of them this process is, unless the
        owner's variables say otherwise. Raises `NotReady` for a sampler that is none."""
        _check_sampler(os.environ)
        own = {"service.name": service, "service.version": version, "service.instance.id": instance}
        said = OTELResourceDetector().detect().attributes
        resource = Resource.create({name: value for name, value in own.items() if name not in said})
        self._exporter = _Told(collector)
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("exo", version)
        self._collector = collector
        log.info("traces are sent to %s", collector)

    def __repr__(self) -> str:
        return f"<Recorded to {self._collector}>"

    def begin(
        self,
        name: str,
        kind: Kind,
        above: Trace,
        attributes: Mapping[str, Value] = _NOTHING,
        *,
        began: int | None = None,
    ) -> Span:
        if kind != "server" and not above.parent:
            return unrecorded(above)
        return _Span(
            self._tracer.start_span(name, _context(above), _KINDS[kind], attributes, start_time=began)
        )

    async def close(self) -> None:
        # A daemon: nobody waits for one that is stuck in a connection.
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, _LAST_WORDS)
        if sending.is_alive():
            self._exporter.give_up()
        self._exporter.mute_no_more()


class _Span:
    def __init__(self, span: api.Span) -> None:
        self._span = span
        self._over = False

    @property
    def trace(self) -> Trace:
        where = self._span.get_span_context()
        if not where.is_valid:
            return Trace()
        parent = f"00-{where.trace_id:032x}-{where.span_id:016x}-{where.trace_flags:02x}"
        return Trace(parent, where.trace_state.to_header())

    def note(self, attributes: Mapping[str, Value]) -> None:
        if not self._over:
            self._span.set_attributes(attributes)

    def end(self, error: str = "", *, at: int | None = None) -> None:
        if self._over:
            return
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(api.StatusCode.ERROR)
        self._over = True
        self._span.end(at)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(failure(error))


def _context(above: Trace) -> Context:
    """The library's word for what a span is part of."""
    if not above.parent:
        return Context()
    _, trace, span, flags = above.parent.split("-")
    where = api.SpanContext(
        int(trace, 16),
        int(span, 16),
        is_remote=True,
        trace_flags=api.TraceFlags(int(flags, 16)),
        trace_state=api.TraceState.from_header([above.state]) if above.state else None,
    )
    return api.set_span_in_context(api.NonRecordingSpan(where), Context())


class _Told(SpanExporter):
    """Sends batches. Says once that it cannot, and once that it can again."""

    def __init__(self, collector: str) -> None:
        self._collector = collector
        self._inner = OTLPSpanExporter(endpoint=_endpoint(collector))
        self._lost = self._over = False
        self._crowded = False
        self._reason = "nobody answers there in time"
        for name in _LOUD:
            logging.getLogger(name).addFilter(self._hear)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        lost = result is not SpanExportResult.SUCCESS
        if lost:
            self._say_lost(self._reason)
        elif self._lost:
            self._lost = False
            log.info("traces are sent to %s again", self._collector)
        return result

    def shutdown(self) -> None:
        if not self._over:
            self._over = True
            self._inner.shutdown()  # type: ignore[no-untyped-call]

    def give_up(self) -> None:
        """Tries no more to send what there is."""
        self._say_lost(f"it does not take them within {_LAST_WORDS:g} s")
        self.shutdown()

    def mute_no_more(self) -> None:
        """Leaves the library's log as it was."""
        for name in _LOUD:
            logging.getLogger(name).removeFilter(self._hear)

    def _say_lost(self, why: str) -> None:
        if not self._lost:
            self._lost = True
            log.warning("traces cannot be sent to %s, and are lost until they can: %s", self._collector, why)

    def _hear(self, record: logging.LogRecord) -> bool:
        """A filter of the library's log: what it says of a batch is the reason in ours, and nothing else."""
        message = record.getMessage()
        if message.startswith("Queue full"):
            if not (self._crowded or self._lost):
                self._crowded = True
                log.warning(
                    "spans come faster than %s takes them, and the oldest are dropped; "
                    "OTEL_TRACES_SAMPLER=parentbased_traceidratio records a part of all requests",
                    self._collector,
                )
        elif errors := [each for each in record.args or () if isinstance(each, Exception)]:
            self._reason = str(_root(errors[0]))
        elif "max retries" not in message:  # which it only says behind the reason
            self._reason = message
        return False


def _root(error: BaseException) -> BaseException:
    """What it all began with: the libraries between wrap each other's words."""
    while under := error.__cause__ or error.__context__:
        error = under
    return error


def _endpoint(collector: str) -> str:
    """Where spans are posted: at the standard's path, unless the address has one."""
    base = collector.rstrip("/")
    return base if urlsplit(base).path else f"{base}/v1/traces"


def _check_sampler(environment: Mapping[str, str]) -> None:
    sampler = environment.get("OTEL_TRACES_SAMPLER", _SAMPLERS[0]).lower()
    if sampler not in _SAMPLERS:
        raise NotReady(f"OTEL_TRACES_SAMPLER is '{sampler}'; it takes one of {', '.join(_SAMPLERS)}")
    if not sampler.endswith("traceidratio"):
        return
    ratio = environment.get("OTEL_TRACES_SAMPLER_ARG", "1")
    try:
        fits = 0 <= float(ratio) <= 1
    except ValueError:
        fits = False
    if not fits:
        raise NotReady(f"OTEL_TRACES_SAMPLER_ARG is '{ratio}'; with {sampler} it is a number from 0 to 1")
