"""The original NPU server's dialect, the client's side: requests to bodies, streamed objects to text.

What a request asks beyond the conversation is refused here: the original reads `messages` and `stream` and
overlooks the rest without a word. Stop strings and the answer's length are the caller's to enforce.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from exo.chat import ChatRequest, FinishReason, Message, Usage
from exo.errors import BadRequest, EngineFailed, ExoError
from exo.wire.openai.errors import decode_error_event

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode


def encode_generate(request: ChatRequest) -> bytes:
    """The body for /generate; the answer is always streamed. Neither `model` nor `stop` nor
    `sampling.max_tokens` is in it.

    Raises `BadRequest` naming the parameter for whatever else the dialect cannot carry.
    """
    for param, asked in _beyond(request).items():
        if asked:
            raise BadRequest(
                f"{param} cannot be passed on: the model is on an NPU server that speaks the original "
                f"dialect, which takes the conversation alone; leave {param} out, or serve it with rkllama",
                param=param,
            )
    messages = [_message(i, message) for i, message in enumerate(request.messages)]
    return _encode({"messages": messages, "stream": True})


def _beyond(request: ChatRequest) -> Mapping[str, bool]:
    """What is asked that has no place in the dialect, by the name its client knows it by."""
    sampling = msgspec.structs.asdict(request.sampling)
    del sampling["max_tokens"]
    return {
        "prompt": request.prompt is not None,
        "tools": bool(request.tools),
        "thinking_budget": request.thinking_budget is not None,
        "logprobs": request.logprobs is not None,
        "response_format": request.json_schema is not None,
        "grammar": request.grammar is not None,
        "enable_thinking": request.thinking is not None,
        **{name: value not in (None, {}) for name, value in sampling.items()},
    }


def _message(index: int, message: Message) -> Mapping[str, str]:
    if message.role == "tool" or message.tool_calls:
        param = f"messages[{index}]"
        raise BadRequest(f"{param} is of a tool, which the original NPU dialect has none of", param=param)
    return {"role": message.role, "content": message.content}


def encode_load_model(model: str) -> bytes:
    return _encode({"model_name": model})


class _Models(msgspec.Struct):
    models: tuple[str, ...]


class _Current(msgspec.Struct):
    model_name: str


def decode_models(body: bytes) -> tuple[str, ...]:
    """What GET /models says. Raises `EngineFailed` for anything else."""
    return _read(body, _Models).models


def decode_current_model(body: bytes) -> str:
    """What GET /current_model says with status 200. Raises `EngineFailed` for anything else."""
    return _read(body, _Current).model_name


def _read(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        said = body[:200].decode(errors="replace")
        raise EngineFailed(f"no NPU server of the original kind answers there: {error}: {said}") from None


# Answers


class _Choice(msgspec.Struct):
    content: str | None = None
    finish_reason: str | None = None


class _Tokens(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Object(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Tokens | None = None
    error: Any = None
    status: str | None = None
    message: str | None = None


_decode_object = msgspec.json.Decoder(_Object).decode
_REASONS: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}


class AnswerReader:
    """Turns the bytes of one answer, streamed or whole and split anywhere, into the pieces of its text.

    `feed` it what comes in, and call `finish` when the stream has ended. Both raise `EngineFailed` for what
    cannot be read and for what the server says it failed with; but never before every piece that came ahead
    of it was returned. One piece is the text of one object: a token, where the answer is streamed.
    """

    def __init__(self) -> None:
        self.reason: FinishReason | None = None
        """How the answer ended, once the server said so; not all of them do."""
        self._prompt = 0
        self._completion: int | None = None
        self._pieces = 0
        self._objects = _Objects()
        self._failure: ExoError | None = None

    @property
    def usage(self) -> Usage:
        """Tokens so far: the last count the server gave, or one for each piece."""
        return Usage(self._prompt, self._pieces if self._completion is None else self._completion)

    def feed(self, data: bytes) -> list[str]:
        pieces: list[str] = []
        try:
            if self._failure is None:
                for each in self._objects.feed(data):
                    pieces.extend(self._read(each))  # keeps what is read before it raises
        except ExoError as error:
            self._failure = error
        if self._failure is not None and not pieces:
            raise self._failure
        return pieces

    def finish(self) -> None:
        """Raises what was held back for the pieces before it, and `EngineFailed` where the stream has ended
        in the middle of an object, or before anything came."""
        if self._failure is not None:
            raise self._failure
        if self._objects.within:
            raise EngineFailed("the NPU server's answer ended in the middle")
        if self.reason is None and not self._pieces:
            raise EngineFailed("the NPU server ended the answer before it said anything")

    def _read(self, sent: bytes) -> Iterator[str]:
        try:
            said = _decode_object(sent)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise EngineFailed(f"the NPU server sent an object that cannot be read: {error}") from None
        if said.error or said.status == "error":
            raise decode_error_event(said.error or said.message)
        if not said.choices:
            start = sent[:200].decode(errors="replace")
            raise EngineFailed(f"the NPU server sent an object without choices: {start}")
        if said.usage:
            self._prompt = said.usage.prompt_tokens or self._prompt
            self._completion = said.usage.completion_tokens or self._completion
        if text := said.choices[0].content:
            self._pieces += 1
            yield text
        if reason := said.choices[0].finish_reason:
            if reason not in _REASONS:
                raise EngineFailed(f'the answer was cut off by the NPU server: finish_reason "{reason}"')
            self.reason = _REASONS[reason]


class _Objects:
    """Splits bytes into JSON objects by their brackets, whatever space is between them, or none."""

    LONGEST = 16 * 2**20
    _NEXT = re.compile(rb'["\\{}]')

    def __init__(self) -> None:
        self._object = bytearray()
        self._read = 0  # of `_object`
        self._depth = 0
        self._in_text = False

    @property
    def within(self) -> bool:
        """Whether an object has begun and has not ended."""
        return bool(self._object)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The objects that are complete now. Raises `EngineFailed` for what is none, or has no end."""
        self._object += data
        while (end := self._end()) is not None:
            yield bytes(self._object[:end])
            del self._object[:end]
            self._read = 0
        if len(self._object) > self.LONGEST:
            raise EngineFailed(f"the NPU server sent an object of more than {self.LONGEST} bytes")

    def _end(self) -> int | None:
        """Where the object at the front ends; None as long as it does not."""
        if not self._depth:
            spaces = len(self._object) - len(self._object.lstrip())
            del self._object[:spaces]
            if self._object and not self._object.startswith(b"{"):
                said = bytes(self._object[:200]).decode(errors="replace")
                raise EngineFailed(f"the NPU server sent something that is no JSON object: {said}")
        while found := self._NEXT.search(self._object, self._read):
            mark, at = found[0], found.start()
            if mark == b"\\" and self._in_text:
                if at + 1 == len(self._object):  # what it escapes has not come yet
                    self._read = at
                    return None
                self._read = at + 2
                continue
            self._read = at + 1
            if mark == b'"':
                self._in_text = not self._in_text
            elif not self._in_text:
                self._depth += {b"{": 1, b"}": -1}.get(mark, 0)
                if not self._depth:
                    return self._read
        self._read = len(self._object)
        return None
