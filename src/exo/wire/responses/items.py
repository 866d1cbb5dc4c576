"""Items of a conversation: those sent to the form they are kept in, and those kept to messages.

An answer is several items here, and one turn of the model in the language of a chat: its thoughts, then its
text, then its calls. Items that stand in this order belong to one turn, and what breaks it begins another.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn, TypeAlias

import msgspec
from msgspec.structs import replace

from exo.chat import Message, ToolCall
from exo.errors import BadRequest, NotFound
from exo.wire.openai.request_types import RefusalPart
from exo.wire.responses import request_types as types
from exo.wire.responses.calls import Find
from exo.wire.responses.request_types import ResponsesItem

_Parts: TypeAlias = Sequence[types.ItemPart]

# By type: the keys it needs, and those it may have besides `id` and `status`.
_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "message": (("role", "content"), ("phase",)),
    "function_call": (("call_id", "name", "arguments"), ("parsed_arguments",)),
    "function_call_output": (("call_id", "output"), ("name",)),
    "reasoning": ((), ("summary", "content", "encrypted_content")),
    "item_reference": (("id",), ()),
}
_NAMES = ("call_id", "name", "id")  # these may not be empty, either
_ANY = frozenset({"type", "id", "status"})
_PREFIXES = {"message": "msg", "function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}
_ID = re.compile(r"[a-z]{2,3}_([0-9a-f]{32})_[0-9a-z]+")

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[ResponsesItem]).decode


# Ids


def item_id(type: str, response: str, place: object) -> str:
    """The id of an item of a response: of its answer by place, of what was sent as "in0", "in1" …"""
    return f"{_PREFIXES[type]}_{response.removeprefix('resp_')}_{place}"


def _response_of(item: str) -> str:
    """The id of the response that an item's id is from; "" where it is not from this server."""
    ours = _ID.fullmatch(item)
    return f"resp_{ours[1]}" if ours else ""


# From what is sent to what is kept


def encode_items(items: Sequence[msgspec.Struct]) -> bytes:
    return _encode(items)


def decode_items(turns: Iterable[bytes]) -> list[ResponsesItem]:
    """The items of a conversation, or of a part of it, that has been encoded here."""
    return [item for turn in turns for item in _decode(turn)]


def sent_items(sent: str | Sequence[ResponsesItem], response: str, find: Find) -> list[ResponsesItem]:
    """What a client sent, in full: text as a message, content as parts, references as what they refer to,
    each item with its type and an id. Raises `BadRequest` naming the key at fault."""
    if isinstance(sent, str):
        sent = [ResponsesItem(type="message", role="user", content=sent)]
    references = _References(find)
    return [_in_full(item, i, response, references) for i, item in enumerate(sent)]


