"""Ollama's API. Its failures have a shape of their own, and its streams are lines."""

from exo.wire.ollama import answer_types as answers
from exo.wire.ollama import request_types as requests
from exo.wire.openapi.operations import Json, as_json, asking, reading, ref, stream

SCHEMAS: tuple[type, ...] = (
    requests.OllamaChat,
    requests.OllamaGenerate,
    requests.OllamaEmbed,
    requests.OllamaEmbeddings,
    requests.OllamaShow,
    requests.OllamaPull,
    requests.OllamaCreate,
    requests.OllamaDelete,
    answers.OllamaChatAnswer,
    answers.OllamaGenerateAnswer,
    answers.OllamaEmbedAnswer,
    answers.OllamaEmbeddingsAnswer,
    answers.OllamaModels,
    answers.OllamaShown,
    answers.OllamaRunningModels,
    answers.OllamaStatus,
    answers.OllamaVersion,
    answers.OllamaError,
)


def paths() -> Json:
    sent, told, error = requests, answers, answers.OllamaError
    asked = {
        "chat": ("Answer a conversation", sent.OllamaChat, told.OllamaChatAnswer, True),
        "generate": ("Answer a prompt", sent.OllamaGenerate, told.OllamaGenerateAnswer, True),
        "embed": ("Turn texts into vectors", sent.OllamaEmbed, told.OllamaEmbedAnswer, False),
        "embeddings": ("Turn a text into one", sent.OllamaEmbeddings, told.OllamaEmbeddingsAnswer, False),
        "show": ("What is known of a model", sent.OllamaShow, told.OllamaShown, False),
        "pull": ("Download a model", sent.OllamaPull, told.OllamaStatus, True),
        "create": ("Make a model of another's files", sent.OllamaCreate, told.OllamaStatus, True),
    }
    read = {
        "tags": ("The models that can be asked", told.OllamaModels),
        "ps": ("The models in memory", told.OllamaRunningModels),
        "version": ("The release of Ollama whose API this is", told.OllamaVersion),
    }
    delete = asking("ollama_delete", "Delete a model", sent.OllamaDelete, {}, error)
    found: Json = {"/api/delete": {"delete": delete}}
    for name, (summary, body, answer, streams) in asked.items():
        content = as_json(answer) | (_lines(answer) if streams else {})
        found[f"/api/{name}"] = {"post": asking(f"ollama_{name}", summary, body, content, error)}
    for name, (summary, answer) in read.items():
        found[f"/api/{name}"] = {"get": reading(f"ollama_{name}", summary, answer, error=error)}
    return found


def _lines(of: type) -> Json:
    return stream(
        "application/x-ndjson",
        "Unless stream is false: lines of JSON. One with an error ends the answer without done.",
        ref(of),
    )
