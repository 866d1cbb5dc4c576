"""Layers of a model on other nodes, and how a model is opened over several: the coordinator's side.

`http/shard_stream.py` says how the messages travel.
"""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Self, TypeVar

import aiohttp
import msgspec
from yarl import URL

from exo.cards import ModelCard, Share, Span
from exo.choice.nearest import nearest
from exo.cluster.planning import Planner
from exo.errors import BadRequest, ConnectionLost, EngineFailed, ExoError, NotReady
from exo.http.headers import hop
from exo.http.shard_stream import (
    BEAT,
    BUFFER,
    PROTOCOL,
    SILENCE,
    Frames,
    FromHost,
    Pieces,
    Writing,
    from_host,
)
from exo.nodes import Cluster
from exo.shards.engine import Split
from exo.shards.frames import Done, Failed, Free, Hidden, Opened, Progress, Rows, Step
from exo.shards.opening import all_or_none
from exo.shards.process import RunningShard
from exo.store import checkpoint
from exo.wire import openai
from exo.wire.shards import Beat, OpenShard

log = logging.getLogger(__name__)

_PATH = "/v1/cluster/shard"
_CONNECT = 2.0
# Seconds the other node gets to say that the shard is gone: its process gets two for that.
_LAST_WORDS = 3.0

T = TypeVar("T")


