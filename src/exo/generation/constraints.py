"""Turns what a request demands of an answer's form into a grammar, or refuses it.

llguidance compiles JSON Schema for every engine. It is asked before the engine is, because llama.cpp drops
a constraint it cannot compile without a word, and the answer would come out free.
"""

import json

from exo.chat import ChatRequest
from exo.errors import BadRequest

# As models write JSON: one space after a comma or colon, none elsewhere. A grammar that allows any white
# space lets a small model write nothing else until its tokens run out.
_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def grammar(request: ChatRequest) -> str | None:
    """The request's grammar in llguidance's Lark, or its own GBNF; None where it wants no certain form.

    Raises `BadRequest` with llguidance's reason for a schema that cannot be enforced, and where an answer is
    to be gone on with, whose beginning the grammar would not know.
    """
    if request.so_far and (request.json_schema is not None or request.grammar is not None):
        raise BadRequest("an answer of a fixed form cannot be gone on with", param="messages")
    if request.json_schema is None:
        return request.grammar
    from llguidance import LLMatcher

    schema = {**request.json_schema, "x-guidance": _STYLE}
    lark = f"%llguidance {{}}\nstart: %json {json.dumps(schema)}\n"
    if why := LLMatcher.validate_grammar(lark):
        reason = why.splitlines()[0].rpartition("JSON schema: ")[2]
        raise BadRequest(f"this JSON schema cannot be enforced: {reason}", param="response_format")
    return lark
