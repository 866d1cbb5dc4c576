"""OpenAI's chats, texts, vectors and list of models."""

from exo.wire.anthropic.answer_types import AnthropicModel, AnthropicModels
from exo.wire.openai import answer_types as answers
from exo.wire.openai import request_types as requests
from exo.wire.openapi.operations import ID, Json, as_json, asking, either, reading, ref, stream

SCHEMAS: tuple[type, ...] = (
    requests.ChatBody,
    requests.CompletionBody,
    requests.EmbeddingsBody,
    answers.ChatAnswer,
    answers.ChatChunk,
    answers.TextAnswer,
    answers.EmbeddingsAnswer,
    answers.ModelsAnswer,
    answers.ModelAnswer,
    answers.ErrorAnswer,
)


def paths() -> Json:
    # They look as Anthropic's to a client that says which release of Anthropic's API it speaks.
    models = reading("models", "The models that can be asked", answers.ModelsAnswer)
    models["responses"]["200"]["content"] = either(answers.ModelsAnswer, AnthropicModels)
    model = reading("model", "One model", answers.ModelAnswer, 404)
    model["responses"]["200"]["content"] = either(answers.ModelAnswer, AnthropicModel)
    chat = as_json(answers.ChatAnswer) | _events(answers.ChatChunk)
    text = as_json(answers.TextAnswer) | _events(answers.TextAnswer)
    vectors = as_json(answers.EmbeddingsAnswer)
    return {
        "/v1/chat/completions": {"post": asking("chat", "Answer a conversation", requests.ChatBody, chat)},
        "/v1/completions": {"post": asking("complete", "Continue a text", requests.CompletionBody, text)},
        "/v1/embeddings": {
            "post": asking("embed", "Turn texts into vectors", requests.EmbeddingsBody, vectors)
        },
        "/v1/models": {"get": models},
        "/v1/models/{id}": {"get": model, "parameters": [ID]},
    }


def _events(of: type) -> Json:
    return stream(
        "text/event-stream",
        "Where a stream is asked for: events whose data is a chunk, the last one "
        "[DONE]. An event with an error ends the answer without [DONE].",
        ref(of),
    )
