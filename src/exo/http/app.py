"""The aiohttp application: what surrounds every request, whatever its route.

In order, outermost first: a request id and the access log, CORS, errors turned into answers, the key.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Sequence

import msgspec
from aiohttp import hdrs, web
from aiohttp.http_exceptions import ContentEncodingError
from aiohttp.typedefs import Handler

from exo.chat import Usage
from exo.errors import (
    STATUS,
    BadRequest,
    EngineFailed,
    ExoError,
    Forbidden,
    MethodNotAllowed,
    NotFound,
    NotReady,
    RateLimited,
    RequestTooLarge,
)
from exo.http import open_files
from exo.http.callers import OPEN, PASSABLE, authorized
from exo.http.desk import DESK, Desk
from exo.http.guard import ASKER, EXPOSED, KEY, SPENT
from exo.http.headers import REQUEST_ID_HEADER
from exo.http.origins import could_be_anyones, may_ask
from exo.http.traced import ARRIVED, ended
from exo.metrics.registry import KeyStatus
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
    key: str = ""
    status: int = 0
    duration_ms: float = 0.0
    model: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_ms: float | None = None
    error: str = ""


RECORD = web.RequestKey("record", AccessRecord)
METERED = web.RequestKey("metered", bool)
"""Is set once a meter watches the request, which then counts its failure, too."""
# Asked every few seconds for ever: a line each would wear out an SD card.
_PROBES = frozenset({"/healthcheck", "/ready", "/metrics", "/v1/prometheus/targets"})
# nginx's name for a client that leaves, who can be sent no status. One that leaves with its whole answer in
# hand has been served.
_LEFT = 499


class Dialect(msgspec.Struct, frozen=True):
    """Routes whose clients expect failures to look as `error` makes them, on every path that begins with one
    of `under`, whether there is such a route or not."""

    routes: Sequence[web.AbstractRouteDef]
    under: tuple[str, ...]
    error: Callable[[ExoError], bytes]


# A balancer has no key, and learns nothing here that needs one.
_OPEN_PATHS = frozenset({"/healthcheck", "/ready"})
_DIALECTS = web.AppKey("dialects", list[Dialect])


def build(
    desk: Desk, *tables: Sequence[web.AbstractRouteDef] | Dialect, open_paths: Iterable[str] = ()
) -> web.Application:
    """The application with these routes. Failures look as in the OpenAI dialect where no other has a say.
    `open_paths` are answered without the node's key, beside those that a balancer asks."""
    app = web.Application(
        middlewares=[_recorded, _cors, _errors, authorized], client_max_size=desk.settings.max_body
    )
    app[DESK] = desk
    app[OPEN] = _OPEN_PATHS.union(open_paths)
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
    request[ARRIVED] = time.time_ns()
    given = request.headers.get(REQUEST_ID_HEADER, "")
    record = request[RECORD] = AccessRecord(
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        id=given if PASSABLE.fullmatch(given) else uuid.uuid4().hex,
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
        ended(request, record.status, record.error)
        if key := request.get(KEY):
            record.key = key.name
        if asker := request.get(ASKER):
            desk = request.app[DESK]
            desk.guard.left(asker, _outcome(record), request.get(SPENT, Usage()))
        level = logging.DEBUG if request.path in _PROBES else logging.INFO
        if access.isEnabledFor(level):
            access.log(level, msgspec.json.encode(record).decode())


def _outcome(record: AccessRecord) -> KeyStatus:
    if record.status == _LEFT:
        return "cancelled"
    if record.error == RateLimited.code and record.status == STATUS[RateLimited]:
        return "limited"
    return "error" if record.error or record.status >= 400 else "success"


async def _stamp(request: web.Request, response: web.StreamResponse) -> None:
    """Streams send their headers long before a middleware sees them again: so here."""
    # Where aiohttp itself refuses a request, no middleware has seen it.
    record = request.get(RECORD)
    id = record.id if record else uuid.uuid4().hex
    response.headers[REQUEST_ID_HEADER] = response.headers["request-id"] = id  # the latter is Anthropic's
    if asker := request.get(ASKER):
        response.headers.update(request.app[DESK].guard.headers(asker))
    origin = request.headers.get(hdrs.ORIGIN)
    if origin and _allowed(origin, request):
        response.headers[hdrs.ACCESS_CONTROL_ALLOW_ORIGIN] = origin
        response.headers[hdrs.VARY] = hdrs.ORIGIN
        response.headers[hdrs.ACCESS_CONTROL_EXPOSE_HEADERS] = _EXPOSED


_EXPOSED = ", ".join((REQUEST_ID_HEADER, "retry-after", *EXPOSED))


def _allowed(origin: str, request: web.Request) -> bool:
    return may_ask(origin, request.headers.get(hdrs.HOST, ""), request.app[DESK].settings.cors_origins)


def _foreign(request: web.Request) -> bool:
    """Whether a page that is no page of this node may have sent it: one cannot have its key."""
    desk = request.app[DESK]
    if request.path in request.app[OPEN] or desk.guard.asks:
        return False
    return could_be_anyones(request.headers.get(hdrs.HOST, ""), desk.settings.cors_origins)


@web.middleware
async def _cors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Without this any page its owner visits could use the node: browsers send simple POSTs anywhere."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin and not _allowed(origin, request):
        return error_answer(
            request,
            Forbidden(f"pages of {origin} may not use this node; its owner allows them with --cors-origin"),
        )
    if not origin and _foreign(request):
        host = request.headers[hdrs.HOST]
        return error_answer(
            request,
            Forbidden(
                f"a node without a key is not asked by the name {host}, which may be a web page's; ask it by "
                f"its address, or have its owner set EXO_API_KEY, or --cors-origin http://{host}"
            ),
        )
    if request.method == hdrs.METH_OPTIONS and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers:
        headers = {
            hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST, DELETE, OPTIONS",
            hdrs.ACCESS_CONTROL_ALLOW_HEADERS: request.headers.get(hdrs.ACCESS_CONTROL_REQUEST_HEADERS, "*"),
            hdrs.ACCESS_CONTROL_MAX_AGE: "86400",
        }
        return web.Response(status=204, headers=headers)
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
            # Where it comes of another of these kinds, the message says it all.
            cause = None if isinstance(error.__cause__, ExoError) else error.__cause__
            log.error("request %s failed: %s", record.id, error.message, exc_info=cause)
        return error_answer(request, error)
    except web.HTTPException as error:
        answer = error_answer(request, _from_http(request, error))
        if hdrs.ALLOW in error.headers:
            answer.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return answer
    except OSError as error:
        if not open_files.are_used_up(error):
            return _defect(request)
        request[RECORD].error = NotReady.code
        request.app[DESK].metrics.refused(NotReady.code)
        return error_answer(request, NotReady(f"this node has too many files open: {open_files.REMEDY}"))
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
