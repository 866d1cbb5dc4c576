"""The OpenAI dialect, the server's side: deltas to whole answers and to server-sent events.

A streamed text or reasoning delta costs one JSON string: the bytes around it are the same all through a
choice, so they are cut once out of a chunk that holds a mark in the text's place.
"""

import struct
from base64 import b64encode
from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UnsetType

from exo.cards import ModelCard
from exo.chat import (
    Delta,
    Embeddings,
    Finished,
    FinishReason,
    Reasoning,
    Text,
    TokenLogprob,
    ToolCall,
    Usage,
)
from exo.errors import UNFINISHED, EngineFailed, ExoError
from exo.wire.openai import answer_types as types
from exo.wire.openai import figures
from exo.wire.openai.calls import EmbedCall
from exo.wire.openai.errors import error_body

_encode = msgspec.json.Encoder().encode
_SSE = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_COMMENT = b": keep-alive\n\n"
_DONE = b"data: [DONE]\n\n"
_MARK = "\0"


# Streams


class ChatStream:
    """Encodes one streamed answer of `n` choices: `start` and `delta`s by choice, then `end` or `failed`.

    Every method gives whole events, ready to be sent. `id`, `created` (seconds since the epoch) and `model`
    are on each of them but the error.
    """

    headers = _SSE
    keepalive = _COMMENT

    def __init__(
        self,
        id: str,
        created: int,
        model: str,
        *,
        include_usage: bool = False,
        n: int = 1,
        reasoning: bool = True,
    ):
        """Without `reasoning`, what the model thinks is left out."""
        self._id, self._created, self._model = id, created, model
        self._include_usage = include_usage
        self._shows_reasoning = reasoning
        self._text = [self._around(i, types.ChatDelta(content=_MARK)) for i in range(n)]
        self._reasoning = [self._around(i, types.ChatDelta(reasoning_content=_MARK)) for i in range(n)]

    def start(self, index: int) -> bytes:
        return self._choice(index, types.ChatDelta(role="assistant", content=""))

    def delta(self, index: int, delta: Delta) -> bytes:
        match delta:
            case Text():
                if delta.logprobs:
                    return self._with_logprobs(index, delta)
                before, after = self._text[index]
                return before + _encode(delta.text) + after
            case Reasoning():
                if not self._shows_reasoning:
                    return b""
                before, after = self._reasoning[index]
                return before + _encode(delta.text) + after
            case ToolCall():
                return self._choice(index, types.ChatDelta(tool_calls=[_call_delta(delta)]))
            case Finished():
                return self._choice(index, types.ChatDelta(), finished=delta)

    def end(self, usage: Usage) -> bytes:
        """`usage` is of all choices together, see `figures.total_usage`."""
        if not self._include_usage:
            return _DONE
        total = figures.completion_usage(usage)
        return _event(types.ChatChunk(self._id, self._created, self._model, [], total)) + _DONE

    def failed(self, error: ExoError) -> bytes:
        """No [DONE] follows: a client that overlooks the error must not take the answer for complete."""
        return _event(error_body(error))

    def _choice(
        self,
        index: int,
        delta: types.ChatDelta,
        logprobs: types.ChatLogprobs | None = None,
        finished: Finished | None = None,
    ) -> bytes:
        choice = types.ChatChunkChoice(
            index, delta, logprobs, finished.reason if finished else None, _stop(finished)
        )
        usage = None if self._include_usage else msgspec.UNSET
        timings = figures.engine_timings(finished) if finished else msgspec.UNSET
        return _event(types.ChatChunk(self._id, self._created, self._model, [choice], usage, timings))

    def _with_logprobs(self, index: int, delta: Text) -> bytes:
        return self._choice(index, types.ChatDelta(content=delta.text), figures.chat_logprobs(delta.logprobs))

    def _around(self, index: int, delta: types.ChatDelta) -> tuple[bytes, bytes]:
        return _cut(self._choice(index, delta))


