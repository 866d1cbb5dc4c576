"""Hostile bodies: broken JSON, and JSON of the wrong shape at every place of every body there is, which are
looked up in the server's own description of itself."""

import json
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any, TypeAlias

import msgspec

from bench.hostile_http import CHAT, Attack, Maker, conversation, request

Json: TypeAlias = dict[str, Any]
Path: TypeAlias = tuple[str | int, ...]

# How far a body is walked into: tools have schemas, and those are anything.
_DEPTH = 5
_RAW = "\0raw:"

WRONG: Sequence[Any] = (
    None, True, 0, -1, 1, 1.5, 2**31, 2**63, 2**64, -(2**63) - 1, 1e308, "", "a", "a" * 300_000, "\0",
    "\ud800",
    "../../etc/passwd", "/etc/passwd", "C:\\CON", "{{ 7 * 7 }}", "%s%n", "\x1b]0;a\x07", [], {}, [[]],
    [None], [{}],
    {"": None}, {"type": "a"}, {"type": None}, ["a"] * 3000, [0] * 3000, "\u202e", "😀" * 2000,
    "data:image/png;base64,////",
    "http://127.0.0.1:1/", "file:///etc/passwd", {"$ref": "#"}, "1" * 400, [[[[[[[[[[]]]]]]]]]],
    f"{_RAW}NaN", f"{_RAW}Infinity", f"{_RAW}-Infinity", f"{_RAW}1e999", f"{_RAW}-1e999", f"{_RAW}1e-999",
    f"{_RAW}{'9' * 5000}", f"{_RAW}-0", f"{_RAW}01", f"{_RAW}1.", f"{_RAW}.5", f"{_RAW}0x10", f"{_RAW}'a'",
    f'{_RAW}"\\ud800"', f'{_RAW}"\\udc00\\ud800"', f'{_RAW}"\\u0000"', f'{_RAW}"\\x41"', f"{_RAW}undefined",
    f"{_RAW}{'[' * 10_000}{']' * 10_000}", f'{_RAW}{chr(123) + chr(34) + "a" + chr(34) + ":"}' * 1,
    f'{_RAW}{{"a":1,"a":2}}', f"{_RAW}1e400000000", f"{_RAW}1E+2", f"{_RAW}[1,]", f"{_RAW}//",
)  # fmt: skip
"""Values for places where something else, or nothing like it, is wanted."""


class Place(msgspec.Struct, frozen=True):
    """A place in the body of an operation, and a body that has it."""

    method: str
    url: str
    path: Path
    body: Any


def places(document: Json) -> list[Place]:
    """All those of an OpenAPI document, each operation's body as a whole among them."""
    found = []
    for url, operations in document["paths"].items():
        for method, operation in operations.items():
            if method == "parameters" or "requestBody" not in operation:
                continue
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            for each in _alternatives(document, schema):
                body = _example(document, each)
                paths = dict.fromkeys(_paths(document, each, ()))
                found += [Place(method.upper(), url, path, body) for path in paths]
    return found


def makers(document: Json) -> Mapping[Maker, int]:
    """As `hostile_http.MAKERS`."""
    everywhere = places(document)
    paths = sorted({place.url for place in everywhere if place.method == "POST"})

    def wrong_value(random: Random) -> Attack:
        place = random.choice(everywhere)
        return Attack(kind="wrong value", pieces=(_sent(place, place.path, random.choice(WRONG)),))

    def key_unknown(random: Random) -> Attack:
        place = random.choice(everywhere)
        key = random.choice(["", "modle", "\0", "a" * 3000, "__class__", "__proto__", "é", "\ud800"])
        return Attack(kind="unknown key", pieces=(_sent(place, (*place.path, key), random.choice(WRONG)),))

    def not_json(random: Random) -> Attack:
        path, body = random.choice(paths), random.choice(_NOT_JSON)
        if random.random() < 0.3:
            whole = bytearray(conversation())
            for _ in range(random.randrange(1, 4)):
                whole[random.randrange(len(whole))] = random.randrange(256)
            body = bytes(whole)
        return Attack(kind="not JSON", pieces=(request("POST", path, body),))

    return {wrong_value: 40, key_unknown: 6, not_json: 8, demanding: 4}


_NOT_JSON: Sequence[bytes] = (
    b"", b" ", b"\0" * 100, b"\xff\xfe", b"\xef\xbb\xbf{}", b"{", b"}", b"[" * 10_000, b"[" * 300_000,
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000, b"[" * 10_000 + b"]" * 10_000, b"[]" * 1000, b"{}{}",
    b'{"model":"\xc3\x28"}', b'{"model":"\xed\xa0\x80"}', b'{"model":"\xf5\x80\x80\x80"}', b'{"a":1,"a":1}',
    b'{"model":"a","model":"b"}', b'{"model":"a","mod\\u0065l":"b"}', b"null", b"1", b'"a"', b"{'a': 1}",
    b"NaN",
    b'{"a":NaN}', b"1" * 200_000, b'"' + b"\\" * 9999, b'"' + b"a" * 5_000_000 + b'"',
    b"[" + b"1," * 400_000 + b"1]",
    b"{" + b'"":{},' * 300_000 + b'"a":{}}', b'{"messages":' + b"[{}," * 2000, b"<xml/>", b"\x80\x04]\x94.",
    '{"model": "a"}'.encode("utf-16"), '{"model": "a"}'.encode("utf-32"), b'{"a":"\x01"}', b'{"a":"\n"}',
)  # fmt: skip


_GRAMMARS = ("root ::= root", 'root ::= ("a"*)*', "root ::= a", 'root ::= "a"{1000000}', "\0")


