"""OpenAI's Responses dialect: answers that can be kept and gone on with."""

import time
import uuid
from collections.abc import Sequence

from aiohttp import web

from exo.errors import BadRequest
from exo.http.app import RECORD, body_of, json_answer, only
from exo.http.kept_responses import KeptResponses
from exo.http.replies import resolved, say_route, stream_answers, whole_answers
from exo.wire import responses

_LONGEST_PAGE = 100


def routes(kept: KeptResponses, prefixes: Sequence[str] = ("/v1", "")) -> Sequence[web.AbstractRouteDef]:
    """The dialect's routes under each prefix; failures look as in OpenAI's other dialect."""
    handlers = _Handlers(kept)
    table = [
        ("POST", "/responses", handlers.create),
        ("GET", "/responses/{id}", handlers.retrieve),
        ("DELETE", "/responses/{id}", handlers.delete),
        ("GET", "/responses/{id}/input_items", handlers.input_items),
        ("POST", "/responses/{id}/cancel", handlers.cancel),
    ]
    return [web.route(verb, prefix + path, to) for prefix in prefixes for verb, path, to in table]


class _Handlers:
    def __init__(self, kept: KeptResponses) -> None:
        self._kept = kept

    async def create(self, http: web.Request) -> web.StreamResponse:
        # Not the request's id, which a client may choose: who knows a response's can read it.
        id = f"resp_{uuid.uuid4().hex}"
        body = await body_of(http)
        call = responses.decode_response(body, id=http[RECORD].id, response=id, find=self._kept.get)
        request = await resolved(http, call.request)
        begun = responses.begun(call, id, int(time.time()), request.model)

        def keep(response: responses.KeptResponse) -> None:
            if call.store:
                self._kept.keep(id, response)

        if call.stream:
            stream = responses.ResponseStream(call, begun, keep)
            return await stream_answers(http, [request], 1, stream)
        [deltas] = await whole_answers(http, [request])
        whole = responses.response_answer(call, begun, deltas)
        keep(whole)
        response = json_answer(whole.answer)
        say_route(http, response, request.id)
        return response

    async def retrieve(self, http: web.Request) -> web.StreamResponse:
        """A response as it was answered: `include` adds nothing to it."""
        only(http, "include", "include[]", "stream", "include_obfuscation", "starting_after")
        if http.query.get("stream") == "true":
            raise BadRequest(
                "stream must be false: a response that has ended is not streamed", param="stream"
            )
        return json_answer(self._kept.get(http.match_info["id"]).answer)

    async def delete(self, http: web.Request) -> web.StreamResponse:
        only(http)
        id = http.match_info["id"]
        self._kept.forget(id)
        return json_answer(responses.deleted_answer(id))

    async def input_items(self, http: web.Request) -> web.StreamResponse:
        """The conversation a response answers, those before it included, latest first unless asked."""
        only(http, "include", "include[]", "after", "limit", "order")
        of = self._kept.get(http.match_info["id"])
        order = http.query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise BadRequest('order must be "asc" or "desc"', param="order")
        after, limit = http.query.get("after", ""), _limit(http)
        return json_answer(responses.items_answer(of, after=after, limit=limit, order=order))

    async def cancel(self, http: web.Request) -> web.StreamResponse:
        raise BadRequest(
            "no response is made in the background here, so there is none to cancel: an answer under way "
            "ends when its connection is closed"
        )


def _limit(http: web.Request) -> int:
    text = http.query.get("limit", "20")
    if not (text.isascii() and text.isdecimal() and len(text) < 4 and 1 <= int(text) <= _LONGEST_PAGE):
        raise BadRequest(f"limit must be a number from 1 to {_LONGEST_PAGE}", param="limit")
    return int(text)
