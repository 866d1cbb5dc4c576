"""The node's end of the connection to a shard's process.

Frames are taken apart where the event loop reads them, without a task in between, as there is one for every
token.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Self, cast

from exo.errors import EngineFailed, ExoError
from exo.shards import frames
from exo.shards.frames import Ask, Done, Drawn, Failed, FromWorker, Hidden, Opened, Progress, Reply, Rested


class Connection(asyncio.Protocol):
    """Frames to a worker, and its replies to whoever asked."""

    def __init__(self, progress: Callable[[float], None]) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[Opened] = loop.create_future()
        self.closed = asyncio.Event()
        self.lost = False
        self.error: ExoError | None = None
        """Why the connection was ended on this side, where the worker broke the rules."""
        self._cause: Callable[[], ExoError] | None = None
        self._progress = progress
        self._waiting: dict[int, asyncio.Future[tuple[Reply, bytes]]] = {}
        self._received = bytearray()
        self._wanted = frames.HEAD.size  # bytes that make the next thing there is to do
        self._writable = asyncio.Event()
        self._writable.set()

    @classmethod
    async def over(cls, connection: socket.socket, progress: Callable[[float], None]) -> Self:
        loop = asyncio.get_running_loop()
        try:
            return (await loop.create_connection(lambda: cls(progress), sock=connection))[1]
        except BaseException:
            connection.close()
            raise

    async def ask(self, message: Ask, payload: bytes) -> tuple[Reply, bytes]:
        """The reply and its payload. Raises what was asked for failed with, or what the connection ended
        of."""
        await self._writable.wait()
        if self._cause:
            raise self._cause()
        reply = self._waiting[message.id] = asyncio.get_running_loop().create_future()
        self.send(message, payload)
        content: tuple[Reply, bytes] = await reply
        if isinstance(content[0], Failed):
            raise content[0].error()
        return content

    def send(self, message: frames.ToWorker, payload: bytes = b"") -> None:
        head = frames.encode(message, len(payload))
        if len(payload) <= frames.SMALL:
            self._transport.write(head + payload)
        else:
            self._transport.write(head)
            self._transport.write(payload)

    def close(self) -> None:
        self._transport.close()

    def fail(self, cause: Callable[[], ExoError]) -> None:
        """Tells everybody who waits, and whoever asks from now on: the process has ended."""
        if not self.opened.done():
            self.opened.set_exception(cause())
        self.give_up(cause)
        self._waiting = {}

    def give_up(self, cause: Callable[[], ExoError]) -> None:
        """Tells everybody who waits, and whoever asks from now on. What is still replied is dropped."""
        self._cause = cause
        for reply in self._waiting.values():
            if not reply.done():
                reply.set_exception(cause())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by its methods only

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self.closed.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            while len(self._received) >= self._wanted:
                self._take_next()
        except (ExoError, LookupError, ValueError, RecursionError) as error:
            self.error = EngineFailed(f"a shard's process says what is none of its messages: {error}")
            self._transport.abort()

    def _take_next(self) -> None:
        received, start = self._received, frames.HEAD.size
        header, payload = frames.lengths(bytes(received[:start]))
        end = start + header + payload
        if len(received) < end:
            self._wanted = end
            return
        message = frames.decode_from_worker(bytes(received[start : start + header]))
        with memoryview(received) as view:
            content = bytes(view[start + header : end])
        del received[:end]
        self._wanted = start
        self._take(message, content)

    def _take(self, message: FromWorker, payload: bytes) -> None:
        match message:
            case Progress(done):
                self._progress(done)
            case Opened() if not self.opened.done():
                self.opened.set_result(message)
            case Failed(id=None) if not self.opened.done():
                self.opened.set_exception(message.error())
            case Opened() | Failed(id=None):
                pass  # whoever opened it has left
            case Hidden(id) | Drawn(id) | Done(id) | Rested(id) | Failed(id=id):
                reply = self._waiting.pop(id)  # type: ignore[arg-type]
                if not reply.done():  # whoever asked for it has left
                    reply.set_result((message, payload))
