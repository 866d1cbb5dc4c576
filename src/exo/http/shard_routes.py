"""Parts of models: where a model's layers would go, and layers here that another node works with."""

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol

from aiohttp import ClientError, web

from exo.choice.partition import Plan
from exo.errors import BadRequest, ConnectionLost, EngineFailed, ExoError, Forbidden, NotReady
from exo.http.app import RECORD, json_answer, only
from exo.http.callers import hop_of
from exo.http.desk import DESK
from exo.http.shard_stream import BEAT, PROTOCOL, Frames, Pieces, ToHost, Writing, to_host
from exo.shards.frames import Done, Failed, Free, Hidden, Opened, Progress, Step, check
from exo.shards.process import RunningShard
from exo.wire import shards as wire
from exo.wire.shards import Beat, OpenShard

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/x-exo-shard"

# Steps and frees of one shard that may be under way, for each of its slots.
_UNDER_WAY = 2


class HeldShard(RunningShard, Protocol):
    @property
    def bytes(self) -> int:
        """Its weights in memory."""
        ...

    async def link(self, connection: socket.socket) -> None:
        """Hands a connection to the process of another shard over to this one's."""
        ...


class Host(Protocol):
    """What this node has for the parts of models."""

    async def plan(self, model: str, split: str = "") -> Plan:
        """Where the model's layers would go, or as `split` says (see `partition.parse`)."""
        ...

    def shard(
        self, open: OpenShard, via: str, progress: Callable[[float], None]
    ) -> AbstractAsyncContextManager[HeldShard]:
        """Layers in this machine's memory for the body, on behalf of node `via`. Raises what that fails with:
        a model that is not here, a span that it has not, memory that is in use."""
        ...


def routes(host: Host) -> Sequence[web.AbstractRouteDef]:
    sessions: dict[str, _Session] = {}
    return [
        web.get("/v1/cluster/plan", partial(plan, host)),
        web.post("/v1/cluster/shard", partial(shard, host, sessions)),
        web.get("/v1/cluster/shard/link", partial(link, sessions)),
    ]


async def plan(host: Host, http: web.Request) -> web.StreamResponse:
    """`?model=ID`, and possibly `&split=node1:0-13,node2:14-27`: where its layers would go, as JSON."""
    only(http, "model", "split")
    served = http.app[DESK].served
    card = await served.card(http.query.get("model", ""))
    http[RECORD].model = card.id
    return json_answer(wire.plan_answer(await host.plan(card.id, http.query.get("split", ""))))


async def shard(host: Host, sessions: dict[str, "_Session"], http: web.Request) -> web.StreamResponse:
    """Layers of a model for another node of the cluster, for as long as that one keeps the request open.

    Its body is `ToHost` frames, first of all `OpenShard`; the answer's is `FromHost` frames. What is refused
    at the door is an HTTP status; later a `Failed` without an id is the end.
    """
    via = hop_of(http)
    desk = http.app[DESK]
    if not via:
        raise Forbidden(f"{http.path} is for the nodes of this cluster, which say and prove who they are")
    if via not in {peer.id for peer in desk.served.cluster().peers}:
        raise NotReady(f"node '{via[:80]}' is none of the cluster that this node sees")
    if desk.draining:
        raise NotReady("this node is shutting down")
    incoming = Frames(http.content, to_host)
    try:
        first = await incoming.next()
    except TimeoutError as error:
        raise ConnectionLost(f"node {via} does not say which layers it wants") from error
    if first is None or not isinstance(first[0], OpenShard):
        raise BadRequest("the first message must say which layers of which model are wanted")
    http[RECORD].model = first[0].model
    response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE})
    # Whatever ends this, there is nothing to be said on the connection any more.
    response.force_close()
    await response.prepare(http)
    name = secrets.token_urlsafe(16)
    # What goes past the nodes cannot be encrypted by them.
    link = "" if http.secure else name
    session = sessions[name] = _Session(host, first[0], via, link, incoming, response)
    try:
        await session.run()
    except ExoError as error:
        http[RECORD].error = error.code
        log.warning("layers %s of %s for node %s: %s", first[0].span, first[0].model, via, error.message)
        if isinstance(error, ConnectionLost) and http.transport:
            http.transport.abort()
    finally:
        del sessions[name]
    http[RECORD].status = response.status
    return response


async def link(sessions: Mapping[str, "_Session"], http: web.Request) -> web.StreamResponse:
    """`?shard=NAME`: this connection is from now on that of the process with the first layers to the one
    that holds the shard, which is why it is upgraded. Only for the node that has opened it."""
    only(http, "shard")
    via, name = hop_of(http), http.query.get("shard", "")
    session, transport = sessions.get(name), http.transport
    if not via or session is None or session.via != via or http.secure:
        raise Forbidden("a connection to layers is for the node that has opened them")
    if http.headers.get("Upgrade", "") != PROTOCOL or transport is None:
        raise BadRequest(f"this connection has to be upgraded to {PROTOCOL}")
    # Nothing of what comes now is for this process.
    transport.pause_reading()
    await session.link(socket.socket(fileno=os.dup(http.get_extra_info("socket").fileno())))
    transport.write(
        f"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n".encode()
    )
    return _HandedOver(status=101)


