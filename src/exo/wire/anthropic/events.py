"""Anthropic's dialect, the server's side: deltas to server-sent events.

A piece of a text, a thought or a call costs one JSON string: the bytes around it are the same all through a
block, so they are cut once out of an event that holds a mark in the text's place.
"""

import msgspec
from msgspec import Raw

from exo.chat import Delta, Finished, Reasoning, Text, ToolCall, Usage
from exo.errors import UNFINISHED, EngineFailed, ExoError
from exo.wire.anthropic import answer_types as types
from exo.wire.anthropic import answers
from exo.wire.anthropic.errors import error_body
from exo.wire.tools import arguments

_SSE = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_MARK = "\0"
_encode = msgspec.json.Encoder().encode


def _event(event: types.AnthropicEvent) -> bytes:
    name = str(type(event).__struct_config__.tag).encode()
    return b"event: " + name + b"\ndata: " + _encode(event) + b"\n\n"


_PING = _event(types.AnthropicPing())
_MESSAGE_STOP = _event(types.AnthropicMessageStop())


class MessageStream:
    """Encodes the streamed answer to the request `id`: `start`, `delta`s, then `end` or `failed`. All of them
    give whole events. `index` is always 0, as there is one answer.

    `delta` raises `EngineFailed` at the end of a call whose arguments are no object, unless `max_tokens` cut
    it off. Without `shows_thinking` a thought is a block with nothing but its signature.
    """

    headers = _SSE
    keepalive = _PING

    def __init__(
        self, id: str, model: str, *, shows_thinking: bool = True, edits_context: bool = False
    ) -> None:
        self._id, self._model = id, model
        self._shows_thinking, self._edits_context = shows_thinking, edits_context
        self._block = -1  # the last one begun, which is open while there is a first piece of it
        self._first: answers.Piece | None = None
        self._around = (b"", b"")
        self._arguments: list[str] = []
        self._finished: Finished | None = None

    def start(self, index: int) -> bytes:
        message = types.AnthropicAnswer(
            id=answers.message_id(self._id),
            model=self._model,
            content=[],
            stop_reason=None,
            stop_sequence=None,
            usage=answers.usage(Usage()),
        )
        return _event(types.AnthropicMessageStart(message))

    def delta(self, index: int, delta: Delta) -> bytes:
        if isinstance(delta, Finished):
            self._finished = delta
            return self._close()
        if not answers.says(delta):
            return b""
        begun = b""
        if self._first is None or answers.block_of(self._first) != answers.block_of(delta):
            begun = self._close() + self._open(delta)
        return begun + self._piece(delta)

    def end(self, usage: Usage) -> bytes:
        """`usage` is of the whole answer."""
        if self._finished is None:
            return self.failed(EngineFailed(UNFINISHED))
        ending = types.AnthropicEnding(answers.stop_reason(self._finished), self._finished.stop or None)
        edits = answers.edits(self._edits_context)
        return _event(types.AnthropicMessageDelta(ending, answers.usage(usage), edits)) + _MESSAGE_STOP

    def failed(self, error: ExoError) -> bytes:
        """No end follows: a client that overlooks the error must not take the answer for complete."""
        return _event(error_body(error, self._id))

    def _open(self, first: answers.Piece) -> bytes:
        self._first, self._arguments = first, []
        self._block += 1
        block, mark = _begun(first)
        before, after = self._delta(mark).split(_encode(_MARK))
        self._around = before, after
        return _event(types.AnthropicBlockStart(self._block, block))

    def _piece(self, piece: answers.Piece) -> bytes:
        if isinstance(piece, ToolCall):
            self._arguments.append(piece.arguments)
            text = piece.arguments
        else:
            text = "" if isinstance(piece, Reasoning) and not self._shows_thinking else piece.text
        return _encode(text).join(self._around) if text else b""

    def _close(self) -> bytes:
        """Ends the block under way, if there is one."""
        first, self._first = self._first, None
        if first is None:
            return b""
        last = b""
        if isinstance(first, Reasoning):
            last = self._delta(types.AnthropicSignatureDelta(answers.SIGNATURE))
        elif isinstance(first, ToolCall) and not (self._finished and self._finished.reason == "length"):
            arguments(first.name, "".join(self._arguments))
        return last + _event(types.AnthropicBlockStop(self._block))

    def _delta(self, delta: types.AnthropicDelta) -> bytes:
        return _event(types.AnthropicBlockDelta(self._block, delta))


def _begun(first: answers.Piece) -> tuple[types.AnthropicBlock, types.AnthropicDelta]:
    """A block that is still empty, and a piece of it with the mark for text. A thought is signed at its end,
    when it is known to be whole."""
    match first:
        case Text():
            return types.AnthropicTextBlock(""), types.AnthropicTextDelta(_MARK)
        case Reasoning():
            return types.AnthropicThinkingBlock("", ""), types.AnthropicThinkingDelta(_MARK)
        case ToolCall():
            block = types.AnthropicToolUseBlock(first.id, first.name, Raw(b"{}"))
            return block, types.AnthropicInputDelta(_MARK)
