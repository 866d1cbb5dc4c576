"""Ties a node together from its settings, and runs it."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

import exo
from exo.cards import Format, ModelCard
from exo.cluster.pipeline import Credentials, Pipeline
from exo.cluster.planning import CPUS, Planner
from exo.cluster.settings import ClusterSettings
from exo.cluster.shard_host import ShardHost
from exo.devices import detect
from exo.engine import Engine
from exo.engines import ENGINES, EngineOptions, others
from exo.errors import ExoError
from exo.http import (
    anthropic_routes,
    cluster_routes,
    download_routes,
    ollama_routes,
    openai_routes,
    responses_routes,
    service_routes,
    shard_routes,
    token_routes,
)
from exo.http.app import build
from exo.http.automatic import Automatic
from exo.http.desk import Desk, Served
from exo.http.kept_responses import KeptResponses
from exo.http.server import listen, serve, stop_on_signals, warn_if_open
from exo.http.tls import client_context, server_context
from exo.http.upstream import Upstream
from exo.metrics import Metrics
from exo.node import LocalNode
from exo.nodes import Cluster, Node
from exo.residency import Limits, Residency, Why
from exo.settings import Settings
from exo.shards.engine import LayersEngine, Split
from exo.speeds import Speeds
from exo.store.catalogue import FORMATS, Catalogue

log = logging.getLogger(__name__)


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
        self._to_load: list[str] = []
        self.wait_for(0, lambda: 0)
        self._settings, self._around, self._device = settings, around, detect()
        options = EngineOptions(
            slots=settings.slots,
            context=settings.context,
            threads=settings.threads,
            dtype=settings.layers.dtype,
            cache=settings.layers.cache,
            plan=self._split,
        )
        engines = _engines(settings.engine, options)
        # Without an engine of its own, what is on this disk is for another node.
        self.shelf = Catalogue(
            *(settings.folders if engines else ()),
            context=settings.context,
            slots=settings.slots,
            formats=_formats(engines.values()),
            width=4 if self._device.kind in CPUS else None,
            parallel=settings.parallel_downloads,
        )
        if settings.engine is None:
            engines |= others.needed({card.format for card in self.shelf.cards} - _loaded(engines), options)
        self.engines = [*engines.values()]
        npu = any(upstream.kind == "rkllm" for upstream in settings.upstreams)
        names = [name for name, engine in engines.items() if engine.unavailable() is None]
        self.metrics = Metrics(exo.__version__, (*names, "rkllm") if npu else (*names,))
        limits = Limits(
            settings.memory, settings.waiting, settings.idle_seconds, settings.silence, settings.silence_for
        )
        self.speeds = Speeds()
        observers = _Observers(self.metrics, self.speeds)
        self.residency = Residency(self.engines, self.shelf, limits, observers, around.changed)
        self.metrics.watch_waiting(lambda: self.residency.waiting)
        self.upstreams = [
            Upstream(each, silence=settings.silence, silence_for=settings.silence_for, changed=around.changed)
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
            changed=around.changed,
            remedy=self.shelf.remedy,
        )
        self._plan_with(
            {name: engine for name, engine in engines.items() if isinstance(engine, LayersEngine)}
        )

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
        http = self._settings.http
        return self._around.url or f"http://{http.host}:{http.port}"

    async def preload(self, models: Sequence[str]) -> None:
        """Loads them one after the other; one that fails is logged, and tried again when it is asked for."""
        self._to_load = list(models)
        while self._to_load:
            try:
                await self.node.load(self._to_load[0])
            except ExoError as error:
                log.error("preloading failed: %s", error.message)
            self._to_load.pop(0)

    def wait_for(self, peers: int, count: Callable[[], int]) -> None:
        """From now on this node is not ready before so many others are there."""
        self._peers_wanted, self._peers = peers, count

    def why_not_ready(self) -> str | None:
        """Why no chat could be served now; None when one could."""
        if self._peers() < self._peers_wanted:
            return f"waiting for other nodes: {self._peers()} of {self._peers_wanted} are here"
        if self._to_load:
            return f"loading {self._to_load[0]}"
        reasons = [upstream.why_not_ready() for upstream in self.upstreams]
        formats = {card.format for card in self.shelf.cards}
        loading = [engine for engine in self.engines if formats & engine.formats]
        if loading:
            reasons += [engine.unavailable() for engine in loading]
        elif formats:
            reasons.append(f"no engine enabled on this node loads {' or '.join(sorted(formats))}")
        elif self.engines:
            reasons.append("there is no model on this node's disk")
        return None if None in reasons else "; ".join(reason for reason in reasons if reason)

    async def ask_upstreams(self) -> None:
        """Finds out which models the servers have, as far as they say so soon."""
        await asyncio.gather(*(upstream.refresh() for upstream in self.upstreams))

    async def close(self) -> None:
        """Stops downloads, unloads everything, and lets go of the servers."""
        await self.shelf.downloads.close()
        await self.residency.close()
        for upstream in self.upstreams:
            await upstream.close()


def _engines(wanted: str | None, options: EngineOptions) -> dict[str, Engine]:
    """The one that is wanted, of whichever package, or all of ours; none for the NPU server."""
    if wanted is not None and wanted not in (*ENGINES, "rkllm"):
        return {wanted: others.make(wanted, options)}
    return {name: make(options) for name, make in ENGINES.items() if wanted in (None, name)}


def _loaded(engines: Mapping[str, Engine]) -> set[str]:
    """The formats that engines load which can run here."""
    return {format for engine in engines.values() if not engine.unavailable() for format in engine.formats}


def _formats(engines: Iterable[Engine]) -> tuple[Format, ...]:
    """What is to be loaded in, in the order of the engines that can."""
    able = [engine for engine in engines if not engine.unavailable()]
    found = [format for engine in able for format in FORMATS if format in engine.formats]
    return tuple(dict.fromkeys((*found, *FORMATS)))


@asynccontextmanager
async def tied_together(settings: Settings, around: Surroundings | None = None) -> AsyncIterator[Parts]:
    """A node's parts, and their end."""
    parts = Parts(settings, around or Surroundings())
    try:
        yield parts
    finally:
        await parts.close()


