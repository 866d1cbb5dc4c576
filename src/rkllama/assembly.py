"""Ties the NPU server together from its settings, and runs it.

It is a node like exo's, with one engine, on one machine, with three dialects: OpenAI's, Ollama's and the
original NPU server's.
"""

import asyncio
import contextlib
import logging
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import msgspec

import exo
from exo import devices
from exo.errors import ExoError
from exo.http import (
    anthropic_routes,
    cluster_routes,
    ollama_routes,
    openai_routes,
    responses_routes,
    rkllama_routes,
    service_routes,
    token_routes,
)
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.kept_responses import KeptResponses
from exo.http.server import listen, serve, stop_on_signals, warn_if_open
from exo.node.local import LocalNode
from exo.residency.residency import Limits, Residency
from exo.settings import Defaults, HttpSettings
from exo.traces.opening import opened
from rkllama.engine import RkllmEngine
from rkllama.metrics import NpuMetrics
from rkllama.models.catalogue import Models

log = logging.getLogger(__name__)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The NPU server's configuration.

    `library` is the vendor's, of `release` or the one it shows to be. `cpus` is a mask of the CPU cores that
    the runtime may use. `memory`, in bytes, is for all models together, `waiting` requests may queue, a model
    idle for `idle_seconds` is unloaded (None: never), those in `preload` are loaded at start. `hub` is where
    models are downloaded from. The machine's own files are under `root`. `traces` is the URL of the collector
    that traces are sent to.
    """

    http: HttpSettings
    models: Path
    library: Path
    release: str | None = None
    cpus: int | None = None
    memory: int
    waiting: int = 64
    idle_seconds: float | None = None
    preload: tuple[str, ...] = ()
    default_model: str | None = None
    hub: str | None = None
    hub_token: str | None = None
    root: Path = Path("/")
    traces: str | None = None


async def run(settings: Settings) -> None:
    """Serves until SIGINT or SIGTERM; a second one does not wait for answers under way.

    Raises `NotReady` where the address cannot be had, and `ModelNotFound` for a model to preload that is
    not here.
    """
    sock = listen(settings.http.host, settings.http.port)
    with contextlib.closing(sock):
        http = msgspec.structs.replace(settings.http, port=sock.getsockname()[1])
        traces = opened(settings.traces, service="rkllama", instance=f"{platform.node()}:{http.port}")
        models = Models(settings.models, hub=settings.hub, token=settings.hub_token)
        metrics = NpuMetrics(exo.__version__, lambda: _memory(engine))
        engine = RkllmEngine(
            models,
            settings.library,
            release=settings.release,
            cpus=settings.cpus,
            on_answer=metrics.inferred,
            traces=traces,
        )
        # How long an answer may be silent is the engine's to say: it knows the prompt.
        limits = Limits(settings.memory, settings.waiting, settings.idle_seconds, silence=None)
        residency = Residency([engine], models, limits, metrics, traces=traces)
        metrics.watch_waiting(lambda: residency.waiting)
        node = LocalNode(
            id="rkllama",
            url=http.url,
            version=exo.__version__,
            device=devices.detect(settings.root),
            shelf=models,
            residency=residency,
            defaults=Defaults(model=settings.default_model),
            sense=lambda device: devices.now(device, settings.root),
        )
        metrics.watch(node.state, settings.models, settings.root)
        for model in settings.preload:
            await node.card(model)
        to_load = list(settings.preload)
        desk = Desk(
            node,
            metrics,
            http,
            lambda: _why_not_ready(models, to_load),
            idle_seconds=settings.idle_seconds,
            traces=traces,
        )
        app = build(
            desk,
            openai_routes.routes(prefixes=("/v1",)),
            ollama_routes.routes(),
            anthropic_routes.routes(),
            responses_routes.routes(KeptResponses(), prefixes=("/v1",)),
            rkllama_routes.routes(),
            cluster_routes.routes(),
            token_routes.routes(),
            service_routes.routes(),
        )
        app.on_response_prepare.append(metrics.answered)
        stop = stop_on_signals(desk)
        log.info("listening on %s", http.url)
        log.info("models: %s", ", ".join(models) or f"none in {models.folder}")
        warn_if_open(desk)
        preloading = asyncio.create_task(_preload(residency, to_load))
        try:
            await serve(app, sock, stop)
        finally:
            preloading.cancel()
            await asyncio.wait([preloading])
            await residency.close()
            await traces.close()


async def _preload(residency: Residency, to_load: list[str]) -> None:
    """One after the other; one that fails is logged, and tried again when it is asked for."""
    while to_load:
        try:
            await residency.load(to_load[0])
        except ExoError as error:
            log.error("preloading failed: %s", error.message)
        to_load.pop(0)


def _why_not_ready(models: Models, to_load: list[str]) -> str | None:
    if to_load:
        return f"loading {to_load[0]}"
    return None if models else f"there is no model in {models.folder}"


def _memory(engine: RkllmEngine) -> Mapping[str, int]:
    """Resident bytes of this process and of each model's."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {"server": pages * os.sysconf("SC_PAGE_SIZE"), **engine.memory()}