def demanding(random: Random) -> Attack:
    """Chats whose forms, tools and sampling are hard to keep to, or to compile."""
    loop = {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}}
    deep: Json = {}
    for _ in range(random.choice([50, 150, 300])):
        deep = {"type": "object", "properties": {"a": deep}, "required": ["a"]}
    schema = random.choice(
        [
            loop, deep, {"type": "string", "pattern": "(a*)*b"}, {"type": "string", "pattern": "a{1000000}"},
            {"type": "string", "pattern": "(?=a)b"}, {"type": "string", "pattern": "["},
            {"$ref": "http://127.0.0.1:1/"},
            {"type": "string", "pattern": "((a{99}){99}){99}"}, {"type": "string", "minLength": 10**9},
            {"type": "array", "minItems": 10**12}, {"enum": ["a" * 10] * 20_000},
            {"enum": list(range(20_000))},
            {"type": "number", "multipleOf": 0}, {"type": "integer", "minimum": 10, "maximum": 1},
            {"not": {}}, False,
            {"type": "integer", "minimum": -(10**40)}, {"allOf": [{"type": "string"}, {"type": "number"}]},
            {"type": []},
            {"properties": {str(n): {} for n in range(3000)}, "type": "object"}, {"$ref": "#"},
            {"$ref": "#/a/../b"},
            {"anyOf": [{"type": "string", "pattern": "a" * n + "b*"} for n in range(300)]},
            {"const": "\ud800"},
        ]
    )  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    tool = {
        "type": "function",
        "function": {"name": random.choice(["a", "", "a b", "\0", "x" * 900]), "parameters": schema},
    }
    keys: Json = random.choice(
        [
            {"response_format": form},
            {"response_format": form, "stream": True},
            {"tools": [tool], "tool_choice": random.choice(["auto", "required", "none", {"a": 1}])},
            {"tools": [tool] * random.choice([2, 300])},
            {"grammar": random.choice(_GRAMMARS)},
            {"stop": ["a"] * 5000},
            {"stop": "a" * 300_000},
            {"logit_bias": {str(n): 100 for n in range(600)}},
            {"n": random.choice([2, 128])},
            {"seed": 2**63 - 1, "temperature": 2, "top_p": 1e-300, "min_p": 1, "top_k": 2**31 - 1},
            {"chat_template_kwargs": {"messages": [], "bos_token": "a", "__class__": 1}},
            {"messages": [{"role": each, "content": "<|im_end|>"} for each in ("assistant", "system") * 500]},
            {"messages": [{"role": "user", "content": "hi " * 200_000}]},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}] * 5000}]},
            {"messages": [{"role": "tool", "content": "a", "tool_call_id": "\0"}]},
        ]
    )  # fmt: skip
    keys = {"max_tokens": 4, "messages": [{"role": "user", "content": "hi"}], **keys}
    body = _encoded({"model": random.choice(["exo-demo", "hello"]), **keys})
    return Attack(kind="demanding", pieces=(request("POST", CHAT, body),))


def _sent(place: Place, path: Path, value: Any) -> bytes:
    return request(place.method, place.url, _encoded(_put(place.body, path, value)))


def _encoded(body: Any) -> bytes:
    """As JSON, with raw values as they stand, and lone surrogates as the bytes that no UTF-8 has."""
    parts = json.dumps(body, ensure_ascii=False).replace('"\\u0000raw:', '"\0raw:').split('"\0raw:')
    text = parts[0]
    for part in parts[1:]:
        raw, rest = json.JSONDecoder().raw_decode('"' + part)
        text += raw + ('"' + part)[rest:]
    return text.encode("utf-8", "surrogatepass")


def _put(body: Any, path: Path, value: Any) -> Any:
    """A copy with `value` at `path`, where what leads there is made."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        items = body if isinstance(body, list) and body else [None]
        return [_put(items[0], rest, value), *items[1:]]
    entries = body if isinstance(body, dict) else {}
    return {**entries, step: _put(entries.get(step), rest, value)}


# Of schemas


def _alternatives(document: Json, schema: Json) -> Iterator[Json]:
    """What a schema comes down to: no references and no unions."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        yield from _alternatives(document, document["components"]["schemas"][name])
    elif union := schema.get("anyOf") or schema.get("oneOf"):
        for each in union:
            yield from _alternatives(document, each)
    else:
        yield schema


def _paths(document: Json, schema: Json, path: Path) -> Iterator[Path]:
    yield path
    if len(path) >= _DEPTH:
        return
    for each in _alternatives(document, schema):
        for name, inner in each.get("properties", {}).items():
            yield from _paths(document, inner, (*path, name))
        if isinstance(inner := each.get("items"), dict):
            yield from _paths(document, inner, (*path, 0))
        if isinstance(inner := each.get("additionalProperties"), dict):
            yield from _paths(document, inner, (*path, "a"))


def _example(document: Json, schema: Json, name: str = "") -> Any:
    """Something small that is right."""
    each = next(_alternatives(document, schema))
    kind = each.get("type")
    if "const" in each or "enum" in each:
        return each.get("const", each.get("enum", [None])[0])
    if kind == "object":
        named = {key: each["properties"][key] for key in each.get("required", ())}
        named |= {key: inner for key, inner in each.get("properties", {}).items() if key in _ALWAYS}
        return {key: _example(document, inner, key) for key, inner in named.items()}
    if kind == "array":
        return [_example(document, each["items"])] if isinstance(each.get("items"), dict) else []
    if kind in ("integer", "number"):
        return _ALWAYS.get(name) or each.get("minimum", 1)
    return _ALWAYS.get(name, {"boolean": False, "null": None}.get(str(kind), "a"))


_ALWAYS: Mapping[str, Any] = {"model": "hello", "max_tokens": 4, "num_predict": 4, "max_output_tokens": 16}
"""What an example has where it can be there: a quick model, and short answers."""
