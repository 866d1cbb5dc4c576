"""The cluster: its nodes, as values and in the original's shape, where a request would go, and models that
are to be in memory before they are asked for."""

import time
from collections.abc import Sequence

import msgspec
from aiohttp import web

from exo.chat import ChatRequest, Message
from exo.choice.routing import Asked
from exo.errors import BadRequest
from exo.http.app import RECORD, body_of, json_answer, only
from exo.http.automatic import NAMES
from exo.http.callers import client_of, hop_of, owner_only
from exo.http.desk import DESK
from exo.http.patience import answer_patiently
from exo.http.spread import spread
from exo.wire import cluster as wire


def routes() -> Sequence[web.AbstractRouteDef]:
    return [
        web.get("/v1/cluster", cluster),
        web.get("/v1/topology", topology),
        web.get("/v1/route/explain", explain),
        web.post("/v1/load", load),
        web.post("/v1/spread", spread_model),
    ]


async def cluster(http: web.Request) -> web.StreamResponse:
    only(http)
    return json_answer(msgspec.json.encode(http.app[DESK].served.cluster()))


async def topology(http: web.Request) -> web.StreamResponse:
    only(http)
    return json_answer(wire.topology_answer(http.app[DESK].served.cluster()))


async def explain(http: web.Request) -> web.StreamResponse:
    """`?model=ID`, and if known `&prompt_tokens=N&max_tokens=N`: the nodes that could answer, best first. For
    "auto" a `&question=TEXT` decides which model that is; nothing is remembered of it."""
    only(http, "model", "prompt_tokens", "max_tokens", "question")
    desk, model, picked = http.app[DESK], http.query.get("model", ""), None
    question = http.query.get("question")
    if model in NAMES and desk.automatic:
        if question is None:
            raise BadRequest('"auto" depends on what is asked: add &question=TEXT', param="question")
        request = ChatRequest(model=model, messages=(Message("user", question),), id=http[RECORD].id)
        picked = desk.automatic.pick(request, desk.served.cluster(), desk.served.explain)
        model = picked.model
    elif question is not None:
        raise BadRequest("question has a meaning for auto only", param="question")
    card = await desk.served.card(model)
    prompt, answer = _number(http, "prompt_tokens"), _number(http, "max_tokens")
    routes = desk.served.explain(Asked(model=card.id, prompt=prompt or 0, answer=answer))
    return json_answer(wire.routes_answer(card.id, routes, picked))


async def load(http: web.Request) -> web.StreamResponse:
    """Brings a model into memory on this node, for its owner or for another node.

    A node is not asked for the owner's key beyond what guards all of this API: a chat for the model that it
    passes on would load it just the same, so in an open cluster nobody gains anything by calling himself a
    node. With a secret or certificates he cannot. What takes models away is the owner's alone.
    """
    if not hop_of(http):
        owner_only(http)
    only(http)
    call = wire.decode_load(await body_of(http))
    served, client = http.app[DESK].served, client_of(http)
    http[RECORD].model = call.model

    async def loaded() -> bytes:
        began = time.monotonic()
        await served.load(call.model, client)
        seconds = round(time.monotonic() - began, 3)
        node = served.cluster().me.id
        return wire.encode(wire.LoadAnswer(model=call.model, node=node, seconds=seconds))

    return await answer_patiently(http, loaded())


async def spread_model(http: web.Request) -> web.StreamResponse:
    """Has a model in memory on so many nodes. It takes the memory of several machines at once, so it is for
    the owner, and no node asks another one for it."""
    owner_only(http)
    only(http)
    call = wire.decode_spread(await body_of(http))
    served, client = http.app[DESK].served, client_of(http)
    http[RECORD].model = call.model

    async def spread_out() -> bytes:
        return wire.encode(await spread(served, call.model, call.nodes, client))

    return await answer_patiently(http, spread_out())


def _number(http: web.Request, name: str) -> int | None:
    text = http.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise BadRequest(f"{name} must be a number of tokens", param=name)
    return int(text)
