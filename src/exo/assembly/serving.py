"""A node's parts on the network, with all their dialects."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Protocol

from exo.assembly.parts import Parts
from exo.cluster.network import addresses
from exo.cluster.reach import reachable_at
from exo.http import (
    anthropic_routes,
    cluster_routes,
    download_routes,
    ollama_routes,
    openai_routes,
    page_routes,
    responses_routes,
    service_routes,
    shard_routes,
    token_routes,
    watch_routes,
)
from exo.http.app import build
from exo.http.automatic import Automatic
from exo.http.desk import Desk, Served
from exo.http.kept_responses import KeptResponses
from exo.http.server import serve, stop_on_signals, warn_if_open
from exo.settings import HttpSettings, Settings

log = logging.getLogger(__name__)


class Display(Protocol):
    """Shows a node for as long as it serves. `stop` is set when that ends; answers may still be under way."""

    def __call__(
        self, parts: Parts, served: Served, http: HttpSettings, stop: asyncio.Event
    ) -> AbstractAsyncContextManager[None]: ...


async def serve_node(
    parts: Parts,
    served: Served,
    settings: Settings,
    sock: socket.socket,
    secret: bytes | None = None,
    peers: tuple[socket.socket, ssl.SSLContext] | None = None,
    display: Display | None = None,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Serves at `sock` until SIGINT or SIGTERM, with `tls` over HTTPS: what answers is `served`, the node
    itself or its cluster. Other nodes show that they know `secret`, or come with a certificate to the port
    for `peers`. `display` shows it all to whoever started the node.

    Raises `ModelNotFound` for a model to preload that is not here.
    """
    http = settings.http
    for model in settings.preload:
        await parts.node.card(model)
    if why := parts.readiness.why_not():
        log.warning("no chat can be served yet: %s", why)
    parts.node.check_limits()
    for flag, named in (("--auto-quick", settings.auto.quick), ("--auto-reasoning", settings.auto.reasoning)):
        if named is not None and not parts.node.has(named):
            log.warning("%s %s has no effect before some node has that model; this one does not", flag, named)
    metrics = parts.metrics
    automatic = Automatic(settings.auto, lambda picked: metrics.chosen(picked.kind, picked.model))
    desk = Desk(
        served,
        parts.metrics,
        http,
        parts.readiness.why_not,
        secret,
        certified=peers is not None,
        automatic=automatic,
        traces=parts.traces,
        idle_seconds=settings.idle_seconds,
    )
    page = page_routes.assets()
    app = build(
        desk,
        openai_routes.routes(),
        responses_routes.routes(KeptResponses()),
        ollama_routes.routes(),
        anthropic_routes.routes(),
        cluster_routes.routes(),
        watch_routes.routes(parts.watch),
        download_routes.routes(parts.shelf),
        shard_routes.routes(parts.host),
        token_routes.routes(),
        service_routes.routes(),
        page_routes.routes(page),
        open_paths=page,
    )
    stop = stop_on_signals(desk)
    log.info("listening on %s", http.url)
    if http.host == "0.0.0.0" and addresses() and not reachable_at(http.host):
        log.warning("others reach 0.0.0.0 by IPv4, of which this machine has no address: use --host ::")
    log.info("models: %s", ", ".join(sorted(card.id for card in parts.node.state().cards)) or "none")
    warn_if_open(desk)
    if http.requests_per_minute and desk.guard.asks:
        log.warning("--requests-per-minute has no effect: this node has keys, which have limits of their own")
    if served is not parts.node and peers is None:
        if http.key and secret is None:
            log.warning(
                "EXO_API_KEY is sent to every node that joins this open cluster: set EXO_CLUSTER_SECRET, too"
            )
        if not http.key and desk.guard.asks:
            log.warning(
                "other nodes cannot pass requests on to this one, as they have none of its keys: set the "
                "same EXO_API_KEY on all nodes, or make certificates with exo cluster init"
            )
    preloading = asyncio.create_task(parts.readiness.preload(settings.preload, parts.node.load))
    leaving = asyncio.create_task(_then(stop, parts.leave))
    try:
        async with display(parts, served, http, stop) if display else nullcontext():
            await serve(app, sock, stop, peers, tls)
    finally:
        for task in (preloading, leaving):
            task.cancel()
        await asyncio.wait([preloading, leaving])


async def _then(event: asyncio.Event, do: Callable[[], None]) -> None:
    await event.wait()
    do()
