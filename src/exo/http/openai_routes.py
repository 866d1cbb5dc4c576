"""OpenAI's dialect: chat completions, completions, embeddings, models."""

import time
from collections.abc import Sequence

import msgspec
from aiohttp import web

from exo.chat import ChatRequest
from exo.http.app import RECORD, body_of, json_answer
from exo.http.callers import hop_of
from exo.http.desk import DESK
from exo.http.patience import answer_patiently
from exo.http.replies import embed, resolved, say_route, stream_answers, whole_answers
from exo.wire import anthropic, openai


def routes(prefixes: Sequence[str] = ("/v1", "")) -> Sequence[web.AbstractRouteDef]:
    """The dialect's routes under each prefix: `/v1` alone where another dialect has the bare ones."""
    table = [
        ("POST", "/chat/completions", chat),
        ("POST", "/completions", completions),
        ("POST", "/embeddings", embeddings),
        ("GET", "/models", models),
        ("GET", "/models/{id:.+}", model),
    ]
    return [web.route(verb, prefix + path, to) for prefix in prefixes for verb, path, to in table]


async def chat(http: web.Request) -> web.StreamResponse:
    call = openai.decode_chat(await body_of(http), id=http[RECORD].id)
    requests = _choices(await resolved(http, call.request), call.n)
    id, created, name = f"chatcmpl-{http[RECORD].id}", int(time.time()), requests[0].model
    if call.stream:
        stream = openai.ChatStream(
            id, created, name, include_usage=call.include_usage, n=call.n, reasoning=call.reasoning
        )
        return await stream_answers(http, requests, call.n, stream)
    deltas = await whole_answers(http, requests)
    response = json_answer(openai.chat_answer(id, created, name, deltas, reasoning=call.reasoning))
    say_route(http, response, requests[0].id)
    return response


async def completions(http: web.Request) -> web.StreamResponse:
    call = openai.decode_completion(await body_of(http), id=http[RECORD].id)
    asked = [await resolved(http, request) for request in call.requests]
    requests = [choice for request in asked for choice in _choices(request, call.n)]
    id, created, name = f"cmpl-{http[RECORD].id}", int(time.time()), requests[0].model
    echo = [request.prompt or "" for request in requests] if call.echo else ()
    if call.stream:
        stream = openai.CompletionStream(
            id, created, name, include_usage=call.include_usage, n=len(requests), echo=echo
        )
        return await stream_answers(http, requests, call.n, stream)
    deltas = await whole_answers(http, requests)
    response = json_answer(openai.completion_answer(id, created, name, deltas, n=call.n, echo=echo))
    say_route(http, response, requests[0].id)
    return response


async def embeddings(http: web.Request) -> web.StreamResponse:
    call = openai.decode_embeddings(await body_of(http), id=http[RECORD].id)

    async def answer() -> bytes:
        return openai.embeddings_answer(call, call.request.model, await embed(http, call.request))

    # A model that has to be loaded first takes long, and a node that waits for this one wants to hear of it.
    return await answer_patiently(http, answer()) if hop_of(http) else json_answer(await answer())


async def models(http: web.Request) -> web.StreamResponse:
    cards = await http.app[DESK].models()
    theirs = anthropic.VERSION_HEADER in http.headers
    return json_answer(anthropic.models_answer(cards) if theirs else openai.models_answer(cards))


async def model(http: web.Request) -> web.StreamResponse:
    card = await http.app[DESK].model(http.match_info["id"])
    theirs = anthropic.VERSION_HEADER in http.headers
    return json_answer(anthropic.model_answer(card) if theirs else openai.model_answer(card))


def _choices(request: ChatRequest, n: int) -> list[ChatRequest]:
    """A request for each of `n` choices: a seed makes them repeatable, not all the same."""
    seed = request.sampling.seed
    if seed is None:
        return [request] * n
    samplings = [msgspec.structs.replace(request.sampling, seed=seed + index) for index in range(n)]
    return [msgspec.structs.replace(request, sampling=sampling) for sampling in samplings]
