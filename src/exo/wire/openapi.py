"""What this node's HTTP API looks like, as OpenAPI 3.1: made of the very structs that read and write it."""

from typing import Any

import msgspec

from exo.errors import STATUS
from exo.nodes import Cluster
from exo.wire.openai import answer_types as answers
from exo.wire.openai import request_types as requests

_ANSWERS = (
    answers.ChatAnswer,
    answers.ChatChunk,
    answers.TextAnswer,
    answers.EmbeddingsAnswer,
    answers.ModelsAnswer,
    answers.ModelAnswer,
    answers.ErrorAnswer,
    Cluster,
)
_REQUESTS = (requests.ChatBody, requests.CompletionBody, requests.EmbeddingsBody)

_READING = (401, 403, 405)
_ASKING = tuple(sorted({*STATUS.values()}))

_Json = dict[str, Any]


def document(version: str) -> bytes:
    """The whole document as JSON; `version` is the program's."""
    _, schemas = msgspec.json.schema_components(
        [*_REQUESTS, *_ANSWERS], ref_template="#/components/schemas/{name}"
    )
    return msgspec.json.format(
        msgspec.json.encode(
            {
                "openapi": "3.1.0",
                "info": {
                    "title": "exo",
                    "version": version,
                    "summary": "An OpenAI-compatible LLM endpoint made of the machines you own.",
                    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
                },
                "security": [{}, {"key": []}],
                "paths": _paths(),
                "components": {
                    "schemas": schemas,
                    "securitySchemes": {
                        "key": {
                            "type": "http",
                            "scheme": "bearer",
                            "description": "Needed only where the node was started with a key.",
                        }
                    },
                },
            }
        )
    )


def _paths() -> _Json:
    return {
        "/v1/chat/completions": {
            "post": _asking(
                "chat",
                "Answer a conversation",
                requests.ChatBody,
                answers.ChatAnswer,
                events=answers.ChatChunk,
            )
        },
        "/v1/completions": {
            "post": _asking(
                "complete",
                "Continue a text",
                requests.CompletionBody,
                answers.TextAnswer,
                events=answers.TextAnswer,
            )
        },
        "/v1/embeddings": {
            "post": _asking(
                "embed", "Turn texts into vectors", requests.EmbeddingsBody, answers.EmbeddingsAnswer
            )
        },
        "/v1/models": {"get": _reading("models", "The models that can be asked", answers.ModelsAnswer)},
        "/v1/models/{id}": {
            "get": _reading("model", "One model", answers.ModelAnswer, 404),
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
        },
        "/v1/cluster": {"get": _reading("cluster", "The nodes as this one sees them", Cluster)},
        "/healthcheck": {"get": _probe("alive", "Whether the process is alive", "It is.")},
        "/ready": {"get": _probe("ready", "Whether it can serve", "It can.", 503)},
        "/metrics": {"get": _probe("metrics", "Figures for Prometheus", "The figures.", content=_text())},
    }


def _asking(name: str, summary: str, body: type, answer: type, events: type | None = None) -> _Json:
    content = _json(answer)
    if events is not None:
        content["text/event-stream"] = {
            "schema": {
                "type": "string",
                "description": "Where a stream is asked for: events whose data is a chunk, the last one "
                "[DONE]. An event with an error ends the answer without [DONE].",
                "contentMediaType": "text/event-stream",
                "contentSchema": _ref(events),
            }
        }
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": _json(body)},
        "responses": {"200": {"description": "The answer.", "content": content}} | _errors(*_ASKING),
    }


def _reading(name: str, summary: str, answer: type, *errors: int) -> _Json:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": summary + ".", "content": _json(answer)}}
        | _errors(*sorted((*_READING, *errors))),
    }


def _probe(name: str, summary: str, description: str, *errors: int, content: _Json | None = None) -> _Json:
    answer = {"description": description} | ({"content": content} if content else {})
    return {
        "operationId": name,
        "summary": summary,
        "security": [],
        "responses": {"200": answer} | _errors(*errors),
    }


def _errors(*statuses: int) -> _Json:
    return {
        str(status): {"description": _why(status), "content": _json(answers.ErrorAnswer)}
        for status in statuses
    }


def _why(status: int) -> str:
    """The kinds of error behind a status, by code."""
    kinds = [kind for kind, its_status in STATUS.items() if its_status == status]
    return " ".join(f"{kind.code}: {' '.join((kind.__doc__ or '').split())}" for kind in kinds)


def _json(kind: type) -> _Json:
    return {"application/json": {"schema": _ref(kind)}}


def _text() -> _Json:
    return {"text/plain": {"schema": {"type": "string"}}}


def _ref(kind: type) -> _Json:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
