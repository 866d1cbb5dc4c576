"""The cluster as events: of nodes of this process whose states are told by hand, and of a real one."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientResponse, ClientSession, ClientTimeout
from aiohttp.test_utils import TestServer
from aiohttp.web import RouteDef

from exo.assembly import tied_together
from exo.assembly.together import serve_together
from exo.cluster.settings import ClusterSettings
from exo.engines.scripted import Script, ScriptedModel
from exo.http import cluster_routes, watch_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.server import listen
from exo.http.watch_routes import Watch
from exo.metrics import Metrics
from exo.nodes import Cluster, Node, Prefix, Residence
from exo.settings import HttpSettings, Settings
from exo.wire import cluster as wire
from exo.wire import openapi
from tests.cluster.conftest import Member, join
from tests.cluster.node import node
from tests.doubles import served
from tests.e2e.node import HANG, Wire, events, raw_chat, text, write_script
from tests.e2e.node import Node as Process

__all__ = ["join"]

PAUSE, NEVER = 0.2, 1000.0
SOON = 10.0
"""What takes no longer did not wait for anything that never comes."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_routes, "_PAUSE", PAUSE)
    monkeypatch.setattr(watch_routes, "_MOVES", NEVER)


class Nodes:
    """A cluster that a test changes, and those who watch it."""

    def __init__(self, most: int = 64) -> None:
        self.watch = Watch(most)
        self.now = Cluster(me=node("a"))
        self.looks = 0

    def look(self) -> Cluster:
        self.looks += 1
        return self.now

    def become(self, *peers: Node, **facts: Any) -> None:
        """From now on it is this, and that is told."""
        self.now = Cluster(me=msgspec.structs.replace(self.now.me, **facts), peers=peers)
        self.watch.changed()


def residence(**facts: Any) -> Residence:
    return Residence(**{"model": "m", "state": "ready", "bytes": 1, "slots": 1, "running": 0, **facts})


# What is told, and when


async def test_a_change_is_told_at_once_and_the_cluster_as_it_is_first() -> None:
    nodes = Nodes()
    async with aclosing(nodes.watch.follow(nodes.look)) as seen, asyncio.timeout(SOON):
        assert await anext(seen) == nodes.now
        for waiting in (1, 2):
            nodes.become(node("b", waiting))
            assert (await anext(seen)).peers[0].waiting == waiting


async def test_many_changes_are_one_event_with_the_last_of_them() -> None:
    nodes = Nodes()
    loop = asyncio.get_running_loop()
    async with aclosing(nodes.watch.follow(nodes.look)) as seen:
        await anext(seen)
        began = loop.time()
        news = asyncio.ensure_future(anext(seen))
        for waiting in range(1, 101):
            nodes.become(node("b", waiting))
            await asyncio.sleep(0)
        assert (await news).peers[0].waiting == 100
        assert loop.time() - began >= PAUSE
        assert nodes.looks == 2


async def test_a_watcher_that_was_busy_is_told_the_present_and_not_the_past() -> None:
    nodes = Nodes()
    async with aclosing(nodes.watch.follow(nodes.look)) as seen:
        await anext(seen)
        for waiting in (1, 2, 3):
            nodes.become(node("b", waiting))
            await asyncio.sleep(PAUSE)
        assert (await anext(seen)).peers[0].waiting == 3
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2 * PAUSE):
                await anext(seen)


async def test_what_moves_by_itself_is_no_change_but_is_told_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = Nodes()
    nodes.become(loaded=(residence(),))
    warmer = msgspec.structs.replace(nodes.now.me.device, free=5, temperature=61.0, npu_load=0.5)
    moved = {"device": warmer, "loaded": (residence(idle=3.0, expires_in=9.0, used=2),)}
    async with aclosing(nodes.watch.follow(nodes.look)) as seen:
        await anext(seen)
        news = asyncio.ensure_future(anext(seen))
        for _ in range(3):
            nodes.become(**moved, prefixes=(Prefix("m", (1, 2)),))
            await asyncio.sleep(PAUSE)
        assert not news.done()
        nodes.become(loaded=(residence(running=1),))
        assert (await news).me.device.temperature == 61.0
    monkeypatch.setattr(watch_routes, "_MOVES", 2 * PAUSE)
    async with aclosing(nodes.watch.follow(nodes.look)) as seen:
        began = asyncio.get_running_loop().time()
        for _ in range(3):
            await anext(seen)
        assert asyncio.get_running_loop().time() - began >= 4 * PAUSE


