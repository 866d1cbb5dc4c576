"""What a node measures of itself, for Prometheus.

The names of the first exo-rkllama are kept (a dashboard made for it still works) and are now true; see
docs/METRICS.md. Label values are bounded: models are those on disk, anything else is "unknown".
"""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

from exo.chat import Delta, Embeddings, Finished, Usage
from exo.errors import EngineFailed, ExoError
from exo.residency.residency import Why

__all__ = ["CONTENT_TYPE", "Answer", "Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """One node's registry. Is the residency's observer, and makes an `Answer` for each request."""

    def __init__(self, version: str, engines: tuple[str, ...]) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.requests = Counter(
            "exo_requests", "Requests answered or refused, by outcome.", ["model", "status"], registry=r
        )
        self.in_progress = Gauge("exo_requests_in_progress", "Requests being worked on now.", registry=r)
        self.waiting = Gauge("exo_requests_waiting", "Requests in the queue for a model's slot.", registry=r)
        self.generated = Counter(
            "exo_tokens_generated", "Tokens generated, thought or said.", ["model"], registry=r
        )
        self.prompts = Counter(
            "exo_prompt_tokens", "Prompt tokens of answered requests.", ["model"], registry=r
        )
        self.duration = Histogram(
            "exo_request_duration_seconds",
            "From a request's arrival to the end of its answer.",
            ["model"],
            buckets=_SECONDS,
            registry=r,
        )
        self.first_token = Histogram(
            "exo_first_token_latency_seconds",
            "From a request's arrival to the first token, queue and prefill included.",
            ["model"],
            buckets=_SECONDS,
            registry=r,
        )
        self.inter_token = Histogram(
            "exo_inter_token_seconds",
            "Between one delta of an answer and the next.",
            ["model"],
            buckets=_TOKEN_SECONDS,
            registry=r,
        )
        self.queue = Histogram(
            "exo_queue_seconds",
            "Waited for a slot, loading of the model included.",
            ["model"],
            buckets=_SECONDS,
            registry=r,
        )
        self.speed = Gauge(
            "exo_tokens_per_second", "Decode speed of the model's latest answer.", ["model"], registry=r
        )
        self.errors = Counter(
            "exo_errors", "Requests that failed, by kind of error.", ["type", "model"], registry=r
        )
        self.nodes = Gauge("exo_nodes_active", "Nodes in the cluster, this one included.", registry=r)
        self.failovers = Counter(
            "exo_failovers",
            "Answers that another node had to give, 'before' their first token, or 'within'.",
            ["when"],
            registry=r,
        )
        self.choices = Counter(
            "exo_auto_choices",
            "Requests that left the choice of a model to this node, 'quick' or 'reasoning'.",
            ["kind", "model"],
            registry=r,
        )
        self.models = Gauge("exo_model_info", "1 for each model in memory.", ["model"], registry=r)
        self.loads = Histogram(
            "exo_model_load_seconds", "Time to load a model.", ["model"], buckets=_SECONDS, registry=r
        )
        self.unloads = Counter("exo_model_unloads", "Models unloaded, and why.", ["model", "why"], registry=r)
        info = Info("exo_inference_engine", "Engines enabled on this node, and its version.", registry=r)
        info.info({"engine": ",".join(engines), "version": version})
        self.nodes.set(1)

    def watch_waiting(self, waiting: Callable[[], int]) -> None:
        self.waiting.set_function(waiting)

    def exposition(self) -> bytes:
        """The registry in Prometheus' text format."""
        return generate_latest(self.registry)

    def refused(self, code: str) -> None:
        """A request that never came to a model."""
        self.requests.labels("unknown", "error").inc()
        self.errors.labels(code, "unknown").inc()

    def started(self, model: str, queued_seconds: float) -> None:
        self.queue.labels(model).observe(queued_seconds)

    def loaded(self, model: str, seconds: float) -> None:
        self.loads.labels(model).observe(seconds)
        self.models.labels(model).set(1)

    def unloaded(self, model: str, why: Why) -> None:
        self.unloads.labels(model, why).inc()
        self.models.remove(model)


class Answer:
    """Measures one answer as its deltas pass, and how it ends: work on it inside of `with`.

    `ttft`, in seconds, and `usage` are for the access log.
    """

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._began = time.perf_counter()
        self._last = 0.0
        self._inter_token = metrics.inter_token.labels(model)
        self.ttft: float | None = None
        self.usage = Usage()

    def delta(self, delta: Delta) -> None:
        now = time.perf_counter()
        if isinstance(delta, Finished):
            self._finished(delta, now)
        elif self.ttft is None:
            self.ttft = now - self._began
            self._metrics.first_token.labels(self._model).observe(self.ttft)
        else:
            self._inter_token.observe(now - self._last)
        self._last = now

    def _finished(self, delta: Finished, now: float) -> None:
        self.usage = delta.usage
        self._metrics.generated.labels(self._model).inc(delta.usage.completion_tokens)
        self._metrics.prompts.labels(self._model).inc(delta.usage.prompt_tokens)
        after_first = now - self._began - (self.ttft or 0.0)
        seconds = delta.timings.decode or after_first
        if delta.usage.completion_tokens > 1 and seconds > 0:
            self._metrics.speed.labels(self._model).set(delta.usage.completion_tokens / seconds)

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
        self._metrics.duration.labels(self._model).observe(time.perf_counter() - self._began)
