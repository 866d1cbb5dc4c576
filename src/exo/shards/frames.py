"""What passes to the process that holds a shard, and back: one message file for the boundary.

A frame is a little-endian u32 length, a u64 length, so many bytes of msgpack (the message), and so many bytes
of payload. A payload is hidden states: little-endian float32 of shape (rows, width), C order, whatever the
shard computes in. They go through msgpack never, so they are not copied for it.

The worker is told `Open` first, once, and answers with `Progress`es and `Opened`, or `Failed` without an id.
Then it does what comes in order of arrival, one after the other, and answers each message once, by its id,
with what the message says or `Failed`. The end of the connection ends the worker, whatever it is doing.

Workers of one model that are linked (`Link`) send each other the same frames: the first one's asks, and the
others' replies.
"""

import struct
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from exo.cards import Dtype, Span
from exo.chat import Sampling
from exo.errors import BY_CODE, BadRequest, EngineFailed, ExoError

HEAD = struct.Struct("<IQ")
MOST_HEADER = 16 << 20
"""Bytes. A prompt of a million tokens is not longer."""
MOST_PAYLOAD = 256 << 20
"""Bytes. Four times a chunk of 1024 tokens as wide as the widest model's, 16 384."""

NUMBER = 4
"""Bytes of a number in hidden states."""

SMALL = 64 << 10
"""Bytes of a payload up to which it is joined to its header: a copy is cheaper than a second system call."""

Rows: TypeAlias = Literal["all", "last", "none"]
"""Which tokens' hidden states are wanted: the next shard needs all, the output head the last."""


class Open(msgspec.Struct, frozen=True, kw_only=True, tag="open"):
    """Loads a span. `engine` is a module with an `open_shard`, whose parameters the others are; `vocabulary`
    is how many tokens the tokenizer has, where this shard draws them (with `ends`)."""

    engine: str
    folder: Path
    span: Span
    ends: bool
    slots: int
    context: int
    dtype: Dtype = "auto"
    threads: int | None = None
    cache: Path | None = None
    vocabulary: int = 0


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag="begin"):
    """A new answer in `slot`: how its tokens are drawn. `form` is what `exo.generation.constraints.grammar`
    gives, `logprobs` as in `ChatRequest`, `prompt` the tokens that penalties see. Answered with `Done`."""

    id: int
    slot: int
    sampling: Sampling
    form: str | None = None
    logprobs: int | None = None
    prompt: tuple[int, ...] = ()


class Step(msgspec.Struct, frozen=True, kw_only=True, tag="step"):
    """Reads `tokens`, or the hidden states of the payload if there are none, from `position` in `slot` on.

    Answered with `Hidden` where hidden states are wanted, with `Drawn` for "token" (only from a shard that is
    the whole model, or linked to the rest of it), with `Done` for "none".
    """

    id: int
    slot: int
    position: int
    tokens: tuple[int, ...] = ()
    want: Rows | Literal["token"] = "all"


class Draw(msgspec.Struct, frozen=True, kw_only=True, tag="draw"):
    """The next token of the answer in `slot`. The payload's last row is what the model's last layer gave.
    Answered with `Drawn`; only from a shard with `ends`."""

    id: int
    slot: int


class Free(msgspec.Struct, frozen=True, kw_only=True, tag="free"):
    """Lets go of what `slot` holds. Answered with `Done`, when all that came before it is over, too."""

    id: int
    slot: int


class Link(msgspec.Struct, frozen=True, kw_only=True, tag="link"):
    """A connection to another worker comes through the socket that is for those. The shard with `ends` gets
    one to each of the others, in their order, and from then on sends a step for a "token" through all of
    them; another one serves what is asked there. Answered with `Done`."""

    id: int


