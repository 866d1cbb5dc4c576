"""The original NPU server's own routes, at the root: the dialect of `wire.rkllama`.

Its "current model" is the loaded one that was used last, of whatever dialect the request was. Two things are
done differently on purpose. Loading a model while another is loaded was refused there; here several fit, and
the new one becomes current. And nothing here writes a Modelfile: `from` and `huggingface_path` of
`/load_model`, which made one there, have no effect where the model has its own.

These routes take `/models` for themselves: an application that has them serves OpenAI's under `/v1` only.
"""

import time
from contextlib import aclosing

import msgspec
from aiohttp import web

from exo.cards import Progress
from exo.errors import BadRequest, ExoError, ModelNotFound, NotFound
from exo.http.app import RECORD, Dialect, body_of, json_answer
from exo.http.callers import client_of, owner_only
from exo.http.desk import DESK, Desk
from exo.http.replies import next_step, resolved, stream_answers, unless_abandoned, whole_answers
from exo.wire import rkllama

_NONE_LOADED = 'No models are currently loaded. Load one first: POST /load_model {"model_name": "..."}'


def routes() -> Dialect:
    table = [
        web.get("/", welcome),
        web.get("/models", models),
        web.get("/current_model", current_model),
        web.post("/load_model", load_model),
        web.post("/unload_model", unload_model),
        web.post("/generate", generate),
        web.post("/pull", pull),
        web.delete("/rm", rm),
    ]
    # Every path begins as "/" does, and that one has no way to fail.
    return Dialect(table, tuple(route.path for route in table if route.path != "/"), rkllama.error_answer)


async def welcome(http: web.Request) -> web.StreamResponse:
    return json_answer(rkllama.welcome("rkllama", http.app[DESK].served.cluster().me.version))


async def models(http: web.Request) -> web.StreamResponse:
    cards = await http.app[DESK].served.cards()
    return json_answer(rkllama.models_answer([card.id for card in cards]))


async def current_model(http: web.Request) -> web.StreamResponse:
    if (model := _current(http.app[DESK])) is None:
        raise NotFound(_NONE_LOADED)
    return json_answer(rkllama.current_model_answer(model))


async def generate(http: web.Request) -> web.StreamResponse:
    call = rkllama.decode_generate(await body_of(http), id=http[RECORD].id)
    if (model := _current(http.app[DESK])) is None:
        raise BadRequest(_NONE_LOADED)
    request = await resolved(http, msgspec.structs.replace(call.request, model=model))
    created, began = int(time.time()), time.perf_counter()
    if call.stream:
        stream = rkllama.GenerateStream(created, time.perf_counter)
        return await stream_answers(http, [request], 1, stream)
    (deltas,) = await whole_answers(http, [request])
    return json_answer(rkllama.generate_answer(created, deltas, time.perf_counter() - began))


async def load_model(http: web.Request) -> web.StreamResponse:
    owner_only(http)
    call = rkllama.decode_load_model(await body_of(http))
    desk = http.app[DESK]
    http[RECORD].model = call.model
    try:
        await unless_abandoned(desk, desk.served.load(call.model, client_of(http)))
    except ModelNotFound as error:
        if not call.described:
            raise
        raise ModelNotFound(
            f"{error.message}; from and huggingface_path alone make no model: put a Modelfile with FROM and "
            f"HUGGINGFACE_PATH beside the .rkllm file, into a folder '{call.model}' among the models",
            param="model_name",
        ) from error
    return json_answer(rkllama.loaded_answer(call.model))


async def unload_model(http: web.Request) -> web.StreamResponse:
    owner_only(http)
    named = rkllama.decode_unload_model(await body_of(http))
    desk = http.app[DESK]
    model = named or _current(desk)
    if model is None:
        raise BadRequest("No models are currently loaded.")
    if model not in {resident.model for resident in desk.served.cluster().me.loaded}:
        raise BadRequest(f"model '{model}' is not loaded", param="model_name")
    http[RECORD].model = model
    await desk.served.unload(model)
    return json_answer(rkllama.message_answer(rkllama.UNLOADED))


async def rm(http: web.Request) -> web.StreamResponse:
    owner_only(http)
    model = http[RECORD].model = rkllama.decode_rm(await body_of(http))
    await http.app[DESK].served.delete(model)
    return json_answer(rkllama.message_answer(rkllama.DELETED))


async def pull(http: web.Request) -> web.StreamResponse:
    """Lines of `N%`, each one once. A failure before the first is a status; after it, it is a line of its own
    and no `100%` comes."""
    owner_only(http)
    name = rkllama.decode_pull(await body_of(http))
    desk = http.app[DESK]
    async with aclosing(desk.served.pull(name)) as steps:
        said = -1
        step = await next_step(desk, steps)
        response = web.StreamResponse(headers=rkllama.GenerateStream.headers)
        await response.prepare(http)
        try:
            while step is not None:
                if (percent := _percent(step)) > said:
                    said = percent
                    await response.write(b"%d%%\n" % percent)
                step = await next_step(desk, steps)
        except ExoError as error:
            http[RECORD].error = error.code
            message = error.message.encode(errors="replace").replace(b"\n", b" ")
            await response.write(b"Error: " + message + b"\n")
        else:
            if said < 100:
                await response.write(b"100%\n")
    http[RECORD].status = response.status
    await response.write_eof()
    return response


def _percent(step: Progress) -> int:
    """Rounded down, so that 100 is said of nothing but the whole; 0 where the size is not known."""
    return min(99, 100 * step.done // step.total) if step.total else 0


def _current(desk: Desk) -> str | None:
    """The loaded model that was used last."""
    ready = [resident for resident in desk.served.cluster().me.loaded if resident.state == "ready"]
    return max(ready, key=lambda resident: resident.used).model if ready else None
