"""Tokens of a text and text of tokens: the first exo's route, and those of llama.cpp's server and vLLM.

Nothing is answered here, so none of a model's slots is taken; but a model has to be in memory to tell its
tokens, and is brought there in its turn.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
from aiohttp import web

from exo.engine import SpellRequest
from exo.errors import BadRequest
from exo.http.app import RECORD, body_of, json_answer
from exo.http.callers import client_of, hop_of
from exo.http.desk import DESK
from exo.http.patience import answer_patiently
from exo.http.replies import resolved, unless_abandoned
from exo.http.traced import above
from exo.wire import openai, tokens


def routes() -> Sequence[web.AbstractRouteDef]:
    return [
        web.post("/v1/chat/token/encode", encode),
        web.post("/chat/token/encode", encode),
        web.post("/tokenize", tokenize),
        web.post("/detokenize", detokenize),
    ]


async def encode(http: web.Request) -> web.StreamResponse:
    call = openai.decode_chat(await body_of(http), id=http[RECORD].id)
    request = await resolved(http, call.request)

    async def answer() -> bytes:
        found = await http.app[DESK].served.tokens(request)
        return tokens.encoded_answer(found, await _pieces(http, request.model, found))

    return await _answered(http, answer)


async def tokenize(http: web.Request) -> web.StreamResponse:
    call = tokens.decode_tokenize(await body_of(http), id=http[RECORD].id)
    call = msgspec.structs.replace(call, request=await resolved(http, call.request))
    model, served = call.request.model, http.app[DESK].served

    async def answer() -> bytes:
        found = await served.tokens(call.request, begin=call.begin)
        pieces = await _pieces(http, model, found) if call.pieces or call.strings else ()
        if pieces and len(pieces) != len(found):
            param = "with_pieces" if call.pieces else "return_token_strs"
            raise BadRequest(f"the server that has '{model}' does not show tokens one by one", param=param)
        return tokens.tokenize_answer(call, (await served.card(model, hop_of(http))).context, found, pieces)

    return await _answered(http, answer)


async def detokenize(http: web.Request) -> web.StreamResponse:
    call = tokens.decode_detokenize(await body_of(http), id=http[RECORD].id)
    http[RECORD].model = call.request.model
    card = await http.app[DESK].served.card(call.request.model, hop_of(http))
    http[RECORD].model = card.id
    call = msgspec.structs.replace(call, request=msgspec.structs.replace(call.request, model=card.id))

    async def answer() -> bytes:
        return tokens.detokenize_answer(call, await _pieces(http, card.id, call.request.tokens))

    return await _answered(http, answer)


async def _pieces(http: web.Request, model: str, ids: Sequence[int]) -> tuple[bytes, ...]:
    request = SpellRequest(
        model=model,
        tokens=tuple(ids),
        id=http[RECORD].id,
        client=client_of(http),
        via=hop_of(http),
        trace=above(http),
    )
    return await http.app[DESK].served.spell(request)


async def _answered(
    http: web.Request, answer: Callable[[], Coroutine[Any, Any, bytes]]
) -> web.StreamResponse:
    """A model that has to be loaded first takes long, and a node that waits for this one wants to hear of
    it."""
    if hop_of(http):
        return await answer_patiently(http, answer())
    return json_answer(await unless_abandoned(http.app[DESK], answer()))
