"""A conversation as Anthropic's clients send it, to messages.

A turn there is a list of blocks, and here a few messages: what tools have said comes first, each by itself,
then what the user says. Turns of the same role in a row are one, as Anthropic has it. A block stands on lines
of its own, but for those of an answer, which the model wrote without a break.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from exo.chat import Message, SoFar, ToolCall
from exo.errors import BadRequest
from exo.wire import schemas
from exo.wire.anthropic import request_types as types

# Claude Code writes it at the head of its system prompt, for Anthropic's accounts. It differs from request to
# request, so a prompt that began with it would never be found in the KV cache.
# https://github.com/anthropics/claude-code/issues/68900
_ACCOUNTING = re.compile(r"x-anthropic-billing-header:(?: *[\w-]+=[^;\n]*;)*\s*")


def messages(asked: types.Conversation) -> tuple[tuple[Message, ...], SoFar | None]:
    """The conversation, and the beginning of the answer, where its last message is that.

    Raises `BadRequest` for an order of blocks that cannot be.
    """
    *earlier, last = _one_a_turn(_turns(asked.messages))
    if last.role != "assistant":
        return (*_system(asked.system), *earlier, last), None
    param = f"messages[{len(asked.messages) - 1}]"
    if last.tool_calls:
        text = f"{param} calls tools: say what came of it, as tool_result blocks of a user message"
        raise BadRequest(text, param=param)
    if not earlier:
        raise BadRequest(f"{param} is the beginning of an answer, and nothing was asked", param=param)
    so_far = SoFar(last.content, last.reasoning)
    return (*_system(asked.system), *earlier), None if so_far == SoFar() else so_far


def _system(sent: str | list[types.AnthropicText] | None) -> Iterator[Message]:
    blocks = [sent] if isinstance(sent, str) else [block.text for block in sent or ()]
    if text := _lines(
        _ACCOUNTING.sub("", block, count=1) if _ACCOUNTING.match(block) else block for block in blocks
    ):
        yield Message("system", text)


def _turns(sent: Sequence[types.AnthropicMessage]) -> Iterator[Message]:
    called: set[str] = set()
    for i, message in enumerate(sent):
        match message:
            case types.AnthropicUserMessage(content=str(text)):
                yield Message("user", text)
            case types.AnthropicUserMessage(content=list(asked)):
                yield from _asked(asked, called, f"messages[{i}].content")
            case types.AnthropicAssistantMessage(content=str(text)):
                yield Message("assistant", text)
            case types.AnthropicAssistantMessage(content=list(answered)):
                answer = _answered(answered, f"messages[{i}].content")
                called.update(call.id for call in answer.tool_calls)
                yield answer
            case types.AnthropicSystemMessage(content=content):
                yield Message("system", _text(content))


def _asked(blocks: list[types.AskedBlock], called: set[str], place: str) -> Iterator[Message]:
    for i, block in enumerate(blocks):
        if isinstance(block, types.AnthropicToolResult):
            if block.tool_use_id not in called:
                param = f"{place}[{i}].tool_use_id"
                raise BadRequest(f"{param} is not that of a tool_use in a message before", param=param)
            yield Message("tool", _result(block), tool_call_id=block.tool_use_id)
    if said := [block.text for block in blocks if isinstance(block, types.AnthropicText)]:
        yield Message("user", _lines(said))


def _result(block: types.AnthropicToolResult) -> str:
    text = _text(block.content or "")
    return f"Error: {text}" if block.is_error else text


def _answered(blocks: list[types.AnsweredBlock], place: str) -> Message:
    text: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for i, block in enumerate(blocks):
        match block:
            case types.AnthropicText():
                text.append(block.text)
            case types.AnthropicThinking():
                thoughts.append(block.thinking)
            case types.AnthropicToolUse():
                schemas.check(block.input, f"{place}[{i}].input")
                arguments = msgspec.json.encode(block.input).decode()
                calls.append(ToolCall(len(calls), block.id, block.name, arguments))
            case types.AnthropicRedactedThinking():
                pass
    return Message("assistant", "".join(text), tuple(calls), reasoning=_lines(thoughts))


def _one_a_turn(messages: Iterable[Message]) -> list[Message]:
    turns: list[Message] = []
    for message in messages:
        if turns and turns[-1].role == message.role in ("user", "assistant"):
            turns[-1] = _joined(turns[-1], message)
        else:
            turns.append(message)
    return turns


def _joined(first: Message, second: Message) -> Message:
    calls = (*first.tool_calls, *second.tool_calls)
    return msgspec.structs.replace(
        first,
        content=_lines((first.content, second.content)),
        tool_calls=tuple(msgspec.structs.replace(call, index=i) for i, call in enumerate(calls)),
        reasoning=_lines((first.reasoning, second.reasoning)),
    )


def _text(content: str | list[types.AnthropicText]) -> str:
    return content if isinstance(content, str) else _lines(block.text for block in content)


def _lines(texts: Iterable[str]) -> str:
    return "\n".join(filter(None, texts))