class CompletionStream:
    """As `ChatStream`, for /v1/completions. `echo` is the text that goes before each choice's own.

    Reasoning is text like any other here: a prompt is continued as it stands. Tool calls cannot be.
    """

    headers = _SSE
    keepalive = _COMMENT

    def __init__(
        self,
        id: str,
        created: int,
        model: str,
        *,
        include_usage: bool = False,
        n: int = 1,
        echo: Sequence[str] = (),
    ):
        self._id, self._created, self._model = id, created, model
        self._include_usage = include_usage
        self._echo = echo
        self._offset = [0] * n
        self._text = [_cut(self._choice(types.TextChoice(i, _MARK))) for i in range(n)]

    def start(self, index: int) -> bytes:
        return self._said(index, self._echo[index]) if self._echo else b""

    def delta(self, index: int, delta: Delta) -> bytes:
        match delta:
            case Text():
                if delta.logprobs:
                    return self._with_logprobs(index, delta)
                return self._said(index, delta.text)
            case Reasoning():
                return self._said(index, delta.text)
            case ToolCall():
                raise _called_without_tools()
            case Finished():
                choice = types.TextChoice(index, "", None, _text_reason(delta.reason), _stop(delta))
                return self._choice(choice, figures.engine_timings(delta))

    def end(self, usage: Usage) -> bytes:
        if not self._include_usage:
            return _DONE
        total = figures.completion_usage(usage)
        return _event(types.TextAnswer(self._id, self._created, self._model, [], total)) + _DONE

    def failed(self, error: ExoError) -> bytes:
        return _event(error_body(error))

    def _said(self, index: int, text: str) -> bytes:
        self._offset[index] += len(text)
        before, after = self._text[index]
        return before + _encode(text) + after

    def _with_logprobs(self, index: int, delta: Text) -> bytes:
        offset = self._offset[index]
        self._offset[index] += len(delta.text)
        logprobs = figures.text_logprobs(delta.logprobs, offset)
        return self._choice(types.TextChoice(index, delta.text, logprobs))

    def _choice(
        self, choice: types.TextChoice, timings: types.EngineTimings | UnsetType = msgspec.UNSET
    ) -> bytes:
        usage = None if self._include_usage else msgspec.UNSET
        return _event(types.TextAnswer(self._id, self._created, self._model, [choice], usage, timings))


def _event(value: msgspec.Struct) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"


def _cut(event: bytes) -> tuple[bytes, bytes]:
    """What is before and after the mark; the last one, as a model's name might hold another."""
    before, after = event.rsplit(_encode(_MARK), 1)
    return before, after


# Whole answers


class _Whole(msgspec.Struct):
    """The deltas of one choice, joined."""

    finished: Finished
    text: str
    reasoning: str
    calls: list[types.AnsweredCall]
    logprobs: list[TokenLogprob]


def chat_answer(
    id: str, created: int, model: str, choices: Sequence[Sequence[Delta]], *, reasoning: bool = True
) -> bytes:
    """`choices` are the answers to one request; raises `EngineFailed` where one has no `Finished`.

    Without `reasoning`, what the model thought is left out.
    """
    wholes = [_joined(deltas) for deltas in choices]
    answered = [
        types.ChatChoice(
            index=i,
            message=types.AnswerMessage(
                content=whole.text if whole.text or not whole.calls else None,
                reasoning_content=(reasoning and whole.reasoning) or msgspec.UNSET,
                tool_calls=whole.calls or msgspec.UNSET,
            ),
            logprobs=figures.chat_logprobs(whole.logprobs) if whole.logprobs else None,
            finish_reason=whole.finished.reason,
            stop_reason=_stop(whole.finished),
        )
        for i, whole in enumerate(wholes)
    ]
    total = figures.total_usage([whole.finished.usage for whole in wholes], len(wholes))
    usage = figures.completion_usage(total)
    return _encode(types.ChatAnswer(id, created, model, answered, usage, _timings_of(wholes)))