class _HandedOver(web.StreamResponse):
    """Nothing more is said here on the connection, which somebody else has now, and this end of it closed."""

    async def prepare(self, request: web.BaseRequest) -> None:
        self.force_close()

    async def write_eof(self, data: bytes = b"") -> None:
        pass


class _Session:
    """One shard for one other node, from its loading to its end."""

    def __init__(
        self,
        host: Host,
        open: OpenShard,
        via: str,
        link: str,
        incoming: Frames[ToHost],
        response: web.StreamResponse,
    ) -> None:
        """`link` is what a connection to the shard's process is asked for with, "" for none."""
        self._host, self._open, self.via, self._link = host, open, via, link
        self._incoming, self._response = incoming, response
        self._outgoing = Writing(self._write)
        self._shard: HeldShard | None = None
        self._loaded = 0.0
        self._room = asyncio.Semaphore(_UNDER_WAY * open.slots)
        self._steps: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Returns when the other node is done with the shard, and the shard is gone. Raises what ended it
        otherwise; but for `ConnectionLost`, the other node has been told."""
        work = [asyncio.create_task(each) for each in (self._hold(), self._listen(), self._beat())]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except ExoError as error:
            if not isinstance(error, ConnectionLost):
                await self._outgoing.send(Failed.of(error))
            raise
        except (ConnectionError, ClientError) as error:
            raise ConnectionLost(f"node {self.via} broke off: {error}") from None
        except Exception as error:
            log.exception("a defect in the shard route")
            await self._outgoing.send(Failed.of(error))
        finally:
            for task in (*work, *self._steps):
                task.cancel()
            await asyncio.gather(*work, *self._steps, return_exceptions=True)

    async def link(self, connection: socket.socket) -> None:
        if self._shard is None:
            connection.close()
            raise NotReady("the layers are not loaded yet")
        await self._shard.link(connection)

    async def _write(self, pieces: Pieces) -> None:
        for piece in pieces:
            await self._response.write(piece)

    async def _hold(self) -> None:
        """Has the shard in memory until it dies, or this is cancelled."""

        def progress(done: float) -> None:
            self._loaded = done

        # The head of the answer goes out with its first bytes.
        await self._outgoing.send(Beat())
        async with self._host.shard(self._open, self.via, progress) as shard:
            self._shard = shard
            await self._outgoing.send(Opened(shard.width, shard.bytes, self._link))
            while shard.alive:
                await asyncio.sleep(BEAT)
            await shard.free(0)  # which raises what it died of
        raise EngineFailed(f"layers {self._open.span} of {self._open.model} ended")

    async def _listen(self) -> None:
        """Does what the other node asks for until it is done."""
        while True:
            try:
                frame = await self._incoming.next()
            except TimeoutError as error:
                raise ConnectionLost(f"node {self.via} was silent") from error
            match frame:
                case None:
                    return
                case Beat(), _:
                    pass
                case ((Step() as step), payload):
                    await self._begin(step.id, partial(self._step, step, payload))
                case ((Free() as free), _):
                    await self._begin(free.id, partial(self._free, free))
                case _:
                    raise BadRequest("a shard is opened once")

    async def _begin(self, id: int, do: Callable[[RunningShard], Coroutine[Any, Any, None]]) -> None:
        """Does it in a task of its own, which answers; waits where too many are under way."""
        if self._shard is None:
            raise BadRequest("the layers are not loaded yet")
        await self._room.acquire()
        task = asyncio.create_task(self._answered(id, do(self._shard)))
        self._steps.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._steps.discard(task)
        self._room.release()
        if not task.cancelled() and (error := task.exception()) and not isinstance(error, ConnectionError):
            log.critical("a defect in the shard route", exc_info=error)

    async def _answered(self, id: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ExoError as error:
            await self._outgoing.send(Failed.of(error, id))

    async def _step(self, step: Step, hidden: bytes, shard: RunningShard) -> None:
        self._check(step, len(hidden), shard)
        assert step.want != "token"  # which has just been checked
        out = await shard.forward(step.slot, step.position, hidden, rows=step.want)
        await self._outgoing.send(Done(step.id) if step.want == "none" else Hidden(step.id), out)

    async def _free(self, free: Free, shard: RunningShard) -> None:
        self._check(free, 0, shard)
        await shard.free(free.slot)
        await self._outgoing.send(Done(free.id))

    def _check(self, asked: Step | Free, hidden_bytes: int, shard: RunningShard) -> None:
        open = self._open
        check(asked, hidden_bytes, width=shard.width, slots=open.slots, context=open.context)

    async def _beat(self) -> None:
        """Says that this node is there, and how far the loading has come."""
        told = 0.0
        while True:
            await asyncio.sleep(BEAT)
            if self._loaded > told and self._shard is None:
                told = self._loaded
                await self._outgoing.send(Progress(told))
            elif self._outgoing.quiet():
                await self._outgoing.send(Beat())
