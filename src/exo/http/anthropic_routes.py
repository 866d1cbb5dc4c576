"""Anthropic's dialect: messages, and how many tokens one would take.

Models are listed under the path that OpenAI's dialect has, too: see `openai_routes`.
"""

from aiohttp import web

from exo.http.app import RECORD, Dialect, body_of, json_answer
from exo.http.desk import DESK
from exo.http.replies import resolved, say_route, stream_answers, unless_abandoned, whole_answers
from exo.wire import anthropic


def routes() -> Dialect:
    table = [web.post("/v1/messages", messages), web.post("/v1/messages/count_tokens", count_tokens)]
    return Dialect(table, ("/v1/messages",), anthropic.error_answer)


async def messages(http: web.Request) -> web.StreamResponse:
    id = http[RECORD].id
    call = anthropic.decode_messages(await body_of(http), id=id)
    request = await resolved(http, call.request)
    form = {"shows_thinking": call.shows_thinking, "edits_context": call.edits_context}
    if call.stream:
        return await stream_answers(http, [request], 1, anthropic.MessageStream(id, request.model, **form))
    (deltas,) = await whole_answers(http, [request])
    response = json_answer(anthropic.message_answer(id, request.model, deltas, **form))
    say_route(http, response, id)
    return response


async def count_tokens(http: web.Request) -> web.StreamResponse:
    """Loads the model where it is not in memory: it is the one that knows its tokens."""
    request = anthropic.decode_count_tokens(await body_of(http), id=http[RECORD].id)
    desk = http.app[DESK]
    tokens = await unless_abandoned(desk, desk.served.tokens(await resolved(http, request)))
    return json_answer(anthropic.count_answer(len(tokens)))
