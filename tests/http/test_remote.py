"""`Remote` against servers that fail in every way a network and a server can."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from exo.chat import ChatRequest, Message, Text
from exo.engines.scripted import Fail, Hang, Script, ScriptedModel, Wait
from exo.errors import BY_CODE, EngineFailed, ExoError, NotReady, Overloaded
from exo.http import openai_routes
from exo.http.app import build
from exo.http.desk import Desk
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
    with pytest.raises(EngineFailed, match="broke off"):
        await answer(remote, ASK)


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
