"""The Responses dialect, the server's side: whole responses, and what is told of those that are kept."""

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from exo.chat import Delta, Finished, Usage
from exo.errors import UNFINISHED, BadRequest, EngineFailed
from exo.wire.openai.answer_types import ReasoningTokens
from exo.wire.openai.request_types import TextFormat
from exo.wire.responses import answer_types as types
from exo.wire.responses.calls import KeptResponse, ResponseCall
from exo.wire.responses.items import decode_items, encode_items
from exo.wire.responses.output import Output

_encode = msgspec.json.Encoder().encode


def begun(call: ResponseCall, id: str, created: int, model: str) -> types.ResponseAnswer:
    """The response to a call before there is anything of it; `created` is in seconds since the epoch."""
    asked = call.asked
    effort = asked.reasoning.effort if asked.reasoning else None
    form = asked.text.format if asked.text else None
    return types.ResponseAnswer(
        id=id,
        created_at=created,
        status="in_progress",
        model=model,
        output=[],
        instructions=asked.instructions,
        previous_response_id=asked.previous_response_id,
        store=call.store,
        max_output_tokens=asked.max_output_tokens,
        temperature=asked.temperature,
        top_p=asked.top_p,
        top_logprobs=asked.top_logprobs or 0,
        tools=asked.tools or [],
        tool_choice=asked.tool_choice or "auto",
        parallel_tool_calls=call.request.parallel_calls,
        reasoning=types.ReasoningAsked(effort, call.summary),
        text=types.TextAsked(form or TextFormat()),
        metadata=asked.metadata or {},
        user=asked.user,
        safety_identifier=asked.safety_identifier,
        prompt_cache_key=asked.prompt_cache_key,
    )


def ended(response: types.ResponseAnswer, output: Output, usage: Usage | None = None) -> types.ResponseAnswer:
    """The response that has `begun`, with all of its output, and with the engine's own `usage` where no other
    is given. Raises `EngineFailed` where the output is not finished."""
    finished = output.finished
    if finished is None:
        raise EngineFailed(UNFINISHED)
    usage = usage or finished.usage
    cut = finished.reason == "length"
    return replace(
        response,
        status="incomplete" if cut else "completed",
        incomplete_details=types.WhyIncomplete() if cut else None,
        output=output.items(),
        usage=types.ResponseUsage(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=types.InputTokens(usage.cached_tokens),
            output_tokens=usage.completion_tokens,
            output_tokens_details=ReasoningTokens(usage.reasoning_tokens),
            total_tokens=usage.prompt_tokens + usage.completion_tokens,
        ),
    )


def kept(call: ResponseCall, response: types.ResponseAnswer) -> KeptResponse:
    """The ended response as it is sent and kept, with the conversation that it ends."""
    return KeptResponse(
        _encode(response), (*call.turns, encode_items([_bare(item) for item in response.output]))
    )


def response_answer(
    call: ResponseCall, response: types.ResponseAnswer, deltas: Sequence[Delta]
) -> KeptResponse:
    """The whole of a response that has `begun`; raises `EngineFailed` where there is no `Finished`."""
    output = Output(response.id, summarised=call.summary is not None)
    for delta in deltas:
        if isinstance(delta, Finished):
            output.finish(delta)
        else:
            output.add(delta)
    return kept(call, ended(response, output))


def items_answer(of: KeptResponse, *, after: str = "", limit: int = 20, order: str = "desc") -> bytes:
    """Up to `limit` items of the conversation that a response is the answer to, behind the one with the id
    `after`. Raises `BadRequest` where there is no such item."""
    items = decode_items(of.turns[:-1])
    if order == "desc":
        items.reverse()
    if after:
        places = [i for i, item in enumerate(items) if item.id == after]
        if not places:
            raise BadRequest(f'after: there is no item "{after[:80]}" in this conversation', param="after")
        items = items[places[0] + 1 :]
    page = items[:limit]
    first, last = (page[0].id, page[-1].id) if page else (None, None)
    return _encode(types.ItemsAnswer(page, first, last, len(items) > limit))


def deleted_answer(id: str) -> bytes:
    return _encode(types.ResponseDeleted(id))


def _bare(item: types.OutputItem) -> types.OutputItem:
    """Without what is not looked at again."""
    if isinstance(item, types.OutputMessage):
        return replace(item, content=[replace(part, logprobs=[]) for part in item.content])
    return item
