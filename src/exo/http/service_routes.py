"""What is asked about the node rather than of a model: health, readiness, metrics, its API's description."""

from collections.abc import Sequence

from aiohttp import web

from exo.errors import NotReady
from exo.http.app import json_answer, only
from exo.http.desk import DESK
from exo.metrics import CONTENT_TYPE
from exo.wire import openapi, prometheus


def routes() -> Sequence[web.AbstractRouteDef]:
    return [
        web.get("/healthcheck", healthcheck),
        web.get("/ready", ready),
        web.get("/metrics", metrics),
        web.get("/v1/prometheus/targets", targets),
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
    body = await http.app[DESK].metrics.exposition_in_turns()
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


async def targets(http: web.Request) -> web.Response:
    """Where Prometheus finds the figures of all nodes, and of the NPU servers behind them."""
    only(http)
    desk = http.app[DESK]
    assert http.transport is not None, "a request that is answered has a connection"
    # The address by which whoever asks reaches this machine: it may have several.
    host = str(http.transport.get_extra_info("sockname")[0]).partition("%")[0].removeprefix("::ffff:")
    groups = prometheus.target_groups(desk.served.cluster(), desk.metrics.job, host)
    return json_answer(prometheus.answer(groups))


async def description(http: web.Request) -> web.Response:
    return json_answer(openapi.document(http.app[DESK].served.cluster().me.version))
