"""The Responses dialect, the server's side: deltas to server-sent events.

As in `wire.openai.answers`, a streamed text or thought costs one JSON string: what is around it is cut once
out of an event that holds a mark in the text's place, up to the event's number at its end.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec.structs import replace

from exo.chat import Delta, Finished, Reasoning, Text, ToolCall, Usage
from exo.errors import BadRequest, ContextLengthExceeded, EngineFailed, ExoError, Overloaded
from exo.wire.openai import ChatStream
from exo.wire.openai.answer_types import ChosenLogprob
from exo.wire.openai.errors import error_body
from exo.wire.openai.figures import chat_logprobs
from exo.wire.responses import answer_types as types
from exo.wire.responses.answers import ended, kept
from exo.wire.responses.calls import KeptResponse, ResponseCall
from exo.wire.responses.output import (
    Growing,
    GrowingCall,
    GrowingMessage,
    GrowingReasoning,
    GrowingSummary,
    Output,
)

_encode = msgspec.json.Encoder().encode
_MARK = "\0"

# By kind of item: what its events about its text are called, and those about the part that holds it.
_TEXT: dict[type[Growing], str] = {
    GrowingMessage: "response.output_text",
    GrowingReasoning: "response.reasoning_text",
    GrowingSummary: "response.reasoning_summary_text",
    GrowingCall: "response.function_call_arguments",
}
_PART: dict[type[Growing], str] = {
    GrowingMessage: "response.content_part",
    GrowingReasoning: "response.content_part",
    GrowingSummary: "response.reasoning_summary_part",
}


class ResponseStream:
    """Encodes one streamed response that has `begun`: `start`, `delta`s, then `end` or `failed`, all of them
    to be sent, as events are numbered. `keep` gets the response at its end, where one is given."""

    headers = ChatStream.headers
    keepalive = ChatStream.keepalive

    def __init__(
        self,
        call: ResponseCall,
        response: types.ResponseAnswer,
        keep: Callable[[KeptResponse], None] | None = None,
    ) -> None:
        self._call, self._response, self._keep = call, response, keep
        self._output = Output(response.id, summarised=call.summary is not None)
        self._around: dict[int, tuple[bytes, bytes]] = {}
        self._count = 0

    def start(self, index: int) -> bytes:
        return b"".join(
            self._event(type, response=self._response)
            for type in ("response.created", "response.in_progress")
        )

    def delta(self, index: int, delta: Delta) -> bytes:
        if isinstance(delta, Finished):
            return self._finished(delta)
        step = self._output.add(delta)
        if step is None:
            return b""
        events = self._done(step.ended) if step.ended else b""
        if step.new:
            events += self._added(step.item)
        return events + self._more(step.item, delta)

    def end(self, usage: Usage) -> bytes:
        try:
            response = ended(self._response, self._output, usage)
        except EngineFailed as error:
            return self.failed(error)
        if self._keep is not None:
            self._keep(kept(self._call, response))
        return self._event(f"response.{response.status}", response=response)

    def failed(self, error: ExoError) -> bytes:
        """The error by itself, with our own code, and the response as far as it has come."""
        said = error_body(error).error
        self._output.break_off()
        response = replace(
            self._response,
            status="failed",
            output=self._output.items(),
            error=types.ResponseError(_code(error), said.message),
        )
        alone = self._event("error", code=said.code, message=said.message, param=said.param)
        return alone + self._event("response.failed", response=response)

    def _finished(self, finished: Finished) -> bytes:
        empty = not self._output.items()
        open = self._output.finish(finished)
        added = self._added(open[0]) if empty else b""
        return added + b"".join(map(self._done, open))

    # The events of an item

    def _added(self, grown: Growing) -> bytes:
        added = self._event("response.output_item.added", output_index=grown.place, item=grown.beginning())
        if isinstance(grown, GrowingCall):
            return added
        part = type(grown)(place=grown.place, id=grown.id).part()
        return added + self._event(_PART[type(grown)] + ".added", part=part, **_where(grown))

    def _more(self, grown: Growing, delta: Text | Reasoning | ToolCall) -> bytes:
        if isinstance(delta, Text) and delta.logprobs:
            return self._delta(grown, delta.text, chat_logprobs(delta.logprobs).content)
        said = delta.arguments if isinstance(delta, ToolCall) else delta.text
        if not said:
            return b""
        if grown.place not in self._around:
            self._around[grown.place] = self._cut(grown)
        before, after = self._around[grown.place]
        self._count += 1
        return b"%b%b%b%d}\n\n" % (before, _encode(said), after, self._count - 1)

    def _done(self, grown: Growing) -> bytes:
        kind, where = type(grown), _where(grown)
        if isinstance(grown, GrowingCall):
            done = self._event(_TEXT[kind] + ".done", arguments=grown.said, **where)
        else:
            part = grown.part()
            logprobs = part.logprobs if isinstance(part, types.OutputText) else msgspec.UNSET
            done = self._event(_TEXT[kind] + ".done", text=part.text, logprobs=logprobs, **where)
            done += self._event(_PART[kind] + ".done", part=part, **where)
        return done + self._event("response.output_item.done", output_index=grown.place, item=grown.item())

    def _delta(self, grown: Growing, said: str, logprobs: list[ChosenLogprob]) -> bytes:
        given = logprobs if isinstance(grown, GrowingMessage) else msgspec.UNSET
        return self._event(_TEXT[type(grown)] + ".delta", delta=said, logprobs=given, **_where(grown))

    def _cut(self, grown: Growing) -> tuple[bytes, bytes]:
        """What is before and after the mark, up to the number."""
        count = self._count
        before, after = self._delta(grown, _MARK, []).rsplit(_encode(_MARK), 1)
        self._count = count
        return before, after.removesuffix(b"%d}\n\n" % count)

    def _event(self, type: str, **keys: Any) -> bytes:
        event = types.ResponseEvent(type=type, sequence_number=self._count, **keys)
        self._count += 1
        return b"event: %b\ndata: %b\n\n" % (type.encode(), _encode(event))


def _where(grown: Growing) -> dict[str, Any]:
    where = {"output_index": grown.place, "item_id": grown.id}
    match grown:
        case GrowingMessage() | GrowingReasoning():
            return {**where, "content_index": 0}
        case GrowingSummary():
            return {**where, "summary_index": 0}
    return where


def _code(error: ExoError) -> types.ErrorCode:
    match error:
        case Overloaded():
            return "rate_limit_exceeded"
        case ContextLengthExceeded():
            return "context_length_exceeded"
        case BadRequest():
            return "invalid_prompt"
    return "server_error"
