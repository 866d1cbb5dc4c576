"""What all paths of the document are made of: operations, what is sent to them, and what they answer."""

from typing import Any, TypeAlias

from exo.errors import STATUS
from exo.wire.openai.answer_types import ErrorAnswer

Json: TypeAlias = dict[str, Any]

TEXT: Json = {"type": "string"}
COUNT: Json = {"type": "integer", "minimum": 0, "maximum": 999_999_999}
ID: Json = {"name": "id", "in": "path", "required": True, "schema": TEXT}
DEFAULT_MODEL: Json = {
    "name": "model",
    "in": "query",
    "description": "Without it, the default model.",
    "schema": TEXT,
}

ASKING = tuple(sorted({*STATUS.values()}))
"""Statuses that whatever needs a model may fail with."""
_READING = (401, 403, 405)


def asking(name: str, summary: str, body: type, content: Json, error: type = ErrorAnswer) -> Json:
    """An operation that is sent a body. `content` is of its answer, by media type; `error` is what its
    failures look like."""
    answer: Json = {"description": "The answer."} | ({"content": content} if content else {})
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": as_json(body)},
        "responses": {"200": answer} | _errors(*ASKING, body=error),
    }


def reading(name: str, summary: str, answer: type, *errors: int, error: type = ErrorAnswer) -> Json:
    """An operation without a body. `errors` are the statuses that it may fail with beside the usual."""
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": summary + ".", "content": as_json(answer)}}
        | _errors(*sorted({*_READING, *errors}), body=error),
    }


def probe(name: str, summary: str, description: str, *errors: int, content: Json | None = None) -> Json:
    """An operation that nobody needs a key for."""
    answer = {"description": description} | ({"content": content} if content else {})
    return {
        "operationId": name,
        "summary": summary,
        "security": [],
        "responses": {"200": answer} | _errors(*errors),
    }


def as_json(kind: type) -> Json:
    return {"application/json": {"schema": ref(kind)}}


def either(*kinds: type) -> Json:
    return {"application/json": {"schema": {"anyOf": [ref(kind) for kind in kinds]}}}


def late(kind: type) -> Json:
    """An answer that the status 200 may go ahead of, before its failure is known."""
    return either(kind, ErrorAnswer)


def stream(media: str, description: str, of: Json) -> Json:
    """What comes piece by piece, each piece being `of`."""
    schema = {
        "type": "string",
        "description": description,
        "contentMediaType": media,
        "contentSchema": of,
    }
    return {media: {"schema": schema}}


def ref(kind: type) -> Json:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _errors(*statuses: int, body: type = ErrorAnswer) -> Json:
    return {str(status): {"description": _why(status), "content": as_json(body)} for status in statuses}


def _why(status: int) -> str:
    """The kinds of error behind a status, by code."""
    kinds = [kind for kind, its_status in STATUS.items() if its_status == status]
    return " ".join(f"{kind.code}: {' '.join((kind.__doc__ or '').split())}" for kind in kinds)
