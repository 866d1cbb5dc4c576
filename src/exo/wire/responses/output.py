"""The items of an answer, made of its deltas.

Thoughts and text are an item each, until something else follows; a call is one by its index. Pieces of
several calls may come in turn, so calls stay open until the answer ends.
"""

from typing import TypeAlias

import msgspec

from exo.chat import Finished, Reasoning, Text, TokenLogprob, ToolCall
from exo.wire.openai.figures import chat_logprobs
from exo.wire.responses import answer_types as types
from exo.wire.responses.items import item_id


class GrowingItem(msgspec.Struct, kw_only=True):
    """What there is of an item; `place` is its index in the answer."""

    place: int
    id: str
    status: types.Status = "in_progress"
    pieces: list[str] = []

    @property
    def said(self) -> str:
        return "".join(self.pieces)

    def grow(self, delta: Text | Reasoning | ToolCall) -> None:
        self.pieces.append(delta.arguments if isinstance(delta, ToolCall) else delta.text)


class GrowingMessage(GrowingItem, kw_only=True):
    logprobs: list[TokenLogprob] = []

    def grow(self, delta: Text | Reasoning | ToolCall) -> None:
        super().grow(delta)
        if isinstance(delta, Text):
            self.logprobs.extend(delta.logprobs)

    def part(self) -> types.OutputText:
        logprobs = chat_logprobs(self.logprobs).content if self.logprobs else []
        return types.OutputText(self.said, logprobs=logprobs)

    def item(self) -> types.OutputItem:
        return types.OutputMessage(self.id, self.status, [self.part()])

    def beginning(self) -> types.OutputItem:
        return types.OutputMessage(self.id, "in_progress", [])


class GrowingReasoning(GrowingItem, kw_only=True):
    def part(self) -> types.ReasoningText:
        return types.ReasoningText(self.said)

    def item(self) -> types.OutputItem:
        return types.OutputReasoning(self.id, self.status, [], [self.part()])

    def beginning(self) -> types.OutputItem:
        return types.OutputReasoning(self.id, "in_progress", [], [])


class GrowingSummary(GrowingItem, kw_only=True):
    """Thoughts that are wanted as a summary."""

    def part(self) -> types.SummaryText:
        return types.SummaryText(self.said)

    def item(self) -> types.OutputItem:
        return types.OutputReasoning(self.id, self.status, [self.part()])

    def beginning(self) -> types.OutputItem:
        return types.OutputReasoning(self.id, "in_progress", [])


class GrowingCall(GrowingItem, kw_only=True):
    call_id: str
    name: str

    def item(self) -> types.OutputItem:
        return types.OutputCall(self.id, self.status, self.call_id, self.name, self.said)

    def beginning(self) -> types.OutputItem:
        return types.OutputCall(self.id, "in_progress", self.call_id, self.name, "")


Growing: TypeAlias = GrowingMessage | GrowingReasoning | GrowingSummary | GrowingCall
Saying: TypeAlias = GrowingMessage | GrowingReasoning | GrowingSummary


class Step(msgspec.Struct, frozen=True):
    """What a delta did: it went to `item`, which may be `new`, and `ended` another one."""

    item: Growing
    new: bool
    ended: Saying | None = None


class Output:
    """The answer to one request, whose id is `response`. Thoughts come as summaries where that was asked."""

    def __init__(self, response: str, *, summarised: bool) -> None:
        self._response = response
        self._thoughts = GrowingSummary if summarised else GrowingReasoning
        self._items: list[Growing] = []
        self._saying: Saying | None = None
        self._calls: dict[int, GrowingCall] = {}
        self._last: Growing | None = None
        self.finished: Finished | None = None

    def items(self) -> list[types.OutputItem]:
        """All of them, as they are now."""
        return [grown.item() for grown in self._items]

    def add(self, delta: Text | Reasoning | ToolCall) -> Step | None:
        """Puts a delta to its item; None where it says nothing."""
        match delta:
            case ToolCall():
                step = self._called(delta)
            case Text() if delta.text or delta.logprobs:
                step = self._said(GrowingMessage, "message")
            case Reasoning() if delta.text:
                step = self._said(self._thoughts, "reasoning")
            case _:
                return None
        step.item.grow(delta)
        self._last = step.item
        return step

    def finish(self, finished: Finished) -> list[Growing]:
        """Ends the answer, and gives the items that end with it. One that says nothing is an empty message,
        so that the conversation has a turn of the model."""
        self.finished = finished
        if not self._items:
            self._last = self._said(GrowingMessage, "message").item
        open = self._close("completed")
        if finished.reason == "length" and self._last is not None:
            self._last.status = "incomplete"
        return open

    def break_off(self) -> None:
        """Ends the answer where it cannot be gone on with."""
        self._close("incomplete")

    def _close(self, status: types.Status) -> list[Growing]:
        open = [grown for grown in self._items if grown.status == "in_progress"]
        for grown in open:
            grown.status = status
        return open

    def _called(self, delta: ToolCall) -> Step:
        if delta.index in self._calls:
            return Step(self._calls[delta.index], new=False)
        place, id = self._next("function_call")
        call = GrowingCall(place=place, id=id, call_id=delta.id, name=delta.name)
        self._calls[delta.index] = call
        self._items.append(call)
        return Step(call, new=True, ended=self._end_saying())

    def _said(self, kind: type[Saying], type: str) -> Step:
        if isinstance(self._saying, kind):
            return Step(self._saying, new=False)
        ended = self._end_saying()
        place, id = self._next(type)
        saying = self._saying = kind(place=place, id=id)
        self._items.append(saying)
        return Step(saying, new=True, ended=ended)

    def _end_saying(self) -> Saying | None:
        ended, self._saying = self._saying, None
        if ended is not None:
            ended.status = "completed"
        return ended

    def _next(self, type: str) -> tuple[int, str]:
        place = len(self._items)
        return place, item_id(type, self._response, place)