@asynccontextmanager
async def local_node(settings: Settings) -> AsyncIterator[LocalNode]:
    """A node without its HTTP side, for a program that answers itself; unloads everything at the end."""
    async with tied_together(settings) as parts:
        yield parts.node


async def run(settings: Settings, cluster: ClusterSettings) -> None:
    """Serves until SIGINT or SIGTERM; a second one does not wait for answers under way.

    Raises `NotReady` where the address cannot be had, and `ModelNotFound` for a model to preload that is
    not here.
    """
    sock = listen(settings.http.host, settings.http.port)
    with contextlib.closing(sock):
        http = msgspec.structs.replace(settings.http, port=sock.getsockname()[1])
        settings = msgspec.structs.replace(settings, http=http)
        if cluster.discovery == "none" and not cluster.peers and not cluster.routers:
            async with tied_together(settings) as parts:
                await parts.ask_upstreams()
                await _serve(parts, parts.node, settings, sock)
        else:
            await _serve_together(settings, cluster, sock)


async def _serve_together(settings: Settings, cluster: ClusterSettings, sock: socket.socket) -> None:
    """As a node of a cluster. What it takes is imported here, as a node alone does without it."""
    from exo.cluster.dispatch import ClusterNode
    from exo.cluster.membership import Membership
    from exo.cluster.reach import reachable_at

    others: list[Node] = []

    def see(nodes: Sequence[Node]) -> None:
        before = parts.shelf.cards
        others[:] = nodes
        parts.metrics.nodes.set(1 + len(nodes))
        if parts.shelf.cards != before:  # by another split, as other nodes are there
            membership.announce()

    def announce() -> None:
        membership.announce()

    host = settings.http.host
    peers, tls = _certified(host, settings.http.port, cluster)
    with contextlib.closing(peers[0]) if peers else contextlib.nullcontext():
        url = f"https://{host}:{peers[0].getsockname()[1]}" if peers else None
        around = Surroundings(
            url=url,
            addresses=lambda: reachable_at(host),
            peers=lambda: others,
            changed=announce,
            secret=cluster.secret,
            tls=tls,
        )
        async with tied_together(settings, around) as parts:
            metrics = parts.metrics
            together = ClusterNode(
                parts.node,
                lambda: others,
                key=settings.http.key,
                secret=cluster.secret,
                tls=tls,
                on_failover=lambda when: metrics.failovers.labels(when).inc(),
            )
            membership = Membership(cluster, parts.node.state, see)
            try:
                # First of all: the others ask for a model at once.
                await parts.ask_upstreams()
                await membership.start()
                parts.wait_for(settings.wait_for_peers, lambda: len(others))
                await _serve(parts, together, settings, sock, cluster.secret, peers)
            finally:
                await membership.close()
                await together.close()


def _certified(
    host: str, port: int, cluster: ClusterSettings
) -> tuple[tuple[socket.socket, ssl.SSLContext] | None, ssl.SSLContext | None]:
    """In a cluster with certificates: the port for peers alone, and what this node shows to them."""
    if cluster.tls is None:
        return None, None
    files = (cluster.tls.ca, cluster.tls.certificate, cluster.tls.key)
    # Beside the API's, so that a firewall can be told.
    return (listen(host, port + 1), server_context(*files)), client_context(*files)


async def _serve(
    parts: Parts,
    served: Served,
    settings: Settings,
    sock: socket.socket,
    secret: bytes | None = None,
    peers: tuple[socket.socket, ssl.SSLContext] | None = None,
) -> None:
    http = settings.http
    for model in settings.preload:
        await parts.node.card(model)
    if why := parts.why_not_ready():
        log.warning("no chat can be served yet: %s", why)
    parts.node.check_limits()
    choices = parts.metrics.choices
    automatic = Automatic(settings.auto, lambda picked: choices.labels(picked.kind, picked.model).inc())
    desk = Desk(
        served,
        parts.metrics,
        http,
        parts.why_not_ready,
        secret,
        certified=peers is not None,
        automatic=automatic,
    )
    app = build(
        desk,
        openai_routes.routes(),
        responses_routes.routes(KeptResponses()),
        ollama_routes.routes(),
        anthropic_routes.routes(),
        cluster_routes.routes(),
        download_routes.routes(parts.shelf),
        shard_routes.routes(parts.host),
        token_routes.routes(),
        service_routes.routes(),
    )
    stop = stop_on_signals(desk)
    log.info("listening on http://%s:%d", http.host, http.port)
    log.info("models: %s", ", ".join(sorted(card.id for card in parts.node.state().cards)) or "none")
    warn_if_open(http)
    if http.key and served is not parts.node and secret is None and peers is None:
        log.warning(
            "EXO_API_KEY is sent to every node that joins this open cluster: set EXO_CLUSTER_SECRET, too"
        )
    preloading = asyncio.create_task(parts.preload(settings.preload))
    leaving = asyncio.create_task(_then(stop, parts.node.leave))
    try:
        await serve(app, sock, stop, peers)
    finally:
        for task in (preloading, leaving):
            task.cancel()
        await asyncio.wait([preloading, leaving])


async def _then(event: asyncio.Event, do: Callable[[], None]) -> None:
    await event.wait()
    do()
