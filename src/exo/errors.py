"""The handful of ways a request can fail, and the one table that ties them to HTTP.

A kind keeps its `code` on every hop: what a peer or an NPU server raised is raised here again as the same
class. A message names the culprit and, where there is one, the remedy; it is read by the owner of the
hardware.
"""

from collections.abc import Mapping

UNFINISHED = "the answer ended without a finish"
"""What an `EngineFailed` says of a stream of deltas whose end does not come."""


class ExoError(Exception):
    """A failure with a stable code. Raise one of its kinds below, never this class itself."""

    code: str = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None):
        super().__init__(message)
        self.message = message
        self.param = param
        """The request parameter at fault, as a path ("messages[0].content"), where one is."""
        self.retry_after = retry_after
        """Seconds after which the same request is expected to be accepted, where that is known."""


class BadRequest(ExoError):
    """The request cannot be served by anyone as it stands."""

    code = "bad_request"


class ContextLengthExceeded(BadRequest):
    """The prompt does not fit into the model's context."""

    code = "context_length_exceeded"


class RequestTooLarge(ExoError):
    """The request's body is larger than this node reads."""

    code = "request_too_large"


class Unauthorized(ExoError):
    """A key is needed, or the one given is not known."""

    code = "unauthorized"


class Forbidden(ExoError):
    """The request came from somewhere its owner has not allowed."""

    code = "forbidden"


class NotFound(ExoError):
    """There is no such route or thing."""

    code = "not_found"


class MethodNotAllowed(ExoError):
    """The route exists, but not for this HTTP method."""

    code = "method_not_allowed"


class ModelNotFound(NotFound):
    """No node holds the model. The message names the nearest ids."""

    code = "model_not_found"


class Overloaded(ExoError):
    """Every queue that could take the request is full; `retry_after` says when to come back."""

    code = "overloaded"


class RateLimited(Overloaded):
    """This client has had what it may have in a minute; `retry_after` says when there is more. Elsewhere it
    may be served, so it is passed on as an `Overloaded` is."""

    code = "rate_limit_exceeded"


class EngineFailed(ExoError):
    """The engine, or the server behind it, broke while loading or answering."""

    code = "engine_failed"


class ConnectionLost(EngineFailed):
    """The server that was answering is gone: its connection broke off, or nothing comes over it any more.
    Unlike an engine that failed, it says nothing against the request."""

    code = "connection_lost"


class NotReady(ExoError):
    """This node cannot serve now: it is starting, stopping, or short of memory for the model."""

    code = "not_ready"


class Timeout(ExoError):
    """The answer did not come within the time allowed."""

    code = "timeout"


STATUS: Mapping[type[ExoError], int] = {
    BadRequest: 400,
    ContextLengthExceeded: 400,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    ModelNotFound: 404,
    MethodNotAllowed: 405,
    RequestTooLarge: 413,
    Overloaded: 429,
    RateLimited: 429,
    EngineFailed: 502,
    ConnectionLost: 502,
    NotReady: 503,
    Timeout: 504,
}

BY_CODE: Mapping[str, type[ExoError]] = {kind.code: kind for kind in STATUS}
