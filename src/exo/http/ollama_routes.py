"""Ollama's dialect: chat, generate, embeddings, and what concerns models.

A model may be asked for with the tag ":latest", which Ollama's clients add to names, where no id ends so.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from exo.cards import ModelCard
from exo.chat import Embeddings
from exo.errors import BadRequest, ExoError, Forbidden, ModelNotFound, NotFound
from exo.http.app import RECORD, Dialect, body_of, json_answer
from exo.http.automatic import NAMES
from exo.http.callers import client_of, guest, hop_of, owner_only
from exo.http.desk import DESK
from exo.http.replies import embed as vectors_of
from exo.http.replies import next_step, resolved, say_route, stream_answers, unless_abandoned, whole_answers
from exo.wire import ollama

_LATEST = ":latest"


def routes() -> Dialect:
    table = [
        web.get("/api/version", version),
        web.get("/api/tags", tags),
        web.get("/api/ps", ps),
        web.post("/api/show", show),
        web.post("/api/chat", chat),
        web.post("/api/generate", generate),
        web.post("/api/embed", embed),
        web.post("/api/embeddings", embeddings),
        web.post("/api/pull", pull),
        web.post("/api/create", create),
        web.delete("/api/delete", delete),
        web.post("/api/copy", copy),
        web.post("/api/push", push),
        web.head("/api/blobs/{digest}", blob),
        web.post("/api/blobs/{digest}", upload),
    ]
    return Dialect(table, ("/api/",), ollama.error_answer)


# Answers


async def chat(http: web.Request) -> web.StreamResponse:
    return await _answered(http, ollama.decode_chat(await body_of(http), id=http[RECORD].id), ollama.CHAT)


async def generate(http: web.Request) -> web.StreamResponse:
    call = ollama.decode_generate(await body_of(http), id=http[RECORD].id)
    return await _answered(http, call, ollama.GENERATE)


async def _answered(http: web.Request, call: ollama.AskCall, form: ollama.Form) -> web.StreamResponse:
    elapsed, created_at = _watch(), ollama.rfc3339(time.time())
    request, name = call.request, call.request.model.removesuffix(_LATEST)
    if call.asks and name in NAMES:
        request = await resolved(http, msgspec.structs.replace(request, model=name))
    card = await _card(http, request.model)
    ollama.check_context(call.context, card)
    keep_alive = _granted(http, call.keep_alive, asks=call.asks)
    if not call.asks:
        reason = await _held(http, card.id, keep_alive)
        return json_answer(form.held(card.id, created_at, reason))
    request = await resolved(http, msgspec.structs.replace(request, model=card.id))
    async with _kept(http, card.id, keep_alive):
        if call.stream:
            return await stream_answers(http, [request], 1, form.stream(card.id, created_at, elapsed))
        (deltas,) = await whole_answers(http, [request])
        answer = json_answer(form.whole(card.id, created_at, elapsed(), deltas))
        say_route(http, answer, request.id)
        return answer


async def embed(http: web.Request) -> web.StreamResponse:
    elapsed = _watch()
    card, vectors = await _embedded(http, ollama.decode_embed(await body_of(http), id=http[RECORD].id))
    return json_answer(ollama.embed_answer(card.id, elapsed(), vectors))


async def embeddings(http: web.Request) -> web.StreamResponse:
    _, vectors = await _embedded(http, ollama.decode_embeddings(await body_of(http), id=http[RECORD].id))
    return json_answer(ollama.embeddings_answer(vectors))


async def _embedded(http: web.Request, call: ollama.EmbedCall) -> tuple[ModelCard, Embeddings]:
    card = await _card(http, call.request.model)
    ollama.check_context(call.context, card)
    keep_alive = _granted(http, call.keep_alive, asks=bool(call.request.texts))
    if not call.request.texts:
        await _held(http, card.id, keep_alive)
        return card, Embeddings((), 0)
    async with _kept(http, card.id, keep_alive):
        return card, await vectors_of(http, msgspec.structs.replace(call.request, model=card.id))


# Models


async def version(http: web.Request) -> web.StreamResponse:
    return json_answer(ollama.version_answer(ollama.API))


async def tags(http: web.Request) -> web.StreamResponse:
    return json_answer(ollama.tags_answer(await http.app[DESK].models()))


async def ps(http: web.Request) -> web.StreamResponse:
    me = http.app[DESK].served.cluster().me
    return json_answer(ollama.running_answer(me.loaded, {card.id: card for card in me.cards}, time.time()))


async def show(http: web.Request) -> web.StreamResponse:
    return json_answer(ollama.show_answer(await _card(http, ollama.decode_show(await body_of(http)))))


async def delete(http: web.Request) -> web.StreamResponse:
    """Of what is on the disk, whether it could be asked for or not."""
    owner_only(http)
    model = http[RECORD].model = ollama.decode_delete(await body_of(http))
    served = http.app[DESK].served
    try:
        await served.delete(model)
    except ModelNotFound:
        if not model.endswith(_LATEST):
            raise
        await served.delete(model.removesuffix(_LATEST))
    return web.Response()


async def create(http: web.Request) -> web.StreamResponse:
    owner_only(http)
    call = ollama.decode_create(await body_of(http))
    base = await _card(http, call.recipe.base)
    http.app[DESK].served.create(call.model, msgspec.structs.replace(call.recipe, base=base.id))
    if call.stream:
        return web.Response(body=ollama.status_answer("success") + b"\n", headers=ollama.LINES)
    return json_answer(ollama.status_answer("success"))


async def pull(http: web.Request) -> web.StreamResponse:
    """A failure before the download's first step is a status; after it, a line, and no "success" comes."""
    owner_only(http)
    call = ollama.decode_pull(await body_of(http))
    desk = http.app[DESK]
    async with aclosing(desk.served.pull(call.model)) as steps:
        step = await next_step(desk, steps)
        if not call.stream:
            while step is not None:
                step = await next_step(desk, steps)
            return json_answer(ollama.status_answer("success"))
        response = web.StreamResponse(headers=ollama.LINES)
        await response.prepare(http)
        await response.write(ollama.status_answer("pulling manifest") + b"\n")
        try:
            while step is not None:
                await response.write(ollama.progress_answer(step) + b"\n")
                step = await next_step(desk, steps)
        except ExoError as error:
            http[RECORD].error = error.code
            last = ollama.error_answer(error)
        else:
            last = ollama.status_answer("success")
    http[RECORD].status = response.status
    await response.write_eof(last + b"\n")
    return response


