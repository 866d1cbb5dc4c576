"""A shard's messages between nodes: frames in the body of a POST, and in that of its answer, both at once.

Theory of operation. A frame is that of `exo.shards.frames`: two lengths, a message in msgpack, a payload of
hidden states, which is not copied on the way but for being put together. Both sides say something at least
every `BEAT` seconds, so `SILENCE` seconds without a byte mean that the other one is gone, or cut off. Each
reads one frame after the other and writes one after the other: TCP holds back who is too fast, and nothing
gathers but the frame on its way.

Measured on loopback, two processes, aiohttp and uvloop, a shared machine of two cores: 16 KB there and back
in 0.14 to 0.19 ms, 16 MB one way at 1.1 to 1.5 GB/s. A WebSocket has 0.3 to 0.4 GB/s, as it masks what a
client sends; the bare connection after an upgrade 2.2 to 3.0 GB/s, at the price of a protocol of our own
below HTTP. All of the way, with route and client, is measured by `scripts/bench layers_hop`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeAlias, TypeVar

import msgspec
from aiohttp import StreamReader

from exo.errors import BadRequest
from exo.shards.frames import HEAD, Done, Failed, Free, Hidden, Opened, Progress, Step
from exo.wire.shards import Beat, OpenShard

BEAT = 0.5
"""Seconds after which a side with nothing else to say says that it is there."""
SILENCE = 1.9
"""Seconds without a byte after which the other side is taken for gone."""
PROTOCOL = "exo-shard"
"""What a connection is upgraded to that two shards' processes are given."""
MOST_HEADER = 64 << 10
MOST_PAYLOAD = 64 << 20
"""Bytes of hidden states: 1024 tokens of the widest model there is, 16 384."""
BUFFER = 1 << 20
"""Bytes that are read ahead of who wants them."""

# Bytes up to which a payload is joined to its header: a copy is cheaper than a second chunk.
_SMALL = 64 << 10
# Bytes that are written at once. aiohttp may copy what it writes: of small pieces the first one is on its way
# while the others are copied, and what is copied is still in the processor's cache.
_PIECE = 1 << 20

ToHost: TypeAlias = OpenShard | Step | Free | Beat
FromHost: TypeAlias = Beat | Progress | Opened | Hidden | Done | Failed
Pieces: TypeAlias = tuple[bytes | memoryview, ...]

to_host: msgspec.msgpack.Decoder[ToHost] = msgspec.msgpack.Decoder(ToHost)
from_host: msgspec.msgpack.Decoder[FromHost] = msgspec.msgpack.Decoder(FromHost)

T = TypeVar("T")

_encoder = msgspec.msgpack.Encoder()


def encode(message: ToHost | FromHost, payload: bytes = b"") -> Pieces:
    """A frame, in the pieces that are to be written in a row."""
    header = _encoder.encode(message)
    head = HEAD.pack(len(header), len(payload)) + header
    if len(payload) <= _SMALL:
        return (head + payload,)
    view = memoryview(payload)
    return (head, *(view[start : start + _PIECE] for start in range(0, len(view), _PIECE)))


class Frames(Generic[T]):
    """The frames of a body, as they come."""

    def __init__(self, body: StreamReader, decoder: "msgspec.msgpack.Decoder[T]") -> None:
        self._body, self._decoder = body, decoder

    async def next(self) -> tuple[T, bytes] | None:
        """The next message and its payload; None at the end of the body.

        Raises `TimeoutError` after `SILENCE` seconds without a byte, `BadRequest` for what is no frame or a
        larger one than there can be, and `ConnectionError` or aiohttp's own for a body that is cut short.
        """
        async with asyncio.timeout(SILENCE) as patience:
            head = await self._exactly(HEAD.size, patience)
            if not head:
                return None
            if len(head) < HEAD.size:
                raise ConnectionResetError("the connection ended within a frame")
            header_bytes, payload_bytes = HEAD.unpack(head)
            if header_bytes > MOST_HEADER or payload_bytes > MOST_PAYLOAD:
                raise BadRequest(
                    f"a frame of {header_bytes} and {payload_bytes} bytes: no more than {MOST_HEADER} and "
                    f"{MOST_PAYLOAD} are read"
                )
            header = await self._exactly(header_bytes, patience)
            payload = await self._exactly(payload_bytes, patience) if payload_bytes else b""
            if len(header) < header_bytes or len(payload) < payload_bytes:
                raise ConnectionResetError("the connection ended within a frame")
        try:
            return self._decoder.decode(header), payload
        except (ValueError, RecursionError) as error:
            raise BadRequest(f"a message between nodes is not understood: {error}") from error

    async def _exactly(self, size: int, patience: asyncio.Timeout) -> bytes:
        """So many bytes, or fewer at the end of the body. Any that come show that the other side is there."""
        loop = asyncio.get_running_loop()
        pieces: list[bytes] = []
        while size:
            piece = await self._body.read(size)
            if not piece:
                break
            patience.reschedule(loop.time() + SILENCE)
            pieces.append(piece)
            size -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Writing:
    """Frames to a body, one after the other, whoever sends them. `write` is given the pieces of one, and once
    it has begun to write them it goes on, whoever sent it leaves."""

    def __init__(self, write: Callable[[Pieces], Awaitable[None]]) -> None:
        self._write = write
        self._turn = asyncio.Lock()
        self._sent_at = 0.0

    async def send(self, message: ToHost | FromHost, payload: bytes = b"") -> None:
        """Returns when there is room for the next one. If cancelled, it is sent whole or not at all."""
        async with self._turn:
            await self._write(encode(message, payload))
            self._sent_at = asyncio.get_running_loop().time()

    def quiet(self) -> bool:
        """Whether a `Beat` is due."""
        return asyncio.get_running_loop().time() - self._sent_at >= BEAT / 2
