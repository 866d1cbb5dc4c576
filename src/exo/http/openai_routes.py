"""OpenAI's dialect: chat completions, completions, embeddings, models, with and without `/v1`."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from exo.chat import ChatRequest, Delta, Usage
from exo.errors import ExoError
from exo.http.answers import Answers
from exo.http.app import METERED, RECORD, body_of, json_answer
from exo.http.desk import DESK, Desk
from exo.metrics import Answer
from exo.wire import openai

T = TypeVar("T")

_SSE = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_KEEP_ALIVE = b": keep-alive\n\n"


class Stream(Protocol):
    """Encodes a streamed answer: `wire.openai.ChatStream` and `CompletionStream`."""

    def start(self, index: int) -> bytes: ...
    def delta(self, index: int, delta: Delta) -> bytes: ...
    def end(self, usage: Usage) -> bytes: ...
    def failed(self, error: ExoError) -> bytes: ...


def routes() -> Sequence[web.AbstractRouteDef]:
    table = [
        ("POST", "/chat/completions", chat),
        ("POST", "/completions", completions),
        ("POST", "/embeddings", embeddings),
        ("GET", "/models", models),
        ("GET", "/models/{id:.+}", model),
    ]
    return [web.route(verb, prefix + path, to) for prefix in ("/v1", "") for verb, path, to in table]


async def chat(http: web.Request) -> web.StreamResponse:
    call = openai.decode_chat(await body_of(http), id=http[RECORD].id)
    requests = _choices(_resolved(http, call.request), call.n)
    id, created, name = f"chatcmpl-{http[RECORD].id}", int(time.time()), requests[0].model
    if call.stream:
        stream = openai.ChatStream(id, created, name, include_usage=call.include_usage, n=call.n)
        return await _stream(http, requests, call.n, stream)
    return json_answer(openai.chat_answer(id, created, name, await _collect(http, requests)))


async def completions(http: web.Request) -> web.StreamResponse:
    call = openai.decode_completion(await body_of(http), id=http[RECORD].id)
    asked = [_resolved(http, request) for request in call.requests]
    requests = [choice for request in asked for choice in _choices(request, call.n)]
    id, created, name = f"cmpl-{http[RECORD].id}", int(time.time()), requests[0].model
    echo = [request.prompt or "" for request in requests] if call.echo else ()
    if call.stream:
        stream = openai.CompletionStream(
            id, created, name, include_usage=call.include_usage, n=len(requests), echo=echo
        )
        return await _stream(http, requests, call.n, stream)
    deltas = await _collect(http, requests)
    return json_answer(openai.completion_answer(id, created, name, deltas, n=call.n, echo=echo))


async def embeddings(http: web.Request) -> web.StreamResponse:
    call = openai.decode_embeddings(await body_of(http), id=http[RECORD].id)
    desk, record = http.app[DESK], http[RECORD]
    record.model = call.request.model
    record.model = desk.served.route(call.request.model).card.id
    http[METERED] = True
    with Answer(desk.metrics, record.model) as meter:
        vectors = await _unless_abandoned(desk, desk.served.embed(call.request))
        meter.embedded(vectors)
    record.prompt_tokens = vectors.prompt_tokens
    return json_answer(openai.embeddings_answer(call, call.request.model, vectors))


async def _unless_abandoned(desk: Desk, work: Coroutine[Any, Any, T]) -> T:
    """Its result; raises what a shutdown that cannot wait for it says."""
    task = asyncio.ensure_future(work)
    abandoned: list[ExoError] = []

    def fail(error: ExoError) -> None:
        abandoned.append(error)
        task.cancel()

    with desk.under_way(fail):
        try:
            return await task
        except asyncio.CancelledError:
            if abandoned:
                raise abandoned[0] from None
            raise


async def models(http: web.Request) -> web.StreamResponse:
    return json_answer(openai.models_answer(http.app[DESK].served.cards()))


async def model(http: web.Request) -> web.StreamResponse:
    return json_answer(openai.model_answer(http.app[DESK].served.route(http.match_info["id"]).card))


def _resolved(http: web.Request, request: ChatRequest) -> ChatRequest:
    """The request with the id of a model that is here; metrics and logs have no other names."""
    http[RECORD].model = request.model
    model = http.app[DESK].served.route(request.model).card.id
    return request if model == request.model else msgspec.structs.replace(request, model=model)


def _choices(request: ChatRequest, n: int) -> list[ChatRequest]:
    """A request for each of `n` choices: a seed makes them repeatable, not all the same."""
    seed = request.sampling.seed
    if seed is None:
        return [request] * n
    samplings = [msgspec.structs.replace(request.sampling, seed=seed + index) for index in range(n)]
    return [msgspec.structs.replace(request, sampling=sampling) for sampling in samplings]


async def _stream(
    http: web.Request, requests: Sequence[ChatRequest], n: int, stream: Stream
) -> web.StreamResponse:
    """Writes deltas as they come. A failure before the first one is still an HTTP status of its own."""
    keepalive = http.app[DESK].settings.keepalive
    response = web.StreamResponse(headers=_SSE)
    async with _under_way(http, requests) as answers:
        batch = await answers.take(keepalive)
        await response.prepare(http)
        await response.write(b"".join(stream.start(index) for index in range(len(requests))))
        try:
            while batch or not answers.over:
                await response.write(b"".join([stream.delta(*item) for item in batch]) or _KEEP_ALIVE)
                batch = [] if answers.over else await answers.take(keepalive)
        except ExoError as error:
            # Too late for a status: an error event, and no [DONE], so that nobody takes it for an answer.
            http[RECORD].error = error.code
            last = stream.failed(error)
        else:
            last = stream.end(answers.usage(n))
    http[RECORD].status = response.status
    await response.write_eof(last)
    return response


async def _collect(http: web.Request, requests: Sequence[ChatRequest]) -> list[list[Delta]]:
    """Waits for whole answers, one list of deltas per request."""
    deltas: list[list[Delta]] = [[] for _ in requests]
    async with _under_way(http, requests) as answers:
        while not answers.over:
            for index, delta in await answers.take(http.app[DESK].settings.timeout):
                deltas[index].append(delta)
    return deltas


@asynccontextmanager
async def _under_way(http: web.Request, requests: Sequence[ChatRequest]) -> AsyncIterator[Answers]:
    """Runs the answers: measured, in the access record, and known to the desk for a shutdown."""
    desk, record = http.app[DESK], http[RECORD]
    record.model = requests[0].model
    http[METERED] = True
    meters = [Answer(desk.metrics, record.model) for _ in requests]
    answers = Answers(desk.served, requests, meters, desk.settings.timeout)
    try:
        with desk.under_way(answers.fail):
            async with answers:
                yield answers
    finally:
        usage = answers.usage(1)
        record.prompt_tokens, record.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        if answers.ttft is not None:
            record.ttft_ms = round(answers.ttft * 1e3, 3)
