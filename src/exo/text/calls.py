"""How models write calls of tools, each family in its own way.

A way of writing is data. A call that came out of a model left to itself is read whole, by `parse`, and is
text again if it is none. One that the model was held to (see `generation.constraints`) is read by a `Reader`
while it still arrives, as it cannot be anything else.

The ways are those of the families' published chat templates, as of 2026.
"""

import json
import re
from collections.abc import Iterator

import msgspec

from exo.chat import ToolCall


class Style(msgspec.Struct, frozen=True, kw_only=True):
    """One way of writing calls.

    `openings` begin a block of calls, the first of them as the model is made to write it; where they are not
    `anywhere`, only at the very beginning of an answer. `closing` ends the block; where there is none, it
    ends with the answer. Behind the opening, a model that is held to the form writes `before_name`, a name,
    `before_arguments`, the arguments as a JSON object, and then either `next`, with which another call goes
    on from its name, or `end`. Without a `next` there is one call only.
    """

    openings: tuple[str, ...]
    closing: str = ""
    anywhere: bool = True
    before_name: str
    before_arguments: str
    end: str
    next: str = ""
    named_apart: bool = False
    """The name stands by itself, and not in the JSON."""

    @property
    def tags(self) -> tuple[str, ...]:
        """Tokens of the vocabulary that have to be seen, though it may call them special."""
        return tuple(tag for tag in (*self.openings, self.closing, self.before_arguments) if tag[:1] in "[<")


HERMES = Style(
    openings=("<tool_call>",),
    closing="</tool_call>",
    before_name='\n{"name": "',
    before_arguments='", "arguments": ',
    end="}\n</tool_call>",
    next='}\n</tool_call>\n<tool_call>\n{"name": "',
)
"""Hermes, Qwen, and the bundled model."""

LLAMA = Style(
    openings=('{"name": "', '{"name":"', '{"type": "function", "name": "', '<|python_tag|>{"name": "'),
    anywhere=False,
    before_name="",
    before_arguments='", "parameters": ',
    end="}",
)
"""Llama 3.1 and later: the whole answer is one call."""

MISTRAL = Style(
    openings=("[TOOL_CALLS]",),
    before_name=' [{"name": "',
    before_arguments='", "arguments": ',
    end="}]",
    next='}, {"name": "',
)
"""Mistral's instruct models of 2024."""

MISTRAL_ARGS = Style(
    openings=("[TOOL_CALLS]",),
    before_name="",
    before_arguments="[ARGS]",
    end="",
    next="[TOOL_CALLS]",
    named_apart=True,
)
"""Mistral's later ones."""

DEEPSEEK = Style(
    openings=("<｜tool▁calls▁begin｜>",),
    closing="<｜tool▁calls▁end｜>",
    before_name="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    before_arguments="\n```json\n",
    end="\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    next="\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    named_apart=True,
)
"""DeepSeek V3 and R1, as their own template has it."""


def style_of(template: str) -> Style | None:
    """The way in which a model writes calls, by its chat template; None where that takes no tools.

    Hermes' is by far the most copied one, and is taken for that of a template that shows none.
    """
    if "[TOOL_CALLS]" in template:
        return MISTRAL_ARGS if "[ARGS]" in template else MISTRAL
    if "<｜tool▁calls▁begin｜>" in template:
        return DEEPSEEK
    if "<tool_call>" not in template and ("<|python_tag|>" in template or '"parameters": ' in template):
        return LLAMA
    return HERMES if "tools" in template else None


# A call that nothing held to its form

_NAME = re.compile(r"[a-zA-Z0-9_.-]+")
_decoder = json.JSONDecoder()


def parse(style: Style, opening: str, body: str) -> list[tuple[str, str]] | None:
    """Names and arguments of the calls in `body`, which came behind `opening` and before `closing`; None
    where it is not calls from end to end, or cannot be passed on as JSON."""
    try:
        if style.named_apart:
            found = list(_named_apart(style, body))
        else:
            written = opening.removeprefix("<|python_tag|>") + body if opening[-1:] == '"' else body
            value = json.loads(written)
            found = [_named_within(each) for each in (value if isinstance(value, list) else [value])]
        calls = [(name, _compact(arguments)) for name, arguments in found]
        for name, arguments in calls:
            (name + arguments).encode()  # half of a surrogate pair would break the wire
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return calls or None


def _named_within(call: dict[str, object]) -> tuple[str, object]:
    name = call["name"]
    if not (name and isinstance(name, str)):
        raise ValueError("a call has a name")
    return name, call["arguments"] if "arguments" in call else call["parameters"]


def _named_apart(style: Style, body: str) -> Iterator[tuple[str, object]]:
    rest = body.strip()
    begins, separator = style.before_name.strip(), style.before_arguments.strip()
    ends = style.end.removesuffix(style.closing).strip()
    again = style.next.strip().removeprefix(ends).strip().removesuffix(begins)
    while rest:
        rest = rest.removeprefix(begins).lstrip()
        name = _NAME.match(rest)
        if not name:
            raise ValueError("a call has a name")
        rest = rest[name.end() :].lstrip()
        if not rest.startswith(separator):
            raise ValueError("arguments follow the name")
        rest = rest.removeprefix(separator).lstrip()
        arguments, end = _decoder.raw_decode(rest)
        yield name[0], arguments
        rest = rest[end:].lstrip().removeprefix(ends).lstrip().removeprefix(again).lstrip()


def _compact(arguments: object) -> str:
    if not isinstance(arguments, dict):
        raise ValueError("arguments are an object")
    return json.dumps(arguments, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


# Calls that were held to their form


class Reader:
    """Calls written exactly to `style`, read from behind the opening while they arrive.

    The first delta of a call has its name and no arguments; those come in pieces as they were written.
    """

    def __init__(self, style: Style) -> None:
        self._style = style
        self._index = -1
        self._held = ""
        self._in = "between"
        self._arguments = _Object()

    def feed(self, text: str) -> Iterator[ToolCall]:
        """Deltas without `id`, counted from 0."""
        self._held += text
        while self._held and (delta := self._next()):
            if delta.name or delta.arguments:
                yield delta

    def _next(self) -> ToolCall | None:
        """What can be told of what is held; an empty one is a step that says nothing."""
        style = self._style
        if self._in == "between":
            expected = style.before_name if self._index < 0 else style.next
            # What ends a block is not looked for: nothing else can come.
            if not self._held.startswith(expected) or (self._index >= 0 and not expected):
                return None
            self._in, self._held = "name", self._held[len(expected) :]
            return ToolCall(self._index)
        if self._in == "name":
            name, found, rest = self._held.partition(style.before_arguments)
            if not found:
                return None
            self._in, self._held, self._arguments = "arguments", rest, _Object()
            self._index += 1
            return ToolCall(self._index, name=name)
        end = self._arguments.end_in(self._held)
        piece, self._held = self._held[:end], self._held[end:]
        if self._arguments.over:
            self._in = "between"
        return ToolCall(self._index, arguments=piece)


class _Object:
    """Finds the end of a JSON object that arrives in pieces."""

    def __init__(self) -> None:
        self.over = False
        self._depth = 0
        self._quoted = self._escaped = False

    def end_in(self, text: str) -> int:
        """How much of `text` belongs to it."""
        for at, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped, self._quoted = character == "\\", character != '"'
            elif character == '"':
                self._quoted = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if not self._depth:
                    self.over = True
                    return at + 1
        return len(text)
