"""What the program says of its work, whether somebody records it or not."""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Literal, Protocol, Self, TypeAlias
from urllib.parse import urlsplit

from exo.chat import ChatRequest, EmbedRequest, Trace, Usage
from exo.errors import EngineFailed, ExoError

Value: TypeAlias = str | int | float | bool | Sequence[str]
Kind: TypeAlias = Literal["server", "client", "internal"]

CANCELLED = "cancelled"
"""The `error.type` of what nobody waited for any more."""

_NOTHING: Mapping[str, Value] = {}


class Span(Protocol):
    """A piece of work. Leaving it as a context manager ends it with what was raised."""

    @property
    def trace(self) -> Trace:
        """What work is to be given that is part of this."""
        ...

    def note(self, attributes: Mapping[str, Value]) -> None:
        """Says more of it, while it has not ended."""
        ...

    def end(self, error: str = "", *, at: int | None = None) -> None:
        """Ends it now, or at an earlier time; a second call does nothing. `error` is a kind of failure."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Traces(Protocol):
    """Where spans come from. Never raises, and never waits for anybody."""

    @property
    def recording(self) -> bool:
        """Whether it is worth finding out what a span would be told."""
        ...

    def begin(
        self,
        name: str,
        kind: Kind,
        above: Trace,
        attributes: Mapping[str, Value] = _NOTHING,
        *,
        began: int | None = None,
    ) -> Span:
        """A span below `above`, from now on or from `began`. One of a server begins a trace where there is
        none; any other is not recorded then. Times are in nanoseconds since the epoch."""
        ...

    async def close(self) -> None:
        """Sends what has been recorded, as far as that can be done soon."""
        ...


class _Unrecorded:
    """Work that nobody records: what is part of it is part of what it is part of itself."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def note(self, attributes: Mapping[str, Value]) -> None: ...

    def end(self, error: str = "", *, at: int | None = None) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _Off:
    recording = False

    def begin(
        self,
        name: str,
        kind: Kind,
        above: Trace,
        attributes: Mapping[str, Value] = _NOTHING,
        *,
        began: int | None = None,
    ) -> Span:
        return _Unrecorded(above)

    async def close(self) -> None: ...


OFF: Traces = _Off()
"""Records nothing."""


def unrecorded(trace: Trace) -> Span:
    """A span that is not recorded, within `trace`."""
    return _Unrecorded(trace)


def failure(error: BaseException | None) -> str:
    """The kind of failure, "" for none: a code of `exo.errors`, or that nobody waits any more. An exception
    of any other kind is taken for what it becomes on its way to the client."""
    match error:
        case None:
            return ""
        case asyncio.CancelledError() | GeneratorExit():
            return CANCELLED
        case ExoError():
            return error.code
        case _:
            return EngineFailed.code


def asked(request: ChatRequest | EmbedRequest) -> Mapping[str, Value]:
    """What is asked for, without any text."""
    known: dict[str, Value] = {
        "gen_ai.operation.name": operation(request),
        "gen_ai.provider.name": "exo",
        "gen_ai.request.model": request.model,
    }
    if isinstance(request, ChatRequest):
        sampling = request.sampling
        wanted = {
            "gen_ai.request.max_tokens": sampling.max_tokens,
            "gen_ai.request.temperature": sampling.temperature,
            "gen_ai.request.top_p": sampling.top_p,
        }
        known |= {name: value for name, value in wanted.items() if value is not None}
    return known


def operation(request: ChatRequest | EmbedRequest) -> str:
    """What the conventions call such work."""
    if isinstance(request, EmbedRequest):
        return "embeddings"
    return "chat" if request.prompt is None else "text_completion"


def asking(traces: Traces, request: ChatRequest | EmbedRequest, url: str) -> Span:
    """A request that goes on to the server at `url`."""
    if not traces.recording:
        return _Unrecorded(request.trace)
    there = urlsplit(url)
    port = there.port or (443 if there.scheme == "https" else 80)
    where: dict[str, Value] = {"server.address": there.hostname or "", "server.port": port}
    return traces.begin(
        f"{operation(request)} {request.model}", "client", request.trace, {**asked(request), **where}
    )


def usage(usage: Usage) -> Mapping[str, Value]:
    """Tokens of an answer."""
    known: dict[str, Value] = {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
    }
    if usage.cached_tokens:
        known["gen_ai.usage.cache_read.input_tokens"] = usage.cached_tokens
    if usage.reasoning_tokens:
        known["gen_ai.usage.reasoning.output_tokens"] = usage.reasoning_tokens
    return known
