"""The door to layers for other nodes, and plans, over real HTTP; layers that tests hold back."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from aiohttp import ClientResponse, ClientSession, ClientTimeout
from aiohttp.test_utils import TestServer
from yarl import URL

from exo.cards import ModelCard, Span
from exo.chat import Text
from exo.choice.partition import Footprint, Plan, parse, plan
from exo.engines.scripted import Script, ScriptedModel
from exo.errors import ExoError, NotReady
from exo.http import shard_routes, shard_stream
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.headers import HOP_HEADER
from exo.http.shard_routes import HeldShard
from exo.http.shard_stream import Frames, FromHost, encode, from_host
from exo.metrics import Metrics
from exo.nodes import Cluster
from exo.settings import HttpSettings
from exo.shards.frames import HEAD, Done, Failed, Free, Hidden, Opened, Progress, Rows, Step
from exo.wire.shards import Beat, OpenShard
from tests.cluster.node import node
from tests.doubles import card, served

SLOTS, WIDTH = 2, 4
ROW = bytes(WIDTH * 4)
OPEN = OpenShard(model="m", span=Span(1, 2), slots=SLOTS, context=10)
PATIENCE = 20.0


class Layers:
    """A shard whose steps wait for a gate, and give as many bytes as they are told."""

    span, width = Span(1, 2), WIDTH

    def __init__(self) -> None:
        self.alive, self.bytes = True, 7
        self.gate = asyncio.Event()
        self.gate.set()
        self.gives = 16
        self.linked: asyncio.Queue[socket.socket] = asyncio.Queue()
        self.calls = self.under_way = self.most_under_way = 0

    async def forward(self, slot: int, position: int, hidden: bytes, *, rows: Rows = "all") -> bytes:
        self.calls += 1
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            await self.gate.wait()
        finally:
            self.under_way -= 1
        return b"" if rows == "none" else bytes([slot]) * self.gives

    async def free(self, slot: int) -> None:
        await self.gate.wait()

    async def connect(self, lost: Callable[[ExoError], None]) -> None:
        raise AssertionError("nobody asks for that here")

    async def link(self, connection: socket.socket) -> None:
        self.linked.put_nowait(connection)

    async def stop(self) -> None:
        self.alive = False


class Host:
    def __init__(self) -> None:
        self.layers = Layers()
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.refuses: Exception | None = None
        self.held = 0

    async def plan(self, model: str, split: str = "") -> Plan:
        card = ModelCard(id=model, format="safetensors", context=8, bytes=1, memory=40, layers=4)
        there = msgspec.structs.replace(node("a"), budget=100, cards=(card,))
        shares = parse(f"{model}={split}")[1] if split else ()
        return plan(card, lambda node: Footprint(layers=(10,) * 4), [there], shares)

    @asynccontextmanager
    async def shard(
        self, open: OpenShard, via: str, progress: Callable[[float], None]
    ) -> AsyncIterator[HeldShard]:
        self.held += 1
        try:
            progress(0.25)
            await self.may_load.wait()
            if self.refuses:
                raise self.refuses
            yield self.layers
        finally:
            self.held -= 1


class Talk:
    """A coordinator that says what a test tells it to, and reads only what the test reads."""

    def __init__(self, session: ClientSession, url: str) -> None:
        self._session, self._url = session, url
        self._pieces: asyncio.Queue[bytes | memoryview | None] = asyncio.Queue()

    async def begin(self, *pieces: bytes | memoryview, hop: str = "a") -> ClientResponse:
        for piece in pieces:
            self._pieces.put_nowait(piece)
        headers = {HOP_HEADER: hop} if hop else {}
        self.answer = await self._session.post(self._url, data=self._body(), headers=headers)
        self._incoming: Frames[FromHost] = Frames(self.answer.content, from_host)
        return self.answer

    async def open(self, open: OpenShard = OPEN) -> None:
        answer = await self.begin(*encode(open))
        assert answer.status == 200, await answer.read()

    def say(self, message: Any, payload: bytes = b"") -> None:
        for piece in encode(message, payload):
            self._pieces.put_nowait(piece)

    def say_bytes(self, piece: bytes) -> None:
        self._pieces.put_nowait(piece)

    def end(self) -> None:
        self._pieces.put_nowait(None)

    async def hears(self) -> tuple[FromHost, bytes] | None:
        """The next that is not only there to be heard; None at the end."""
        async with asyncio.timeout(PATIENCE):
            while (frame := await self._incoming.next()) and isinstance(frame[0], Beat):
                pass
        return frame

    async def _body(self) -> AsyncGenerator[bytes | memoryview, None]:
        while (piece := await self._pieces.get()) is not None:
            yield piece


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def desk() -> Desk:
    here = served(ScriptedModel(Script(steps=(Text("hi"),))), card("m"))
    me = here.cluster().me
    here.cluster = lambda: Cluster(me=me, peers=(node("a"),))  # type: ignore[method-assign]
    return Desk(here, Metrics("0", ()), HttpSettings(), lambda: None)


@pytest.fixture
async def url(host: Host, desk: Desk) -> AsyncIterator[str]:
    server = TestServer(build(desk, shard_routes.routes(host)), handler_cancellation=True)
    await server.start_server()
    yield str(server.make_url(""))
    await server.close()
    assert host.held == 0


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession(timeout=ClientTimeout(PATIENCE)) as session:
        yield session


@pytest.fixture
def talk(session: ClientSession, url: str) -> Iterator[Talk]:
    talk = Talk(session, f"{url}/v1/cluster/shard")
    yield talk
    talk.answer.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.001)


# Plans


async def test_a_plan_is_told(session: ClientSession, url: str) -> None:
    async with session.get(f"{url}/v1/cluster/plan?model=m") as answer:
        said = json.loads(await answer.read())
    assert said["parts"] == [
        {"node": "a", "first_layer": 0, "last_layer": 3, "bytes": 40, "budget": 100, "fits": True}
    ]
    assert (said["model"], said["layers"], said["exact"], said["problem"]) == ("m", 4, True, "")
    assert "guessed" in said["guessed"]


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("model=m&split=b:0-3", 400, "names node 'b'"),
        ("model=m&split=a", 400, "'a' in the split"),
        ("model=x", 404, "x"),
        ("model=m&splits=a", 400, 'unknown parameter \\"splits\\"'),
    ],
)
async def test_a_plan_that_cannot_be_is_refused(
    session: ClientSession, url: str, query: str, status: int, words: str
) -> None:
    async with session.get(f"{url}/v1/cluster/plan?{query}") as answer:
        assert answer.status == status
        assert words in (await answer.read()).decode()


# At the door


async def test_layers_are_not_for_clients(talk: Talk) -> None:
    answer = await talk.begin(*encode(OPEN), hop="")
    assert answer.status == 403
    assert "is for the nodes of this cluster" in (await answer.read()).decode()


async def test_nor_for_nodes_that_are_not_seen(talk: Talk) -> None:
    assert (await talk.begin(*encode(OPEN), hop="x")).status == 503


async def test_nor_for_nodes_without_a_certificate_where_there_are_some(talk: Talk, desk: Desk) -> None:
    desk.certified = True
    assert (await talk.begin(*encode(OPEN))).status == 401


async def test_nor_while_shutting_down(talk: Talk, desk: Desk) -> None:
    desk.draining = True
    answer = await talk.begin(*encode(OPEN))
    assert answer.status == 503
    assert "shutting down" in (await answer.read()).decode()


@pytest.mark.parametrize(
    "first",
    [
        encode(Free(id=1, slot=0)),
        (HEAD.pack(3, 0) + b"abc",),
        (HEAD.pack(1 << 30, 0),),
        encode(msgspec.structs.replace(OPEN, slots=0)),
        encode(msgspec.structs.replace(OPEN, model="")),
    ],
    ids=["another message", "no msgpack", "too long", "no slots", "no model"],
)
async def test_nor_for_who_does_not_say_which(talk: Talk, first: tuple[bytes, ...]) -> None:
    assert (await talk.begin(*first)).status == 400


# Inside


async def test_loading_is_told_and_then_that_it_is_loaded(
    talk: Talk, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_routes, "BEAT", 0.01)
    host.may_load.clear()
    await talk.open()
    assert await talk.hears() == (Progress(0.25), b"")
    host.may_load.set()
    opened = await loaded(talk)
    assert (opened.width, opened.bytes) == (WIDTH, 7)
    talk.end()
    assert await talk.hears() is None
    assert host.held == 0


async def test_a_connection_is_handed_to_the_process_of_the_layers(talk: Talk, host: Host, url: str) -> None:
    await talk.open()
    opened = await loaded(talk)
    reader, writer = await upgrade(url, opened.link)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    with await asyncio.wait_for(host.layers.linked.get(), PATIENCE) as theirs:
        theirs.setblocking(True)
        # The server has nothing to do with what is said now.
        writer.write(b"to the layers")
        assert await asyncio.to_thread(theirs.recv, 100) == b"to the layers"
        theirs.send(b"to the first")
        assert await reader.readexactly(12) == b"to the first"
    assert await reader.read() == b""
    writer.close()
    talk.say(Step(id=1, slot=0, position=0), ROW)
    assert await talk.hears() == (Hidden(1), bytes(16))


@pytest.mark.parametrize(
    ("hop", "name", "protocol", "status"),
    [
        ("a", "x", "exo-shard", 403),
        ("b", "", "exo-shard", 403),
        ("", "", "exo-shard", 403),
        ("a", "", "h2c", 400),
    ],
)
async def test_a_connection_that_is_not_for_the_asker_is_refused(
    talk: Talk, host: Host, url: str, hop: str, name: str, protocol: str, status: int
) -> None:
    await talk.open()
    opened = await loaded(talk)
    reader, writer = await upgrade(url, name or opened.link, hop=hop, protocol=protocol)
    assert (await reader.readline()).startswith(b"HTTP/1.1 %d " % status)
    writer.close()
    assert host.layers.linked.empty()


async def loaded(talk: Talk) -> Opened:
    heard = await talk.hears()
    assert heard
    assert isinstance(heard[0], Opened)
    return heard[0]


async def upgrade(
    url: str, name: str, *, hop: str = "a", protocol: str = "exo-shard"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    where = URL(url)
    reader, writer = await asyncio.open_connection(where.host, where.port)
    head = {"Host": "b", "Connection": "Upgrade", "Upgrade": protocol, **({HOP_HEADER: hop} if hop else {})}
    lines = "".join(f"{key}: {value}\r\n" for key, value in head.items())
    writer.write(f"GET /v1/cluster/shard/link?shard={name} HTTP/1.1\r\n{lines}\r\n".encode())
    return reader, writer


async def test_a_failed_load_is_told_and_ends_it(talk: Talk, host: Host) -> None:
    host.refuses = NotReady("no room")
    await talk.open()
    assert await talk.hears() == (Failed(code="not_ready", message="no room"), b"")
    assert await talk.hears() is None


async def test_a_defect_is_told_and_ends_it(talk: Talk, host: Host) -> None:
    host.refuses = ValueError("oops")
    await talk.open()
    assert await talk.hears() == (Failed(code="engine_failed", message="ValueError: oops"), b"")
    assert await talk.hears() is None


async def test_answers_carry_the_ids_of_what_was_asked(talk: Talk) -> None:
    await talk.open()
    await talk.hears()
    talk.say(Step(id=7, slot=1, position=0), ROW)
    assert await talk.hears() == (Hidden(7), b"\1" * 16)
    talk.say(Step(id=8, slot=1, position=0, want="none"), ROW)
    assert await talk.hears() == (Done(8), b"")
    talk.say(Free(id=9, slot=1))
    assert await talk.hears() == (Done(9), b"")


@pytest.mark.parametrize(
    ("step", "payload", "words"),
    [
        (Step(id=1, slot=0, position=0, tokens=(1,)), b"", "no tokens"),
        (Step(id=1, slot=0, position=0, want="token"), ROW, "no tokens"),
        (Step(id=1, slot=0, position=0), ROW[1:], "15 bytes are no hidden states"),
        (Step(id=1, slot=SLOTS, position=0), ROW, "no slot 2"),
        (Step(id=1, slot=-1, position=0), ROW, "no slot -1"),
        (Step(id=1, slot=0, position=9), ROW * 2, "tokens 9 to 11 are not within"),
        (Free(id=1, slot=5), b"", "no slot 5"),
    ],
    ids=["tokens", "a token", "odd", "slot", "negative slot", "context", "free"],
)
async def test_a_step_that_cannot_be_fails_alone(talk: Talk, step: Step, payload: bytes, words: str) -> None:
    await talk.open()
    await talk.hears()
    talk.say(step, payload)
    heard = await talk.hears()
    assert heard is not None
    assert isinstance(heard[0], Failed)
    assert (heard[0].id, heard[0].code) == (1, "bad_request")
    assert words in heard[0].message
    talk.say(Step(id=2, slot=0, position=0), ROW)
    assert await talk.hears() == (Hidden(2), b"\0" * 16)


@pytest.mark.parametrize(
    ("piece", "words"),
    [
        (encode(OPEN)[0], "opened once"),
        (HEAD.pack(10, shard_stream.MOST_PAYLOAD + 1), "no more than"),
        (HEAD.pack(3, 0) + b"\xc1\xc1\xc1", "is not understood"),
    ],
    ids=["opened twice", "too long", "no msgpack"],
)
async def test_what_is_no_message_ends_it(talk: Talk, piece: bytes, words: str) -> None:
    await talk.open()
    await talk.hears()
    talk.say_bytes(piece)
    heard = await talk.hears()
    assert heard is not None
    assert isinstance(heard[0], Failed)
    assert heard[0].id is None
    assert words in heard[0].message
    assert await talk.hears() is None


async def test_no_more_steps_are_under_way_than_its_slots_can_need(talk: Talk, host: Host) -> None:
    host.layers.gate.clear()
    await talk.open()
    await talk.hears()
    for id in range(30):
        talk.say(Step(id=id, slot=0, position=0), ROW)
    await until(lambda: host.layers.calls == 2 * SLOTS)
    host.layers.gate.set()
    heard = [await talk.hears() for _ in range(30)]
    assert sorted(frame[0].id for frame in heard if frame and isinstance(frame[0], Hidden)) == [*range(30)]
    assert host.layers.most_under_way == 2 * SLOTS


async def test_who_does_not_read_is_not_worked_for(talk: Talk, host: Host) -> None:
    host.layers.gives = 1 << 20
    await talk.open()
    await talk.hears()
    many = 100
    for id in range(many):
        talk.say(Step(id=id, slot=0, position=0), ROW)
    # As far as it goes: until nothing has happened for a while.
    before = -1
    while host.layers.calls != before:
        before = host.layers.calls
        await asyncio.sleep(0.2)
    assert 0 < host.layers.calls < many // 2
    for _ in range(many):
        heard = await talk.hears()
        assert heard is not None
        assert len(heard[1]) == 1 << 20


async def test_who_is_silent_is_given_up(talk: Talk, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_stream, "SILENCE", 0.1)
    await talk.open()
    await until(lambda: host.held == 1)
    await until(lambda: host.held == 0)


async def test_who_leaves_while_it_loads_leaves_nothing(talk: Talk, host: Host) -> None:
    host.may_load.clear()
    await talk.open()
    await until(lambda: host.held == 1)
    talk.answer.close()
    await until(lambda: host.held == 0)
