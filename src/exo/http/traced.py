"""The span of a request that came to a model: from its arrival to its end, whatever the dialect."""

from collections.abc import Mapping

from aiohttp import web

from exo.chat import ChatRequest, EmbedRequest, Trace
from exo.traces import Span, Traces, Value, asked
from exo.traces.context import PARENT_HEADER, STATE_HEADER, read
from exo.traces.spans import CANCELLED

ARRIVED = web.RequestKey("arrived", int)
"""When the request did, in nanoseconds since the epoch."""
_SPAN = web.RequestKey("span", Span)
_NOWHERE = Trace()
# A client that left, and one that nothing was said to as this program has a defect.
_LEFT, _NOTHING_SAID = 499, 0


def above(http: web.Request) -> Trace:
    """What the request is part of, as whoever sent it says."""
    parents = http.headers.getall(PARENT_HEADER, ())
    return read(parents, http.headers.getall(STATE_HEADER, ())) if parents else _NOWHERE


def begun(
    http: web.Request, traces: Traces, request: ChatRequest | EmbedRequest, *, name: str, choices: int = 1
) -> Trace:
    """What the work for `request` is part of from now on. `name` is what its client called the model."""
    if not traces.recording:
        return request.trace
    resource = http.match_info.route.resource
    attributes: dict[str, Value] = {
        **asked(request),
        "gen_ai.request.model": name,
        "gen_ai.response.model": request.model,
        "http.request.method": http.method,
        "http.route": resource.canonical if resource else "",
        "exo.request.id": request.id,
    }
    if request.via:
        attributes["exo.via"] = request.via
    if choices > 1:
        attributes["gen_ai.request.choice.count"] = choices
    title = f"{attributes['gen_ai.operation.name']} {request.model}"
    span = traces.begin(title, "server", request.trace, attributes, began=http[ARRIVED])
    http[_SPAN] = span
    return span.trace


def noted(http: web.Request, attributes: Mapping[str, Value]) -> None:
    """More that is known of the request, if it has a span."""
    if span := http.get(_SPAN):
        span.note(attributes)


def ended(http: web.Request, status: int, error: str) -> None:
    """Ends the span of the request, if it has one. A failure of the client's is none of this server's, as the
    conventions have it; one behind the status 200 is."""
    span = http.get(_SPAN)
    if span is None:
        return
    span.note({"http.response.status_code": status})
    if status == _LEFT:
        span.end(CANCELLED)
    elif status >= 500 or status == _NOTHING_SAID:
        span.end(error or str(status))
    elif status >= 400:
        span.note({"error.type": error or str(status)})
        span.end()
    else:
        span.end(error)
