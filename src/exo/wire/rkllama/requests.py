"""What clients of the original NPU server ask: request bodies to values.

`decode_*` raise `BadRequest` naming the key at fault, and nothing else, whatever the bytes. The original read
`messages` and `stream` of `/generate` and overlooked every other key; here a key is heeded or refused.
"""

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field

from exo.chat import ChatRequest, Message, Sampling
from exo.errors import BadRequest
from exo.wire.json import Reader
from exo.wire.openai.request_types import (
    INT32,
    INT64,
    Count,
    ModelName,
    NonEmpty,
    Penalty,
    RepeatPenalty,
    Sent,
)


class Turn(Sent, frozen=True):
    role: Literal["system", "user", "assistant"]
    content: str


Turns: TypeAlias = Annotated[list[Turn], Meta(min_length=1, max_length=10_000)]


class GenerateBody(Sent, frozen=True):
    """POST /generate. `messages` as one text is what the user says. `max_new_tokens` is the vendor's name for
    `max_tokens`."""

    messages: Turns | NonEmpty
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=INT32)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repeat_penalty: RepeatPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-INT64 - 1, le=INT64)] | None = None
    max_tokens: Count | None = None
    max_new_tokens: Count | None = None
    stop: NonEmpty | Annotated[list[NonEmpty], Meta(max_length=16)] | None = None
    enable_thinking: bool | None = None
    # Refused by name:
    model: Annotated[None, Meta(description="make it the current one with POST /load_model")] = None
    format: Annotated[None, Meta(description="use response_format of /v1/chat/completions")] = None


class LoadModelBody(Sent, frozen=True):
    """POST /load_model."""

    model_name: ModelName
    from_: NonEmpty | None = field(default=None, name="from")
    huggingface_path: NonEmpty | None = None


class UnloadModelBody(Sent, frozen=True):
    """POST /unload_model. Without a name it is the current model; some clients name it."""

    model_name: ModelName | None = None


class PullBody(Sent, frozen=True):
    """POST /pull; `model` is "user/repository/file"."""

    model: Annotated[str, Meta(min_length=1, max_length=1024)]


class RmBody(Sent, frozen=True):
    """DELETE /rm."""

    model: ModelName


class GenerateCall(Struct, frozen=True):
    """The request names no model: the dialect has none but the current one."""

    request: ChatRequest
    stream: bool


class LoadCall(Struct, frozen=True):
    """`described` says that the client gave a Modelfile's `from` and `huggingface_path`, for a model that the
    server may not know."""

    model: str
    described: bool


_GENERATE = Reader(GenerateBody)
_LOAD = Reader(LoadModelBody)
_UNLOAD = Reader(UnloadModelBody)
_PULL = Reader(PullBody)
_RM = Reader(RmBody)


def decode_generate(body: bytes, *, id: str) -> GenerateCall:
    asked = _GENERATE.read(body)
    if None not in (asked.max_tokens, asked.max_new_tokens) and asked.max_tokens != asked.max_new_tokens:
        text = "max_new_tokens contradicts max_tokens: give only one of them"
        raise BadRequest(text, param="max_new_tokens")
    turns = [Turn("user", asked.messages)] if isinstance(asked.messages, str) else asked.messages
    request = ChatRequest(
        id=id,
        model="",
        messages=tuple(Message(turn.role, turn.content) for turn in turns),
        sampling=Sampling(
            temperature=asked.temperature,
            top_p=asked.top_p,
            top_k=asked.top_k,
            min_p=asked.min_p,
            repeat_penalty=asked.repeat_penalty,
            presence_penalty=asked.presence_penalty,
            frequency_penalty=asked.frequency_penalty,
            seed=asked.seed,
            max_tokens=asked.max_new_tokens if asked.max_tokens is None else asked.max_tokens,
        ),
        stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
        thinking=asked.enable_thinking,
    )
    return GenerateCall(request, bool(asked.stream))


def decode_load_model(body: bytes) -> LoadCall:
    asked = _LOAD.read(body)
    for name, given, other in (
        ("from", asked.from_, asked.huggingface_path),
        ("huggingface_path", asked.huggingface_path, asked.from_),
    ):
        if given is None and other is not None:
            text = f"{name} is required: from and huggingface_path describe a model together"
            raise BadRequest(text, param=name)
    return LoadCall(asked.model_name, described=asked.from_ is not None)


def decode_unload_model(body: bytes) -> str | None:
    """The model that is named, if one is; the original took no body at all."""
    return _UNLOAD.read(body).model_name if body else None


def decode_pull(body: bytes) -> str:
    """What to download, as it was written; it is the store that reads it."""
    return _PULL.read(body).model


def decode_rm(body: bytes) -> str:
    return _RM.read(body).model
