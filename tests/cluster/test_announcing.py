"""What a node says of itself reaches the others when it happens, not when the next second begins: whole nodes
of this process, with engines, queues and servers behind them, that know each other by address."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import msgspec
import pytest
from aiohttp.test_utils import TestServer

from exo.assembly import Parts, Surroundings, tied_together
from exo.chat import ChatRequest, Message, Text
from exo.cluster import membership, view
from exo.cluster.membership import Membership
from exo.cluster.settings import ClusterSettings
from exo.engines.scripted import Hang, Script, ScriptedModel
from exo.http import openai_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.metrics import Metrics
from exo.nodes import Node, Residence
from exo.settings import HttpSettings, Settings, UpstreamSettings
from tests.doubles import answer, card, served

# States that nobody asks for do not come while a test runs. What a join asks for may, once.
PERIOD, AT_ONCE = 100.0, 1.0
TIMES = 3


class Whole:
    """A node in its cluster."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.membership: Membership
        self.heard = 0
        self._news = asyncio.Event()

    def changed(self, peers: Sequence[Node]) -> None:
        self.heard += 1
        self._news.set()

    async def sees(self, holds: Callable[[Node], bool], id: str = "a") -> None:
        """Waits until this holds of what it knows of the other node, which is at once."""
        async with asyncio.timeout(AT_ONCE):
            while not any(peer.id == id and holds(peer) for peer in self.membership.peers):
                self._news.clear()
                await self._news.wait()


Start = Callable[..., Awaitable[Whole]]


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    monkeypatch.setattr(membership, "_PERIOD", PERIOD)
    monkeypatch.setattr(view, "TIME_TO_LIVE", 3 * PERIOD)
    async with AsyncExitStack() as stack:

        async def started(id: str, *known: Whole, upstream: str | None = None) -> Whole:
            def announce() -> None:
                whole.membership.announce()

            folder = tmp_path / id
            folder.mkdir()
            settings = Settings(
                node_id=id,
                folders=(folder,),
                engine="dummy",
                memory=1 << 30,
                idle_seconds=None,
                upstreams=(UpstreamSettings(kind="openai", url=upstream),) if upstream else (),
            )
            whole = Whole(
                await stack.enter_async_context(tied_together(settings, Surroundings(changed=announce)))
            )
            peers = tuple(f"127.0.0.1:{each.membership.port}" for each in known)
            cluster = ClusterSettings(discovery="none", port=0, peers=peers)
            whole.membership = Membership(cluster, whole.parts.node.state, whole.changed)
            stack.push_async_callback(whole.membership.close)
            await whole.membership.start()
            return whole

        yield started


async def pair(start: Start, **fields: object) -> tuple[Whole, Whole]:
    """Two nodes that see each other."""
    a = await start("a", **fields)
    b = await start("b", a)
    async with asyncio.timeout(30):
        while not (a.membership.peers and b.membership.peers):
            await asyncio.sleep(0.01)
    return a, b


def put(tmp_path: Path, model: str, *steps: object, **fields: object) -> None:
    script = Script(steps=steps, **fields)  # type: ignore[arg-type]
    (tmp_path / "a" / f"{model}.script.json").write_bytes(msgspec.json.encode(script))


def request(model: str = "m") -> ChatRequest:
    return ChatRequest(model=model, messages=(Message("user", "hi"),))


def at(node: Node, model: str = "m") -> Residence | None:
    return next((each for each in node.loaded if each.model == model), None)


def running(count: int, model: str = "m") -> Callable[[Node], bool]:
    return lambda node: (there := at(node, model)) is not None and there.running == count


def waiting(count: int) -> Callable[[Node], bool]:
    return lambda node: node.waiting == count


async def test_what_runs_and_what_waits(start: Start, tmp_path: Path) -> None:
    a, b = await pair(start)
    put(tmp_path, "m", Text("hi"), Hang())
    for _ in range(TIMES):
        async with aclosing(a.parts.node.respond(request())) as deltas:
            await anext(deltas)
            await b.sees(running(1))
            second = asyncio.create_task(answer(a.parts.node, request()))
            await b.sees(waiting(1))
            second.cancel()
            await b.sees(waiting(0))
        await b.sees(running(0))


async def test_a_model_that_is_loaded_comes_and_leaves(start: Start, tmp_path: Path) -> None:
    a, b = await pair(start)
    for _ in range(TIMES):
        put(tmp_path, "m", Text("hi"))
        await a.parts.node.cards()
        await b.sees(lambda node: [card.id for card in node.cards] == ["m"])
        await a.parts.node.load("m")
        await b.sees(lambda node: (there := at(node)) is not None and there.state == "ready")
        await a.parts.node.unload("m")
        await b.sees(lambda node: at(node) is None)
        await a.parts.node.delete("m")
        await b.sees(lambda node: not node.cards)


async def test_a_model_that_is_being_loaded(start: Start, tmp_path: Path) -> None:
    a, b = await pair(start)
    put(tmp_path, "slow", Text("hi"), load=(Hang(),))
    loading = asyncio.create_task(a.parts.node.load("slow"))
    await b.sees(lambda node: (there := at(node, "slow")) is not None and there.state == "loading")
    loading.cancel()
    await b.sees(lambda node: node.waiting == 0)


async def test_a_node_that_leaves(start: Start) -> None:
    a, b = await pair(start)
    a.parts.node.leave()
    await b.sees(lambda node: node.leaving)


def behind(model: ScriptedModel, port: int) -> TestServer:
    desk = Desk(served(model, card("far")), Metrics("0", ()), HttpSettings(), lambda: None)
    return TestServer(build(desk, openai_routes.routes()), port=port, handler_cancellation=True)


async def test_a_server_behind_it_that_is_found_and_asked_and_lost(start: Start) -> None:
    model = ScriptedModel(Script(steps=(Text("hi"), Hang())))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    a, b = await pair(start, upstream=f"http://127.0.0.1:{port}")
    upstream = a.parts.upstreams[0]
    for _ in range(TIMES):
        async with behind(model, port):
            await upstream.refresh()
            await b.sees(lambda node: [card.id for card in node.cards] == ["far"])
            async with aclosing(a.parts.node.respond(request("far"))) as deltas:
                await anext(deltas)
                await b.sees(running(1, "far"))
            await b.sees(running(0, "far"))
        await upstream.refresh()
        await b.sees(lambda node: not node.cards)


async def test_a_busy_node_says_so_ten_times_a_second_at_most(start: Start, tmp_path: Path) -> None:
    a, b = await pair(start)
    put(tmp_path, "m", Text("hi"))
    await answer(a.parts.node, request())
    loop = asyncio.get_running_loop()
    heard, end, answers = b.heard, loop.time() + 1.0, 0
    while loop.time() < end:
        await answer(a.parts.node, request())
        answers += 1
        await asyncio.sleep(0)
    assert answers > 100
    assert 3 <= b.heard - heard <= 12