@pytest.mark.parametrize(
    "changed",
    [
        {"waiting": 1},
        {"leaving": True},
        {"version": "2"},
        {"budget": 1},
        {"loaded": (residence(running=1),)},
        {"loaded": (residence(state="loading"),)},
        {"loaded": ()},
    ],
)
def test_what_people_want_to_know_at_once_is_a_change(changed: dict[str, Any]) -> None:
    me = msgspec.structs.replace(node("a"), loaded=(residence(),))
    other = msgspec.structs.replace(me, **changed)
    assert wire.settled(Cluster(me=me)) != wire.settled(Cluster(me=other))
    peers = Cluster(me=me, peers=(me,)), Cluster(me=me, peers=(other,))
    assert wire.settled(peers[0]) != wire.settled(peers[1])


async def test_nobody_looks_while_nobody_watches() -> None:
    nodes = Nodes()
    for _ in range(5):
        nodes.become(waiting=1)
    assert (nodes.looks, len(nodes.watch)) == (0, 0)
    async with aclosing(nodes.watch.follow(nodes.look)) as seen:
        await anext(seen)
        assert repr(nodes.watch) == "<Watch with 1 of 64 watchers>"
    nodes.become(waiting=2)
    assert (nodes.looks, len(nodes.watch)) == (1, 0)


async def test_the_end_is_told_at_once_to_everyone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_routes, "_PAUSE", NEVER)
    nodes = Nodes()
    async with aclosing(nodes.watch.follow(nodes.look)) as seen:
        await anext(seen)
        news = asyncio.ensure_future(anext(seen))
        await asyncio.sleep(0)
        nodes.become(leaving=True)
        nodes.watch.end()
        async with asyncio.timeout(SOON):
            assert (await news).me.leaving
            with pytest.raises(StopAsyncIteration):
                await anext(seen)
    # Whoever comes later is told how it is, and no more.
    assert [each.me.leaving async for each in nodes.watch.follow(nodes.look)] == [True]
    assert len(nodes.watch) == 0


# Over HTTP


@asynccontextmanager
async def serving(nodes: Nodes, settings: HttpSettings | None = None) -> AsyncIterator[tuple[Desk, str]]:
    behind = served(ScriptedModel(Script(steps=())))
    behind.cluster = nodes.look  # type: ignore[method-assign]
    desk = Desk(behind, Metrics("0", ()), settings or HttpSettings(), lambda: None)
    app = build(desk, watch_routes.routes(nodes.watch), cluster_routes.routes())
    async with TestServer(app, handler_cancellation=True) as server:
        yield desk, str(server.make_url("/v1/cluster"))


async def event(answer: ClientResponse) -> Any:
    line = await answer.content.readuntil(b"\n\n")
    assert line.startswith(b"data: ")
    return json.loads(line.removeprefix(b"data: "))


async def turned(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


async def test_every_route_is_described() -> None:
    described = json.loads(openapi.document("0"))["paths"]
    for route in watch_routes.routes(Watch()):
        assert isinstance(route, RouteDef)
        assert route.method.lower() in described[route.path]


async def test_an_event_is_what_the_cluster_is_asked_for_otherwise() -> None:
    nodes = Nodes()
    nodes.become(node("b"), loaded=(residence(),))
    async with serving(nodes) as (_, url), ClientSession(timeout=ClientTimeout(10)) as client:
        async with client.get(url) as answer:
            asked = await answer.json()
        async with client.get(url + "/events") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "text/event-stream"
            assert answer.headers["Cache-Control"] == "no-cache"
            assert await event(answer) == asked
            nodes.become(node("b"), node("c"))
            assert [peer["id"] for peer in (await event(answer))["peers"]] == ["b", "c"]
        # It has left, and is counted no longer.
        await turned(lambda: len(nodes.watch) == 0)
        async with client.get(url + "/events?every=1") as answer:
            assert (answer.status, (await answer.json())["error"]["param"]) == (400, "every")


async def test_the_key_is_asked_for() -> None:
    async with serving(Nodes(), HttpSettings(key="k")) as (_, url), ClientSession() as client:
        async with client.get(url + "/events") as answer:
            assert answer.status == 401
        async with client.get(url + "/events", headers={"Authorization": "Bearer k"}) as answer:
            assert answer.status == 200


async def test_one_watcher_too_many_is_told_so_until_another_leaves() -> None:
    nodes = Nodes(most=2)
    async with serving(nodes) as (_, url), ClientSession(timeout=ClientTimeout(10)) as client:
        first = await client.get(url + "/events")
        async with client.get(url + "/events") as second:
            await event(second)
            async with client.get(url + "/events") as third:
                error = (await third.json())["error"]
                assert (third.status, error["code"]) == (429, "overloaded")
                assert error["message"].startswith("2 clients watch the cluster already")
                assert int(third.headers["Retry-After"]) >= 1
        await turned(lambda: len(nodes.watch) == 1)
        async with client.get(url + "/events") as third:
            assert third.status == 200
        first.close()


async def test_no_shutdown_waits_for_a_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_routes, "_PAUSE", NEVER)
    nodes = Nodes()
    async with (
        serving(nodes, HttpSettings(grace=NEVER)) as (desk, url),
        ClientSession() as client,
        client.get(url + "/events") as answer,
        asyncio.timeout(SOON),
    ):
        await event(answer)
        await desk.drain()
        nodes.become(leaving=True)
        nodes.watch.end()
        rest = await answer.content.read()
        assert [json.loads(each)["me"]["leaving"] for each in events(rest)] == [True]


