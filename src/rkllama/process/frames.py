"""What passes between the server and the process that holds a model: one message file for the boundary.

A frame is a little-endian u32 length and that many bytes of msgpack. The server sends `Load` first, once;
then `Run`s, one at a time, and `Abort`s. The worker answers each with its counterpart. The end of the
connection ends the worker, whatever it is doing.

What the runtime prints comes by another way, and only there is the reason of a failure. So that it can be
waited for, the worker prints `LOG_MARK` before it sends `Failed`.
"""

import struct
from pathlib import Path
from typing import TypeAlias

import msgspec

from exo.shards.frames import Failed, path_in, path_out
from rkllama.vendor.asks import AnyAsk, Event, Finished, Options

LENGTH = struct.Struct("<I")
LOG_MARK = "[rkllama: this run has failed]"


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Loads `options.model` with the runtime in `library`, of `release` or of the one it shows to be."""

    options: Options
    library: Path
    release: str | None = None


class Run(msgspec.Struct, frozen=True, tag="run"):
    id: int
    ask: AnyAsk


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Ends run `id` early; nothing happens if it has ended by itself."""

    id: int


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    release: str
    samples_per_run: bool


class Said(msgspec.Struct, frozen=True, tag="said"):
    id: int
    event: Event


class Done(msgspec.Struct, frozen=True, tag="done"):
    """Run `id` is over and the runtime is idle."""

    id: int
    finished: Finished


ToWorker: TypeAlias = Load | Run | Abort
FromWorker: TypeAlias = Loaded | Said | Done | Failed


_encoder = msgspec.msgpack.Encoder(enc_hook=path_out)
_to_worker = msgspec.msgpack.Decoder(ToWorker, dec_hook=path_in)
_from_worker = msgspec.msgpack.Decoder(FromWorker, dec_hook=path_in)


def encode(message: ToWorker | FromWorker) -> bytes:
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


def decode_to_worker(body: bytes) -> ToWorker:
    message: ToWorker = _to_worker.decode(body)
    return message


def decode_from_worker(body: bytes) -> FromWorker:
    message: FromWorker = _from_worker.decode(body)
    return message
