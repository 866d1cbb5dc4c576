"""Strict JSON: the bytes of a request to a struct, or a `BadRequest` that says in plain words what is wrong.

msgspec checks types and ranges; what it finds is translated here, and only here. Its message names a path
("Expected `float` <= 2.0 - at `$.temperature`"); the declared type at that path is looked up and put into
words, so that the whole allowed range is told and not only the bound that was hit. A
`Meta(description=...)` at that type is the remedy, and is appended.
"""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

import msgspec
from msgspec import inspect

from exo.errors import BadRequest

T = TypeVar("T")

MOST_BRACKETS = 500_000
"""Reading so many objects takes half a second, in which nobody else is served. Those in texts count too."""


class Reader(Generic[T]):
    """Reads one kind of body, a msgspec struct."""

    def __init__(self, kind: type[T]):
        self._kind = kind
        self._decoder = msgspec.json.Decoder(kind)

    def read(self, body: bytes) -> T:
        """Raises `BadRequest`, and nothing else, for whatever is not a `kind`."""
        if body.count(b"{") + body.count(b"[") > MOST_BRACKETS:
            raise BadRequest(f"the body has more than {MOST_BRACKETS} objects and lists")
        try:
            value = self._decoder.decode(body)
            json.loads(body, object_pairs_hook=_refuse_repeated_keys)
        except msgspec.ValidationError as error:
            raise _explained(str(error), inspect.type_info(self._kind)) from None
        except UnicodeDecodeError:
            raise BadRequest("the body is not valid JSON: it is not UTF-8 text") from None
        except RecursionError:
            raise BadRequest("the body is not readable: it is nested too deeply") from None
        except (msgspec.DecodeError, ValueError) as error:
            what = str(error).removeprefix("JSON is malformed: ") if body else "it is empty"
            raise BadRequest(f"the body is not valid JSON: {what}") from None
        return value


def _refuse_repeated_keys(pairs: list[tuple[str, object]]) -> None:
    """Two parsers may each believe another one of two equal keys, so neither is believed."""
    if len(pairs) > 1 and len({key for key, _ in pairs}) < len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise BadRequest(f'the key "{_short(again)}" is given twice', param=_short(again))


# From msgspec's words to ours

_FAULT = re.compile(r"(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>.*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (?P<how>missing required|contains unknown) field `(?P<name>.*)`", re.DOTALL)
_INVALID = re.compile(r"Invalid (?:enum )?value (?P<value>.*)", re.DOTALL)
_GOT = re.compile(r"got `(\w+)`")
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_JSON_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def _explained(message: str, root: inspect.Type) -> BadRequest:
    fault = _FAULT.fullmatch(message)
    what, path = (fault["what"], fault["path"] or "") if fault else (message, "")
    steps = [field or item for field, item in _STEP.findall(path)]
    if field := _FIELD.fullmatch(what):
        if field["how"] == "missing required":
            return _missing(path, field["name"])
        return _unknown(path, field["name"], _at(root, steps))
    if tags := list(_tags(root, steps)):
        return _wrong_tag(what, path, tags, _remedy(_at(root, steps[:-1])))
    kinds = list(_at(root, steps))
    place = path.removesuffix("[...]").removeprefix(".")
    if fault and fault["key"]:
        kinds, noun = [key for kind in kinds for key in _keys(kind)], f"the keys of {place}"
    elif steps[-1:] == ["..."]:
        noun = f"the values of {place}"
    else:
        noun = place or "the body"
    return _wrong_value(noun, place or None, what, kinds)


def _missing(path: str, name: str) -> BadRequest:
    param = f"{path}.{name}".removeprefix(".")
    return BadRequest(f"{param} is required", param=param)


def _unknown(path: str, name: str, kinds: Iterable[inspect.Type]) -> BadRequest:
    name = _short(name)
    param = f"{path}.{name}".removeprefix(".")
    known = [field.encode_name for kind in kinds for field in _fields(kind) if _words(field.type)]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    return BadRequest(f'unknown parameter "{param}"{hint}', param=param)


def _wrong_tag(what: str, path: str, tags: list[str], remedy: str) -> BadRequest:
    """A "type" says what a thing is, so the thing is at fault; any other tag is itself at fault."""
    param = path.removesuffix(".type").removeprefix(".")
    noun = f"the type of {param}" if path.endswith(".type") else param
    return BadRequest(f"{noun} must be {_one_of(tags)}{_instead(what)}{remedy}", param=param)


