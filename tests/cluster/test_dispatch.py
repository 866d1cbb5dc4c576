"""Nodes that serve as one: real HTTP between them, scripted models on them, their states told directly."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp.test_utils import TestServer

from exo.chat import ChatRequest, EmbedRequest, Message, Sampling, Text, ToolCall
from exo.cluster import dispatch
from exo.cluster.dispatch import ClusterNode
from exo.engines.scripted import Die, Fail, Hang, Script, ScriptedEngine, Wait
from exo.errors import (
    BadRequest,
    ConnectionLost,
    EngineFailed,
    ExoError,
    ModelNotFound,
    NotReady,
    Overloaded,
    Timeout,
    Unauthorized,
)
from exo.http import openai_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.remote import Remote
from exo.metrics import Metrics
from exo.node.local import LocalNode
from exo.nodes import Device, Node
from exo.residency.residency import Limits, Residency
from exo.settings import Defaults, HttpSettings
from exo.store.catalogue import Catalogue
from tests.doubles import SilentObserver, answer, finished, text

WORDS = tuple(Text(word) for word in ("one ", "two ", "three ", "four ", "five ", "six "))
WHOLE = "one two three four five six "
SECRET = b"shared"


class Machine:
    """A node with its own disk, queue and HTTP server."""

    def __init__(self, id: str, folder: Path, *, waiting: int, secret: bytes | None) -> None:
        self.id, self.folder, self.secret = id, folder, secret
        folder.mkdir()
        shelf = Catalogue(folder)
        self.residency = Residency(
            [ScriptedEngine()], shelf, Limits(1 << 30, waiting, None), SilentObserver()
        )
        self.here = LocalNode(
            id=id,
            url="",
            version="0",
            device=Device(name=id, cores=1, memory=1),
            shelf=shelf,
            residency=self.residency,
            defaults=Defaults(),
        )
        self.peers: list[Machine] = []
        self.failovers: Counter[str] = Counter()
        self.node = ClusterNode(
            self.here,
            lambda: [peer.state() for peer in self.peers],
            secret=secret,
            on_failover=lambda when: self.failovers.update([when]),
        )
        self.server: TestServer | None = None
        self.url = "http://127.0.0.1:9"

    def state(self) -> Node:
        return msgspec.structs.replace(self.here.state(), url=self.url)

    def busy(self) -> int:
        """Requests that run or wait here."""
        state = self.here.state()
        return state.waiting + sum(resident.running for resident in state.loaded)

    async def start(self) -> None:
        desk = Desk(self.node, Metrics("0", ()), HttpSettings(), lambda: None, self.secret)
        self.server = TestServer(build(desk, openai_routes.routes()), handler_cancellation=True)
        await self.server.start_server()
        self.url = str(self.server.make_url("")).rstrip("/")

    async def stop(self) -> None:
        if self.server:
            await self.server.close()
        self.server = None

    async def put(self, model: str, *steps: object, **keys: object) -> None:
        script = Script(steps=tuple(steps) or WORDS, **keys)  # type: ignore[arg-type]
        (self.folder / f"{model}.script.json").write_bytes(msgspec.json.encode(script))
        await self.here.cards()


class Cluster:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.machines: list[Machine] = []

    async def add(self, *ids: str, waiting: int = 64, secret: bytes | None = None) -> Sequence[Machine]:
        added = [Machine(id, self._folder / id, waiting=waiting, secret=secret) for id in ids]
        for machine in added:
            await machine.start()
        self.machines += added
        for machine in self.machines:
            machine.peers = [other for other in self.machines if other is not machine]
        return added


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    async with AsyncExitStack() as stack:
        for machine in cluster.machines:
            stack.push_async_callback(machine.residency.close)
            stack.push_async_callback(machine.stop)
            stack.push_async_callback(machine.node.close)


def request(model: str = "m", **fields: object) -> ChatRequest:
    return ChatRequest(model=model, messages=(Message("user", "count"),), id="r", **fields)  # type: ignore[arg-type]


async def test_any_node_answers_for_all(cluster: Cluster) -> None:
    a, b = await cluster.add("a", "b")
    await b.put("m")
    assert text(await answer(a.node, request())) == WHOLE
    assert [card.id for card in await a.node.cards()] == ["m"]
    assert a.node.taken("r").startswith("b: ")
    assert a.failovers == Counter()


async def test_a_model_nobody_has_is_told_from_those_of_all(cluster: Cluster) -> None:
    a, b = await cluster.add("a", "b")
    await b.put("model-of-b")
    with pytest.raises(ModelNotFound, match="did you mean model-of-b"):
        await answer(a.node, request("model-of-c"))


async def test_what_a_node_passed_on_goes_no_further(cluster: Cluster) -> None:
    a, b = await cluster.add("a", "b")
    await a.put("m", Fail("broken"))
    with pytest.raises(ModelNotFound):
        await answer(b.node, request(via="a"))
    # Both believe that the other one has it.
    await b.put("m", Fail("broken"))
    with pytest.raises(EngineFailed):
        await asyncio.wait_for(answer(a.node, request()), 5)


async def test_a_node_that_fails_before_its_first_word_costs_nothing(cluster: Cluster) -> None:
    a, b, c = await cluster.add("a", "b", "c")
    await b.put("m", Fail("broken"))
    await c.put("m", Wait(0.05), *WORDS)
    b.here._speeds.loaded("m", 0.001)
    for _ in range(4):
        assert text(await answer(a.node, request())) == WHOLE
    assert set(a.failovers) <= {"before"}


async def test_a_node_that_is_not_there_any_more_costs_nothing(cluster: Cluster) -> None:
    a, b, c = await cluster.add("a", "b", "c")
    await b.put("m")
    await c.put("m")
    await b.stop()
    for _ in range(4):
        assert text(await answer(a.node, request())) == WHOLE


@pytest.mark.parametrize("said", range(1, 6))
async def test_an_answer_that_breaks_off_is_gone_on_with_elsewhere(cluster: Cluster, said: int) -> None:
    a, b, c = await cluster.add("a", "b", "c")
    for machine in (b, c):
        await machine.put("m", *WORDS[:said], Die(), *WORDS[said:])
    first = asyncio.create_task(answer(a.node, request(sampling=Sampling(max_tokens=40))))
    # Whichever is asked first dies; the other one has the whole answer by then.
    while not (b.here.state().loaded or c.here.state().loaded):
        await asyncio.sleep(0)
    other = c if b.here.state().loaded else b
    await other.put("m", *WORDS)
    deltas = await first
    assert text(deltas) == WHOLE
    assert finished(deltas).usage.completion_tokens == len(WORDS)
    assert a.failovers == Counter({"within": 1})


async def test_a_raw_prompt_is_gone_on_with_too(cluster: Cluster) -> None:
    a, b = await cluster.add("a", "b")
    await a.put("m", *WORDS[:3], Fail("broken"))
    await b.put("m", Text("on"))
    deltas = await answer(a.node, ChatRequest(model="m", prompt="count", id="r"))
    assert text(deltas) in ("one two three on", "on")


async def test_an_answer_is_not_gone_on_with_behind_a_tool_call(cluster: Cluster) -> None:
    a, b, c = await cluster.add("a", "b", "c")
    for machine in (b, c):
        await machine.put("m", ToolCall(0, "1", "f", "{}"), Fail("broken"))
    with pytest.raises(EngineFailed):
        await answer(a.node, request())
    assert a.failovers == Counter()


async def test_a_request_that_breaks_two_engines_is_kept_from_the_third(cluster: Cluster) -> None:
    machines = await cluster.add("a", "b", "c", "d")
    for machine in machines:
        await machine.put("m", Fail("poison"))
    with pytest.raises(EngineFailed, match="poison"):
        await answer(machines[0].node, request())
    assert machines[0].failovers == Counter({"before": 1})


class Killed:
    """What is left of nodes that were killed: whoever asks them is hung up on, having read `said` first, or
    hears nothing any more."""

    def __init__(self, said: str, *, silent: bool) -> None:
        self._said, self._silent = said, silent
        self.asked = 0

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await reader.readuntil(b'"m"')
            self.asked += 1
            if self._said:
                chunk = {"choices": [{"index": 0, "delta": {"content": self._said}}]}
                event = b"data: " + msgspec.json.encode(chunk) + b"\n\n"
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                await writer.drain()
            if self._silent:
                await reader.read()


@asynccontextmanager
async def killed(*machines: Machine, said: str = "", silent: bool = False) -> AsyncIterator[Killed]:
    """These machines have the model in memory, as far as the others know, so they are asked before those that
    would have to load it."""
    left = Killed(said, silent=silent)
    async with AsyncExitStack() as stack:
        for machine in machines:
            await machine.put("m")
            await machine.here.load("m")
            server = await stack.enter_async_context(await asyncio.start_server(left.take, "127.0.0.1", 0))
            machine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield left


@pytest.mark.parametrize("said", ["", "one "])
@pytest.mark.parametrize("silent", [False, True])
async def test_killed_nodes_are_passed_over_until_one_answers(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, said: str, silent: bool
) -> None:
    monkeypatch.setattr(dispatch, "_SILENCE", 0.7)
    a, b, c, d, e = await cluster.add("a", "b", "c", "d", "e")
    await e.put("m")
    async with killed(b, c, d, said=said, silent=silent) as left:
        deltas = await answer(a.node, request())
    assert left.asked == 3
    # Each goes on behind what was said before it, as a script does: by as many words.
    assert text(deltas) == ("one one one four five six " if said else WHOLE)
    assert a.failovers == Counter({"within" if said else "before": 1})


@pytest.mark.parametrize("silent", [False, True])
async def test_where_all_are_gone_the_request_is_refused_and_may_come_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    monkeypatch.setattr(dispatch, "_SILENCE", 0.7)
    a, b, c, d = await cluster.add("a", "b", "c", "d")
    async with killed(b, c, d, silent=silent) as left:
        with pytest.raises(
            NotReady, match=r"no node is left that could answer: node [bcd] (broke off|was silent)"
        ) as refused:
            await answer(a.node, request())
    assert left.asked == 3
    assert type(refused.value) is NotReady


async def test_where_all_are_gone_an_answer_that_has_begun_ends_with_an_error(cluster: Cluster) -> None:
    a, b, c = await cluster.add("a", "b", "c")
    async with killed(b, c, said="one ") as left, aclosing(a.node.respond(request())) as deltas:
        assert [await anext(deltas), await anext(deltas)] == [Text("one ")] * 2
        with pytest.raises(NotReady, match="no node is left"):
            await anext(deltas)
    assert left.asked == 2


async def test_a_node_whose_server_behind_it_was_killed_counts_as_one_that_was(cluster: Cluster) -> None:
    a, b, c, d, e = await cluster.add("a", "b", "c", "d", "e")
    for machine in (b, c, d):
        await machine.put("m", Fail("the NPU server at http://localhost:8080 broke off", "connection_lost"))
        await machine.here.load("m")
    await e.put("m")
    assert text(await answer(a.node, request())) == WHOLE
    assert {machine.here.state().loaded[0].used for machine in (b, c, d)} == {2}


async def test_killed_nodes_do_not_hide_that_two_engines_broke(cluster: Cluster) -> None:
    a, b, c, d, e = await cluster.add("a", "b", "c", "d", "e")
    for machine in (d, e):
        await machine.put("m", Fail("poison"))
    async with killed(b, c) as left:
        with pytest.raises(EngineFailed, match="poison"):
            await answer(a.node, request())
    assert left.asked == 2


GONE, BROKEN, LATE = ConnectionLost("b broke off"), EngineFailed("poison"), Timeout("b was too slow")
STOPPING, UNKNOWN = NotReady("c is stopping"), ModelNotFound("no m here")
FULL, FULLER = Overloaded("full", retry_after=3), Overloaded("fuller", retry_after=9)


@pytest.mark.parametrize(
    ("failures", "last", "told"),
    [
        ((GONE,), UNKNOWN, NotReady("no node is left that could answer: b broke off")),
        ((GONE, STOPPING), UNKNOWN, NotReady("no node is left that could answer: b broke off")),
        ((STOPPING, GONE), UNKNOWN, STOPPING),
        ((UNKNOWN, GONE), UNKNOWN, NotReady("no node is left that could answer: b broke off")),
        ((GONE, STOPPING, BROKEN), UNKNOWN, BROKEN),
        ((GONE, LATE), UNKNOWN, LATE),
        ((FULLER, BROKEN), UNKNOWN, BROKEN),
        ((FULLER, FULL), STOPPING, Overloaded("fuller", retry_after=3)),
        ((GONE, FULLER), FULL, Overloaded("fuller", retry_after=3)),
        ((GONE, STOPPING), FULL, FULL),
        ((UNKNOWN,), UNKNOWN, UNKNOWN),
    ],
)
def test_of_several_failures_the_one_that_helps_most_is_told(
    failures: Sequence[ExoError], last: ExoError, told: ExoError
) -> None:
    joined = dispatch._joined(failures, last)
    assert (type(joined), joined.message, joined.retry_after) == (type(told), told.message, told.retry_after)


async def test_the_clients_own_fault_is_told_at_once(cluster: Cluster) -> None:
    a, b, c = await cluster.add("a", "b", "c")
    for machine in (b, c):
        await machine.put("m", Fail("no such thing", "bad_request"))
    with pytest.raises(BadRequest, match="no such thing"):
        await answer(a.node, request())
    assert a.failovers == Counter()


async def test_refused_only_when_every_able_node_is_full(cluster: Cluster) -> None:
    a, b, c = await cluster.add("a", "b", "c", waiting=1)
    for machine in (b, c):
        await machine.put("m", *WORDS, Hang())
    tasks = []
    # One runs and one waits on each of them.
    for number in range(4):
        asked = msgspec.structs.replace(request(client="one"), id=str(number))
        tasks.append(asyncio.create_task(answer(a.node, asked)))
        while b.busy() + c.busy() <= number:
            await asyncio.sleep(0.001)
    with pytest.raises(Overloaded) as refused:
        await asyncio.wait_for(answer(a.node, request(client="one")), 5)
    assert refused.value.retry_after is not None
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_hang_up_reaches_the_node_that_answers(cluster: Cluster) -> None:
    a, b = await cluster.add("a", "b")
    await b.put("m", Text("one "), Hang())
    async with aclosing(a.node.respond(request())) as deltas:
        assert await anext(deltas) == Text("one ")
        assert [r.running for r in b.here.state().loaded] == [1]
    async with asyncio.timeout(5):
        while any(r.running for r in b.here.state().loaded):
            await asyncio.sleep(0.001)


async def test_requests_are_spread(cluster: Cluster) -> None:
    machines = await cluster.add("a", "b", "c", "d")
    for machine in machines:
        await machine.put("m", Wait(0.2), *WORDS)
        await machine.here.load("m")
    entry = machines[0].node
    await asyncio.gather(*(answer(entry, msgspec.structs.replace(request(), id=str(n))) for n in range(8)))
    answered = Counter(entry.taken(str(number))[0] for number in range(8))
    assert answered == dict.fromkeys("abcd", 2)


async def test_without_the_secret_nothing_is_passed_on(cluster: Cluster) -> None:
    a, b = await cluster.add("a", "b", secret=SECRET)
    await b.put("m")
    assert text(await answer(a.node, request())) == WHOLE
    stranger = Remote(b.url, secret=b"guessed")
    try:
        with pytest.raises(Unauthorized, match="'a' does not have this cluster's secret"):
            await answer(stranger, request(via="a"))
    finally:
        await stranger.close()


async def test_a_node_that_does_not_let_this_one_in_is_passed_over_and_no_fault_of_the_client(
    cluster: Cluster,
) -> None:
    a, b, c = await cluster.add("a", "b", "c")
    for machine in (b, c):
        await machine.put("m", Fail("another key, please", "unauthorized"))
    with pytest.raises(NotReady, match=r"[bc] does not let this node in \(another key, please\)"):
        await answer(a.node, request())
    assert a.failovers == Counter({"before": 1})


async def test_embeddings_have_no_engine_here(cluster: Cluster) -> None:
    a, b = await cluster.add("a", "b")
    await b.put("m")
    with pytest.raises(BadRequest, match="no embeddings"):
        await a.node.embed(EmbedRequest(model="m", texts=("x",)))


FAILURES: Mapping[str, type[ExoError]] = {"not_ready": NotReady, "overloaded": Overloaded}


@pytest.mark.parametrize("code", FAILURES)
async def test_the_last_nodes_failure_keeps_its_kind(cluster: Cluster, code: str) -> None:
    a, b = await cluster.add("a", "b")
    await b.put("m", Fail("not now", code))
    with pytest.raises(FAILURES[code], match="not now"):
        await answer(a.node, request())
