"""What is asked about a cluster and of it, over real nodes whose states are told directly."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession, ClientTimeout
from aiohttp.test_utils import TestServer
from aiohttp.web import RouteDef

from exo.engines.scripted import Fail, Hang, Wait
from exo.errors import ConnectionLost, EngineFailed, ExoError, ModelNotFound, NotReady, Unauthorized
from exo.http import cluster_routes, openai_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.headers import HOP_HEADER, PROOF_HEADER, proof
from exo.http.peer import Peer
from exo.metrics import Metrics
from exo.settings import HttpSettings
from exo.wire import openapi
from tests.cluster.test_dispatch import WORDS, Machine

SECRET = b"shared"
# As whoever is not on the machine itself comes, here where all are.
ELSEWHERE = {"X-Forwarded-For": "198.18.0.9"}
QUICK = HttpSettings(keepalive=0.01)


class Server(Machine):
    """A node with the routes of a cluster, and a client to it."""

    settings = HttpSettings()

    async def start(self) -> None:
        self.desk = Desk(self.node, Metrics("0", ()), self.settings, lambda: None, self.secret)
        app = build(self.desk, openai_routes.routes(), cluster_routes.routes())
        self.server = TestServer(app, handler_cancellation=True)
        await self.server.start_server()
        self.url = str(self.server.make_url("")).rstrip("/")

    def loaded(self) -> list[str]:
        return [r.model for r in self.here.state().loaded if r.state == "ready"]

    async def ask(
        self, verb: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any]:
        async with (
            ClientSession(timeout=ClientTimeout(10)) as client,
            client.request(verb, self.url + path, json=body, headers=headers) as answer,
        ):
            return answer.status, json.loads(await answer.read())

    async def fails(self, verb: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        status, said = await self.ask(verb, path, body, headers)
        assert status >= 400
        return status, said["error"]


class Servers:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.all: list[Server] = []

    async def add(
        self, *ids: str, secret: bytes | None = None, settings: HttpSettings | None = None
    ) -> Sequence[Server]:
        added = [Server(id, self._folder / id, waiting=64, secret=secret) for id in ids]
        for server in added:
            server.settings = settings or server.settings
            await server.start()
        self.all += added
        for server in self.all:
            server.peers = [other for other in self.all if other is not server]
        return added


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    servers = Servers(tmp_path)
    yield servers
    async with AsyncExitStack() as stack:
        for server in servers.all:
            stack.push_async_callback(server.residency.close)
            stack.push_async_callback(server.stop)
            stack.push_async_callback(server.node.close)


async def turned(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


# Who is there


async def test_every_route_is_described() -> None:
    described = json.loads(openapi.document("0"))["paths"]
    for route in cluster_routes.routes():
        assert isinstance(route, RouteDef)
        assert route.method.lower() in described[route.path]


async def test_the_nodes_are_told(servers: Servers) -> None:
    a, b = await servers.add("a", "b")
    await b.put("m")
    status, said = await a.ask("GET", "/v1/cluster")
    assert status == 200
    assert said["me"]["id"] == "a"
    assert [(peer["id"], [card["id"] for card in peer["cards"]]) for peer in said["peers"]] == [("b", ["m"])]


async def test_the_topology_has_the_originals_shape(servers: Servers) -> None:
    a, *_ = await servers.add("a", "b", "c")
    _, said = await a.ask("GET", "/v1/topology")
    assert said["active_node_id"] == "a"
    assert set(said["nodes"]) == {"a", "b", "c"}
    assert set(said["nodes"]["b"]) == {"model", "chip", "memory", "flops"}
    assert said["nodes"]["b"]["flops"] == {"fp32": 0, "fp16": 0, "int8": 0}
    assert {id: {link["to_id"] for link in links} for id, links in said["peer_graph"].items()} == {
        "a": {"b", "c"},
        "b": {"a", "c"},
        "c": {"a", "b"},
    }
    assert said["peer_graph"]["a"][0] == {"from_id": "a", "to_id": "b", "description": "HTTP"}


async def test_a_route_is_explained_before_it_is_taken(servers: Servers) -> None:
    a, b, c = await servers.add("a", "b", "c")
    for server in (b, c):
        await server.put("m", load=(Wait(0.001),))
    await c.here.load("m")
    _, said = await a.ask("GET", "/v1/route/explain?model=m&prompt_tokens=1000&max_tokens=10")
    assert said["model"] == "m"
    assert [route["node"] for route in said["routes"]] == ["c", "b"]
    assert "loaded" in said["routes"][0]["why"]
    assert any("1,000 tokens" in why for why in said["routes"][0]["why"])
    assert said["routes"][0]["seconds"] < said["routes"][1]["seconds"]


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/v1/cluster?nodes=2"),
        ("GET", "/v1/topology?nodes=2"),
        ("GET", "/v1/route/explain?model=m&nodes=2"),
        ("POST", "/v1/load?nodes=2"),
        ("POST", "/v1/spread?nodes=2"),
    ],
)
async def test_an_unknown_parameter_is_named(servers: Servers, verb: str, path: str) -> None:
    (a,) = await servers.add("a")
    await a.put("m")
    status, error = await a.fails(verb, path, {"model": "m", "nodes": 1} if verb == "POST" else None)
    assert (status, error["param"]) == (400, "nodes")
    assert '"nodes"' in error["message"]


@pytest.mark.parametrize("value", ["-1", "1.5", "many", "", "9" * 30, "²"])
async def test_a_number_of_tokens_that_is_none_is_named(servers: Servers, value: str) -> None:
    (a,) = await servers.add("a")
    await a.put("m")
    status, error = await a.fails("GET", f"/v1/route/explain?model=m&max_tokens={value}")
    assert (status, error["param"]) == (400, "max_tokens")


async def test_no_route_leads_to_a_model_nobody_has(servers: Servers) -> None:
    a, b = await servers.add("a", "b")
    await b.put("model-of-b")
    status, error = await a.fails("GET", "/v1/route/explain?model=model-of-c")
    assert (status, error["code"]) == (404, "model_not_found")
    assert "model-of-b" in error["message"]
    status, error = await a.fails("GET", "/v1/route/explain")
    assert (status, error["param"]) == (400, "model")


# Loading


async def test_the_owner_loads_a_model(servers: Servers) -> None:
    (a,) = await servers.add("a")
    await a.put("m")
    status, said = await a.ask("POST", "/v1/load", {"model": "m"})
    assert status == 200
    assert (said["model"], said["node"]) == ("m", "a")
    assert a.loaded() == ["m"]


async def test_a_stranger_loads_nothing_but_by_asking(servers: Servers) -> None:
    (a,) = await servers.add("a")
    await a.put("m")
    for path, body in (("/v1/load", {"model": "m"}), ("/v1/spread", {"model": "m", "nodes": 1})):
        status, error = await a.fails("POST", path, body, **ELSEWHERE)
        assert (status, error["code"]) == (403, "forbidden")
    assert a.loaded() == []


async def test_another_node_may_load_what_a_chat_it_passes_on_would(servers: Servers) -> None:
    (a,) = await servers.add("a")
    await a.put("m")
    status, _ = await a.ask("POST", "/v1/load", {"model": "m"}, {**ELSEWHERE, HOP_HEADER: "b"})
    assert status == 200
    assert a.loaded() == ["m"]
    # It is no more than that: whole machines are spread over by their owner.
    body = {"model": "m", "nodes": 1}
    status, _ = await a.fails("POST", "/v1/spread", body, **ELSEWHERE, **{HOP_HEADER: "b"})
    assert status == 403


async def test_where_there_is_a_secret_a_node_has_to_prove_that_it_is_one(servers: Servers) -> None:
    (a,) = await servers.add("a", secret=SECRET)
    await a.put("m")
    for guess in ({}, {PROOF_HEADER: proof(b"guessed", "b")}, {PROOF_HEADER: proof(SECRET, "c")}):
        status, error = await a.fails("POST", "/v1/load", {"model": "m"}, **{HOP_HEADER: "b"}, **guess)
        assert (status, error["code"]) == (401, "unauthorized")
    assert a.loaded() == []
    proven = {**ELSEWHERE, HOP_HEADER: "b", PROOF_HEADER: proof(SECRET, "b")}
    assert (await a.ask("POST", "/v1/load", {"model": "m"}, proven))[0] == 200


async def test_a_node_loads_only_what_it_has(servers: Servers) -> None:
    a, b = await servers.add("a", "b")
    await b.put("m")
    status, error = await a.fails("POST", "/v1/load", {"model": "m"})
    assert (status, error["code"]) == (404, "model_not_found")
    assert b.loaded() == []


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/load", {}, "model"),
        ("/v1/load", {"model": ""}, "model"),
        ("/v1/load", {"model": "m", "nodes": 1}, "nodes"),
        ("/v1/spread", {"model": "m"}, "nodes"),
        ("/v1/spread", {"model": "m", "nodes": 0}, "nodes"),
        ("/v1/spread", {"model": "m", "nodes": "two"}, "nodes"),
    ],
)
async def test_a_bad_body_is_named(servers: Servers, path: str, body: object, param: str) -> None:
    (a,) = await servers.add("a")
    status, error = await a.fails("POST", path, body)
    assert (status, error["param"]) == (400, param)


# Spreading


async def spread(server: Server, nodes: int, model: str = "m") -> Any:
    status, said = await server.ask("POST", "/v1/spread", {"model": model, "nodes": nodes})
    assert status == 200, said
    return said


def states(said: Any) -> dict[str, str]:
    return {each["node"]: each["state"] for each in said["placements"]}


async def test_a_model_is_loaded_on_as_many_nodes_as_wanted(servers: Servers) -> None:
    all = await servers.add("a", "b", "c")
    for server in all:
        await server.put("m")
    said = await spread(all[0], 2)
    assert (said["model"], said["wanted"], said["loaded"], said["problem"]) == ("m", 2, 2, "")
    assert sorted(states(said)) == sorted(server.id for server in all if server.loaded() == ["m"])
    assert len(states(said)) == 2
    assert (await spread(all[1], 3))["loaded"] == 3
    assert all[0].loaded() == all[1].loaded() == all[2].loaded() == ["m"]


async def test_nodes_that_have_it_in_memory_come_first(servers: Servers) -> None:
    a, b, c = await servers.add("a", "b", "c")
    for server in (a, b, c):
        await server.put("m")
    await c.put("slow", *WORDS, Hang())
    await c.here.load("m")
    # So long a queue that a request would go elsewhere.
    busy = asyncio.create_task(c.ask("POST", "/v1/chat/completions", chat("slow")))
    await turned(lambda: c.busy() == 1)
    assert states(await spread(a, 1)) == {"c": "loaded"}
    busy.cancel()
    await asyncio.gather(busy, return_exceptions=True)


def chat(model: str) -> object:
    return {"model": model, "messages": [{"role": "user", "content": "count"}]}


async def test_for_a_node_that_fails_the_next_best_takes_its_place(servers: Servers) -> None:
    a, b, c = await servers.add("a", "b", "c")
    await a.put("m", load=(Fail("the disk broke"),))
    await b.put("m")
    await c.put("m")
    said = await spread(a, 2)
    assert (said["loaded"], said["problem"]) == (2, "")
    assert states(said) == {"a": "failed", "b": "loaded", "c": "loaded"}
    failed = next(each for each in said["placements"] if each["node"] == "a")
    assert "the disk broke" in failed["reason"]


async def test_too_few_nodes_are_said_to_be(servers: Servers) -> None:
    a, b, _ = await servers.add("a", "b", "c")
    await a.put("m")
    await b.put("m", load=(Fail("the disk broke"),))
    said = await spread(a, 3)
    assert (said["wanted"], said["loaded"]) == (3, 1)
    assert "3 nodes were asked for, and 1 can have it" in said["problem"]
    assert "b: the disk broke" in said["problem"]
    assert "c: the model is not on its disk" in said["problem"]


async def test_where_no_node_can_load_it_the_request_has_failed(servers: Servers) -> None:
    a, b = await servers.add("a", "b")
    for server, why in ((a, "fire"), (b, "water")):
        await server.put("m", load=(Fail(why),))
    status, error = await a.fails("POST", "/v1/spread", {"model": "m", "nodes": 2})
    assert (status, error["code"]) == (503, "not_ready")
    assert "fire" in error["message"]
    assert "water" in error["message"]
    status, error = await a.fails("POST", "/v1/spread", {"model": "nothing", "nodes": 2})
    assert status == 404


async def test_nodes_with_a_secret_load_for_each_other(servers: Servers) -> None:
    a, b = await servers.add("a", "b", secret=SECRET)
    await b.put("m")
    assert states(await spread(a, 1)) == {"b": "loaded"}


async def test_a_node_that_is_gone_is_a_failure_with_its_name(servers: Servers) -> None:
    a, b = await servers.add("a", "b")
    await a.put("m")
    await b.put("m")
    await b.stop()
    said = await spread(a, 2)
    assert states(said) == {"a": "loaded", "b": "failed"}
    assert "cannot reach node b" in said["problem"]


# Patience


def peer(server: Server, silence: float = 10.0) -> Peer:
    return Peer(server.url, silence=silence, secret=server.secret)


async def test_a_long_load_says_all_the_time_that_it_goes_on(servers: Servers) -> None:
    (a,) = await servers.add("a")
    await a.put("m", load=(Wait(1.2),))
    # A node says something every half a second to another one, so this one is not taken for dead.
    remote = peer(a, silence=0.9)
    try:
        answer = await remote.load("m", via="b")
    finally:
        await remote.close()
    assert (answer.node, a.loaded()) == ("a", ["m"])


async def test_a_client_of_its_own_hears_spaces(servers: Servers) -> None:
    (a,) = await servers.add("a", settings=QUICK)
    await a.put("m", load=(Wait(0.2),))
    async with ClientSession() as client, client.post(a.url + "/v1/load", json={"model": "m"}) as answer:
        body = await answer.read()
    assert body.startswith(b" ")
    assert json.loads(body)["model"] == "m"


@pytest.mark.parametrize(("code", "kind"), [("not_ready", NotReady), ("engine_failed", EngineFailed)])
async def test_a_late_failure_keeps_its_kind(servers: Servers, code: str, kind: type[ExoError]) -> None:
    (a,) = await servers.add("a", settings=QUICK)
    await a.put("m", load=(Wait(0.2), Fail("out of memory", code)))
    remote = peer(a)
    try:
        with pytest.raises(kind, match="out of memory"):
            await remote.load("m", via="b")
        with pytest.raises(NotReady, match="out of memory"):
            await remote.spread("m", 1)
    finally:
        await remote.close()


async def test_an_early_failure_has_its_own_status(servers: Servers) -> None:
    (a,) = await servers.add("a")
    remote = peer(a)
    try:
        with pytest.raises(ModelNotFound):
            await remote.load("m", via="b")
    finally:
        await remote.close()


async def test_without_the_secret_a_peer_loads_nothing(servers: Servers) -> None:
    (a,) = await servers.add("a", secret=SECRET)
    await a.put("m")
    stranger = Peer(a.url)
    try:
        with pytest.raises(Unauthorized, match="'b' does not have this cluster's secret"):
            await stranger.load("m", via="b")
    finally:
        await stranger.close()


async def test_a_node_that_says_nothing_at_all_is_given_up(servers: Servers) -> None:
    (a,) = await servers.add("a")
    await a.put("m", load=(Hang(),))
    remote = peer(a, silence=0.2)
    try:
        with pytest.raises(ConnectionLost, match="silent for"):
            await remote.spread("m", 1)
    finally:
        await remote.close()


async def test_a_client_that_leaves_is_not_waited_for(servers: Servers) -> None:
    (a,) = await servers.add("a", settings=QUICK)
    await a.put("m", load=(Hang(),))
    async with ClientSession() as client, client.post(a.url + "/v1/load", json={"model": "m"}) as answer:
        assert await answer.content.read(1) == b" "
        assert not a.desk._none_under_way.is_set()
    await turned(a.desk._none_under_way.is_set)


async def test_a_shutdown_ends_what_takes_too_long(servers: Servers) -> None:
    settings = msgspec.structs.replace(QUICK, grace=0.0)
    (a,) = await servers.add("a", settings=settings)
    await a.put("m", load=(Hang(),))
    remote = peer(a)
    try:
        loading = asyncio.create_task(remote.load("m", via="b"))
        await turned(lambda: not a.desk._none_under_way.is_set())
        await a.desk.drain()
        with pytest.raises(NotReady, match="shutting down"):
            await loading
    finally:
        await remote.close()
