"""The connections of a server: how many there may be, and until when a client has to send what it has begun.

aiohttp reads what it is sent, for as long as that takes: clients that send a byte a minute, or nothing, would
fill a node up without asking it for anything. Here connections are accepted one by one, those that are over
their time are ended, and where there is no room for another one, the one that has been without a request
longest goes. So whoever asks is served, however many others only hold connections.

Nothing is done a byte, a token or a connection that keeps to all this. While there are requests, one task
looks at all connections every few seconds; without any it sleeps.

A TLS handshake is a connection that has not sent its request. Behind the answer to a request, the next one
may be begun for as long as aiohttp keeps connections: it is idle, and the first to go. A body is waited for
until its answer begins. From there on the two sides talk, and the route knows how long that may take.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Collection
from functools import partial

import msgspec
from aiohttp import web

from exo.http.open_files import REMEDY, are_used_up

log = logging.getLogger(__name__)

_LOOKS = 6
"""How often a connection is looked at within the shortest of its times."""
_FULL = 0.1
"""Seconds after which a server looks for room again, all of whose connections are at work."""
_AGAIN = 1.0
"""Seconds after which a connection is accepted that could not be, as there were no files left for it."""
_SAID = 60.0
"""Seconds without such a failure, after which the next one is worth another line in the log."""
_THERE = {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 20, "TCP_KEEPCNT": 3}
"""When the kernel asks a client that says nothing whether it is there: after a minute, and then three times.
Of a machine that was cut off or lost its power nothing else would ever be heard."""
_SPARE = 64
"""Files that a node has open for other things than connections."""
_MOST = 1024
"""Each takes some 20 KB, and requests wait in a queue that is far shorter."""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds: for a TLS `handshake`; for the `head` of a connection's first request, from its beginning;
    without a byte of a `body` that has begun, which after as many seconds has to have come at
    `bytes_per_second`; and for a client to take more of what is `unread` by it."""

    handshake: float = 10.0
    head: float = 30.0
    body: float = 30.0
    bytes_per_second: float = 500.0
    unread: float = 120.0


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to know of a connection. `waited` are the seconds since it, or the request that is at
    work, began; `still` those since a byte of the body came, and `stuck` those since the client took any of
    what has been written. `body` are the bytes that have come of one that is waited for."""

    asked: bool
    served: bool
    waited: float
    body: int | None = None
    still: float = 0.0
    stuck: float = 0.0


def overdue(state: State, patience: Patience) -> str:
    """What a connection has to be ended for: its "head", its "body" or an "unread" answer; "" for none."""
    if state.stuck > patience.unread:
        return "unread"
    if not state.asked:
        return "head" if not state.served and state.waited > patience.head else ""
    if state.body is None:
        return ""
    slow = state.body < (state.waited - patience.body) * patience.bytes_per_second
    return "body" if slow or state.still > patience.body else ""


def most(files: int) -> int:
    """How many connections there may be where this process may open so many `files`: half of those, as what
    asks a node may make it ask another one."""
    return min(_MOST, max(8, (files - _SPARE) // 2))


class _Connection:
    """A connection, from the moment it is accepted."""

    __slots__ = ("body", "moved", "request", "served", "since", "stuck", "task", "transport", "unread")

    def __init__(self, task: asyncio.Task[None], now: float) -> None:
        self.task = task
        self.transport: asyncio.Transport | None = None
        """None while it is shaking hands."""
        self.request: web.BaseRequest | None = None
        """What is being answered."""
        self.served = False
        self.since = self.moved = self.stuck = now
        """When it, its request or its rest began; when its body, and what is written, last moved."""
        self.body = 0
        self.unread = (0, 0)

    def turn(self, request: web.BaseRequest | None, now: float) -> None:
        """A request begins, or (None) has been answered."""
        self.served = self.served or request is None
        self.request, self.since, self.moved, self.body = request, now, now, 0

    def look(self, now: float) -> State:
        request, awaited = self.request, None
        written = 0
        if request is not None:
            written = request.writer.output_size
            if not (request.content.is_eof() or written):
                awaited = request.content.total_bytes
                if awaited != self.body:
                    self.body, self.moved = awaited, now
        held = self._held
        if not held or (held, written) != self.unread:
            self.unread, self.stuck = (held, written), now
        return State(
            asked=request is not None,
            served=self.served,
            waited=now - self.since,
            body=awaited,
            still=now - self.moved,
            stuck=now - self.stuck,
        )

    def end(self) -> None:
        if self.transport is None:
            self.task.cancel()
        else:
            # Whoever is late with a head, or does not read, would not read an answer either.
            self.transport.abort()

    @property
    def _held(self) -> int:
        """Bytes that have been written and the client has not taken."""
        return self.transport.get_write_buffer_size() if self.transport else 0

    @property
    def idle(self) -> bool:
        """Nothing is lost with it."""
        return self.request is None and not self._held

    @property
    def over(self) -> bool:
        return self.task.done() if self.transport is None else self.transport.is_closing()


class Connections:
    """All those of one aiohttp server, on as many sockets as it has. To be made before there are any, within
    a running event loop; `close` ends its tasks, and no connection."""

    def __init__(self, server: web.Server, patience: Patience | None = None, most: int = _MOST) -> None:
        self._server, self._patience, self._most = server, patience or Patience(), most
        self._loop = asyncio.get_running_loop()
        self._all: dict[web.RequestHandler, _Connection] = {}
        self._accepting: dict[asyncio.Task[None], socket.socket] = {}
        self._wanted = asyncio.Event()
        self._refused_at = -_SAID
        self._answer = server.request_handler
        server.request_handler = self._answered
        self._watching = self._loop.create_task(self._watch())

    def __len__(self) -> int:
        self._prune()
        return len(self._all)

    def listen(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accepts connections from now on; they speak TLS where there is a context for it."""
        sock.setblocking(False)
        self._accepting[self._loop.create_task(self._accept(sock, tls))] = sock

    async def stop(self) -> None:
        """Accepts no more connections, and closes the sockets; those that there are go on."""
        accepting, self._accepting = self._accepting, {}
        await _cancelled(accepting)
        for sock in accepting.values():
            sock.close()

    async def close(self) -> None:
        await self.stop()
        shaking = [each.task for each in self._all.values() if each.transport is None]
        await _cancelled([self._watching, *shaking])

    # Accepting

    async def _accept(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        while True:
            try:
                client, _ = await self._loop.sock_accept(sock)
            except ConnectionError:
                continue  # it has left before its turn came
            except OSError as error:
                self._say(error)
                await asyncio.sleep(_FULL if self._evict() else _AGAIN)
                continue
            _ask_whether_there(client)
            try:
                await self._room()
            except asyncio.CancelledError:
                client.close()
                raise
            protocol = self._server()
            task = self._loop.create_task(self._take(client, protocol, tls))
            task.add_done_callback(partial(self._taken, client))
            self._all[protocol] = _Connection(task, self._loop.time())
            self._wanted.set()

    async def _take(
        self, client: socket.socket, protocol: web.RequestHandler, tls: ssl.SSLContext | None
    ) -> None:
        """Makes it a connection of the server's, behind its handshake if it has one."""
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: protocol,
            client,
            ssl=tls,
            ssl_handshake_timeout=self._patience.handshake if tls else None,
        )
        self._all[protocol].transport = transport

    @staticmethod
    def _taken(client: socket.socket, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            client.close()
        elif error := task.exception():
            client.close()
            if not isinstance(error, OSError):
                log.critical("a defect in accepting connections", exc_info=error)
            # Else nobody is there to be told: it did not speak TLS, showed no certificate, or left.

    async def _room(self) -> None:
        """Returns when there is room for one more."""
        while len(self._all) >= self._most and len(self) >= self._most:
            if not self._evict():
                await asyncio.sleep(_FULL)

    def _evict(self) -> bool:
        """Ends the connection that has been idle longest. Returns whether there is one."""
        idle = [protocol for protocol, each in self._all.items() if each.idle]
        if idle:
            self._all.pop(min(idle, key=lambda protocol: self._all[protocol].since)).end()
        return bool(idle)

    def _say(self, error: OSError) -> None:
        """Once, until it has been well for a while."""
        now, before = self._loop.time(), self._refused_at
        self._refused_at = now
        if now - before < _SAID:
            return
        remedy = f"; {REMEDY}" if are_used_up(error) else ""
        log.error("a connection cannot be accepted: %s; trying again%s", error.strerror, remedy)

    # Answering

    async def _answered(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = self._all.get(request.protocol)
        if connection is None:  # it has just been ended
            return await self._answer(request)
        connection.turn(request, self._loop.time())
        self._wanted.set()
        try:
            return await self._answer(request)
        finally:
            connection.turn(None, self._loop.time())

    # Watching

    async def _watch(self) -> None:
        patience = self._patience
        between = min(patience.head, patience.body, patience.unread) / _LOOKS
        while True:
            await self._wanted.wait()
            await asyncio.sleep(between)
            self._prune()
            if not self._look():
                self._wanted.clear()

    def _prune(self) -> None:
        for protocol in [protocol for protocol, each in self._all.items() if each.over]:
            del self._all[protocol]

    def _look(self) -> bool:
        """Ends what is overdue. Returns whether there is anything to be looked at again."""
        busy, now = False, self._loop.time()
        for protocol, each in list(self._all.items()):
            state = each.look(now)
            busy = busy or state.asked or not state.served or each.unread[0] > 0
            match overdue(state, self._patience):
                case "head" | "unread":
                    self._all.pop(protocol).end()
                case "body" if each.request is not None:
                    late = f"it has not come within {state.waited:.0f} s, and {state.body} bytes of it have"
                    each.request.content.set_exception(web.RequestPayloadError(late))
        return busy


def _ask_whether_there(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _THERE.items():
        # Each system has some of them.
        if (option := getattr(socket, name, None)) is not None:
            client.setsockopt(socket.IPPROTO_TCP, option, value)


async def _cancelled(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancels them and waits for their end. One that has failed of itself says so in the log."""
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, OSError):
            log.critical("a defect in the connections of a server", exc_info=result)
