"""What surrounds every request, where it is not a matter of one route."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientConnectionResetError, ClientPayloadError, ClientSession, web
from aiohttp.test_utils import unused_port

from exo.chat import Text
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.server import listen, serve
from exo.metrics import Metrics
from exo.settings import HttpSettings
from tests.doubles import card, served
from tests.http.test_answers import END, Source


@asynccontextmanager
async def serving(*routes: web.AbstractRouteDef) -> AsyncIterator[str]:
    """A node's server, with these routes only. Gives its URL."""
    desk = Desk(served(Source(Text("a"), END), card("m")), Metrics("0", ()), HttpSettings(), lambda: None)
    port, stop = unused_port(), asyncio.Event()
    server = asyncio.create_task(serve(build(desk, routes), listen("127.0.0.1", port), stop))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop.set()
        await server


def access(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    [record] = [record for record in caplog.records if record.name == "exo.access"]
    return json.loads(record.getMessage())  # type: ignore[no-any-return]


async def test_a_client_that_left_before_a_word_was_written_is_no_defect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """There is a moment in which the connection is known to be gone and its handler is not cancelled yet."""
    caplog.set_level(logging.INFO)

    async def writes_too_late(http: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(http)
        assert http.transport
        http.transport.abort()
        with pytest.raises(ClientConnectionResetError) as left:
            await response.write(b"a")
        raise left.value

    async with serving(web.get("/late", writes_too_late)) as url, ClientSession() as client:
        answer = await client.get(f"{url}/late")
        with pytest.raises(ClientPayloadError):
            await answer.read()
    assert [
        record for record in caplog.records if record.levelno >= logging.WARNING and record.exc_info
    ] == []
    assert access(caplog)["status"] == 499


async def test_somebody_elses_lost_connection_is_an_answer_with_its_defect_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def loses_another(http: web.Request) -> web.StreamResponse:
        raise ConnectionResetError("of a disk far away")

    async with serving(web.get("/lost", loses_another)) as url, ClientSession() as client:
        answer = await client.get(f"{url}/lost")
        assert answer.status == 500
        assert "defect of exo" in (await answer.json())["error"]["message"]
    [defect] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert defect.exc_info
    assert "of a disk far away" in str(defect.exc_info[1])
    assert access(caplog)["status"] == 500
