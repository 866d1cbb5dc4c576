"""Clients that hold connections and send nothing, or too slowly, or do not read: on both event loops."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import ClientSession, TCPConnector, web

from exo.cluster import certificates
from exo.http.connections import Connections, Patience, State, most, overdue
from exo.http.tls import client_context, server_context

SHORT = Patience(handshake=0.3, head=0.3, body=0.3, bytes_per_second=500, unread=0.3)
PATIENCE = 10.0
Test = Callable[[], Awaitable[None]]

KEEPALIVE = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
GET = b"GET /quick HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n"


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    def run(test: Test) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(test(), PATIENCE))

    return run


class Server:
    """A server of some routes, with `connections`. `working` is set while /work waits for `done`."""

    def __init__(self) -> None:
        self.connections: Connections
        self.port = 0
        self.working, self.done = asyncio.Event(), asyncio.Event()
        self._clients: list[asyncio.StreamWriter] = []

    async def quick(self, http: web.Request) -> web.Response:
        return web.Response(text="quick")

    async def asked_after(self, http: web.Request) -> web.Response:
        """When a client that is silent is asked whether it is there, by the kernel."""
        sock = http.get_extra_info("socket")
        on = sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        times = [sock.getsockopt(socket.IPPROTO_TCP, each) for each in KEEPALIVE]
        return web.Response(text=f"{bool(on)} {times}")

    async def echo(self, http: web.Request) -> web.Response:
        try:
            return web.Response(text=f"{len(await http.read())} bytes")
        except web.RequestPayloadError as error:
            return web.Response(status=400, text=f"late: {error}")

    async def work(self, http: web.Request) -> web.Response:
        self.working.set()
        await self.done.wait()
        return web.Response(text="done")

    async def talk(self, http: web.Request) -> web.StreamResponse:
        """Answers each piece of a body as it comes."""
        response = web.StreamResponse()
        await response.prepare(http)
        async for piece in http.content.iter_any():
            await response.write(piece)
        return response

    async def flood(self, http: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(http)
        for _ in range(300):
            await response.write(b"x" * 100_000)
        return response

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._clients.append(writer)
        return reader, writer

    def leave(self) -> None:
        """All clients do."""
        for writer in self._clients:
            writer.close()

    async def says(self, sent: bytes = GET) -> bytes:
        """What comes back first on a connection of its own."""
        reader, writer = await self.client()
        writer.write(sent)
        return await reader.read(1000)


@asynccontextmanager
async def serving(
    patience: Patience = SHORT, most: int = 50, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    server = Server()
    app = web.Application()
    app.add_routes(
        [
            web.get("/quick", server.quick),
            web.get("/asked-after", server.asked_after),
            web.post("/echo", server.echo),
            web.get("/work", server.work),
            web.post("/talk", server.talk),
            web.get("/flood", server.flood),
        ]
    )
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    assert runner.server
    server.connections = Connections(runner.server, patience, most)
    sock = socket.create_server(("127.0.0.1", 0))
    server.port = sock.getsockname()[1]
    server.connections.listen(sock, tls)
    try:
        yield server
    finally:
        server.leave()
        await server.connections.close()
        await runner.cleanup()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server ends the connection."""
    said = b""
    try:
        while data := await reader.read(1 << 16):
            said += data
    except ConnectionError:
        pass
    return said


def state(**keys: Any) -> State:
    return State(**{"asked": False, "served": False, "waited": 0.0, **keys})


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (state(waited=29), ""),
        (state(waited=31), "head"),
        (state(waited=31, served=True), ""),
        (state(waited=500, asked=True), ""),
        (state(waited=29, asked=True, body=0, still=29), ""),
        (state(waited=31, asked=True, body=10**6, still=31), "body"),
        (state(waited=40, asked=True, body=6000), ""),
        (state(waited=40, asked=True, body=4000), "body"),
        (state(waited=10**6, asked=True, stuck=119), ""),
        (state(waited=10**6, asked=True, stuck=121), "unread"),
        (state(waited=1, served=True, stuck=121), "unread"),
    ],
)
def test_what_is_overdue(now: State, why: str) -> None:
    assert overdue(now, Patience()) == why


