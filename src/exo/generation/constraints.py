"""Turns what a request demands of an answer's form into a grammar, or refuses it.

llguidance compiles JSON Schema for every engine. It is asked before the engine is, because llama.cpp drops
a constraint it cannot compile without a word, and the answer would come out free.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from exo.chat import ChatRequest, Tool
from exo.errors import BadRequest
from exo.generation import bounds
from exo.text.calls import Style

# As models write JSON: one space after a comma or colon, none elsewhere. A grammar that allows any white
# space lets a small model write nothing else until its tokens run out.
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def grammar(request: ChatRequest, style: Style | None = None) -> str | None:
    """The grammar of the whole answer in llguidance's Lark, or the request's own GBNF; None where it wants no
    certain form. With tools, which models write calls of in `style`, it is a call, too.

    Raises `BadRequest` with llguidance's reason for a schema that cannot be enforced, and where an answer has
    begun, and is to be gone on with: the grammar would not know its beginning.
    """
    wants_form = request.json_schema is not None or request.grammar is not None
    if wants_form and request.so_far and request.so_far.text:
        raise BadRequest("an answer of a fixed form cannot be gone on with", param="messages")
    if request.json_schema is None:
        return request.grammar
    bounds.check(request.json_schema, "response_format")
    answer = _json(request.json_schema)
    whole = f"%llguidance {{}}\nstart: {answer}\n"
    _check(whole, "this JSON schema cannot be enforced: ", "response_format")
    if not (request.tools and style):
        return whole
    opening = json.dumps(style.openings[0] + style.before_name)
    return f"%llguidance {{}}\nstart: {answer} | {opening} calls\n" + _calls(request.tools, style, request)


def calls(request: ChatRequest, style: Style, among: Sequence[str] = ()) -> str:
    """The grammar of calls of the request's tools (of those named, if any), from the first one's name on.

    Raises `BadRequest` for a tool whose schema cannot be enforced.
    """
    tools = [tool for tool in request.tools if not among or tool.name in among]
    return "%llguidance {}\nstart: calls\n" + _calls(tools, style, request)


def _calls(tools: Sequence[Tool], style: Style, request: ChatRequest) -> str:
    forms = {tool.name: _arguments(tool, f"tools[{request.tools.index(tool)}]") for tool in tools}
    return "\n".join(_call_rules(forms, style, several=request.parallel_calls and bool(style.next)))


def _arguments(tool: Tool, place: str) -> str:
    """The form of a call's arguments. Raises `BadRequest` naming the `place` of a tool whose schema cannot
    be enforced."""
    place = f"{place}.function.parameters"
    bounds.check(tool.parameters, place)
    form = _json({**tool.parameters, "type": "object"})
    schema = f"%llguidance {{}}\nstart: {form}\n"
    _check(schema, f"the arguments of '{tool.name}' cannot be enforced: ", place)
    return form


def _call_rules(forms: Mapping[str, str], style: Style, *, several: bool) -> Iterator[str]:
    """`forms` are those of the tools' arguments, by name."""
    end = json.dumps(style.end) if style.end else ""
    yield f"calls: call ({json.dumps(style.next)} call)* {end}" if several else f"calls: call {end}"
    yield "call: " + " | ".join(f"call_{i}" for i in range(len(forms)))
    for i, (tool, form) in enumerate(forms.items()):
        yield f"call_{i}: {json.dumps(tool + style.before_arguments)} {form}"


def _json(schema: Mapping[str, object]) -> str:
    return "%json " + json.dumps({**_without_truisms(schema), "x-guidance": _STYLE})


def _without_truisms(schema: Any) -> Any:
    """That the names of properties are strings, as Zod writes, says nothing, and llguidance refuses it."""
    if not isinstance(schema, dict):
        return schema
    plain = {**schema}
    if plain.get("propertyNames") == {"type": "string"}:
        del plain["propertyNames"]
    for keyword, place, part in bounds.inside(schema):
        if place is None:
            plain[keyword] = _without_truisms(part)
            continue
        if plain[keyword] is schema[keyword]:
            plain[keyword] = schema[keyword].copy()
        plain[keyword][place] = _without_truisms(part)
    return plain


def _check(lark: str, words: str, param: str) -> None:
    from llguidance import LLMatcher

    if why := LLMatcher.validate_grammar(lark):
        reason = why.splitlines()[0].rpartition("JSON schema: ")[2]
        raise BadRequest(words + reason, param=param)
