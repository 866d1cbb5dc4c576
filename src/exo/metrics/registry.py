"""A node's registry, and what is counted as it happens.

Label values are bounded: models are those that the node knows, anything else is "unknown", and no label has
more than some hundred values (`names`).
"""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector

from exo.chat import Usage
from exo.metrics.names import Names
from exo.metrics.state import StateCollector
from exo.nodes import Node
from exo.residency.residency import Why

__all__ = ["CONTENT_TYPE", "Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_MOST_MODELS = 200
_MOST_NODES = 100
# Far more than a node has at once: keys come and go.
_MOST_KEYS = 1000

KeyStatus: TypeAlias = Literal["success", "error", "limited", "cancelled"]
"""What can come of a request that counts for a key."""


class Metrics:
    """One node's registry. Is the residency's observer, and what each `Answer` counts in."""

    job = "exo"
    """What Prometheus is to call processes of this kind."""

    def __init__(self, version: str, engines: tuple[str, ...]) -> None:
        # When each series began: twice the series, and nothing that Prometheus would use.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._model_name, self._node_name = Names(_MOST_MODELS), Names(_MOST_NODES)
        self._key_name = Names(_MOST_KEYS)
        self._seen: set[str] = set()
        self._make_answers()
        self._make_models()
        self._make_keys()
        r = self.registry
        self.choices = Counter(
            "exo_auto_choices",
            "Requests that left the choice of a model to this node, 'quick' or 'reasoning'.",
            ["kind", "model"],
            registry=r,
        )
        self.nodes = Gauge("exo_nodes_active", "Nodes in the cluster, this one included.", registry=r)
        self.failovers = Counter(
            "exo_failovers",
            "Answers that another node had to give, 'before' their first token, or 'within'.",
            ["when"],
            registry=r,
        )
        self.routes = Counter(
            "exo_routes",
            "Requests that this node sent to a node, itself included, and what spoke for that one.",
            ["to", "reason"],
            registry=r,
        )
        info = Info("exo_inference_engine", "Engines enabled on this node, and its version.", registry=r)
        info.info({"engine": ",".join(engines), "version": version})
        self.nodes.set(1)
        for when in ("before", "within"):
            self.failovers.labels(when)
        ProcessCollector(registry=r)

    def _make_answers(self) -> None:
        r, model = self.registry, ["model"]
        self.requests = Counter(
            "exo_requests", "Requests answered or refused, by outcome.", ["model", "status"], registry=r
        )
        self.errors = Counter(
            "exo_errors", "Requests that failed, by kind of error.", ["type", "model"], registry=r
        )
        self.in_progress = Gauge("exo_requests_in_progress", "Requests being worked on now.", registry=r)
        self.waiting = Gauge("exo_requests_waiting", "Requests in the queue for a model's slot.", registry=r)
        self.generated = Counter(
            "exo_tokens_generated", "Tokens generated, thought or said.", model, registry=r
        )
        self.prompts = Counter("exo_prompt_tokens", "Prompt tokens of answered requests.", model, registry=r)
        self.cached = Counter(
            "exo_prompt_cached_tokens", "Those of them that came from a KV cache.", model, registry=r
        )
        self.for_nodes = Counter(
            "exo_hop_requests", "Those of the requests that another node had passed on.", model, registry=r
        )
        self.tokens_for_nodes = Counter(
            "exo_hop_tokens", "Those of the tokens that were generated for another node.", model, registry=r
        )
        self.duration = self._histogram(
            "exo_request_duration_seconds", "From a request's arrival to the end of its answer."
        )
        self.queue = self._histogram("exo_queue_seconds", "Waited for a slot, loading of the model included.")
        self.first_token = self._histogram(
            "exo_first_token_latency_seconds",
            "From a request's arrival to the first token, queue and prefill included.",
        )
        self.inter_token = self._histogram(
            "exo_inter_token_seconds", "Between one delta of an answer and the next.", _TOKEN_SECONDS
        )
        self.prefill = Counter(
            "exo_prefill_seconds", "Time that engines spent on reading prompts.", model, registry=r
        )
        self.decode = Counter(
            "exo_decode_seconds", "Time that engines spent on writing answers.", model, registry=r
        )
        self.prefill_speed = Gauge(
            "exo_prefill_tokens_per_second",
            "Prefill speed of the model's latest answer, without what was cached.",
            model,
            registry=r,
        )
        self.speed = Gauge(
            "exo_tokens_per_second", "Decode speed of the model's latest answer.", model, registry=r
        )

    def _make_models(self) -> None:
        self.loads = self._histogram("exo_model_load_seconds", "Time to load a model.")
        self.unloads = Counter(
            "exo_model_unloads", "Models unloaded, and why.", ["model", "why"], registry=self.registry
        )

    def _make_keys(self) -> None:
        r = self.registry
        self.key_requests = Counter(
            "exo_key_requests",
            "Requests that had a model work, or something changed, by key, on the node that was asked.",
            ["key", "status"],
            registry=r,
        )
        self.key_tokens = Counter(
            "exo_key_tokens",
            "Tokens of their answers, 'prompt' or 'completion'.",
            ["key", "kind"],
            registry=r,
        )

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
        return Histogram(name, what, ["model"], buckets=buckets, registry=self.registry)

    def watch(self, state: Callable[[], Node], disk: Path | None = None, root: Path = Path("/")) -> None:
        """From now on the figures have what the node says of itself, the disk with this folder, and what the
        machine's files under `root` say, as it is when they are asked for."""
        self.registry.register(StateCollector(state, disk, root, self.label))

    def watch_waiting(self, waiting: Callable[[], int]) -> None:
        self.waiting.set_function(waiting)

    def exposition(self) -> bytes:
        """The registry in Prometheus' text format. With ten models this takes some milliseconds."""
        return generate_latest(self.registry)

    async def exposition_in_turns(self) -> bytes:
        """The same, leaving the loop to others between one metric and the next."""
        pieces = []
        for family in self.registry.collect():
            pieces.append(generate_latest(_Only(family)))
            await asyncio.sleep(0)
        return b"".join(pieces)

    def refused(self, code: str) -> None:
        """A request that never came to a model."""
        self.requests.labels("unknown", "error").inc()
        self.errors.labels(code, "unknown").inc()

    def label(self, model: str) -> str:
        """What a model is called in labels. What can happen to it stands at 0 from then on: the step from
        nothing to 1 would be seen by no `rate`."""
        name = self._model_name(model)
        if name not in self._seen:
            self._seen.add(name)
            for status in ("success", "error", "cancelled"):
                self.requests.labels(name, status)
            for why in get_args(Why):
                self.unloads.labels(name, why)
            for counter in (self.for_nodes, self.tokens_for_nodes, self.cached):
                counter.labels(name)
        return name

    def chosen(self, kind: str, model: str) -> None:
        """What answers a request that left the choice of a model to this node."""
        self.choices.labels(kind, self.label(model)).inc()

    def key_label(self, key: str) -> str:
        """What a key is called in labels; what can happen to it stands at 0 from then on, as with `label`."""
        name = self._key_name(key)
        for status in get_args(KeyStatus):
            self.key_requests.labels(name, status)
        for kind in ("prompt", "completion"):
            self.key_tokens.labels(name, kind)
        return name

    def asked_with(self, key: str, status: KeyStatus, spent: Usage) -> None:
        """A request with this key has ended, whose answer took so many tokens."""
        name = self._key_name(key)
        self.key_requests.labels(name, status).inc()
        self.key_tokens.labels(name, "prompt").inc(spent.prompt_tokens)
        self.key_tokens.labels(name, "completion").inc(spent.completion_tokens)

    def routed(self, node: str, reason: str) -> None:
        """A request was sent to the node, this one included."""
        self.routes.labels(self._node_name(node), reason).inc()

    # What the residency tells

    def started(self, model: str, queued_seconds: float) -> None:
        self.queue.labels(self.label(model)).observe(queued_seconds)

    def loaded(self, model: str, seconds: float) -> None:
        self.loads.labels(self.label(model)).observe(seconds)

    def unloaded(self, model: str, why: Why) -> None:
        self.unloads.labels(self.label(model), why).inc()


class _Only(Collector):
    """One metric as if it were all there are."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        yield self._family
