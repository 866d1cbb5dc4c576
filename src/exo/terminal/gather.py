"""A snapshot made of a running node."""

import socket

from exo.assembly.parts import Parts
from exo.cluster.reach import reachable_at
from exo.http.desk import Served
from exo.metrics import Metrics
from exo.settings import HttpSettings
from exo.terminal.rates import Rates
from exo.terminal.recent import Log, Requests
from exo.terminal.snapshot import Access, Download, Snapshot

_ADDRESSES_SECONDS = 30.0
_EVERYWHERE = ("0.0.0.0", "::")


class Gatherer:
    """Of one node. Call `snapshot` at least each second: rates are of what happened since."""

    def __init__(
        self, parts: Parts, served: Served, http: HttpSettings, log: Log, requests: Requests
    ) -> None:
        self._parts = parts
        self._served = served
        self._http = http
        self._log = log
        self._requests = requests
        self._tokens, self._bytes = Rates(), Rates()
        self._urls: tuple[str, ...] = ()
        self._urls_at = float("-inf")

    def snapshot(self, now: float, *, stopping: bool) -> Snapshot:
        """The node at the time `now`, in seconds of a clock that only goes on."""
        if now - self._urls_at >= _ADDRESSES_SECONDS:
            self._urls, self._urls_at = urls(self._http), now
        cluster, metrics = self._served.cluster(), self._parts.metrics
        return Snapshot(
            version=cluster.me.version,
            urls=self._urls,
            access=access(self._http),
            cluster=cluster,
            problem=self._parts.readiness.why_not() or "",
            stopping=stopping,
            rates=self._tokens.now(now, _tokens(metrics)),
            under_way=_under_way(metrics),
            answered=self._requests.answered,
            failed=self._requests.failed,
            requests=tuple(self._requests.latest),
            downloads=self._downloads(now),
            lines=tuple(self._log.lines),
        )

    def _downloads(self, now: float) -> tuple[Download, ...]:
        under_way = self._parts.shelf.downloads
        rates = self._bytes.now(now, {model: each.come() for model, each in under_way.items()})
        return tuple(
            Download(
                model=model,
                done=each.done,
                total=each.total,
                rate=rates.get(model, 0.0),
                failure=each.failure.message if each.failure else "",
            )
            for model, each in under_way.items()
        )


def urls(http: HttpSettings) -> tuple[str, ...]:
    """Where the node is to be opened, what other machines use first."""
    if http.host not in _EVERYWHERE:
        return (_url(http.scheme, http.host, http.port),)
    first = _towards_elsewhere()
    addresses = sorted(reachable_at(http.host), key=lambda each: each != first)
    return tuple(_url(http.scheme, each, http.port) for each in (*addresses, "localhost"))


def access(http: HttpSettings) -> Access:
    if http.key or (http.keys and http.keys.exists()):
        return "key"
    if http.tls and http.tls.client_ca:
        return "certificate"
    return "here" if http.host in ("127.0.0.1", "::1", "localhost") else "open"


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _towards_elsewhere() -> str:
    """This machine's address in the network that leads elsewhere, "" where none does. Of several networks,
    those of containers among them, it is the one that people mean."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: the kernel only looks up the way. The address is nobody's (RFC 5737).
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def _under_way(metrics: Metrics) -> int:
    (metric,) = metrics.in_progress.collect()
    return int(metric.samples[0].value)


def _tokens(metrics: Metrics) -> dict[str, float]:
    """Deltas behind the first ones of all answers, by model: a delta is a token, mostly."""
    samples = (sample for metric in metrics.inter_token.collect() for sample in metric.samples)
    return {each.labels["model"]: each.value for each in samples if each.name.endswith("_count")}
