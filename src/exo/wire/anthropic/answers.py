"""Anthropic's dialect, the server's side: deltas to whole answers.

An answer is a list of blocks: a thought, a text, a call each, in the order in which they came.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import TypeAlias

import msgspec
from msgspec import UNSET

from exo.chat import Delta, Finished, FinishReason, Reasoning, Text, ToolCall, Usage
from exo.errors import UNFINISHED, EngineFailed
from exo.wire.anthropic import answer_types as types
from exo.wire.tools import arguments

Piece: TypeAlias = Text | Reasoning | ToolCall

SIGNATURE = "ZXhvIHNpZ25zIG5vIHRob3VnaHRz"
"""Of every thought: clients expect one and send it back with the thought; nothing has to be proven by it."""

_REASONS: Mapping[FinishReason, types.StopReason] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
}
_encode = msgspec.json.Encoder().encode


def message_id(id: str) -> str:
    """The name of the answer to the request `id`."""
    return f"msg_{id}"


def message_answer(
    id: str, model: str, deltas: Sequence[Delta], *, shows_thinking: bool = True, edits_context: bool = False
) -> bytes:
    """The whole answer to the request `id`. A call that `max_tokens` cut off is left out.

    Raises `EngineFailed` where it has no `Finished`, or a call whose arguments are no object.
    """
    *pieces, finished = deltas or [Text("")]
    if not isinstance(finished, Finished):
        raise EngineFailed(UNFINISHED)
    said = [each for each in pieces if not isinstance(each, Finished) and says(each)]
    return _encode(
        types.AnthropicAnswer(
            id=message_id(id),
            model=model,
            content=list(_blocks(said, shows_thinking, cut=finished.reason == "length")),
            stop_reason=stop_reason(finished),
            stop_sequence=finished.stop or None,
            usage=usage(finished.usage),
            context_management=edits(edits_context),
        )
    )


def count_answer(tokens: int) -> bytes:
    """How many tokens the prompt has."""
    return _encode(types.AnthropicCount(tokens))


# Parts of answers, whole or streamed


def says(piece: Piece) -> bool:
    """Whether it is more than an empty text, for which no block is begun."""
    return isinstance(piece, ToolCall) or bool(piece.text)


def block_of(piece: Piece) -> tuple[type[Piece], int]:
    """The block that it belongs to: pieces in a row for which this is the same make one."""
    return type(piece), piece.index if isinstance(piece, ToolCall) else 0


def stop_reason(finished: Finished) -> types.StopReason:
    """Why the model said no more."""
    return "stop_sequence" if finished.stop else _REASONS[finished.reason]


def usage(used: Usage) -> types.AnthropicUsage:
    return types.AnthropicUsage(
        input_tokens=max(0, used.prompt_tokens - used.cached_tokens),
        cache_creation_input_tokens=0,
        cache_read_input_tokens=used.cached_tokens,
        output_tokens=used.completion_tokens,
        output_tokens_details=types.AnthropicThought(used.reasoning_tokens),
    )


def edits(asked: bool) -> types.AnthropicEdits | msgspec.UnsetType:
    """What was cleared of the conversation, for those who asked that something be."""
    return types.AnthropicEdits() if asked else UNSET


def _blocks(pieces: Sequence[Piece], shows_thinking: bool, *, cut: bool) -> Iterator[types.AnthropicBlock]:
    runs = [list(run) for _, run in groupby(pieces, block_of)]
    for i, run in enumerate(runs, 1):
        text = "".join(each.arguments if isinstance(each, ToolCall) else each.text for each in run)
        match run[0]:
            case Text():
                yield types.AnthropicTextBlock(text)
            case Reasoning():
                yield types.AnthropicThinkingBlock(text if shows_thinking else "", SIGNATURE)
            case ToolCall(id=id, name=name):
                try:
                    yield types.AnthropicToolUseBlock(id, name, arguments(name, text))
                except EngineFailed:
                    if not cut or i < len(runs):
                        raise
