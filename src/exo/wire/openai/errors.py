"""The error of the OpenAI dialect, in both directions: an `ExoError` survives a hop as the kind it is."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from exo.errors import (
    BY_CODE,
    STATUS,
    BadRequest,
    ContextLengthExceeded,
    EngineFailed,
    ExoError,
    Overloaded,
    Timeout,
    Unauthorized,
)
from exo.wire.openai.answer_types import ErrorAnswer, ErrorBody

_ErrorType: TypeAlias = Literal[
    "invalid_request_error", "authentication_error", "rate_limit_error", "server_error"
]


def error_answer(error: ExoError) -> bytes:
    return msgspec.json.encode(error_body(error))


def error_body(error: ExoError) -> ErrorAnswer:
    # A message may quote the name of a file, and that need not be valid text.
    message = error.message.encode(errors="replace").decode()
    return ErrorAnswer(ErrorBody(message, _type(error), error.param, error.code))


def _type(error: ExoError) -> _ErrorType:
    match error:
        case Unauthorized():
            return "authentication_error"
        case Overloaded():
            return "rate_limit_error"
    return "invalid_request_error" if STATUS.get(type(error), 500) < 500 else "server_error"


# Several kinds share a status; the first of them is the general one, and must be put in last.
_KIND_BY_STATUS: Mapping[int, type[ExoError]] = {408: Timeout} | {
    status: kind for kind, status in reversed([*STATUS.items()])
}
_KIND_BY_TYPE: Mapping[str, type[ExoError]] = {
    "exceed_context_size_error": ContextLengthExceeded,  # llama.cpp's
}


def decode_error(status: int, body: bytes, *, retry_after: float | None = None) -> ExoError:
    """What another server's error answer says, as the kind it was raised as there.

    An unknown code, or a body that is not OpenAI's, is placed by its status. `retry_after` comes from the
    answer's header.
    """
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = None
    error = said.get("error") or said if isinstance(said, dict) else said
    start = body[:800].decode(errors="replace")[:200]
    kind = _kind_of_status(status)
    return _error(error, kind, f"the server answered with status {status}: {start}", retry_after)


def decode_error_event(error: Any) -> ExoError:
    """The same for the error in the middle of a stream; one that cannot be placed is `EngineFailed`."""
    code = error.get("code") if isinstance(error, dict) else None
    kind = _kind_of_status(code) if isinstance(code, int) else EngineFailed
    return _error(error, kind, f"the server broke off the answer: {str(error)[:200]}")


def _kind_of_status(status: int) -> type[ExoError]:
    return _KIND_BY_STATUS.get(status, BadRequest if 400 <= status < 500 else EngineFailed)


def _error(error: Any, kind: type[ExoError], message: str, retry_after: float | None = None) -> ExoError:
    """`kind` and `message` serve where the error itself, an object or a text, does not say."""
    fields = error if isinstance(error, dict) else {"message": error}
    code, type_, param = fields.get("code"), fields.get("type"), fields.get("param")
    if isinstance(code, str) and code in BY_CODE:
        kind = BY_CODE[code]
    elif isinstance(type_, str):
        kind = _KIND_BY_TYPE.get(type_, kind)
    said = fields.get("message")
    return kind(
        said if isinstance(said, str) and said else message,
        param=param if isinstance(param, str) else None,
        retry_after=retry_after,
    )
