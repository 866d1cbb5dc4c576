"""What is measured of one answer."""

import time
from types import TracebackType
from typing import Self

from exo.chat import Delta, Embeddings, Finished, Usage
from exo.errors import EngineFailed, ExoError
from exo.metrics.registry import Metrics

# Of a prompt with fewer tokens, the time is that of starting rather than that of reading.
_LEAST_READ = 16


class Answer:
    """Measures one answer as its deltas pass, and how it ends: work on it inside of `with`.

    `hop` says that another node passed the request on. `ttft`, in seconds, and `usage` are for the access
    log and traces, and so is `reason`, why the answer ended, "" before it has. `pieces` are the deltas that
    came: of an answer that is left before its end, all there is to count.
    """

    def __init__(self, metrics: Metrics, model: str, *, hop: bool = False) -> None:
        self._metrics = metrics
        self._model = metrics.label(model)
        self._hop = hop
        self._began = time.perf_counter()
        self._last = 0.0
        self._inter_token = metrics.inter_token.labels(self._model)
        self.ttft: float | None = None
        self.usage = Usage()
        self.pieces = 0
        self.reason = ""

    def delta(self, delta: Delta) -> None:
        now = time.perf_counter()
        if isinstance(delta, Finished):
            self._finished(delta, now)
        else:
            self.pieces += 1
            if self.ttft is None:
                self.ttft = now - self._began
                self._metrics.first_token.labels(self._model).observe(self.ttft)
            else:
                self._inter_token.observe(now - self._last)
        self._last = now

    def _finished(self, delta: Finished, now: float) -> None:
        metrics, model = self._metrics, self._model
        usage, timings = delta.usage, delta.timings
        self.usage, self.reason = usage, delta.reason
        metrics.generated.labels(model).inc(usage.completion_tokens)
        metrics.prompts.labels(model).inc(usage.prompt_tokens)
        metrics.cached.labels(model).inc(usage.cached_tokens)
        if self._hop:
            metrics.tokens_for_nodes.labels(model).inc(usage.completion_tokens)
        read = usage.prompt_tokens - usage.cached_tokens
        if timings.prefill > 0:
            metrics.prefill.labels(model).inc(timings.prefill)
            if read >= _LEAST_READ:
                metrics.prefill_speed.labels(model).set(read / timings.prefill)
        written, seconds = usage.completion_tokens, timings.decode
        if not seconds:  # the engine does not tell; the first token was there when the clock began
            written, seconds = written - 1, now - self._began - (self.ttft or 0.0)
        metrics.decode.labels(model).inc(seconds)
        if usage.completion_tokens > 1 and seconds > 0:
            metrics.speed.labels(model).set(written / seconds)

    def embedded(self, embeddings: Embeddings) -> None:
        self.usage = Usage(prompt_tokens=embeddings.prompt_tokens)
        self._metrics.prompts.labels(self._model).inc(embeddings.prompt_tokens)

    def __enter__(self) -> Self:
        self._metrics.in_progress.inc()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status = "success"
        if isinstance(error, Exception):
            status = "error"
            code = error.code if isinstance(error, ExoError) else EngineFailed.code
            self._metrics.errors.labels(code, self._model).inc()
        elif error:
            status = "cancelled"
        self._metrics.in_progress.dec()
        self._metrics.requests.labels(self._model, status).inc()
        if self._hop:
            self._metrics.for_nodes.labels(self._model).inc()
        self._metrics.duration.labels(self._model).observe(time.perf_counter() - self._began)
