"""A conversation as Ollama's clients send it, to messages.

Ollama's tool calls need no ids, and a tool's answer says at most by name which call it answers. Every call
has an id here: those without get one by their place, and answers find theirs.
"""

from collections.abc import Iterator, Sequence

import msgspec

from exo.chat import Message, ToolCall
from exo.errors import BadRequest
from exo.wire import schemas
from exo.wire.ollama import request_types as types


def messages(sent: Sequence[types.OllamaMessage]) -> Iterator[Message]:
    """Raises `BadRequest` for a message that cannot be, and for images."""
    unanswered: list[ToolCall] = []
    made = 0
    for i, message in enumerate(sent):
        place = f"messages[{i}]"
        _check(message, place)
        content = message.content or ""
        match message.role:
            case "assistant":
                calls = tuple(_calls(message.tool_calls or [], made, place))
                made += len(calls)
                unanswered.extend(calls)
                yield Message("assistant", content, tool_calls=calls, reasoning=message.thinking or "")
            case "tool":
                yield Message("tool", content, tool_call_id=_answered(message, unanswered, place))
            case role:
                yield Message(role, content)


def _check(message: types.OllamaMessage, place: str) -> None:
    if message.images:
        param = f"{place}.images"
        raise BadRequest(f"{param} are not supported: this server reads text only", param=param)
    for role, keys in (("assistant", ("tool_calls", "thinking")), ("tool", ("tool_name", "tool_call_id"))):
        for key in keys:
            if message.role != role and getattr(message, key):
                param = f"{place}.{key}"
                raise BadRequest(f'{param} has no place in a "{message.role}" message', param=param)
    if message.content is None and not message.tool_calls and not message.thinking:
        raise BadRequest(f"{place}.content is required", param=f"{place}.content")


def _calls(sent: list[types.OllamaCallMade], made: int, place: str) -> Iterator[ToolCall]:
    for i, call in enumerate(sent):
        schemas.check(call.function.arguments, f"{place}.tool_calls[{i}].function.arguments")
        arguments = msgspec.json.encode(call.function.arguments).decode()
        yield ToolCall(i, call.id or f"call_{made + i}", call.function.name, arguments)


def _answered(message: types.OllamaMessage, unanswered: list[ToolCall], place: str) -> str:
    """The id of the call that a tool's message answers, which is then no longer open."""
    id, name = message.tool_call_id, message.tool_name
    for call in unanswered:
        if (not id or call.id == id) and (id or not name or call.name == name):
            unanswered.remove(call)
            return call.id
    if id:
        return id
    which = f' of "{name}"' if name else ""
    raise BadRequest(
        f"{place} answers no tool call: before it, no call{which} is open; send the assistant's message that "
        "made the call, too",
        param=place,
    )