def _wrong_value(noun: str, param: str | None, what: str, kinds: list[inspect.Type]) -> BadRequest:
    wanted = _either(_words(kind) for kind in kinds)
    if kinds and not wanted:
        return BadRequest(f"{noun} is not supported{_remedy(kinds)}", param=param)
    if not kinds or wanted == _ANYTHING:
        return BadRequest(f"{noun} is not acceptable: {what[:1].lower()}{what[1:]}", param=param)
    return BadRequest(f"{noun} must be {wanted}{_instead(what)}{_remedy(kinds)}", param=param)


def _instead(what: str) -> str:
    if invalid := _INVALID.fullmatch(what):
        return f', not "{_short(invalid["value"]).strip(chr(39))}"'
    if got := _GOT.search(what):
        return f", not {_JSON_NAMES.get(got[1], got[1])}"
    return ""


def _short(text: str) -> str:
    return text if len(text) <= 64 else f"{text[:61]}..."


# Looking up the declared type at a path


def _alternatives(kind: inspect.Type) -> Iterator[inspect.Type]:
    """The plain types that a union and its annotations come down to."""
    if isinstance(kind, inspect.Metadata):
        yield from _alternatives(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from _alternatives(each)
    else:
        yield kind


def _fields(kind: inspect.Type) -> Iterator[inspect.Field]:
    for each in _alternatives(kind):
        if isinstance(each, inspect.StructType):
            yield from each.fields


def _keys(kind: inspect.Type) -> Iterator[inspect.Type]:
    return (each.key_type for each in _alternatives(kind) if isinstance(each, inspect.DictType))


def _step(kind: inspect.Type, step: str) -> Iterator[inspect.Type]:
    yield from (field.type for field in _fields(kind) if field.encode_name == step)
    for each in _alternatives(kind):
        if isinstance(each, inspect.ListType) and step.isdigit():
            yield each.item_type
        elif isinstance(each, inspect.DictType) and step == "...":
            yield each.value_type


def _at(root: inspect.Type, steps: list[str]) -> Iterator[inspect.Type]:
    kinds = [root]
    for step in steps:
        kinds = [inner for kind in kinds for inner in _step(kind, step)]
    return iter(kinds)


def _tags(root: inspect.Type, steps: list[str]) -> Iterator[str]:
    """The values a union's tag may have, where the last step is one."""
    for parent in _at(root, steps[:-1]) if steps else ():
        for each in _alternatives(parent):
            if isinstance(each, inspect.StructType) and each.tag_field == steps[-1]:
                yield str(each.tag)


# Putting a type into words

_ANYTHING = "anything"


def _words(kind: inspect.Type) -> str:
    """What is allowed; "" where only null, which stands for absent, is."""
    return _either(map(_plain_words, _alternatives(kind)))


def _plain_words(kind: inspect.Type) -> str:
    match kind:
        case inspect.NoneType():
            return ""
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType(values=values):
            return _one_of(values)
        case inspect.StrType(min_length=least, max_length=most):
            length = f" of at most {most} characters" if most else ""
            return ("a non-empty string" if least else "a string") + length
        case inspect.IntType() | inspect.FloatType():
            return ("an integer" if isinstance(kind, inspect.IntType) else "a number") + _range(kind)
        case inspect.ListType(min_length=least, max_length=most):
            return ("a non-empty list" if least else "a list") + (f" of at most {most}" if most else "")
        case inspect.StructType() | inspect.DictType():
            return "an object"
        case _:
            return _ANYTHING


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f" from {kind.ge} to {kind.le}"
    low = f"at least {kind.ge}" if kind.ge is not None else f"above {kind.gt}" if kind.gt is not None else ""
    high = f"at most {kind.le}" if kind.le is not None else ""
    bounds = " and ".join(filter(None, (low, high)))
    return f" {bounds}" if bounds else ""


def _one_of(values: Iterable[object]) -> str:
    return _either(f'"{value}"' for value in values)


def _either(choices: Iterable[str]) -> str:
    *others, last = dict.fromkeys(filter(None, choices)) or [""]
    return f"{', '.join(others)} or {last}" if others else last


def _remedy(kinds: Iterable[inspect.Type]) -> str:
    remedies = [remedy for kind in kinds for remedy in _descriptions(kind)]
    return f": {remedies[0]}" if remedies else ""


def _descriptions(kind: inspect.Type) -> Iterator[str]:
    if isinstance(kind, inspect.Metadata):
        if description := (kind.extra_json_schema or {}).get("description"):
            yield description
        yield from _descriptions(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from _descriptions(each)


def agreed(given: Mapping[str, T | None]) -> T | None:
    """The one value given under several names for the same thing; None where it is under none of them.
    Raises `BadRequest` naming the one that contradicts the first."""
    named = [(name, value) for name, value in given.items() if value is not None]
    for name, value in named[1:]:
        if value != named[0][1]:
            raise BadRequest(f"{name} contradicts {named[0][0]}: give only one of them", param=name)
    return named[0][1] if named else None