@pytest.mark.parametrize(("files", "connections"), [(64, 8), (256, 96), (1024, 480), (10**6, 1024)])
def test_connections_leave_files_for_the_rest(files: int, connections: int) -> None:
    assert most(files) == connections


@pytest.mark.parametrize("sent", [b"", b"GET /qui", GET[:-2]], ids=["nothing", "a line", "a head"])
def test_a_client_that_does_not_ask_is_left(run: Callable[[Test], None], sent: bytes) -> None:
    async def test() -> None:
        async with serving() as server:
            reader, writer = await server.client()
            writer.write(sent)
            assert await ended(reader) == b""
            assert len(server.connections) == 0
            assert b"quick" in await server.says()

    run(test)


def test_a_head_of_a_byte_now_and_then_is_not_waited_for(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with serving() as server:
            reader, writer = await server.client()
            end = asyncio.create_task(ended(reader))
            sent = 0
            while not end.done():
                writer.write(b"G")
                sent += 1
                await asyncio.sleep(0.02)
            assert sent < 100

    run(test)


@pytest.mark.parametrize("pieces", [0, 1000], ids=["stalled", "a byte now and then"])
def test_a_body_that_does_not_come_is_a_failure(run: Callable[[Test], None], pieces: int) -> None:
    async def test() -> None:
        async with serving() as server:
            reader, writer = await server.client()
            writer.write(POST + b"abc")
            end = asyncio.create_task(ended(reader))
            while not end.done():
                if pieces:
                    writer.write(b"a")
                await asyncio.sleep(0.02)
            said = await end
            assert said.startswith(b"HTTP/1.1 400")
            assert b"late: it has not come within" in said

    run(test)


def test_a_slow_body_is_read(run: Callable[[Test], None]) -> None:
    """Three times as long as it may say nothing, and no faster than it has to be."""

    async def test() -> None:
        async with serving() as server:
            reader, writer = await server.client()
            writer.write(POST.replace(b"100000", b"1000"))
            for _ in range(10):
                writer.write(b"a" * 100)
                await asyncio.sleep(0.09)
            assert b"1000 bytes" in await reader.read(1000)

    run(test)


def test_two_sides_that_talk_are_not_disturbed(run: Callable[[Test], None]) -> None:
    """As the nodes do that share a model: the body goes on while the answer comes."""

    async def test() -> None:
        async with serving() as server:
            reader, writer = await server.client()
            writer.write(b"POST /talk HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
            await reader.readuntil(b"a\r\n")
            await asyncio.sleep(1.0)
            writer.write(b"1\r\nb\r\n0\r\n\r\n")
            assert b"b\r\n" in await reader.readuntil(b"0\r\n\r\n")

    run(test)


def test_a_client_that_does_not_read_is_left(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with serving() as server:
            _, writer = await server.client()
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /flood HTTP/1.1\r\nHost: h\r\n\r\n")
            await asyncio.sleep(0.05)
            assert len(server.connections) == 1
            while len(server.connections):
                await asyncio.sleep(0.02)

    run(test)


def test_a_client_that_reads_slowly_is_not(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with serving() as server:
            reader, writer = await server.client()
            writer.write(b"GET /flood HTTP/1.1\r\nHost: h\r\n\r\n")
            said = 0
            while said < 30_000_000:
                data = await reader.read(1 << 20)
                assert data, f"it ended after {said} bytes"
                said += len(data)
                await asyncio.sleep(0.01)

    run(test)


def test_what_is_kept_open_between_requests_stays(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with serving() as server:
            reader, writer = await server.client()
            for _ in range(2):
                writer.write(GET)
                assert (await reader.readuntil(b"quick")).startswith(b"HTTP/1.1 200")
                await asyncio.sleep(0.6)

    run(test)


def test_where_there_is_no_room_those_go_that_ask_nothing(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with serving(Patience(), most=10) as server:
            worker, work = await server.client()
            work.write(b"GET /work HTTP/1.1\r\nHost: h\r\n\r\n")
            await server.working.wait()
            silent = [await server.client() for _ in range(30)]
            assert b"quick" in await server.says()
            assert len(server.connections) <= 10
            # The first of them have been ended, and the last ones not.
            assert await ended(silent[0][0]) == b""
            silent[-1][1].write(GET)
            assert b"quick" in await silent[-1][0].read(1000)
            server.done.set()
            assert b"done" in await worker.read(1000)

    run(test)


def test_where_all_are_at_work_the_next_one_waits(run: Callable[[Test], None]) -> None:
    async def test() -> None:
        async with serving(Patience(), most=3) as server:
            work = b"GET /work HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
            busy = []
            for _ in range(3):
                busy.append(asyncio.create_task(server.says(work)))
                await server.working.wait()
                server.working.clear()
            late = asyncio.create_task(server.says())
            await asyncio.sleep(0.3)
            assert not late.done()
            server.done.set()
            assert b"quick" in await late
            assert all([b"done" in await each for each in busy])

    run(test)


def test_nothing_is_done_while_nothing_is_asked() -> None:
    class Counting(asyncio.SelectorEventLoop):
        timers = 0

        def call_at(self, *args: Any, **keys: Any) -> asyncio.TimerHandle:  # type: ignore[override]
            self.timers += 1
            return super().call_at(*args, **keys)

    async def test() -> None:
        async with serving() as server:
            reader, writer = await server.client()
            writer.write(GET)
            await reader.readuntil(b"quick")
            await asyncio.sleep(0.5)
            loop = asyncio.get_running_loop()
            assert isinstance(loop, Counting)
            before = loop.timers
            await asyncio.sleep(0.5)
            assert loop.timers == before + 1, "of which one is this test's own"

    with asyncio.Runner(loop_factory=Counting) as runner:
        runner.run(test())


@pytest.fixture
def mutual(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context, of one cluster."""
    bundle = certificates.make_node_certificate(certificates.make_ca("home"), ["board"])
    files = certificates.install(bundle, tmp_path)
    ours = (files.ca, files.certificate, files.key)
    return server_context(*ours), client_context(*ours)


def test_a_handshake_that_does_not_come_is_not_waited_for(
    run: Callable[[Test], None], mutual: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def test() -> None:
        async with serving(Patience(handshake=0.3), tls=mutual[0]) as server:
            for sent in (b"", b"\x16\x03\x01\x02\x00\x01", GET):
                reader, writer = await server.client()
                writer.write(sent)
                await ended(reader)
            while len(server.connections):
                await asyncio.sleep(0.02)
            url = f"https://127.0.0.1:{server.port}/quick"
            async with ClientSession(connector=TCPConnector(ssl=mutual[1])) as client:
                answer = await client.get(url)
                assert await answer.text() == "quick"

    run(test)


def test_handshakes_that_do_not_come_leave_room(
    run: Callable[[Test], None], mutual: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def test() -> None:
        async with serving(Patience(), most=5, tls=mutual[0]) as server:
            silent = [await server.client() for _ in range(20)]
            url = f"https://127.0.0.1:{server.port}/quick"
            async with ClientSession(connector=TCPConnector(ssl=mutual[1])) as client:
                answer = await client.get(url)
                assert await answer.text() == "quick"
            assert await ended(silent[0][0]) == b""

    run(test)


def test_whoever_was_cut_off_without_a_word_is_given_up_in_two_minutes(
    run: Callable[[Test], None],
) -> None:
    """By the kernel, which costs no wake-up here."""

    async def test() -> None:
        async with serving() as server:
            said = await server.says(b"GET /asked-after HTTP/1.1\r\nHost: h\r\n\r\n")
            assert said.endswith(b"True [60, 20, 3]")

    run(test)
