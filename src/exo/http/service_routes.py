"""What is asked about the node rather than of a model: health, readiness, metrics, its API's description."""

from collections.abc import Sequence

from aiohttp import web

from exo.errors import NotReady
from exo.http.app import json_answer
from exo.http.desk import DESK
from exo.metrics import CONTENT_TYPE
from exo.wire import openapi


def routes() -> Sequence[web.AbstractRouteDef]:
    return [
        web.get("/healthcheck", healthcheck),
        web.get("/ready", ready),
        web.get("/metrics", metrics),
        web.get("/openapi.json", description),
    ]


async def healthcheck(http: web.Request) -> web.Response:
    """The process is alive; says nothing of models."""
    return json_answer(b'{"status":"ok"}')


async def ready(http: web.Request) -> web.Response:
    """200 when a chat would be served, 503 with the reason when not: what a balancer should ask."""
    if why := http.app[DESK].why_not_ready():
        raise NotReady(why)
    return json_answer(b'{"status":"ready"}')


async def metrics(http: web.Request) -> web.Response:
    return web.Response(body=http.app[DESK].metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})


async def description(http: web.Request) -> web.Response:
    return json_answer(openapi.document(http.app[DESK].served.cluster().me.version))
