"""The cluster as it changes, as events for whoever watches it.

Theory of operation. What changes is told by whoever knows of it (`Watch.changed`), which costs nothing while
nobody watches. Each watcher then looks by himself, and writes what he sees if it is something else: not more
often than once a second, so that a busy node is no flood, and every few seconds in any case, as temperatures
and free memory move without a sign. A watcher that reads slowly looks less often, and misses only what was
replaced meanwhile. No shutdown waits for a watcher: the last thing he is told is that the node leaves.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress

from aiohttp import web

from exo.errors import Overloaded
from exo.http.app import RECORD, only
from exo.http.desk import DESK
from exo.nodes import Cluster
from exo.wire import cluster as wire

# Seconds between two looks at least, and those after which what moves by itself is told.
_PAUSE, _MOVES = 1.0, 5.0
_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}


class Watch:
    """Those who watch the cluster, `most` at once."""

    def __init__(self, most: int = 64) -> None:
        self._most = most
        self._watchers: set[asyncio.Event] = set()
        self._over = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Watch with {len(self._watchers)} of {self._most} watchers>"

    def __len__(self) -> int:
        return len(self._watchers)

    def changed(self) -> None:
        """Some node has something else to say of itself, came or left."""
        for news in self._watchers:
            news.set()

    def end(self) -> None:
        """Has everyone told at once how it is now, and nothing more."""
        self._over.set()
        self.changed()

    async def follow(self, look: Callable[[], Cluster]) -> AsyncGenerator[Cluster, None]:
        """The cluster as it is, and again whenever it is another one, and every few seconds. Ends with what
        there is when `end` is called. Raises `Overloaded` where too many watch already."""
        if len(self._watchers) >= self._most:
            raise Overloaded(
                f"{self._most} clients watch the cluster already; close one of them, or ask /v1/cluster from "
                "time to time",
                retry_after=_MOVES,
            )
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        self._watchers.add(news)
        try:
            told, at = None, 0.0
            while True:
                news.clear()
                over, cluster = self._over.is_set(), look()
                settled = wire.settled(cluster)
                if over or settled != told or loop.time() - at >= _MOVES:
                    yield cluster
                    told, at = settled, loop.time()
                if over:
                    return
                await _within(_PAUSE, self._over)
                await _within(at + _MOVES - loop.time(), news)
        finally:
            self._watchers.discard(news)


def routes(watch: Watch) -> Sequence[web.AbstractRouteDef]:
    """For the node whose changes are told to `watch`."""

    async def events(http: web.Request) -> web.StreamResponse:
        only(http)
        async with aclosing(watch.follow(http.app[DESK].served.cluster)) as looks:
            # Before the status: one too many is refused.
            cluster = await anext(looks)
            response = web.StreamResponse(headers=_HEADERS)
            await response.prepare(http)
            # Whoever leaves has been served.
            http[RECORD].status = response.status
            await response.write(wire.cluster_event(cluster))
            async for cluster in looks:
                await response.write(wire.cluster_event(cluster))
        await response.write_eof()
        return response

    return [web.get("/v1/cluster/events", events)]


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Waits for it, but no longer than that."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
