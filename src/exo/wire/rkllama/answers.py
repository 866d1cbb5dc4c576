"""What a server of the original's dialect says: answers whole and streamed, lists, and errors.

Original clients read `choices[0].content` of every object and take the last one's `usage`. Counts that are
not known before the end are null until then, as they were in the original's own first object.
"""

from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec import Struct

from exo.chat import Delta, Finished, FinishReason, Reasoning, Text, ToolCall, Usage
from exo.errors import EngineFailed, ExoError

_encode = msgspec.json.Encoder().encode
_CHAT = "rkllm_chat"  # every answer's id, and its kind
_HEADERS = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-cache"}
_MARK = "\0"
_BLANK_LINE = b"\n\n"

DELETED = "The model has been successfully deleted!"
UNLOADED = "Model successfully unloaded!"


class Choice(Struct, frozen=True):
    content: str
    finish_reason: FinishReason | None
    role: str = "assistant"
    logprobs: None = None


class Tokens(Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens_per_second: float | None = None
    total_tokens: int | None = None


class Answer(Struct, frozen=True):
    created: int
    choices: tuple[Choice]
    usage: Tokens
    id: str = _CHAT
    object: str = _CHAT


class _Thoughts:
    """Puts reasoning back into the text, between the tags a model writes."""

    def __init__(self) -> None:
        self._thinking = False

    def text(self, delta: Delta) -> str:
        """Raises `EngineFailed` for a tool call, which this dialect has no room for and never asks for."""
        match delta:
            case Reasoning():
                before = "" if self._thinking else "<think>"
                self._thinking = True
                return before + delta.text
            case Text():
                return self._end() + delta.text
            case Finished():
                return self._end()
            case ToolCall():
                raise EngineFailed(f"the model calls the tool '{delta.name}', which it was not given")

    def _end(self) -> str:
        tag, self._thinking = "</think>" if self._thinking else "", False
        return tag


class GenerateStream:
    """Encodes one streamed answer: `delta`s, then `end` or `failed`. Every method gives whole objects.

    `created` is in seconds since the epoch; `clock` gives seconds and is asked as the answer begins and ends,
    for the tokens per second of an engine that does not say how long it took.
    """

    headers = _HEADERS
    keepalive = b""

    def __init__(self, created: int, clock: Callable[[], float]) -> None:
        self._created = created
        self._clock = clock
        self._began: float | None = None
        self._thoughts = _Thoughts()
        whole = _encode(Answer(created, (Choice(_MARK, None),), Tokens())) + _BLANK_LINE
        self._before, self._after = whole.split(_encode(_MARK))

    def start(self, index: int) -> bytes:
        return b""

    def delta(self, index: int, delta: Delta) -> bytes:
        if self._began is None:
            self._began = self._clock()
        text = self._thoughts.text(delta)
        if isinstance(delta, Finished):
            seconds = self._clock() - self._began
            return _encode(_answer(self._created, text, delta, seconds)) + _BLANK_LINE
        return self._before + _encode(text) + self._after

    def end(self, usage: Usage) -> bytes:
        return b""

    def failed(self, error: ExoError) -> bytes:
        """An object without `choices`, so that a client that knows nothing of errors breaks at it, and takes
        nothing for the end: no `finish_reason` follows."""
        return error_answer(error) + _BLANK_LINE


def generate_answer(created: int, deltas: Iterable[Delta], seconds: float) -> bytes:
    """A whole answer, which took `seconds`."""
    thoughts, text, finished = _Thoughts(), "", None
    for delta in deltas:
        text += thoughts.text(delta)
        if isinstance(delta, Finished):
            finished = delta
    if finished is None:
        raise EngineFailed("the answer has no end")
    return _encode(_answer(created, text, finished, seconds))


def _answer(created: int, text: str, finished: Finished, seconds: float) -> Answer:
    usage = finished.usage
    seconds = finished.timings.decode or seconds
    speed = round(usage.completion_tokens / seconds, 2) if seconds > 0 else 0.0
    total = usage.prompt_tokens + usage.completion_tokens
    tokens = Tokens(usage.prompt_tokens, usage.completion_tokens, speed, total)
    return Answer(created, (Choice(text, finished.reason),), tokens)


def models_answer(models: Sequence[str]) -> bytes:
    return _encode({"models": models})


def current_model_answer(model: str) -> bytes:
    return _encode({"model_name": model})


def message_answer(message: str) -> bytes:
    return _encode({"message": message})


def loaded_answer(model: str) -> bytes:
    return message_answer(f"Model {model} loaded successfully.")


def error_answer(error: ExoError) -> bytes:
    # A message may quote the name of a file, and that need not be valid text.
    return _encode({"error": error.message.encode(errors="replace").decode()})


def welcome(name: str, version: str) -> bytes:
    """What `/` says. The original's words there are its own; no client is known to read them."""
    return _encode({"name": name, "version": version})
