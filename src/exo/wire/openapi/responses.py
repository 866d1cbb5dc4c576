"""OpenAI's Responses. Those that are kept are this node's own."""

from exo.wire.openapi.operations import ID, TEXT, Json, as_json, asking, reading, ref, stream
from exo.wire.responses import answer_types as answers
from exo.wire.responses.request_types import ResponsesBody

SCHEMAS: tuple[type, ...] = (
    ResponsesBody,
    answers.ResponseAnswer,
    answers.ResponseEvent,
    answers.ItemsAnswer,
    answers.ResponseDeleted,
)


def paths() -> Json:
    streamed = stream(
        "text/event-stream",
        "Where a stream is asked for: events, each named by its type, whose data is this. The last one is "
        "response.completed, response.incomplete, or behind an error response.failed.",
        ref(answers.ResponseEvent),
    )
    answer = as_json(answers.ResponseAnswer) | streamed
    items = reading("input_items", "The conversation a response answers", answers.ItemsAnswer, 400, 404)
    items["parameters"] = [
        {"name": "after", "in": "query", "description": "The id of an item.", "schema": TEXT},
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100}},
        {"name": "order", "in": "query", "schema": {"enum": ["asc", "desc"], "default": "desc"}},
    ]
    return {
        "/v1/responses": {"post": asking("respond", "Answer, and keep it", ResponsesBody, answer)},
        "/v1/responses/{id}": {
            "get": reading("response", "A response that is kept", answers.ResponseAnswer, 400, 404),
            "delete": reading("forget", "Keep a response no longer", answers.ResponseDeleted, 400, 404),
            "parameters": [ID],
        },
        "/v1/responses/{id}/input_items": {"get": items, "parameters": [ID]},
    }
