"""A node's parts, made from its settings and tied to each other."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

import exo
from exo.assembly.engines import enabled, preferred
from exo.assembly.readiness import Readiness
from exo.cards import ModelCard
from exo.choice.speeds import Speeds
from exo.cluster.pipeline import Credentials, Pipeline
from exo.cluster.planning import CPUS, Planner
from exo.cluster.shard_host import ShardHost
from exo.devices import detect
from exo.engines import EngineOptions, others
from exo.http.upstream import Upstream
from exo.http.watch_routes import Watch
from exo.metrics import Metrics
from exo.node.local import LocalNode
from exo.nodes import Cluster, Node
from exo.residency import loading
from exo.residency.residency import Limits, Residency, Why
from exo.settings import Settings
from exo.shards.engine import LayersEngine, Split
from exo.store.catalogue import Catalogue
from exo.traces.opening import opened


class _Observers:
    """What the residency reports goes to the metrics and to what routing learns from."""

    def __init__(self, metrics: Metrics, speeds: Speeds) -> None:
        self._metrics, self._speeds = metrics, speeds

    def started(self, model: str, queued_seconds: float) -> None:
        self._metrics.started(model, queued_seconds)

    def loaded(self, model: str, seconds: float) -> None:
        self._metrics.loaded(model, seconds)
        self._speeds.loaded(model, seconds)

    def unloaded(self, model: str, why: Why) -> None:
        self._metrics.unloaded(model, why)
        self._speeds.left(model)


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has around it; alone it has nothing.

    Other nodes reach it at `url`, by default that of its API, and at `addresses`. `peers` gives them as they
    are now, and `changed` is called when the node has something else to say of itself. The `secret` and
    `tls` are what it shows to them.
    """

    url: str | None = None
    addresses: Callable[[], tuple[str, ...]] = tuple
    peers: Callable[[], Sequence[Node]] = tuple
    changed: Callable[[], None] = lambda: None
    secret: bytes | None = None
    tls: ssl.SSLContext | None = None


class Parts:
    """A node's parts, tied together but not yet on the network."""

    def __init__(self, settings: Settings, around: Surroundings) -> None:
        self._settings, self._around, self._device = settings, around, detect()
        options = EngineOptions(
            slots=settings.slots,
            context=settings.context,
            threads=settings.threads,
            dtype=settings.layers.dtype,
            cache=settings.layers.cache,
            plan=self._split,
        )
        engines = enabled(settings.engine, options)
        # Without an engine of its own, what is on this disk is for another node.
        self.shelf = Catalogue(
            *(settings.folders if engines else ()),
            context=settings.context,
            slots=settings.slots,
            formats=preferred(engines.values()),
            width=4 if self._device.kind in CPUS else None,
            parallel=settings.parallel_downloads,
        )
        if settings.engine is None:
            missing = {card.format for card in self.shelf.cards}.difference(loading.formats(engines.values()))
            engines |= others.needed(missing, options)
        self.engines = [*engines.values()]
        npu = any(upstream.kind == "rkllm" for upstream in settings.upstreams)
        names = [name for name, engine in engines.items() if engine.unavailable() is None]
        self.metrics = Metrics(exo.__version__, (*names, "rkllm") if npu else (*names,))
        limits = Limits(
            settings.memory, settings.waiting, settings.idle_seconds, settings.silence, settings.silence_for
        )
        self.traces = opened(settings.traces, service="exo", instance=settings.node_id)
        self.watch = Watch()
        self.speeds = Speeds()
        observers = _Observers(self.metrics, self.speeds)
        self.residency = Residency(
            self.engines, self.shelf, limits, observers, self._changed, traces=self.traces
        )
        self.metrics.watch_waiting(lambda: self.residency.waiting)
        self.upstreams = [
            Upstream(
                each,
                silence=settings.silence,
                silence_for=settings.silence_for,
                changed=self._changed,
                traces=self.traces,
            )
            for each in settings.upstreams
        ]
        self.node = LocalNode(
            id=settings.node_id,
            url=self._url,
            version=exo.__version__,
            device=self._device,
            shelf=self.shelf,
            residency=self.residency,
            defaults=settings.defaults,
            upstreams=self.upstreams,
            speeds=self.speeds,
            addresses=around.addresses,
            changed=self._changed,
            remedy=self.shelf.remedy,
            npu_servers=tuple(each.url for each in settings.upstreams if each.kind == "rkllm"),
            api=self._api,
        )
        self.metrics.watch(self.node.state, settings.folders[-1] if settings.folders else None)
        self.readiness = Readiness(self.shelf, self.engines, self.upstreams)
        self._plan_with(
            {name: engine for name, engine in engines.items() if isinstance(engine, LayersEngine)}
        )

    def _changed(self) -> None:
        """The node has something else to say of itself."""
        self._around.changed()
        self.watch.changed()

    def _plan_with(self, engines: Mapping[str, LayersEngine]) -> None:
        """How models are split over nodes, and layers of this one's for others."""
        settings, around = self._settings, self._around
        planner = Planner(
            self.shelf,
            self._as_planned_with,
            slots=settings.slots,
            context=settings.context,
            dtype=settings.layers.dtype,
            by_hand=settings.layers.splits,
        )
        self.shelf.offered = planner.offered
        credentials = Credentials(
            settings.node_id, key=settings.http.key, secret=around.secret, tls=around.tls
        )
        self._pipeline = Pipeline(planner, credentials, around.addresses)
        self.host = ShardHost(planner, self.residency, engines, self.shelf.pull_part, kind=self._device.kind)

    async def _split(self, card: ModelCard, folder: Path) -> Split | None:
        return await self._pipeline(card, folder)

    def _as_planned_with(self) -> Cluster:
        """The nodes as plans see them: this one's models as they are on its disk, before any plan."""
        settings = self._settings
        me = Node(
            id=settings.node_id,
            url=self._url,
            version=exo.__version__,
            device=self._device,
            cards=tuple(
                card
                for card, _ in (*self.shelf.on_disk.values(), *self.shelf.partial.values())
                if card and self.residency.loads(card)
            ),
            loaded=(),
            waiting=0,
            budget=settings.memory,
            speeds=self.speeds.values(),
            formats=self.node.formats,
        )
        return Cluster(me=me, peers=tuple(self._around.peers()))

    @property
    def _url(self) -> str:
        return self._around.url or self._api

    @property
    def _api(self) -> str:
        return self._settings.http.url

    async def ask_upstreams(self) -> None:
        """Finds out which models the servers have, as far as they say so soon."""
        await asyncio.gather(*(upstream.refresh() for upstream in self.upstreams))

    def leave(self) -> None:
        """Says from now on that the node is shutting down, to those who watch it for the last time."""
        self.node.leave()
        self.watch.end()

    async def close(self) -> None:
        """Stops downloads, unloads everything, lets go of the servers, and sends what is left of traces."""
        await self.shelf.downloads.close()
        await self.residency.close()
        for upstream in self.upstreams:
            await upstream.close()
        await self.traces.close()


@asynccontextmanager
async def tied_together(settings: Settings, around: Surroundings | None = None) -> AsyncIterator[Parts]:
    """A node's parts, and their end."""
    parts = Parts(settings, around or Surroundings())
    try:
        yield parts
    finally:
        await parts.close()