# What there is not


async def copy(http: web.Request) -> web.StreamResponse:
    raise BadRequest("models are not copied here: make one of the other's files, with /api/create and from")


async def push(http: web.Request) -> web.StreamResponse:
    raise BadRequest("models are not uploaded from here: they stay on this machine")


async def upload(http: web.Request) -> web.StreamResponse:
    raise BadRequest("files are not uploaded to here: put .gguf files into this machine's models folder")


async def blob(http: web.Request) -> web.StreamResponse:
    raise NotFound("there are no blobs here")


# Parts of them


async def _card(http: web.Request, model: str) -> ModelCard:
    served = http.app[DESK].served
    http[RECORD].model = model
    try:
        return await served.card(model, hop_of(http))
    except ModelNotFound:
        if not model.endswith(_LATEST):
            raise
        return await served.card(model.removesuffix(_LATEST), hop_of(http))


def _granted(
    http: web.Request, keep_alive: float | UnsetType | None, *, asks: bool
) -> float | UnsetType | None:
    """How long the model may stay for this client. A guest may let it go sooner after an answer, which it is
    reckoned to be done with then, but not keep it longer than the node would: a longer time is as long as
    that, as many clients always send one. Raises `Forbidden` where a guest wants a model kept for ever that
    the node would not keep, or unloads one that others may use."""
    key, most = guest(http), http.app[DESK].idle_seconds
    if key is None or keep_alive is UNSET:
        return keep_alive
    who = f"the key '{key.name}' is not an owner's, and"
    if keep_alive == 0 and not asks:
        raise Forbidden(
            f"{who} may unload no model: it leaves by itself when nobody uses it, or send an owner's key"
        )
    if most is None:
        return keep_alive
    if keep_alive is None:
        raise Forbidden(
            f"{who} may keep no model for ever: leave keep_alive out, or send at most {most:g} s, or an "
            "owner's key"
        )
    assert not isinstance(keep_alive, UnsetType)
    return min(keep_alive, most)


async def _held(
    http: web.Request, model: str, keep_alive: float | UnsetType | None
) -> Literal["load", "unload"]:
    """Loads the model; where it is to be kept for no time at all, lets it leave."""
    desk = http.app[DESK]
    if keep_alive != 0:
        await unless_abandoned(desk, desk.served.load(model, client_of(http)))
    if keep_alive is not UNSET:
        desk.served.keep(model, keep_alive)
    return "unload" if keep_alive == 0 else "load"


@asynccontextmanager
async def _kept(http: web.Request, model: str, keep_alive: float | UnsetType | None) -> AsyncIterator[None]:
    """Has the model kept for so long after the answer, which may also have failed, or been left."""
    try:
        yield
    finally:
        if keep_alive is not UNSET:
            http.app[DESK].served.keep(model, keep_alive)


def _watch() -> Callable[[], float]:
    """Seconds since now."""
    began = time.perf_counter()
    return lambda: time.perf_counter() - began