# Whole nodes


async def test_what_a_node_does_is_told_when_it_happens(tmp_path: Path) -> None:
    settings = Settings(node_id="a", folders=(tmp_path,), engine="dummy", memory=1 << 30, idle_seconds=None)
    (tmp_path / "m.script.json").write_bytes(msgspec.json.encode(Script(steps=())))
    async with (
        tied_together(settings) as parts,
        aclosing(parts.watch.follow(parts.node.cluster)) as seen,
        asyncio.timeout(SOON),
    ):
        assert not (await anext(seen)).me.loaded
        await parts.node.load("m")
        while not (loaded := (await anext(seen)).me.loaded) or loaded[0].state != "ready":
            pass
        parts.leave()
        assert [each.me.leaving async for each in seen] == [True]


async def test_what_other_nodes_say_is_told_when_they_say_it(
    tmp_path: Path, join: Callable[..., Awaitable[Member]]
) -> None:
    other = await join("b")
    cluster = ClusterSettings(discovery="none", port=0, peers=(other.address,))
    sock = listen("127.0.0.1", 0)
    http = HttpSettings(host="127.0.0.1", port=sock.getsockname()[1])
    url = f"http://127.0.0.1:{http.port}/v1/cluster/events"
    settings = Settings(http=http, node_id="a", folders=(tmp_path,), engine="dummy", memory=1 << 30)
    serving = asyncio.create_task(serve_together(settings, cluster, sock))
    try:
        async with ClientSession() as client, asyncio.timeout(SOON), client.get(url) as answer:
            while not (told := (await event(answer))["peers"]):
                pass
            for waiting in (1, 2):
                other.waiting = waiting
                other.membership.announce()
                while told[0]["waiting"] != waiting:
                    told = (await event(answer))["peers"]
    finally:
        serving.cancel()
        await asyncio.wait([serving])


def seen(stream: Wire) -> list[dict[str, Any]]:
    """What has come whole of a stream of events in chunks."""
    _, _, body = stream.received.partition(b"\r\n\r\n")
    return [json.loads(line[6:]) for line in body.split(b"\r\n") if line.startswith(b"data: ")]


def until(stream: Wire, holds: Callable[[Any], bool]) -> Any:
    """The latest that the node says of itself, once that holds of it."""
    while not (told := seen(stream)) or not holds(told[-1]["me"]):
        stream.more()
    return told[-1]["me"]


def ask(node: Process) -> Wire:
    stream = Wire(node)
    stream.send(b"GET /v1/cluster/events HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    stream.until(b"data: ")
    return stream


def test_a_real_node_tells_what_runs_on_it_and_that_it_leaves(tmp_path: Path) -> None:
    write_script(tmp_path, "hangs", [text("started"), HANG])
    process = Process(tmp_path, "--discovery-module", "none", "--grace", "30")
    try:
        with ask(process) as stream:
            me = until(stream, lambda me: not me["loaded"])
            assert "exo-demo" in {card["id"] for card in me["cards"]}
            with Wire(process) as chat:
                chat.send(raw_chat("hangs", stream=True))
                chat.until(b"started")
                until(stream, lambda me: [each["running"] for each in me["loaded"]] == [1])
            until(stream, lambda me: [each["running"] for each in me["loaded"]] == [0])
            process.signal(signal.SIGTERM)
            # Far sooner than answers under way would get, and whole.
            assert process.exit_code(10) == 0
            assert stream.rest().endswith(b"0\r\n\r\n")
            assert seen(stream)[-1]["me"]["leaving"]
        process.check_log()
    finally:
        process.kill()
