"""Anthropic's API. It lists models under OpenAI's paths, where `openai` has them."""

from typing import get_args

from exo.wire.anthropic import answer_types as answers
from exo.wire.anthropic import request_types as requests
from exo.wire.openapi.operations import Json, as_json, asking, ref, stream

_EVENTS = get_args(answers.AnthropicEvent)

SCHEMAS: tuple[type, ...] = (
    requests.AnthropicMessages,
    requests.AnthropicCountTokens,
    answers.AnthropicAnswer,
    *_EVENTS,
    answers.AnthropicCount,
    answers.AnthropicModels,
    answers.AnthropicModel,
)


def paths() -> Json:
    error = answers.AnthropicErrorAnswer
    streamed = stream(
        "text/event-stream",
        "Where a stream is asked for: events named as their data's type, the last one "
        "message_stop. An error ends the answer without it.",
        {"anyOf": [ref(event) for event in _EVENTS]},
    )
    answer = as_json(answers.AnthropicAnswer) | streamed
    messages = asking("messages", "Answer a conversation", requests.AnthropicMessages, answer, error)
    count = asking(
        "count_tokens",
        "How many tokens a conversation has",
        requests.AnthropicCountTokens,
        as_json(answers.AnthropicCount),
        error,
    )
    return {"/v1/messages": {"post": messages}, "/v1/messages/count_tokens": {"post": count}}
