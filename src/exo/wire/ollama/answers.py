"""Ollama's dialect, the server's side: deltas to whole answers and to lines of JSON.

As in the OpenAI dialect, the bytes around a streamed text are the same all through an answer, and are cut out
once. A tool call is sent whole, in one line, as its arguments are an object.
"""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import msgspec

from exo.cards import Progress
from exo.chat import Delta, Embeddings, Finished, Reasoning, Text, ToolCall, Usage
from exo.errors import UNFINISHED, EngineFailed, ExoError, ModelNotFound
from exo.wire.ollama import answer_types as types
from exo.wire.ollama.lines import Calls, Said, chat_line, generate_line, joined, measured

LINES = {"Content-Type": "application/x-ndjson", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

_Line: TypeAlias = Callable[[str, str, Said, types.Measured], msgspec.Struct]
_encode = msgspec.json.Encoder().encode
_MARK = "\0"
_MORE = types.Measured()


class LineStream:
    """Encodes one streamed answer: `delta`s, then `end` or `failed`. Every method gives whole lines.

    `created_at` is on each line. `elapsed` gives the seconds since the request came, and is asked at the end.
    """

    headers = LINES
    keepalive = b""  # every line is an answer's part

    def __init__(self, line: _Line, model: str, created_at: str, elapsed: Callable[[], float]) -> None:
        self._line, self._model, self._created_at, self._elapsed = line, model, created_at, elapsed
        self._calls = Calls()
        self._finished: Finished | None = None
        self._text = self._around(Said(text=_MARK))
        self._thinking = self._around(Said(thinking=_MARK))

    def start(self, index: int) -> bytes:
        return b""

    def delta(self, index: int, delta: Delta) -> bytes:
        match delta:
            case ToolCall():
                return self._called(self._calls.feed(delta))
            case Text() if delta.logprobs:
                said = self._encoded(Said(text=delta.text, logprobs=delta.logprobs))
            case Text():
                said = _encode(delta.text).join(self._text)
            case Reasoning():
                said = _encode(delta.text).join(self._thinking)
            case Finished():
                self._finished = delta
                return self._called(self._calls.end(cut=delta.reason == "length"))
        return self._called(self._calls.end()) + said

    def end(self, usage: Usage) -> bytes:
        if self._finished is None:
            return self.failed(EngineFailed(UNFINISHED))
        return self._encoded(Said(), measured(self._finished, self._elapsed()))

    def failed(self, error: ExoError) -> bytes:
        """No line with `done` follows: who overlooks the error must not take the answer for complete."""
        return error_answer(error) + b"\n"

    def _called(self, calls: Sequence[types.OllamaAnsweredCall]) -> bytes:
        return self._encoded(Said(calls=calls)) if calls else b""

    def _encoded(self, said: Said, end: types.Measured = _MORE) -> bytes:
        return _encode(self._line(self._model, self._created_at, said, end)) + b"\n"

    def _around(self, said: Said) -> tuple[bytes, bytes]:
        """What is before and after the mark; the last one, as a model's name might hold another."""
        before, after = self._encoded(said).rsplit(_encode(_MARK), 1)
        return before, after


class Form:
    """How /api/chat or /api/generate has its answers: streamed, whole, or without words.

    `model` and `created_at` are on all of them.
    """

    def __init__(self, line: _Line) -> None:
        self._line = line

    def stream(self, model: str, created_at: str, elapsed: Callable[[], float]) -> LineStream:
        return LineStream(self._line, model, created_at, elapsed)

    def whole(self, model: str, created_at: str, seconds: float, deltas: Sequence[Delta]) -> bytes:
        """An answer that took `seconds`; raises `EngineFailed` where it has no `Finished`."""
        said, finished = joined(deltas)
        return _encode(self._line(model, created_at, said, measured(finished, seconds)))

    def held(self, model: str, created_at: str, reason: Literal["load", "unload"]) -> bytes:
        """The answer to a request that asks nothing: its model was loaded, or will be unloaded."""
        return _encode(self._line(model, created_at, Said(), types.Measured(done=True, done_reason=reason)))


CHAT = Form(chat_line)
GENERATE = Form(generate_line)


def embed_answer(model: str, seconds: float, vectors: Embeddings) -> bytes:
    """How much of the `seconds` went into loading the model is not known, and said to be nothing."""
    total = round(seconds * 1e9)
    return _encode(types.OllamaEmbedAnswer(model, vectors.vectors, total, 0, vectors.prompt_tokens))


def embeddings_answer(vectors: Embeddings) -> bytes:
    """The one vector of the legacy route; none for an empty prompt."""
    return _encode(types.OllamaEmbeddingsAnswer(vectors.vectors[0] if vectors.vectors else ()))


def status_answer(status: str) -> bytes:
    return _encode(types.OllamaStatus(status))


def progress_answer(progress: Progress) -> bytes:
    """Where a download is."""
    total = progress.total or msgspec.UNSET
    return _encode(types.OllamaStatus(f"pulling {progress.file}", total, progress.done))


def version_answer(version: str) -> bytes:
    return _encode(types.OllamaVersion(version))


def error_answer(error: ExoError) -> bytes:
    # A message may quote the name of a file, and that need not be valid text.
    message = error.message.encode(errors="replace").decode()
    if isinstance(error, ModelNotFound):
        # Ollama's clients look for these words, to offer a download.
        message = f"model not found: {message}"
    return _encode(types.OllamaError(message))
