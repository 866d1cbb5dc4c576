"""Ties a node together from its settings, and runs it."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

import exo
from exo.devices import detect
from exo.engines import ENGINES, EngineOptions
from exo.errors import ExoError
from exo.http import cluster_routes, ollama_routes, openai_routes, service_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.server import listen, serve, stop_on_signals, warn_if_open
from exo.http.upstream import Upstream
from exo.metrics import Metrics
from exo.node import LocalNode
from exo.residency import Limits, Residency
from exo.settings import Settings
from exo.store.catalogue import Catalogue

log = logging.getLogger(__name__)


class Parts:
    """A node's parts, tied together but not yet on the network."""

    def __init__(self, settings: Settings) -> None:
        self._to_load: list[str] = []
        names = [name for name in ENGINES if settings.engine in (None, name)]
        options = EngineOptions(slots=settings.slots, context=settings.context, threads=settings.threads)
        self.engines = [ENGINES[name](options) for name in names]
        npu = any(upstream.kind == "rkllm" for upstream in settings.upstreams)
        self.metrics = Metrics(exo.__version__, (*names, "rkllm") if npu else tuple(names))
        # Without an engine of its own, what is on this disk is for another node.
        folders = settings.folders if names else ()
        self.shelf = Catalogue(*folders, context=settings.context, slots=settings.slots)
        limits = Limits(settings.memory, settings.waiting, settings.idle_seconds, settings.silence)
        self.residency = Residency(self.engines, self.shelf, limits, self.metrics)
        self.metrics.watch_waiting(lambda: self.residency.waiting)
        self.upstreams = [Upstream(each, silence=settings.silence) for each in settings.upstreams]
        self.node = LocalNode(
            id=settings.node_id,
            url=f"http://{settings.http.host}:{settings.http.port}",
            version=exo.__version__,
            device=detect(),
            shelf=self.shelf,
            residency=self.residency,
            defaults=settings.defaults,
            upstreams=self.upstreams,
        )

    async def preload(self, models: Sequence[str]) -> None:
        """Loads them one after the other; one that fails is logged, and tried again when it is asked for."""
        self._to_load = list(models)
        while self._to_load:
            try:
                await self.node.load(self._to_load[0])
            except ExoError as error:
                log.error("preloading failed: %s", error.message)
            self._to_load.pop(0)

    def why_not_ready(self) -> str | None:
        """Why no chat could be served now; None when one could."""
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
        """Unloads everything, and lets go of the servers."""
        await self.residency.close()
        for upstream in self.upstreams:
            await upstream.close()


@asynccontextmanager
async def tied_together(settings: Settings) -> AsyncIterator[Parts]:
    """A node's parts, and their end."""
    parts = Parts(settings)
    try:
        yield parts
    finally:
        await parts.close()


@asynccontextmanager
async def local_node(settings: Settings) -> AsyncIterator[LocalNode]:
    """A node without its HTTP side, for a program that answers itself; unloads everything at the end."""
    async with tied_together(settings) as parts:
        yield parts.node


async def run(settings: Settings) -> None:
    """Serves until SIGINT or SIGTERM; a second one does not wait for answers under way.

    Raises `NotReady` where the address cannot be had, and `ModelNotFound` for a model to preload that is
    not here.
    """
    sock = listen(settings.http.host, settings.http.port)
    with contextlib.closing(sock):
        http = msgspec.structs.replace(settings.http, port=sock.getsockname()[1])
        settings = msgspec.structs.replace(settings, http=http)
        async with tied_together(settings) as parts:
            await _serve(parts, settings, sock)


async def _serve(parts: Parts, settings: Settings, sock: socket.socket) -> None:
    http = settings.http
    await parts.ask_upstreams()
    for model in settings.preload:
        await parts.node.card(model)
    if why := parts.why_not_ready():
        log.warning("no chat can be served yet: %s", why)
    desk = Desk(parts.node, parts.metrics, http, parts.why_not_ready)
    app = build(
        desk, openai_routes.routes(), ollama_routes.routes(), cluster_routes.routes(), service_routes.routes()
    )
    stop = stop_on_signals(desk)
    log.info("listening on http://%s:%d", http.host, http.port)
    log.info("models: %s", ", ".join(sorted(card.id for card in parts.node.cluster().me.cards)) or "none")
    warn_if_open(http)
    preloading = asyncio.create_task(parts.preload(settings.preload))
    try:
        await serve(app, sock, stop)
    finally:
        preloading.cancel()
        await asyncio.wait([preloading])