class _References:
    """The items that one request refers to, each once: a small request must not stand for a huge one."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._own: dict[str, dict[str | None, ResponsesItem]] = {}

    def take(self, id: str, param: str) -> ResponsesItem:
        response, shown = _response_of(id), id[:80]
        if not response:
            raise BadRequest(f'{param}: "{shown}" is no id of this server, send the item itself', param=param)
        if response not in self._own:
            try:
                turns = self._find(response).turns[-2:]
            except NotFound as error:
                raise BadRequest(f'{param} refers to "{shown}": {error.message}', param=param) from None
            self._own[response] = {item.id: item for item in decode_items(turns)}
        item = self._own[response].pop(id, None)
        if item is None:
            text = f'{param}: {response} has no item "{shown}", or it has been referred to before'
            raise BadRequest(text, param=param)
        return item


def _in_full(item: ResponsesItem, i: int, response: str, references: _References) -> ResponsesItem:
    place = f"input[{i}]"
    type = _type(item, place)
    _check_keys(item, type, place)
    if type == "item_reference":
        return references.take(item.id or "", f"{place}.id")
    kept = replace(
        item,
        type=type,
        id=item.id or item_id(type, response, f"in{i}"),
        status=item.status or "completed",
        encrypted_content=None,
    )
    match type:
        case "message":
            said = item.role == "assistant"
            return replace(kept, content=_parts(item.content or "", f"{place}.content", said=said))
        case "function_call_output":
            return replace(kept, output=_parts(item.output or "", f"{place}.output"))
        case "reasoning":
            content = _parts(item.content or [], f"{place}.content", thought=True)
            return replace(kept, summary=item.summary or [], content=content or None)
    return kept


def _type(item: ResponsesItem, place: str) -> str:
    if item.type:
        return item.type
    if item.role:
        return "message"
    if item.id and item == ResponsesItem(id=item.id):
        return "item_reference"
    raise BadRequest(f"{place}.type is required", param=f"{place}.type")


def _check_keys(item: ResponsesItem, type: str, place: str) -> None:
    needed, allowed = _KEYS[type]
    for key in needed:
        value = getattr(item, key)
        if value is None or (value == "" and key in _NAMES):
            _refuse(f"{place}.{key}", f"is required in an item of type {type}")
    for key in ResponsesItem.__struct_fields__:
        if getattr(item, key) is not None and key not in {*needed, *allowed, *_ANY}:
            _refuse(f"{place}.{key}", f"has no place in an item of type {type}")


def _refuse(param: str, why: str) -> NoReturn:
    raise BadRequest(f"{param} {why}", param=param)


def _parts(
    content: str | _Parts, param: str, *, thought: bool = False, said: bool = False
) -> list[types.ItemPart]:
    """As parts, without what is not looked at again."""
    if isinstance(content, str):
        return [
            types.ReasoningTextPart(content)
            if thought
            else types.OutputTextPart(content, annotations=[])
            if said
            else types.InputTextPart(content)
        ]
    for i, part in enumerate(content):
        if isinstance(part, types.ReasoningTextPart) is not thought:
            _refuse(f"{param}[{i}]", "must be reasoning_text in an item of type reasoning, and only there")
    return [_bare(part) for part in content]


def _bare(part: types.ItemPart) -> types.ItemPart:
    match part:
        case types.InputTextPart():
            return types.InputTextPart(part.text)
        case types.OutputTextPart():
            return types.OutputTextPart(part.text, annotations=[])
    return part


# From what is kept to messages


def messages(items: Iterable[ResponsesItem]) -> Iterator[Message]:
    """The conversation that these items are, which `sent_items` or an answer made."""
    turn: Message | None = None
    for item in items:
        if item.type == "reasoning" and not _thought(item):
            continue  # it was encrypted elsewhere, and nothing is left of it
        if item.type in ("reasoning", "function_call") or item.role == "assistant":
            if turn is not None and not _goes_on(turn, item):
                yield turn
                turn = None
            turn = _with(turn or Message("assistant", ""), item)
            continue
        if turn is not None:
            yield turn
            turn = None
        if item.type == "function_call_output":
            yield Message("tool", _text(item.output), tool_call_id=item.call_id or "")
        else:
            yield Message("user" if item.role == "user" else "system", _text(item.content))
    if turn is not None:
        yield turn


def _goes_on(turn: Message, item: ResponsesItem) -> bool:
    """Whether the item belongs to the turn of the model before it."""
    return item.type == "function_call" or not (turn.content or turn.tool_calls)


def _with(turn: Message, item: ResponsesItem) -> Message:
    match item.type:
        case "reasoning":
            return replace(turn, reasoning=turn.reasoning + _thought(item))
        case "function_call":
            calls = turn.tool_calls
            call = ToolCall(len(calls), item.call_id or "", item.name or "", item.arguments or "")
            return replace(turn, tool_calls=(*calls, call))
    return replace(turn, content=_text(item.content))


def _thought(item: ResponsesItem) -> str:
    return _text(item.content) or "".join(part.text for part in item.summary or ())


def _text(content: str | _Parts | None) -> str:
    if isinstance(content, str):
        return content
    return "".join(part.refusal if isinstance(part, RefusalPart) else part.text for part in content or ())
