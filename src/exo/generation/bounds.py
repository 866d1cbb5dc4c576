"""What of a JSON Schema is beyond llguidance, which says so of most things itself. What is refused here ends
the process instead (release 1.9: an overflow of its stack or of an integer), or keeps llama.cpp busy for
minutes in which it answers nobody.
"""

from collections.abc import Iterator
from typing import Any

from exo.errors import BadRequest

DEPTH = 100
"""Levels of a schema, with each `$ref` followed."""

ITEMS = 10_000
"""Of an array that says how many it has; 100,000 take llama.cpp a second, and ten million for ever."""

PROPERTIES = 1_000
"""Of one object: 4,000 take half a second, in which nobody else is served."""

_LEAST = -(2**63) + 1024

# What holds schemas: by name, in a list, or one (or a list of them).
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTED = ("anyOf", "allOf", "oneOf", "prefixItems", "items")
_SINGLE = ("items", "additionalProperties", "additionalItems", "contains", "not", "if", "then", "else")


def check(schema: Any, param: str) -> None:
    """Raises `BadRequest` naming `param`."""
    try:
        _Walk(schema, param).depth(schema)
    except RecursionError:
        raise _too_deep(param) from None


def inside(schema: dict[str, Any]) -> Iterator[tuple[str, str | int | None, Any]]:
    """The schemas directly inside of one, each with its keyword and its name or place there."""
    for keyword in _BY_NAME:
        if isinstance(named := schema.get(keyword), dict):
            yield from ((keyword, name, each) for name, each in named.items())
    for keyword in _LISTED:
        if isinstance(listed := schema.get(keyword), list):
            yield from ((keyword, place, each) for place, each in enumerate(listed))
    for keyword in _SINGLE:
        if isinstance(single := schema.get(keyword), dict):
            yield keyword, None, single


class _Walk:
    """Through all parts of a schema, each `$ref` followed once."""

    def __init__(self, root: Any, param: str) -> None:
        self._root, self._param = root, param
        self._depths: dict[str, int] = {}  # below each target of a `$ref`; 0 while it is looked at

    def depth(self, schema: Any) -> int:
        """Levels of the schema."""
        if not isinstance(schema, dict):
            return 1
        self._check_numbers(schema)
        # By plain recursion: what is deeper than Python allows for is too deep in any case.
        below = max((self.depth(each) for _, _, each in inside(schema)), default=0)
        if isinstance(target := schema.get("$ref"), str):
            below = max(below, self._behind(target))
        if below >= DEPTH:
            raise _too_deep(self._param)
        return below + 1

    def _behind(self, target: str) -> int:
        if target not in self._depths:
            self._depths[target] = 0
            self._depths[target] = self.depth(self._found(target))
        return self._depths[target]

    def _found(self, target: str) -> Any:
        """What a `$ref` within the schema points to; llguidance says itself of one that points nowhere."""
        part = self._root
        for step in target.removeprefix("#").split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            part = part.get(name) if isinstance(part, dict) else None
        return part

    def _check_numbers(self, schema: dict[str, Any]) -> None:
        for keyword in ("minItems", "maxItems"):
            if isinstance(count := schema.get(keyword), int) and count > ITEMS:
                raise BadRequest(
                    f"{self._param}: {keyword} may be {ITEMS:,} at most, or left out", param=self._param
                )
        if isinstance(properties := schema.get("properties"), dict) and len(properties) > PROPERTIES:
            raise BadRequest(
                f"{self._param}: an object may have {PROPERTIES:,} properties at most", param=self._param
            )
        values = [value for key, value in schema.items() if key not in (*_BY_NAME, *_LISTED, *_SINGLE)]
        if any(number < _LEAST for number in _integers(values)):
            raise BadRequest(f"{self._param} has an integer below {_LEAST}", param=self._param)


def _integers(part: Any) -> Iterator[int]:
    if isinstance(part, int):
        yield part
    elif isinstance(part, list | dict):
        for each in part.values() if isinstance(part, dict) else part:
            yield from _integers(each)


def _too_deep(param: str) -> BadRequest:
    return BadRequest(f"{param} is more than {DEPTH} levels deep, each $ref followed", param=param)
