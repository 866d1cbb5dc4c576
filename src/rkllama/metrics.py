"""What the NPU server measures beyond a node's own metrics. The first four names are the original's."""

from collections.abc import Callable, Iterable, Mapping

from aiohttp import web
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from exo.metrics import Metrics

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 900.0)


class NpuMetrics(Metrics):
    """A node's registry, and the NPU's part of it."""

    job = "rkllama"

    def __init__(self, version: str, memory: Callable[[], Mapping[str, int]]) -> None:
        """`memory` gives the resident bytes of each process: by model, and "server"."""
        super().__init__(version, ("rkllm",))
        r = self.registry
        Gauge("rkllm_server_up", "1 while the NPU server runs.", registry=r).set(1)
        self.http = Counter(
            "rkllm_http_requests", "HTTP requests answered.", ["endpoint", "status"], registry=r
        )
        self.inference = Histogram(
            "rkllm_inference_duration_seconds",
            "The NPU's time for an answer, without the wait for its turn.",
            ["model"],
            buckets=_SECONDS,
            registry=r,
        )
        self.npu_loads = Histogram(
            "rkllm_model_load_duration_seconds",
            "Time to load a model.",
            ["model"],
            buckets=_SECONDS,
            registry=r,
        )
        r.register(_Memory(memory))

    def loaded(self, model: str, seconds: float) -> None:
        super().loaded(model, seconds)
        self.npu_loads.labels(self.label(model)).observe(seconds)

    def inferred(self, model: str, seconds: float) -> None:
        self.inference.labels(self.label(model)).observe(seconds)

    async def answered(self, request: web.Request, response: web.StreamResponse) -> None:
        """Counts an HTTP answer under its route, so that the labels are bounded."""
        resource = request.match_info.route.resource
        endpoint = resource.canonical if resource else "unknown"
        self.http.labels(endpoint, str(response.status)).inc()


class _Memory(Collector):
    """Read when asked for, as nothing here should wake up by itself. Models of it are in memory, so few."""

    def __init__(self, memory: Callable[[], Mapping[str, int]]) -> None:
        self._memory = memory

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(
            "rkllm_process_resident_bytes",
            "Resident memory of the server and of each model's process.",
            labels=["process"],
        )
        for process, size in self._memory().items():
            family.add_metric([process], size)
        yield family
