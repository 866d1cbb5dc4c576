"""A model that says nothing for too long has failed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from exo.chat import ChatRequest, Delta
from exo.engine import LoadedModel
from exo.errors import Timeout


async def unless_silent(
    model: LoadedModel, request: ChatRequest, silence: float | None
) -> AsyncGenerator[Delta, None]:
    """The model's deltas; raises `Timeout` when it lets us wait for one for `silence` seconds.

    One timer watches all of them, as arming one for each costs more than passing it on. While the caller
    has a delta in hand, nothing is waited for.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    waiting_since: float | None = None
    timer: asyncio.TimerHandle | None = None
    expired = False

    def look() -> None:
        nonlocal timer, expired
        assert silence is not None
        now = loop.time()
        if waiting_since is not None and now - waiting_since >= silence:
            expired = True
            task.cancel()
        else:
            timer = loop.call_at((waiting_since or now) + silence, look)

    if silence is not None:
        timer = loop.call_later(silence, look)
    try:
        async with aclosing(model.respond(request)) as deltas:
            waiting_since = loop.time()
            async for delta in deltas:
                waiting_since = None
                yield delta
                waiting_since = loop.time()
    except asyncio.CancelledError:
        if not expired or task.uncancel():
            raise
        raise Timeout(
            f"nothing came from model '{request.model}' for {silence:g} s; "
            f"--chatgpt-api-response-timeout-for {request.model}=SECONDS allows it more"
        ) from None
    finally:
        if timer:
            timer.cancel()
