"""From a decoded request to bytes on the wire, whatever the dialect: streamed, whole, or a vector.

Every answer is measured, in the access record, and known to the desk for a shutdown.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from exo.cards import Progress
from exo.chat import ChatRequest, Delta, Embeddings, EmbedRequest, Usage
from exo.errors import ExoError
from exo.http.answers import Answers
from exo.http.app import METERED, RECORD
from exo.http.automatic import NAMES
from exo.http.callers import client_of, hop_of
from exo.http.desk import DESK, Desk
from exo.http.guard import SPENT
from exo.http.headers import HOP_HEADER, ROUTE_HEADER
from exo.http.traced import above, begun, noted
from exo.metrics import Answer
from exo.traces import Value
from exo.traces import usage as tokens

T = TypeVar("T")

_HOP_KEEPALIVE = 0.5
_CHOSEN = web.RequestKey("chosen", str)
"""Why "auto" is the model that answers."""


class Stream(Protocol):
    """Encodes a streamed answer; `wire.openai.ChatStream` is one. `headers` are the response's, `keepalive`
    what is written in a long silence, b"" where the dialect has no such thing."""

    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def keepalive(self) -> bytes: ...
    def start(self, index: int) -> bytes: ...
    def delta(self, index: int, delta: Delta) -> bytes: ...
    def end(self, usage: Usage) -> bytes: ...
    def failed(self, error: ExoError) -> bytes: ...


async def resolved(http: web.Request, request: ChatRequest) -> ChatRequest:
    """The request with the id of a model that is here, as metrics and logs have no other names, be it the one
    that is chosen for "auto", and with who asks, who passed it on and what it is part of."""
    desk = http.app[DESK]
    http[RECORD].model = request.model
    via = hop_of(http)
    request = msgspec.structs.replace(request, client=client_of(http), via=via, trace=above(http))
    if request.model in NAMES and desk.automatic and not via:
        served = desk.served
        picked = desk.automatic.choose(request, served.cluster(), served.explain)
        http[_CHOSEN] = "; ".join(picked.why)
        request = msgspec.structs.replace(request, model=picked.model, thinking=picked.thinking)
    model = (await desk.served.card(request.model, via)).id
    return msgspec.structs.replace(request, model=model)


async def stream_answers(
    http: web.Request, requests: Sequence[ChatRequest], n: int, stream: Stream
) -> web.StreamResponse:
    """Writes deltas as they come. A failure before the first one is still an HTTP status of its own."""
    seconds = keepalive(http) if stream.keepalive else None
    response = web.StreamResponse(headers=stream.headers)
    async with _under_way(http, requests) as answers:
        batch = await answers.take(seconds)
        say_route(http, response, requests[0].id)
        await response.prepare(http)
        await response.write(b"".join(stream.start(index) for index in range(len(requests))))
        try:
            while batch or not answers.over:
                await response.write(b"".join([stream.delta(*item) for item in batch]) or stream.keepalive)
                batch = [] if answers.over else await answers.take(seconds)
        except ExoError as error:
            # Too late for a status: an error event, and no end, so that nobody takes it for an answer.
            http[RECORD].error = error.code
            last = stream.failed(error)
        else:
            last = stream.end(answers.usage(n))
    http[RECORD].status = response.status
    await response.write_eof(last)
    return response


def keepalive(http: web.Request) -> float:
    """Seconds of silence after which something is written: a node that passes an answer on wants to know
    within two seconds that this one is gone."""
    usual = http.app[DESK].settings.keepalive
    return min(usual, _HOP_KEEPALIVE) if HOP_HEADER in http.headers else usual


def say_route(http: web.Request, response: web.StreamResponse, id: str) -> None:
    """Puts into the headers which model was chosen, and which node answers, and why, where there are
    several."""
    reasons = [http.get(_CHOSEN, ""), http.app[DESK].served.taken(id)]
    if why := "; ".join(filter(None, reasons)):
        response.headers[ROUTE_HEADER] = why


async def whole_answers(http: web.Request, requests: Sequence[ChatRequest]) -> list[list[Delta]]:
    """Waits for whole answers, one list of deltas per request."""
    deltas: list[list[Delta]] = [[] for _ in requests]
    async with _under_way(http, requests) as answers:
        while not answers.over:
            for index, delta in await answers.take(None):
                deltas[index].append(delta)
    return deltas


async def embed(http: web.Request, request: EmbedRequest) -> Embeddings:
    """The vectors asked for."""
    desk, record = http.app[DESK], http[RECORD]
    record.model = request.model
    via = hop_of(http)
    record.model = (await desk.served.card(request.model, via)).id
    http[METERED] = True
    asked = msgspec.structs.replace(request, client=client_of(http), via=via, trace=above(http))
    trace = begun(http, desk.traces, msgspec.structs.replace(asked, model=record.model), name=request.model)
    request = msgspec.structs.replace(asked, trace=trace)
    with Answer(desk.metrics, record.model, hop=bool(via)) as meter:
        vectors = await unless_abandoned(desk, desk.served.embed(request))
        meter.embedded(vectors)
    record.prompt_tokens = vectors.prompt_tokens
    http[SPENT] = meter.usage
    noted(http, {"gen_ai.usage.input_tokens": vectors.prompt_tokens})
    return vectors


async def unless_abandoned(desk: Desk, work: Coroutine[Any, Any, T]) -> T:
    """Its result; raises what a shutdown that cannot wait for it says."""
    task = asyncio.ensure_future(work)
    abandoned: list[ExoError] = []

    def fail(error: ExoError) -> None:
        abandoned.append(error)
        task.cancel()

    try:
        with desk.under_way(fail):
            return await task
    except asyncio.CancelledError:
        if abandoned:
            raise abandoned[0] from None
        raise
    finally:
        task.cancel()


async def next_step(desk: Desk, steps: AsyncGenerator[Progress, None]) -> Progress | None:
    """The next step of a download, None at its end; a shutdown does not wait for all of them."""

    async def step() -> Progress | None:
        return await anext(steps, None)

    return await unless_abandoned(desk, step())


@asynccontextmanager
async def _under_way(http: web.Request, requests: Sequence[ChatRequest]) -> AsyncIterator[Answers]:
    """Runs the answers: measured, in the access record, and known to the desk for a shutdown."""
    desk, record = http.app[DESK], http[RECORD]
    trace = begun(http, desk.traces, requests[0], name=record.model, choices=len(requests))
    if trace is not requests[0].trace:
        requests = [msgspec.structs.replace(each, trace=trace) for each in requests]
    record.model = requests[0].model
    http[METERED] = True
    meters = [Answer(desk.metrics, record.model, hop=bool(each.via)) for each in requests]
    answers = Answers(desk.served, requests, meters)
    try:
        with desk.under_way(answers.fail):
            async with answers:
                yield answers
    finally:
        http[SPENT] = answers.spent()
        usage = answers.usage(1)
        record.prompt_tokens, record.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        if answers.ttft is not None:
            record.ttft_ms = round(answers.ttft * 1e3, 3)
        if desk.traces.recording:
            noted(http, _figures(http, answers, usage, meters))


def _figures(
    http: web.Request, answers: Answers, usage: Usage, meters: Sequence[Answer]
) -> Mapping[str, Value]:
    """What a request's span says of its answers."""
    reasons = [meter.reason for meter in meters if meter.reason]
    known = {**tokens(usage), "gen_ai.response.finish_reasons": reasons}
    if answers.ttft is not None:
        known["gen_ai.response.time_to_first_chunk"] = answers.ttft
    if route := http.app[DESK].served.taken(http[RECORD].id):
        known["exo.route"] = route
    return known
