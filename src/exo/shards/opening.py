"""Opening several shards at once."""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any


async def all_or_none(*opening: Awaitable[Any]) -> list[Any]:
    """What each of `opening` gives, a `RunningShard` or some of them. If one fails, or this is cancelled,
    none is left.

    Each is cancelled once, as a second time would break into its clearing up: so not by `asyncio.gather`,
    which passes on that it is cancelled itself.
    """
    tasks = [asyncio.ensure_future(each) for each in opening]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        return [task.result() for task in tasks]
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        given = [task.result() for task in tasks if not task.cancelled() and not task.exception()]
        opened = [shard for each in given for shard in (each if isinstance(each, Sequence) else (each,))]
        await asyncio.gather(*(shard.stop() for shard in opened))
        raise
