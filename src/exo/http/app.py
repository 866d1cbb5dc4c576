"""The aiohttp application: what surrounds every request, whatever its route.

In order, outermost first: a request id and the access log, CORS, errors turned into answers, the key.
"""

import asyncio
import hmac
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable, Sequence

import msgspec
from aiohttp import hdrs, web
from aiohttp.http_exceptions import ContentEncodingError
from aiohttp.typedefs import Handler

from exo.errors import (
    STATUS,
    BadRequest,
    EngineFailed,
    ExoError,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    NotReady,
    RequestTooLarge,
    Unauthorized,
)
from exo.http.desk import DESK, Desk
from exo.http.headers import CLIENT_HEADER, HOP_HEADER, PROOF_HEADER, REQUEST_ID_HEADER, proof
from exo.wire import openai

log = logging.getLogger(__name__)
access = logging.getLogger("exo.access")


class AccessRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of the access log. Handlers add what they know. Times are in milliseconds."""

    time: str
    id: str
    remote: str
    method: str
    path: str
    status: int = 0
    duration_ms: float = 0.0
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_ms: float | None = None
    error: str = ""


_THIS_MACHINE = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
RECORD = web.RequestKey("record", AccessRecord)
METERED = web.RequestKey("metered", bool)
"""Is set once a meter watches the request, which then counts its failure, too."""
# Asked every few seconds for ever: a line each would wear out an SD card.
_PROBES = frozenset({"/healthcheck", "/ready", "/metrics", "/v1/prometheus/targets"})
# nginx's name for a client that leaves, who can be sent no status. One that leaves with its whole answer in
# hand has been served.
_LEFT = 499
# What may be passed on in a header.
_ID = re.compile(r"[\x21-\x7e]{1,128}")


class Dialect(msgspec.Struct, frozen=True):
    """Routes whose clients expect failures to look as `error` makes them, on every path that begins with one
    of `under`, whether there is such a route or not."""

    routes: Sequence[web.AbstractRouteDef]
    under: tuple[str, ...]
    error: Callable[[ExoError], bytes]


_DIALECTS = web.AppKey("dialects", list[Dialect])
_OPEN = web.AppKey("open", frozenset[str])


def build(
    desk: Desk, *tables: Sequence[web.AbstractRouteDef] | Dialect, open_paths: Iterable[str] = ()
) -> web.Application:
    """The application with these routes. Failures look as in the OpenAI dialect where no other has a say.
    `open_paths` are answered without the node's key, beside those that a balancer asks."""
    app = web.Application(
        middlewares=[_recorded, _cors, _errors, _authorized], client_max_size=desk.settings.max_body
    )
    app[DESK] = desk
    app[_OPEN] = _OPEN_PATHS.union(open_paths)
    app[_DIALECTS] = [table for table in tables if isinstance(table, Dialect)]
    app.on_response_prepare.append(_stamp)
    for table in tables:
        app.add_routes(table.routes if isinstance(table, Dialect) else table)
    return app