class Idle(msgspec.Struct, frozen=True, kw_only=True, tag="idle"):
    """Asks how long no other worker has asked for anything. Answered with `Rested`."""

    id: int


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far loading has come, from 0 to 1."""

    done: float


class Opened(msgspec.Struct, frozen=True, tag="opened"):
    """The span is loaded: the width of its hidden states, and its weights' bytes in memory. Between nodes,
    `link` is what a connection to its process is asked for with; "" is that there can be none."""

    width: int
    bytes: int
    link: str = ""


class Hidden(msgspec.Struct, frozen=True, tag="hidden"):
    """The payload is hidden states."""

    id: int


class Odds(msgspec.Struct, frozen=True):
    """Natural logarithms of likelihoods, before bias and filters: of the token drawn, and of the likeliest
    ones, by token, best first."""

    chosen: float
    top: tuple[tuple[int, float], ...] = ()


class Drawn(msgspec.Struct, frozen=True, tag="drawn"):
    """The next token. `complete` says that by the answer's form nothing can follow it."""

    id: int
    token: int
    odds: Odds | None = None
    complete: bool = False


class Done(msgspec.Struct, frozen=True, tag="done"):
    id: int


class Rested(msgspec.Struct, frozen=True, tag="rested"):
    """So many seconds no other worker has asked for anything; infinite where none ever did."""

    id: int
    seconds: float


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """What was asked by `id` failed, and the worker goes on; without an id, the span could not be loaded."""

    code: str
    message: str
    param: str | None = None
    id: int | None = None

    @classmethod
    def of(cls, error: Exception, id: int | None = None) -> "Failed":
        if isinstance(error, ExoError):
            return cls(error.code, error.message, error.param, id)
        return cls(EngineFailed.code, f"{type(error).__name__}: {error}", None, id)

    def error(self) -> ExoError:
        return BY_CODE.get(self.code, EngineFailed)(self.message, param=self.param)


Ask: TypeAlias = Begin | Step | Draw | Free | Link | Idle
Reply: TypeAlias = Hidden | Drawn | Done | Rested | Failed
ToWorker: TypeAlias = Open | Ask
FromWorker: TypeAlias = Progress | Opened | Reply


def path_out(value: object) -> str:
    """A path as frames have it, an `enc_hook` of msgspec."""
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"no frame holds a {type(value).__name__}")


def path_in(kind: type, value: object) -> Path:
    """The way back, a `dec_hook`."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(f"no frame holds a {kind.__name__}")


_encoder = msgspec.msgpack.Encoder(enc_hook=path_out)
_to_worker = msgspec.msgpack.Decoder(ToWorker, dec_hook=path_in)
_from_first = msgspec.msgpack.Decoder(Step | Free)
_from_worker = msgspec.msgpack.Decoder(FromWorker, dec_hook=path_in)


def encode(message: ToWorker | FromWorker, payload_bytes: int = 0) -> bytes:
    """A frame up to its payload, which the caller sends behind it."""
    header = _encoder.encode(message)
    return HEAD.pack(len(header), payload_bytes) + header


def lengths(head: bytes) -> tuple[int, int]:
    """Of header and payload, from the first `HEAD.size` bytes of a frame. Raises `EngineFailed` where they
    are more than a frame may have."""
    header, payload = HEAD.unpack(head)
    if header > MOST_HEADER or payload > MOST_PAYLOAD:
        raise EngineFailed(
            f"a shard's frame of {header} and {payload} bytes is no frame: the two sides disagree"
        )
    return header, payload


def decode_to_worker(header: bytes) -> ToWorker:
    message: ToWorker = _to_worker.decode(header)
    return message


def decode_from_first(header: bytes) -> Step | Free:
    """What the worker of the first layers asks another one."""
    message: Step | Free = _from_first.decode(header)
    return message


def check(asked: Step | Free, payload_bytes: int, *, width: int, slots: int, context: int) -> None:
    """Raises `BadRequest` for what may not be asked from elsewhere of layers in the middle of a model."""
    if not 0 <= asked.slot < slots:
        raise BadRequest(f"there is no slot {asked.slot} of {slots}")
    if isinstance(asked, Free):
        return
    rows, odd = divmod(payload_bytes, NUMBER * width)
    if asked.tokens or asked.want == "token":
        raise BadRequest("layers on another node read hidden states and give hidden states, no tokens")
    if odd or not rows:
        raise BadRequest(f"{payload_bytes} bytes are no hidden states of {width} numbers each")
    if asked.position < 0 or asked.position + rows > context:
        raise BadRequest(
            f"tokens {asked.position} to {asked.position + rows} are not within a context of {context}"
        )


def decode_from_worker(header: bytes) -> FromWorker:
    message: FromWorker = _from_worker.decode(header)
    return message
