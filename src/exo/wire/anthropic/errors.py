"""The error of Anthropic's dialect: as the answer to a request, and as an event in the middle of a stream."""

from collections.abc import Mapping

import msgspec
from msgspec import UNSET

from exo.errors import STATUS, ContextLengthExceeded, ExoError
from exo.wire.anthropic import answer_types as types

# By our own status, which need not be Anthropic's: it has 529 where this server says 503.
_TYPES: Mapping[int, types.ErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_answer(error: ExoError, request_id: str | None = None) -> bytes:
    return msgspec.json.encode(error_body(error, request_id))


def error_body(error: ExoError, request_id: str | None = None) -> types.AnthropicErrorAnswer:
    status = STATUS.get(type(error), 500)
    # A message may quote the name of a file, and that need not be valid text.
    message = error.message.encode(errors="replace").decode()
    if isinstance(error, ContextLengthExceeded):
        # Clients look for these words, to shorten the conversation.
        message = f"prompt is too long: {message}"
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    # The client's tool runner wants the server to keep the conversation, and does so itself when told that.
    details = types.AnthropicErrorDetails("thread_unsupported_request") if error.param == "thread" else UNSET
    return types.AnthropicErrorAnswer(types.AnthropicError(kind, message, details), request_id)