def json_answer(body: bytes, *, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def error_answer(request: web.Request, error: ExoError) -> web.Response:
    """A failure as the dialect of the request's path has it, with its status from the one table."""
    ours = (each.error for each in request.app[_DIALECTS] if request.path.startswith(each.under))
    body = next(ours, openai.error_answer)(error)
    answer = json_answer(body, status=STATUS.get(type(error), 500))
    if error.retry_after is not None:
        answer.headers[hdrs.RETRY_AFTER] = str(max(1, round(error.retry_after)))
    return answer


def client_of(http: web.Request) -> str:
    """Who asks, for fairness between clients: what a node that passes the request on says, else the
    address. Nothing is granted on the strength of it."""
    given = http.headers.get(CLIENT_HEADER, "")
    return given if _ID.fullmatch(given) else http.remote or ""


def hop_of(http: web.Request) -> str:
    """The node that passes the request on; "" for a client's own. Raises `Unauthorized` for one that cannot
    prove that it belongs to the cluster, where that takes a secret."""
    node = http.headers.get(HOP_HEADER, "")
    secret = http.app[DESK].secret
    if node and http.app[DESK].certified and not http.get_extra_info("peercert"):
        raise Unauthorized(f"node '{node[:80]}' comes without a certificate of this cluster")
    if node and secret is not None:
        given = http.headers.get(PROOF_HEADER, "")
        if not hmac.compare_digest(given.encode(errors="surrogateescape"), proof(secret, node).encode()):
            raise Unauthorized(f"node '{node[:80]}' does not have this cluster's secret")
    return node


def owner_only(http: web.Request) -> None:
    """Raises `Forbidden` unless the request may change what is on this machine: with the node's key, or where
    there is none, from this machine itself and not through a proxy on it."""
    if http.app[DESK].settings.key:
        return
    proxied = hdrs.X_FORWARDED_FOR in http.headers or hdrs.FORWARDED in http.headers
    if proxied or (http.remote or "") not in _THIS_MACHINE:
        raise Forbidden(
            f"{http.path} changes what is on this machine, and is answered on the machine itself only; to "
            "use it from elsewhere, set EXO_API_KEY here and send it as the bearer token"
        )


def only(http: web.Request, *names: str) -> None:
    """Raises `BadRequest` for a query parameter that the route does not have."""
    if unknown := sorted(http.query.keys() - {*names}):
        there_are = f"there are {', '.join(names)}" if names else "there are none here"
        raise BadRequest(f'unknown parameter "{unknown[0][:80]}"; {there_are}', param=unknown[0][:80])


async def body_of(request: web.Request) -> bytes:
    """The whole body. Raises `RequestTooLarge` past the node's limit."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        limit = request.app[DESK].settings.max_body
        raise RequestTooLarge(f"the body is larger than the {limit >> 20} MiB this node reads") from error
    except (web.RequestPayloadError, ContentEncodingError) as error:
        raise BadRequest(f"the body cannot be read: {error}") from error


@web.middleware
async def _recorded(request: web.Request, handler: Handler) -> web.StreamResponse:
    began = time.perf_counter()
    given = request.headers.get(REQUEST_ID_HEADER, "")
    record = request[RECORD] = AccessRecord(
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        id=given if _ID.fullmatch(given) else uuid.uuid4().hex,
        remote=request.remote or "",
        method=request.method,
        path=request.path,
    )
    try:
        response = await handler(request)
        record.status = response.status
        return response
    except asyncio.CancelledError:
        record.status = record.status or _LEFT
        raise
    except ConnectionError as error:
        # Between a client's leaving and the cancelling of its handler. aiohttp would take it for a defect.
        record.status = record.status or _LEFT
        raise asyncio.CancelledError from error
    finally:
        record.duration_ms = round((time.perf_counter() - began) * 1e3, 3)
        level = logging.DEBUG if request.path in _PROBES else logging.INFO
        if access.isEnabledFor(level):
            access.log(level, msgspec.json.encode(record).decode())


async def _stamp(request: web.Request, response: web.StreamResponse) -> None:
    """Streams send their headers long before a middleware sees them again: so here."""
    # Where aiohttp itself refuses a request, no middleware has seen it.
    record = request.get(RECORD)
    id = record.id if record else uuid.uuid4().hex
    response.headers[REQUEST_ID_HEADER] = response.headers["request-id"] = id  # the latter is Anthropic's
    origin = request.headers.get(hdrs.ORIGIN)
    if origin and _allowed(origin, request):
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.VARY] = hdrs.ORIGIN
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = f"{REQUEST_ID_HEADER}, retry-after"


_LOCAL_ORIGIN = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?")


def _allowed(origin: str, request: web.Request) -> bool:
    """This node's own pages, pages of this machine, and the origins the owner named."""
    named = request.app[DESK].settings.cors_origins
    own = origin.partition("://")[2] == request.host
    return own or origin in named or "*" in named or bool(_LOCAL_ORIGIN.fullmatch(origin))


@web.middleware
async def _cors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Without this any page its owner visits could use the node: browsers send simple POSTs anywhere."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin and not _allowed(origin, request):
        return error_answer(
            request,
            Forbidden(f"pages of {origin} may not use this node; its owner allows them with --cors-origin"),
        )
    if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
        headers = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST, DELETE, OPTIONS",
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "*"),
            hdrs.ACCESS_CONTROL_MAX_AGE: "86400",
        }
        return web.Response(status=204, headers=headers)
    return await handler(request)


# A balancer has no key, and learns nothing here that needs one.
_OPEN_PATHS = frozenset({"/healthcheck", "/ready"})


@web.middleware
async def _authorized(request: web.Request, handler: Handler) -> web.StreamResponse:
    key = request.app[DESK].settings.key
    if key and request.path not in request.app[_OPEN]:
        bearer = request.headers.get(hdrs.AUTHORIZATION, "").removeprefix("Bearer ")
        given = [bearer, request.headers.get("x-api-key", "")]  # the latter is Anthropic's
        if not any(hmac.compare_digest(k.encode(errors="surrogateescape"), key.encode()) for k in given):
            raise Unauthorized("this node wants its key: send 'Authorization: Bearer KEY'")
    return await handler(request)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ConnectionError:
        if _has_left(request):
            raise
        return _defect(request)
    except ExoError as error:
        record, metrics = request[RECORD], request.app[DESK].metrics
        record.error = error.code
        # A balancer that asks twice a second whether a node is ready yet is refused nothing.
        asked = isinstance(error, NotReady) and request.path in _PROBES
        if METERED not in request and not asked:
            metrics.refused(error.code)
        if isinstance(error, EngineFailed):
            log.error("request %s failed: %s", record.id, error.message, exc_info=error.__cause__)
        return error_answer(request, error)
    except web.HTTPException as error:
        answer = error_answer(request, _from_http(request, error))
        if hdrs.ALLOW in error.headers:
            answer.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return answer
    except Exception:
        return _defect(request)


def _has_left(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _defect(request: web.Request) -> web.Response:
    """For what is being handled, and nobody foresaw."""
    log.exception("request %s met a defect of this program", request[RECORD].id)
    return error_answer(
        request, ExoError("this is a defect of exo, and its log has the details; please report it")
    )


def _from_http(request: web.Request, error: web.HTTPException) -> ExoError:
    match error:
        case web.HTTPNotFound():
            return NotFound(f"there is no {request.path} here; /openapi.json lists what is")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return MethodNotAllowed(f"{request.path} takes {allowed}, not {request.method}")
        case _:
            raise error
