"""Ties a node together from its settings, and runs it."""

import asyncio
import contextlib
import logging
import os
import platform
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

import exo
from exo.engines import ENGINES, EngineOptions
from exo.errors import ExoError
from exo.http import openai_routes, service_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.server import listen, serve
from exo.metrics import Metrics
from exo.node import LocalNode
from exo.nodes import Device
from exo.residency import Limits, Residency
from exo.settings import HttpSettings, Settings
from exo.store.catalogue import Catalogue

log = logging.getLogger(__name__)


class Parts:
    """A node's parts, tied together but not yet on the network."""

    def __init__(self, settings: Settings) -> None:
        self._to_load: list[str] = []
        names = (settings.engine,) if settings.engine else tuple(ENGINES)
        options = EngineOptions(slots=settings.slots, context=settings.context, threads=settings.threads)
        self.engines = [ENGINES[name](options) for name in names]
        self.metrics = Metrics(exo.__version__, names)
        self.shelf = Catalogue(*settings.folders, context=settings.context, slots=settings.slots)
        limits = Limits(settings.memory, settings.waiting, settings.idle_seconds, settings.silence)
        self.residency = Residency(self.engines, self.shelf, limits, self.metrics)
        self.metrics.watch_waiting(lambda: self.residency.waiting)
        self.node = LocalNode(
            id=settings.node_id,
            url=f"http://{settings.http.host}:{settings.http.port}",
            version=exo.__version__,
            device=_device(),
            shelf=self.shelf,
            residency=self.residency,
            defaults=settings.defaults,
        )

    async def preload(self, models: Sequence[str]) -> None:
        """Loads them one after the other; one that fails is logged, and tried again when it is asked for."""
        self._to_load = list(models)
        while self._to_load:
            try:
                await self.residency.load(self._to_load[0])
            except ExoError as error:
                log.error("preloading failed: %s", error.message)
            self._to_load.pop(0)

    def why_not_ready(self) -> str | None:
        """Why no chat could be served now; None when one could."""
        if self._to_load:
            return f"loading {self._to_load[0]}"
        formats = {card.format for card in self.shelf.cards}
        if not formats:
            return "there is no model on this node's disk"
        reasons = [engine.unavailable() for engine in self.engines if formats & engine.formats]
        if not reasons:
            return f"no engine enabled on this node loads {' or '.join(sorted(formats))}"
        return None if None in reasons else "; ".join(reason for reason in reasons if reason)


@asynccontextmanager
async def local_node(settings: Settings) -> AsyncIterator[LocalNode]:
    """A node without its HTTP side, for a program that answers itself; unloads everything at the end."""
    parts = Parts(settings)
    try:
        yield parts.node
    finally:
        await parts.residency.close()


async def run(settings: Settings) -> None:
    """Serves until SIGINT or SIGTERM; a second one does not wait for answers under way.

    Raises `NotReady` where the address cannot be had, and `ModelNotFound` for a model to preload that is
    not here.
    """
    sock = listen(settings.http.host, settings.http.port)
    with contextlib.closing(sock):
        http = msgspec.structs.replace(settings.http, port=sock.getsockname()[1])
        parts = Parts(msgspec.structs.replace(settings, http=http))
        for model in settings.preload:
            await parts.node.route(model)
        if why := parts.why_not_ready():
            log.warning("no chat can be served yet: %s", why)
        desk = Desk(parts.node, parts.metrics, http, parts.why_not_ready)
        app = build(desk, openai_routes.routes(), service_routes.routes())
        stop = _stop_signal(desk)
        log.info("listening on http://%s:%d", http.host, http.port)
        log.info("models: %s", ", ".join(sorted(parts.shelf)) or "none")
        _warn_if_open(http)
        preloading = asyncio.create_task(parts.preload(settings.preload))
        try:
            await serve(app, sock, stop)
        finally:
            preloading.cancel()
            await asyncio.wait([preloading])
            await parts.residency.close()


def _stop_signal(desk: Desk) -> asyncio.Event:
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            desk.abandon()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return stop


def _warn_if_open(http: HttpSettings) -> None:
    if http.host not in ("127.0.0.1", "::1", "localhost") and not http.key:
        log.warning("anyone on this network can use this node: set EXO_API_KEY, or --host 127.0.0.1")


def _device() -> Device:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(name=platform.node() or platform.machine(), cores=os.cpu_count() or 1, memory=memory)
