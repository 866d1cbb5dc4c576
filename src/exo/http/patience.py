"""Answers that may take minutes, as one JSON value: a model being loaded sends nothing of its own."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiohttp import web

from exo.errors import ExoError
from exo.http.app import RECORD, json_answer
from exo.http.desk import DESK
from exo.http.replies import keepalive, unless_abandoned
from exo.wire import openai


async def answer_patiently(http: web.Request, work: Coroutine[Any, Any, bytes]) -> web.StreamResponse:
    """The JSON that `work` gives, or its failure.

    Where it takes long, spaces go ahead of it, which JSON skips, so that nobody takes this node for dead. A
    failure after the first of them comes with the status 200, and is told by its key "error". A shutdown
    that cannot wait ends the work, and so does a client that leaves.
    """
    seconds = keepalive(http)
    task = asyncio.ensure_future(unless_abandoned(http.app[DESK], work))
    try:
        done, _ = await asyncio.wait([task], timeout=seconds)
        if done:
            return json_answer(task.result())
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(http)
        while not done:
            await response.write(b" ")
            done, _ = await asyncio.wait([task], timeout=seconds)
        try:
            last = task.result()
        except ExoError as error:
            http[RECORD].error = error.code
            last = openai.error_answer(error)
    finally:
        task.cancel()
        # Whoever has left does not care how it ended.
        await asyncio.gather(task, return_exceptions=True)
    http[RECORD].status = response.status
    await response.write_eof(last)
    return response
