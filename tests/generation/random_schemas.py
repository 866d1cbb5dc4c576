"""JSON Schemas at random, whose answers end before long.

Not among them is what llguidance refuses (`uniqueItems`, for one), and formats: a date that is none, such as
2026-02-31, keeps to the pattern that answers are held to.
"""

import json
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from exo.chat import JsonSchema, Tool

# Quotes, backslashes, controls and characters of up to four bytes, which JSON and tokens break up.
_TEXT = st.text(st.characters(codec="utf-8"), max_size=6)
_PATTERNS = ("^[a-z]{1,6}$", "^(yes|no|perhaps)$", "^[A-Z][a-z]*-[0-9]{2}$", '^["\\\\é🙂]{2,4}$', "^$")


def strings() -> SearchStrategy[JsonSchema]:
    lengths = st.tuples(st.integers(0, 4), st.integers(0, 8)).map(
        lambda ends: {"type": "string", "minLength": ends[0], "maxLength": ends[0] + ends[1]}
    )
    patterns = st.sampled_from(_PATTERNS).map(
        lambda pattern: {"type": "string", "pattern": pattern, "maxLength": 12}
    )
    return lengths | patterns


def integers() -> SearchStrategy[JsonSchema]:
    ends = st.tuples(st.integers(-(2**31), 2**31), st.integers(0, 10_000))
    return ends.map(lambda ends: {"type": "integer", "minimum": ends[0], "maximum": ends[0] + ends[1]})


def values() -> SearchStrategy[Any]:
    """What an enum or a const may hold. Of integers those that every JSON parser keeps exactly (RFC 8259,
    section 6)."""
    scalars = st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | _TEXT
    return scalars | st.lists(scalars, max_size=2) | st.dictionaries(_TEXT, scalars, max_size=2)


def leaves() -> SearchStrategy[JsonSchema]:
    enums = st.lists(values(), min_size=1, max_size=5, unique_by=_same).map(lambda among: {"enum": among})
    return st.one_of(
        strings(),
        integers(),
        enums,
        values().map(lambda value: {"const": value}),
        st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}]),
    )


def arrays(items: SearchStrategy[JsonSchema]) -> SearchStrategy[JsonSchema]:
    bounds = st.tuples(items, st.integers(0, 2), st.integers(0, 2))
    return bounds.map(
        lambda drawn: {
            "type": "array",
            "items": drawn[0],
            "minItems": drawn[1],
            "maxItems": drawn[1] + drawn[2],
        }
    )


@st.composite
def objects(draw: st.DrawFn, members: SearchStrategy[JsonSchema]) -> JsonSchema:
    properties = draw(st.dictionaries(_TEXT, members, max_size=3))
    required = [name for name in properties if draw(st.booleans())]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def schemas(depth: int = 3) -> SearchStrategy[JsonSchema]:
    """Leaves, and objects, arrays and choices of them up to `depth` deep."""
    if not depth:
        return leaves()
    inner = schemas(depth - 1)
    choices = st.lists(inner, min_size=1, max_size=3).map(lambda among: {"anyOf": among})
    return st.one_of(objects(inner), arrays(inner), choices, leaves())


def tools() -> SearchStrategy[tuple[Tool, ...]]:
    """Up to three, under the names that the dialects allow."""
    names = st.from_regex(r"\A[a-zA-Z0-9_.-]{1,12}\Z")
    each = st.builds(Tool, name=names, parameters=objects(schemas(2)))
    return st.lists(each, min_size=1, max_size=3, unique_by=lambda tool: tool.name).map(tuple)


def drawn(count: int) -> list[JsonSchema]:
    """`count` schemas, the same ones each time, for whoever is no test."""
    found: list[JsonSchema] = []

    @settings(
        max_examples=count,
        database=None,
        derandomize=True,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    @given(schemas())
    def keep(schema: JsonSchema) -> None:
        found.append(schema)

    keep()
    return found


# What may follow, as far as it takes, for what stands before it to be JSON: the end of a string that may have
# broken off in an escape, of a name, of a word, of a number; a value; a member.
_STRINGS = ("", '"', 'n"', *("0" * count + '"' for count in range(1, 5)), '\\\\dc00"', '""')
_WORDS = ("0", "rue", "ue", "e", "alse", "lse", "se", "ull", "ll", "l")
_TAILS = (*_WORDS, *(string + value for string in _STRINGS for value in ("", ":0", "0")))


def begins_json(text: str) -> bool:
    """Whether `text` is the beginning of a JSON value, or all of it."""
    closers: list[str] = []
    quoted = escaped = False
    for character in text:
        if quoted:
            quoted, escaped = escaped or character != '"', not escaped and character == "\\"
        elif character == '"':
            quoted = True
        elif character in "{[":
            closers.append("}" if character == "{" else "]")
        elif character in "}]" and closers:
            closers.pop()
    ends = "".join(reversed(closers))
    return any(_is_json(text + tail + ends) for tail in _TAILS)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _same(value: Any) -> str:
    """JSON Schema takes 1 and true for two values, and Python for one."""
    return json.dumps(value, sort_keys=True)
