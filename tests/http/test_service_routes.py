"""What Prometheus is told over HTTP."""

from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from exo.chat import Text
from exo.http import service_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.metrics import Metrics
from exo.nodes import Cluster, Device, Node
from exo.settings import HttpSettings
from tests.doubles import card, served
from tests.http.test_answers import END, Source

KEY = "a-long-key"


def client(key: str | None = None, why_not: str | None = None) -> TestClient[Any, Any]:
    behind = served(Source(Text("a"), END), card("m"))
    device = Device(name="a", cores=1, memory=1)
    me = Node(id="pc", url="http://0.0.0.0:52415", version="0", device=device, cards=(), loaded=(), waiting=0)
    behind.cluster = lambda: Cluster(me=me)  # type: ignore[method-assign]
    desk = Desk(behind, Metrics("0", ()), HttpSettings(key=key), lambda: why_not)
    return TestClient(TestServer(build(desk, service_routes.routes())))


async def test_a_node_names_itself_as_it_was_reached() -> None:
    async with client() as prometheus:
        answer = await prometheus.get("/v1/prometheus/targets")
        assert answer.status == 200
        assert answer.content_type == "application/json"
        assert await answer.json() == [
            {"targets": ["127.0.0.1:52415"], "labels": {"job": "exo", "node": "pc"}}
        ]


async def test_a_node_that_is_not_ready_yet_has_refused_nobody() -> None:
    async with client(why_not="it waits for peers") as balancer:
        assert (await balancer.get("/ready")).status == 503
        assert (await balancer.get("/v1/prometheus/targets?all=1")).status == 400
        figures = await (await balancer.get("/metrics")).text()
    assert 'exo_requests_total{model="unknown",status="error"} 1.0' in figures
    assert 'type="not_ready"' not in figures


async def test_there_is_nothing_to_be_chosen() -> None:
    async with client() as prometheus:
        answer = await prometheus.get("/v1/prometheus/targets?all=1")
        assert answer.status == 400
        assert (await answer.json())["error"]["param"] == "all"


@pytest.mark.parametrize("path", ["/metrics", "/v1/prometheus/targets"])
async def test_a_node_with_a_key_wants_it_for_its_figures(path: str) -> None:
    async with client(KEY) as prometheus:
        assert (await prometheus.get(path)).status == 401
        answer = await prometheus.get(path, headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status == 200
