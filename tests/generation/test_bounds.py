"""Schemas that would end the process, or keep it busy, are refused before llguidance sees them."""

from typing import Any

import pytest

from exo.chat import ChatRequest, JsonSchema, Message, Tool
from exo.errors import BadRequest
from exo.generation import bounds, constraints
from exo.text.calls import HERMES


def chain(links: int, by: str = "$ref") -> dict[str, Any]:
    """A `$ref` to a `$ref` and so on, plain or through something else."""

    def link(to: int) -> dict[str, Any]:
        ref: dict[str, Any] = {"$ref": f"#/$defs/a{to}"}
        return {"$ref": dict(ref), "items": {"items": ref}, "allOf": {"allOf": [ref]}}[by]

    ends: dict[str, Any] = {f"a{links}": {"type": "string"}}
    return {**link(0), "$defs": ends | {f"a{i}": link(i + 1) for i in range(links)}}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"const": -(2**63) + 1}, "integer below"),
    ({"enum": [1, [-(2**63)]]}, "integer below"),
    ({"type": "integer", "minimum": -(2**63)}, "integer below"),
    (chain(20_000), "levels deep"),
    (chain(5_000, "items"), "levels deep"),
    (chain(5_000, "allOf"), "levels deep"),
    (nested(1_000), "levels deep"),
    ({"type": "array", "items": {"const": 1}, "maxItems": 10_000_000}, "maxItems may be 10,000 at most"),
    ({"type": "array", "items": {"const": 1}, "minItems": 10**9}, "minItems may be 10,000 at most"),
    ({"type": "object", "properties": {f"p{i}": {} for i in range(1_001)}}, "1,000 properties"),
]


@pytest.mark.parametrize(("schema", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_would_end_the_process_is_refused(schema: JsonSchema, words: str) -> None:
    request = ChatRequest(model="m", messages=(Message("user", "Q"),), json_schema=schema)
    with pytest.raises(BadRequest, match=words) as refused:
        constraints.grammar(request)
    assert refused.value.param == "response_format"
    within = {"type": "object", "properties": {"deep": schema}, "$defs": schema.get("$defs", {})}
    tooled = ChatRequest(model="m", messages=(Message("user", "Q"),), tools=(Tool("f", "", within),))
    with pytest.raises(BadRequest, match=words) as refused:
        constraints.calls(tooled, HERMES)
    assert refused.value.param == "tools[0].function.parameters"


@pytest.mark.parametrize(
    "schema",
    [
        {"const": -(2**62)},
        {"type": "integer", "maximum": 2**63 - 1},
        chain(60),
        nested(60),
        {"type": "array", "items": {"const": 1}, "maxItems": 1_000},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}},
        {"type": "object", "properties": {f"p{i}": {} for i in range(300)}},
        {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "string"}}},
    ],
)  # fmt: skip
def test_what_is_used_is_not(schema: JsonSchema) -> None:
    bounds.check(schema, "response_format")
    request = ChatRequest(model="m", messages=(Message("user", "Q"),), json_schema=schema)
    assert constraints.grammar(request)


def test_a_truism_is_left_out_where_it_is_one() -> None:
    truism = {"type": "string"}
    data = {"const": {"propertyNames": truism}}
    named = {"type": "object", "properties": {"propertyNames": truism}, "required": ["propertyNames"]}
    zods = {"type": "object", "propertyNames": truism, "additionalProperties": {"anyOf": [data, named]}}
    request = ChatRequest(model="m", messages=(Message("user", "Q"),), json_schema=zods)
    form = constraints.grammar(request)
    assert form
    assert form.count('"propertyNames"') == 3
    assert zods["propertyNames"] == truism, "what was sent is not changed"


def test_arguments_are_an_object_whatever_the_tool_says() -> None:
    tools = (Tool("f", "", {"type": "null"}),)
    form = constraints.calls(ChatRequest(model="m", tools=tools), HERMES)
    assert '"type": "object"' in form
    assert "null" not in form
