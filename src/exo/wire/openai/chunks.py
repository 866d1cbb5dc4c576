"""The OpenAI dialect, the client's side: server-sent events to deltas.

Spoken to other nodes and to any OpenAI-compatible server, so it reads with lenience: keys it does not know
are skipped, and habits of other servers (`reasoning` for `reasoning_content`, a tool call's name repeated
in every delta, usage on the finish chunk, llama.cpp's timings on any, no [DONE]) are understood. But what
would make a broken answer look complete is an error.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from exo.chat import (
    Alternative,
    Delta,
    Finished,
    FinishReason,
    Reasoning,
    Text,
    Timings,
    TokenLogprob,
    ToolCall,
    Usage,
)
from exo.errors import UNFINISHED, EngineFailed, ExoError
from exo.wire.openai.errors import decode_error_event


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Token(msgspec.Struct):
    token: str
    logprob: float
    bytes: tuple[int, ...] | None = None
    top_logprobs: "list[_Token] | None" = None


class _Logprobs(msgspec.Struct):
    """Of a chat in `content`; of a completion in the lists of equal length."""

    content: list[_Token] | None = None
    tokens: list[str] = []
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Said | None = None
    text: str | None = None
    logprobs: _Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: Any = None


class _CachedTokens(msgspec.Struct):
    cached_tokens: int | None = None


class _ReasoningTokens(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _CachedTokens | None = None
    completion_tokens_details: _ReasoningTokens | None = None


class _Timings(msgspec.Struct):
    prompt_ms: float = 0.0
    predicted_ms: float = 0.0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    timings: Any = None
    error: Any = None


_decode_chunk = msgspec.json.Decoder(_Chunk).decode

_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


class ChunkReader:
    """Turns the bytes of one streamed answer, split anywhere, into deltas.

    `feed` it what comes in, until `done` or the end of the stream; then call `finish`. Both raise what the
    server's error event says, `EngineFailed` for one it cannot place or for a chunk it cannot read; but
    never before every delta that came ahead of the error was returned. Chats and completions both; only
    the first choice is read.
    """

    def __init__(self) -> None:
        self.done = False
        """Whether [DONE] came: no more is worth waiting for."""
        self._events = _Events()
        self._failure: ExoError | None = None
        self._calls: set[int] = set()
        self._reason: FinishReason | None = None
        self._stop = ""
        self._usage = Usage()
        self._timings = Timings()
        self._finished = False

    def feed(self, data: bytes) -> list[Delta]:
        deltas: list[Delta] = []
        try:
            if self._failure is None:
                for event in self._events.feed(data):
                    deltas.extend(self._read(event))  # keeps what is read before it raises
        except ExoError as error:
            self._failure = error
        if self._failure is not None and not deltas:
            raise self._failure
        return deltas

    def finish(self) -> list[Delta]:
        """What was held back when the stream ended: the finish, where neither usage nor [DONE] followed it.

        Raises `EngineFailed` where there was no finish: the answer is not complete.
        """
        if self._failure is not None:
            raise self._failure
        if self._reason is None:
            raise EngineFailed(UNFINISHED)
        return list(self._finish())

    def _read(self, event: bytes) -> Iterator[Delta]:
        if self.done:
            return
        if event.startswith(b"[DONE]"):
            self.done = True
            yield from self._finish()
            return
        try:
            chunk = _decode_chunk(event)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise EngineFailed(f"the server sent a chunk that cannot be read: {error}") from None
        if chunk.error:
            raise decode_error_event(chunk.error)
        for choice in chunk.choices or ():
            if choice.index == 0:
                yield from self._choice(choice)
        if chunk.timings is not None:
            self._timings = _timings(chunk.timings)
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)
            if not chunk.choices:
                yield from self._finish()

    def _choice(self, choice: _Choice) -> Iterator[Delta]:
        said = choice.delta or _Said()
        if reasoning := said.reasoning_content or said.reasoning:
            yield Reasoning(reasoning)
        text = said.content or choice.text or ""
        logprobs = _logprobs(choice.logprobs) if choice.logprobs else ()
        if text or logprobs:
            yield Text(text, logprobs)
        for call in said.tool_calls or ():
            yield self._call(call)
        if choice.finish_reason:
            self._reason = _reason(choice.finish_reason)
            # vLLM's may be the id of a token, too.
            self._stop = choice.stop_reason if isinstance(choice.stop_reason, str) else ""

    def _call(self, call: _Call) -> ToolCall:
        """A server that gives no index sends every call whole."""
        index = len(self._calls) if call.index is None else call.index
        function = call.function or _Function()
        arguments = function.arguments or ""
        if index in self._calls:
            return ToolCall(index, arguments=arguments)
        self._calls.add(index)
        return ToolCall(index, call.id or f"call_{index}", function.name or "", arguments)

    def _finish(self) -> Iterator[Delta]:
        if self._reason is not None and not self._finished:
            self._finished = True
            yield Finished(self._reason, self._usage, self._timings, self._stop)


class _Events:
    """Splits a stream of server-sent events at their ends, and keeps their `data` only."""

    LONGEST = 16 * 2**20

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._after_cr = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The `data` of each event that is complete now; raises `EngineFailed` for an endless line."""
        *lines, self._rest = (self._rest + self._with_plain_line_ends(data)).split(b"\n")
        if len(self._rest) > self.LONGEST:
            raise EngineFailed(f"the server sent a line of more than {self.LONGEST} bytes")
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line and self._data:
                event, self._data = b"\n".join(self._data), []
                yield event

    def _with_plain_line_ends(self, data: bytes) -> bytes:
        """CR LF and CR both end a line; the LF of a CR LF may come with the next bytes."""
        if self._after_cr and data:
            data = data.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data


def _usage(usage: _Usage) -> Usage:
    prompt, completion = usage.prompt_tokens_details, usage.completion_tokens_details
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        reasoning_tokens=(completion.reasoning_tokens or 0) if completion else 0,
        cached_tokens=(prompt.cached_tokens or 0) if prompt else 0,
    )


def _timings(said: Any) -> Timings:
    """In seconds, to the microsecond. Whatever else a server sends by that name, it tells no times."""
    try:
        timings = msgspec.convert(said, _Timings)
    except msgspec.ValidationError:
        return Timings()
    prefill, decode = (round(max(0.0, ms) / 1e3, 6) for ms in (timings.prompt_ms, timings.predicted_ms))
    return Timings(prefill, decode)


def _reason(reason: str) -> FinishReason:
    if reason not in _REASONS:
        raise EngineFailed(f'the answer was cut off by the server: finish_reason "{reason}"')
    return _REASONS[reason]


def _logprobs(logprobs: _Logprobs) -> tuple[TokenLogprob, ...]:
    if logprobs.content is not None:
        return tuple(
            TokenLogprob(_alternative(token), tuple(map(_alternative, token.top_logprobs or ())))
            for token in logprobs.content
        )
    tops = logprobs.top_logprobs or [None] * len(logprobs.tokens)
    rows = zip(logprobs.tokens, logprobs.token_logprobs, tops, strict=False)
    return tuple(
        TokenLogprob(_named(token, logprob or 0.0), tuple(_named(*row) for row in _best_first(top)))
        for token, logprob, top in rows
    )


def _alternative(token: _Token) -> Alternative:
    return Alternative(token.token, token.logprob, token.bytes or tuple(token.token.encode()))


def _named(token: str, logprob: float) -> Alternative:
    return Alternative(token, logprob, tuple(token.encode()))


def _best_first(top: Mapping[str, float] | None) -> list[tuple[str, float]]:
    return sorted((top or {}).items(), key=lambda row: -row[1])