def completion_answer(
    id: str,
    created: int,
    model: str,
    choices: Sequence[Sequence[Delta]],
    *,
    n: int = 1,
    echo: Sequence[str] = (),
) -> bytes:
    """`choices` are `n` answers to each prompt in turn; `echo` is the text before each choice, if any."""
    wholes = [_joined(deltas) for deltas in choices]
    if any(whole.calls for whole in wholes):
        raise _called_without_tools()
    befores = echo or [""] * len(wholes)
    answered = [
        types.TextChoice(
            index=i,
            text=before + whole.reasoning + whole.text,
            logprobs=figures.text_logprobs(whole.logprobs, len(before + whole.reasoning))
            if whole.logprobs
            else None,
            finish_reason=_text_reason(whole.finished.reason),
            stop_reason=_stop(whole.finished),
        )
        for i, (whole, before) in enumerate(zip(wholes, befores, strict=True))
    ]
    usage = figures.completion_usage(figures.total_usage([whole.finished.usage for whole in wholes], n))
    return _encode(types.TextAnswer(id, created, model, answered, usage, _timings_of(wholes)))


def embeddings_answer(call: EmbedCall, model: str, vectors: Embeddings) -> bytes:
    read = types.EmbeddingsUsage(vectors.prompt_tokens, vectors.prompt_tokens)
    data = [types.Vector(i, _base64(each) if call.base64 else each) for i, each in enumerate(vectors.vectors)]
    return _encode(types.EmbeddingsAnswer(model, data, read))


def models_answer(cards: Sequence[ModelCard]) -> bytes:
    return _encode(types.ModelsAnswer([_model(card) for card in cards]))


def model_answer(card: ModelCard) -> bytes:
    return _encode(_model(card))


# Parts of both


def _joined(deltas: Sequence[Delta]) -> _Whole:
    finished: Finished | None = None
    text: list[str] = []
    reasoning: list[str] = []
    calls: dict[int, list[ToolCall]] = {}
    logprobs: list[TokenLogprob] = []
    for delta in deltas:
        match delta:
            case Text():
                text.append(delta.text)
                logprobs.extend(delta.logprobs)
            case Reasoning():
                reasoning.append(delta.text)
            case ToolCall():
                calls.setdefault(delta.index, []).append(delta)
            case Finished():
                finished = delta
    if finished is None:
        raise EngineFailed(UNFINISHED)
    whole_calls = [_joined_call(pieces) for _, pieces in sorted(calls.items())]
    return _Whole(finished, "".join(text), "".join(reasoning), whole_calls, logprobs)


def _joined_call(pieces: Sequence[ToolCall]) -> types.AnsweredCall:
    arguments = "".join(piece.arguments for piece in pieces)
    return types.AnsweredCall(pieces[0].id, types.FunctionCalled(pieces[0].name, arguments))


def _call_delta(call: ToolCall) -> types.CallDelta:
    if not call.id and not call.name:
        return types.CallDelta(call.index, types.FunctionDelta(call.arguments))
    return types.CallDelta(call.index, types.FunctionDelta(call.arguments, call.name), call.id, "function")


def _called_without_tools() -> EngineFailed:
    return EngineFailed("the model called a tool in a completion, which has none")


def _text_reason(reason: FinishReason) -> Literal["stop", "length"]:
    return "length" if reason == "length" else "stop"


def _stop(finished: Finished | None) -> str | UnsetType:
    return (finished.stop if finished else "") or msgspec.UNSET


def _timings_of(wholes: Sequence[_Whole]) -> types.EngineTimings | UnsetType:
    """Those of the only choice: several ran at once, and their times do not add up."""
    return figures.engine_timings(wholes[0].finished) if len(wholes) == 1 else msgspec.UNSET


def _base64(vector: Sequence[float]) -> str:
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _model(card: ModelCard) -> types.ModelAnswer:
    return types.ModelAnswer(card.id, card.created, card.owned_by)
