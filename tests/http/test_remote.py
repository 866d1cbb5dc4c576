"""`Remote` against servers that fail in every way a network and a server can."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from exo.chat import ChatRequest, Message, Text
from exo.engines.scripted import Fail, Hang, Script, ScriptedModel, Wait
from exo.errors import BY_CODE, ConnectionLost, EngineFailed, ExoError, NotReady, Overloaded, Timeout
from exo.http import openai_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.peer import Peer
from exo.http.remote import Remote
from exo.metrics import Metrics
from exo.settings import HttpSettings
from tests.doubles import answer, card, served, text

ASK = ChatRequest(model="m", messages=(Message("user", "hi"),), id="abc")


class Far:
    """A node that plays a script, and a client to it."""

    def __init__(self, *steps: Text | Wait | Hang | Fail) -> None:
        self.model = ScriptedModel(Script(steps=steps, slots=9))
        desk = Desk(
            served(self.model, card("m")), Metrics("0", ()), HttpSettings(keepalive=0.02), lambda: None
        )
        self.server = TestServer(build(desk, openai_routes.routes()), handler_cancellation=True)

    async def __aenter__(self) -> Remote:
        await self.server.start_server()
        self.client = Remote(str(self.server.make_url("")))
        return self.client

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        await self.server.close()


async def test_keep_alive_comments_are_no_deltas() -> None:
    async with Far(Wait(0.1), Text("late")) as remote:
        assert text(await answer(remote, ASK)) == "late"


@pytest.mark.parametrize("code", BY_CODE)
async def test_every_kind_of_error_survives_the_hop(code: str) -> None:
    async with Far(Fail("because", code)) as remote:
        with pytest.raises(BY_CODE[code], match="because") as failed:
            await answer(remote, ASK)
    assert type(failed.value) is BY_CODE[code]


@pytest.mark.parametrize("code", BY_CODE)
async def test_every_kind_of_error_survives_in_the_middle_of_an_answer(code: str) -> None:
    far = Far(Text("so far"), Wait(0.05), Fail("because", code))
    async with far as remote, aclosing(remote.respond(ASK)) as deltas:
        assert await anext(deltas) == Text("so far")
        with pytest.raises(BY_CODE[code], match="because"):
            await anext(deltas)


async def test_hanging_up_reaches_the_other_side() -> None:
    far = Far(Text("so far"), Hang())
    async with far as remote:
        async with aclosing(remote.respond(ASK)) as deltas:
            await anext(deltas)
            assert far.model.running == 1
        while far.model.running:
            await asyncio.sleep(0)


async def test_connections_that_died_while_they_were_kept_are_replaced() -> None:
    """A server that has restarted, as it looks before its end of the old connections was noticed here."""
    together = asyncio.Barrier(3)
    connections = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the first request, and dies of the second."""
        nonlocal connections
        connections += 1
        with contextlib.closing(writer):
            await reader.readuntil(b'"m"')
            if connections <= 3:
                await together.wait()
            chunk = b'data: {"choices": [{"delta": {"content": "hello"}, "finish_reason": "stop"}]}\n\n'
            body = chunk + b"data: [DONE]\n\n"
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await reader.readuntil(b'"m"')

    async with await asyncio.start_server(once, "127.0.0.1", 0) as server:
        remote = Remote(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await asyncio.gather(*(answer(remote, ASK) for _ in range(3)))
        assert text(await answer(remote, ASK)) == "hello"
        assert connections == 4
        await remote.close()


@pytest.fixture
async def odd() -> AsyncIterator[tuple[dict[str, object], Remote]]:
    """A server that answers as the test says."""
    says: dict[str, object] = {}

    async def handler(request: web.Request) -> web.StreamResponse:
        if "raw" in says:
            assert request.transport
            request.transport.write(says["raw"])  # type: ignore[arg-type]
            request.transport.close()
        return web.Response(**says)  # type: ignore[arg-type]

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    async with TestServer(app) as server:
        remote = Remote(str(server.make_url("")))
        yield says, remote
        await remote.close()


async def test_a_refusal_says_when_to_come_back(odd: tuple[dict[str, object], Remote]) -> None:
    says, remote = odd
    says.update(status=429, text="busy", headers={"Retry-After": "7"})
    with pytest.raises(Overloaded) as refused:
        await answer(remote, ASK)
    assert refused.value.retry_after == 7


async def test_a_stream_that_just_ends_is_a_failure(odd: tuple[dict[str, object], Remote]) -> None:
    says, remote = odd
    says.update(text='data: {"choices": [{"index": 0, "delta": {"content": "half"}}]}\n\n')
    with pytest.raises(EngineFailed, match="without a finish"):
        await answer(remote, ASK)


async def test_a_connection_cut_in_the_middle_is_a_failure(odd: tuple[dict[str, object], Remote]) -> None:
    says, remote = odd
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    says.update(raw=head + b'50\r\ndata: {"choices": [{"index": 0, "del')
    with pytest.raises(ConnectionLost, match="broke off"):
        await answer(remote, ASK)


async def test_a_connection_closed_without_an_answer_is_a_failure(
    odd: tuple[dict[str, object], Remote],
) -> None:
    says, remote = odd
    says.update(raw=b"")
    with pytest.raises(ConnectionLost, match="broke off"):
        await answer(remote, ASK)


@pytest.mark.parametrize(("kind", "means"), [(Remote, Timeout), (Peer, ConnectionLost)])
async def test_silence_is_slowness_of_any_server_and_the_end_of_a_node(
    kind: type[Remote], means: type[ExoError]
) -> None:
    """A node of the cluster says all the time that it is there; other servers say nothing until they have
    read the prompt."""
    heard = asyncio.Event()

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            heard.set()
            await reader.read()

    async with await asyncio.start_server(read, "127.0.0.1", 0) as server:
        remote = kind(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", name="it", silence=0.2)
        with pytest.raises(means, match=r"it was silent for 0\.2 s") as failed:
            await answer(remote, ASK)
        assert type(failed.value) is means
        assert heard.is_set()
        await remote.close()


async def test_something_that_is_no_such_server_is_a_failure(odd: tuple[dict[str, object], Remote]) -> None:
    says, remote = odd
    says.update(status=500, text="<html>Internal error</html>")
    with pytest.raises(ExoError, match="Internal error"):
        await answer(remote, ASK)


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    remote = Remote(f"http://127.0.0.1:{port}")
    assert not await remote.alive()
    with pytest.raises(NotReady, match=f"cannot reach http://127.0.0.1:{port}: .*refused"):
        await answer(remote, ASK)
    await remote.close()


async def test_a_machine_that_takes_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that is off: its address is there, but nothing comes back."""
    monkeypatch.setattr("exo.http.remote._CONNECT", 0.2)
    with socket.socket() as full, contextlib.ExitStack() as connected:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        for _ in range(2):
            # Linux drops what comes when nobody has accepted these.
            client = connected.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        remote = Remote(f"http://127.0.0.1:{port}")
        with pytest.raises(NotReady, match=f"cannot reach http://127.0.0.1:{port}: nothing answers within"):
            await answer(remote, ASK)
        await remote.close()
