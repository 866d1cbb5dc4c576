"""What clients of the Responses dialect ask: a body to values.

A body is turned into what was asked, or into a `BadRequest` with `param` naming the key at fault, whatever
the bytes; or into a `NotFound` where it goes on from a response that is not kept. Types and ranges are
checked by the structs of `request_types`; here is what concerns several keys at once.
"""

from exo.chat import ChatRequest, JsonSchema, Message, Sampling
from exo.errors import BadRequest, NotFound
from exo.wire import schemas
from exo.wire.efforts import effort
from exo.wire.json import Reader
from exo.wire.openai.request_types import JsonObjectFormat
from exo.wire.responses import request_types as types
from exo.wire.responses import tools
from exo.wire.responses.calls import Find, ResponseCall
from exo.wire.responses.items import decode_items, encode_items, messages, sent_items

_LOGPROBS = "message.output_text.logprobs"

_BODY = Reader(types.ResponsesBody)


def decode_response(body: bytes, *, id: str, response: str, find: Find) -> ResponseCall:
    """`id` is the request's and `response` the answer's. `find` is asked for the response that this one goes
    on from, and for those whose items are referred to."""
    asked = _BODY.read(body)
    _check(asked)
    before = _before(asked.previous_response_id, find) if asked.previous_response_id else ()
    own = sent_items(asked.input, response, find)
    conversation = tuple(messages([*decode_items(before), *own]))
    if not conversation:
        raise BadRequest("input is empty, and there is nothing before it to answer", param="input")
    instructions = (Message("system", asked.instructions),) if asked.instructions else ()
    offered = tools.offered(asked)
    thinking, budget = _thinking(asked)
    request = ChatRequest(
        id=id,
        model=asked.model or "",
        messages=(*instructions, *conversation),
        sampling=Sampling(
            temperature=asked.temperature, top_p=asked.top_p, max_tokens=asked.max_output_tokens
        ),
        tools=offered,
        must_call=tools.must_call(asked, offered),
        parallel_calls=asked.parallel_tool_calls is not False,
        logprobs=(asked.top_logprobs or 0) if _LOGPROBS in (asked.include or ()) else None,
        json_schema=_json_schema(asked),
        thinking=thinking,
        thinking_budget=budget,
    )
    if request.must_call and request.json_schema is not None:
        text = "text.format is of no use where tool_choice says that a tool has to be called"
        raise BadRequest(text, param="text.format")
    return ResponseCall(request, asked, (*before, encode_items(own)))


def _check(asked: types.ResponsesBody) -> None:
    if asked.background:
        text = "background must be false: an answer ends with its request on this server"
        raise BadRequest(text, param="background")
    if asked.stream_options is not None and not asked.stream:
        raise BadRequest("stream_options needs stream to be true", param="stream_options")
    if asked.top_logprobs and _LOGPROBS not in (asked.include or ()):
        text = f'top_logprobs needs "{_LOGPROBS}" in include'
        raise BadRequest(text, param="top_logprobs")
    form = asked.reasoning
    if form and form.summary and form.generate_summary not in (None, form.summary):
        text = "reasoning.generate_summary contradicts reasoning.summary: give only summary"
        raise BadRequest(text, param="reasoning.generate_summary")


def _before(id: str, find: Find) -> tuple[bytes, ...]:
    """The conversation up to and with another response."""
    try:
        return find(id).turns
    except NotFound as error:
        raise NotFound(f"previous_response_id: {error.message}", param="previous_response_id") from None


def _thinking(asked: types.ResponsesBody) -> tuple[bool | None, int | None]:
    if asked.reasoning is None or asked.reasoning.effort is None:
        return None, None
    return effort(asked.reasoning.effort)


def _json_schema(asked: types.ResponsesBody) -> JsonSchema | None:
    match asked.text.format if asked.text else None:
        case JsonObjectFormat():
            return {"type": "object"}
        case types.FlatSchemaFormat(schema=schema):
            schemas.check(schema, "text.format.schema")
            return schema
    return None