class Credentials:
    """What this node, `me`, has to show to the others: the API's `key`, the cluster's `secret`, and its
    certificate."""

    def __init__(
        self,
        me: str,
        *,
        key: str | None = None,
        secret: bytes | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._me, self._key, self._secret = me, key, secret
        self.tls = tls

    def headers(self) -> Mapping[str, str]:
        headers = hop(self._me, self._secret)
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return headers


class RemoteShard:
    """A `shards.process.RunningShard` on the node called `name`. Make one with `start`.

    Any number of calls may be under way; each waits for the reply with its own id. All of them fail with
    `ConnectionLost`, naming the node, once it is gone, and with what it says where its shard is.
    """

    def __init__(
        self,
        open: OpenShard,
        name: str,
        url: str,
        credentials: Credentials,
        session: aiohttp.ClientSession,
    ) -> None:
        self._open, self._name, self._session = open, name, session
        self._url, self._credentials = url, credentials
        self._link = ""
        self._lost: Callable[[ExoError], None] = lambda error: None
        self._ids = 0
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._error: ExoError | None = None
        self._opened: asyncio.Future[Opened] = asyncio.get_running_loop().create_future()
        self._next: Pieces = ()  # which goes out next, if any
        self._there_is_room, self._there_is_work = asyncio.Event(), asyncio.Event()
        self._there_is_room.set()
        self._over = False
        self._outgoing = Writing(self._write)
        self._tasks: list[asyncio.Task[None]] = []
        self.width = 0
        self.bytes = 0
        """Its weights in that node's memory."""

    @classmethod
    async def start(
        cls,
        url: str,
        name: str,
        open: OpenShard,
        credentials: Credentials,
        *,
        progress: Callable[[float], None] = lambda done: None,
    ) -> Self:
        """Has the node at `url` load the layers; `progress` is told from 0 to 1 how far that has come.

        Raises what that fails with there, `NotReady` where nobody answers, and `ConnectionLost` for a node
        that is lost over it. Nothing is left there then, nor when this is cancelled.
        """
        session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
            connector=aiohttp.TCPConnector(ssl=credentials.tls or True, force_close=True),
            read_bufsize=BUFFER,
        )
        shard = cls(open, name, url, credentials, session)
        try:
            await shard._outgoing.send(open)
            with shard._their_errors_as_ours():
                async with asyncio.timeout(_CONNECT + SILENCE):
                    answer = await session.post(
                        url.rstrip("/") + _PATH, data=shard._body(), headers=credentials.headers()
                    )
                if answer.status != 200:
                    raise openai.decode_error(answer.status, await answer.read())
            shard._tasks = [
                asyncio.create_task(each) for each in (shard._read(answer, progress), shard._beat())
            ]
            opened = await shard._opened
        except BaseException:
            await shard._close()
            raise
        shard.width, shard.bytes, shard._link = opened.width, opened.bytes, opened.link
        return shard

    def __repr__(self) -> str:
        state = "alive" if self.alive else "dead"
        return f"<RemoteShard {self._name} layers {self.span} {state} after {self._ids} calls>"

    @property
    def span(self) -> Span:
        return self._open.span

    @property
    def alive(self) -> bool:
        return self._error is None

    async def forward(self, slot: int, position: int, hidden: bytes, *, rows: Rows = "all") -> bytes:
        return await self._ask(Step(id=self._next_id(), slot=slot, position=position, want=rows), hidden)

    async def free(self, slot: int) -> None:
        await self._ask(Free(id=self._next_id(), slot=slot))

    async def connect(self, lost: Callable[[ExoError], None]) -> socket.socket | None:
        if not self._link:
            return None
        self._lost = lost
        try:
            async with asyncio.timeout(_CONNECT):
                return await self._upgraded()
        except (OSError, TimeoutError) as error:
            log.info("tokens go to %s by way of both nodes, as it cannot be linked: %s", self._name, error)
            return None

    async def _upgraded(self) -> socket.socket:
        """A connection that the process there has. Raises `OSError` where it cannot be had."""
        loop, url = asyncio.get_running_loop(), URL(self._url)
        assert url.host is not None
        assert url.port is not None
        lines = {
            "Host": url.authority,
            "Connection": "Upgrade",
            "Upgrade": PROTOCOL,
            **self._credentials.headers(),
        }
        head = f"GET {_PATH}/link?shard={self._link} HTTP/1.1\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in lines.items()
        )
        (family, *_, address), *_ = await loop.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(connection, address)
            await loop.sock_sendall(connection, head.encode() + b"\r\n")
            answer = b""
            # Its end comes with the last bytes, as nothing is said there before something is asked.
            while not answer.endswith(b"\r\n\r\n"):
                if not (piece := await loop.sock_recv(connection, 4096)):
                    break
                answer += piece
            if not answer.startswith(b"HTTP/1.1 101 "):
                raise ConnectionRefusedError(answer.partition(b"\r\n")[0].decode(errors="replace"))
        except BaseException:
            connection.close()
            raise
        return connection

    async def stop(self) -> None:
        """Returns when the shard is gone there, or the node has had its time to say so."""
        if self._error is None:
            self._fail(EngineFailed(f"layers {self.span} on {self._name} were given up"))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS):
                    self._over = True
                    self._there_is_work.set()
                    await asyncio.wait(self._tasks[:1])
        await self._close()

    def _next_id(self) -> int:
        self._ids += 1
        return self._ids

    async def _ask(self, message: Step | Free, payload: bytes = b"") -> bytes:
        if self._error is not None:
            raise _again(self._error)
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[message.id] = reply
        try:
            await self._outgoing.send(message, payload)
            return await reply
        finally:
            self._waiting.pop(message.id, None)

    async def _write(self, pieces: Pieces) -> None:
        """Called by one at a time. Nobody waits for room on a connection that is lost."""
        await self._there_is_room.wait()
        if self._error is not None:
            raise _again(self._error)
        self._next = pieces
        self._there_is_room.clear()
        self._there_is_work.set()

    async def _body(self) -> AsyncGenerator[bytes | memoryview, None]:
        while True:
            await self._there_is_work.wait()
            self._there_is_work.clear()
            pieces, self._next = self._next, ()
            self._there_is_room.set()
            for piece in pieces:
                yield piece
            if self._over:
                return

    async def _beat(self) -> None:
        while self.alive:
            await asyncio.sleep(BEAT)
            if self.alive and self._outgoing.quiet():
                with contextlib.suppress(ExoError):  # those who wait are told of it
                    await self._outgoing.send(Beat())

    async def _read(self, answer: aiohttp.ClientResponse, progress: Callable[[float], None]) -> None:
        """Hands the replies to those who wait, to the end of the connection."""
        incoming = Frames(answer.content, from_host)
        try:
            with self._their_errors_as_ours():
                while (frame := await incoming.next()) is not None:
                    self._take(*frame, progress)
            self._fail(ConnectionLost(f"{self._name} ended the connection"))
        except ExoError as error:
            self._fail(error)
        finally:
            answer.close()

    def _take(self, message: FromHost, payload: bytes, progress: Callable[[float], None]) -> None:
        match message:
            case Beat():
                pass
            case Progress(done):
                progress(done)
            case Opened():
                if not self._opened.done():
                    self._opened.set_result(message)
            case Failed(id=None):
                self._fail(self._theirs(message))
            case Hidden() | Done() | Failed():
                reply = self._waiting.pop(message.id, None) if message.id is not None else None
                if reply is None or reply.done():  # whoever asked for it has left
                    return
                if isinstance(message, Failed):
                    reply.set_exception(self._theirs(message))
                else:
                    reply.set_result(payload)

    def _theirs(self, failed: Failed) -> ExoError:
        error = failed.error()
        return type(error)(f"{self._name}: {error.message}", param=error.param)

    def _fail(self, error: ExoError) -> None:
        """Tells everybody who waits, and all who come."""
        if self._error is not None:
            return
        self._error = error
        self._there_is_room.set()
        waiting, self._waiting = self._waiting, {}
        self._tell(self._opened, error)
        for reply in waiting.values():
            self._tell(reply, error)
        self._lost(error)

    def _tell(self, reply: "asyncio.Future[T]", error: ExoError) -> None:
        if not reply.done():
            reply.set_exception(_again(error))
            reply.exception()  # who would wait for it may have left

    async def _close(self) -> None:
        self._fail(EngineFailed(f"layers {self.span} on {self._name} were given up"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    @contextlib.contextmanager
    def _their_errors_as_ours(self) -> Iterator[None]:
        try:
            yield
        except aiohttp.ConnectionTimeoutError as error:
            raise NotReady(f"cannot reach {self._name}: nothing answers within {_CONNECT:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise NotReady(f"cannot reach {self._name}: {error.strerror or error}") from error
        except TimeoutError as error:
            raise ConnectionLost(f"{self._name} was silent for {SILENCE:g} s") from error
        except BadRequest as error:
            raise EngineFailed(f"{self._name}: {error.message}") from error
        except aiohttp.ClientPayloadError:
            raise ConnectionLost(f"{self._name} broke off: the connection has ended") from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise ConnectionLost(f"{self._name} broke off: {error}") from None


def _again(error: ExoError) -> ExoError:
    """The same for one more who waits: an exception that is raised twice would gather tracebacks."""
    return type(error)(error.message, param=error.param, retry_after=error.retry_after)


async def open_rest(
    shares: Sequence[Share], cluster: Cluster, open: Callable[[Span], OpenShard], credentials: Credentials
) -> list[RunningShard]:
    """Has other nodes load their `shares`, all at once. If one fails, or this is cancelled, none is left.

    Raises `NotReady` for a node that is not there any more, and as `RemoteShard.start` does.
    """
    peers = {peer.id: peer for peer in cluster.peers}
    if gone := [share.node for share in shares if share.node not in peers]:
        raise NotReady(f"node {gone[0]}, which has a part of the model, is not there")
    starting = []
    for share in shares:
        peer = peers[share.node]
        url = nearest(peer.url, peer.addresses, cluster.me.addresses)
        starting.append(RemoteShard.start(url, f"node {peer.id}", open(share.span), credentials))
    return await all_or_none(*starting)


class Pipeline:
    """Says of a model how it is split, to `shards.engine.LayersEngine`: its `plan`."""

    def __init__(
        self, planner: Planner, credentials: Credentials, addresses: Callable[[], tuple[str, ...]] = tuple
    ) -> None:
        """`addresses` are those of this machine, by which the nearest of another one's is told."""
        self._planner, self._credentials, self._addresses = planner, credentials, addresses

    async def __call__(self, card: ModelCard, folder: Path) -> Split | None:
        """None for a model that stays whole. Files of this node's part that are missing are downloaded.
        Raises `NotReady` where the plan says that it does not fit, where another node is to coordinate it,
        and where files are missing that cannot be downloaded."""
        plan = await self._planner.plan(card.id)
        cluster = self._planner.cluster()
        if len(plan.parts) < 2:
            return None
        if plan.problem:
            raise NotReady(f"'{card.id}' cannot be loaded: {plan.problem}", param="model")
        first, *rest = plan.shares
        if first.node != cluster.me.id:
            raise NotReady(f"'{card.id}' is split, and node {first.node} has its first layers", param="model")
        await self._complete(card.id, folder, first.span)
        context = self._planner.context(card)

        def open(span: Span) -> OpenShard:
            return OpenShard(
                model=card.id,
                span=span,
                slots=self._planner.slots,
                context=context,
                dtype=self._planner.dtype,
            )

        log.info("'%s' is split: %s", card.id, ", ".join(f"{each.node} {each.span}" for each in plan.shares))
        me = msgspec.structs.replace(cluster.me, addresses=self._addresses())
        seen = msgspec.structs.replace(cluster, me=me)
        return Split(first.span, lambda: open_rest(rest, seen, open, self._credentials))

    async def _complete(self, model: str, folder: Path, span: Span) -> None:
        if not await asyncio.to_thread(checkpoint.lacks, folder, span, ends=True):
            return
        log.info("downloading what is missing of layers %s of '%s'", span, model)
        try:
            async with aclosing(self._planner.fetch_first(model, span)) as steps:
                async for _ in steps:
                    pass
        except BadRequest as error:
            raise NotReady(
                f"'{model}' is split, and files of layers {span} or of what is around all layers are not "
                f"here and cannot be downloaded: {error.message}",
                param="model",
            ) from error
