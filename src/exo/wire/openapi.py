"""What this node's HTTP API looks like, as OpenAPI 3.1: made of the very structs that read and write it."""

from typing import Any, get_args

import msgspec

from exo.errors import STATUS
from exo.nodes import Cluster
from exo.wire import cluster as clusters
from exo.wire import downloads, shards, tokens
from exo.wire.anthropic import answer_types as anthropic_answers
from exo.wire.anthropic import request_types as anthropic_requests
from exo.wire.ollama import answer_types as ollama_answers
from exo.wire.ollama import request_types as ollama_requests
from exo.wire.openai import answer_types as answers
from exo.wire.openai import request_types as requests
from exo.wire.responses import answer_types as response_answers
from exo.wire.responses import request_types as response_requests

_ANSWERS = (
    answers.ChatAnswer,
    answers.ChatChunk,
    answers.TextAnswer,
    answers.EmbeddingsAnswer,
    answers.ModelsAnswer,
    answers.ModelAnswer,
    answers.ErrorAnswer,
    response_answers.ResponseAnswer,
    response_answers.ResponseEvent,
    response_answers.ItemsAnswer,
    response_answers.ResponseDeleted,
    Cluster,
    clusters.Topology,
    clusters.RoutesAnswer,
    clusters.LoadAnswer,
    clusters.SpreadAnswer,
    shards.PlanAnswer,
    downloads.DownloadAnswer,
    downloads.InitialModel,
    downloads.PoolModel,
    downloads.RepoProgress,
    tokens.EncodedChat,
    tokens.TokenizeAnswer,
    tokens.DetokenizeAnswer,
    anthropic_answers.AnthropicAnswer,
    *get_args(anthropic_answers.AnthropicEvent),
    anthropic_answers.AnthropicCount,
    anthropic_answers.AnthropicModels,
    anthropic_answers.AnthropicModel,
    ollama_answers.OllamaChatAnswer,
    ollama_answers.OllamaGenerateAnswer,
    ollama_answers.OllamaEmbedAnswer,
    ollama_answers.OllamaEmbeddingsAnswer,
    ollama_answers.OllamaModels,
    ollama_answers.OllamaShown,
    ollama_answers.OllamaRunningModels,
    ollama_answers.OllamaStatus,
    ollama_answers.OllamaVersion,
    ollama_answers.OllamaError,
)
_REQUESTS = (
    requests.ChatBody,
    requests.CompletionBody,
    requests.EmbeddingsBody,
    response_requests.ResponsesBody,
    clusters.LoadBody,
    clusters.SpreadBody,
    downloads.DownloadBody,
    tokens.TokenizeChatBody,
    tokens.TokenizeTextBody,
    tokens.DetokenizeBody,
    anthropic_requests.AnthropicMessages,
    anthropic_requests.AnthropicCountTokens,
    ollama_requests.OllamaChat,
    ollama_requests.OllamaGenerate,
    ollama_requests.OllamaEmbed,
    ollama_requests.OllamaEmbeddings,
    ollama_requests.OllamaShow,
    ollama_requests.OllamaPull,
    ollama_requests.OllamaCreate,
    ollama_requests.OllamaDelete,
)

_READING = (401, 403, 405)
_ASKING = tuple(sorted({*STATUS.values()}))

_Json = dict[str, Any]

_TEXT: _Json = {"type": "string"}
_ID: _Json = {"name": "id", "in": "path", "required": True, "schema": _TEXT}
_COUNT: _Json = {"type": "integer", "minimum": 0, "maximum": 999_999_999}


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
                "paths": _paths()
                | _cluster_paths()
                | _download_paths()
                | _ollama_paths()
                | _response_paths()
                | _anthropic_paths(),
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
    # They look as Anthropic's to a client that says which release of Anthropic's API it speaks.
    models = _reading("models", "The models that can be asked", answers.ModelsAnswer)
    models["responses"]["200"]["content"] = _either(answers.ModelsAnswer, anthropic_answers.AnthropicModels)
    model = _reading("model", "One model", answers.ModelAnswer, 404)
    model["responses"]["200"]["content"] = _either(answers.ModelAnswer, anthropic_answers.AnthropicModel)
    return _token_paths() | {
        "/v1/chat/completions": {
            "post": _asking(
                "chat",
                "Answer a conversation",
                requests.ChatBody,
                _json(answers.ChatAnswer) | _events(answers.ChatChunk),
            )
        },
        "/v1/completions": {
            "post": _asking(
                "complete",
                "Continue a text",
                requests.CompletionBody,
                _json(answers.TextAnswer) | _events(answers.TextAnswer),
            )
        },
        "/v1/embeddings": {
            "post": _asking(
                "embed", "Turn texts into vectors", requests.EmbeddingsBody, _json(answers.EmbeddingsAnswer)
            )
        },
        "/v1/models": {"get": models},
        "/v1/models/{id}": {
            "get": model,
            "parameters": [_ID],
        },
        "/healthcheck": {"get": _probe("alive", "Whether the process is alive", "It is.")},
        "/ready": {"get": _probe("ready", "Whether it can serve", "It can.", 503)},
        "/metrics": {"get": _probe("metrics", "Figures for Prometheus", "The figures.", content=_text())},
    }


def _token_paths() -> _Json:
    """The first exo's route, and those that llama.cpp's server and vLLM have."""
    encode = _asking("encode", "A conversation's tokens", requests.ChatBody, _json(tokens.EncodedChat))
    bodies = {"anyOf": [_ref(tokens.TokenizeChatBody), _ref(tokens.TokenizeTextBody)]}
    tokenize = _asking("tokenize", "Tokens of a text", tokens.TokenizeTextBody, _json(tokens.TokenizeAnswer))
    tokenize["requestBody"]["content"] = {"application/json": {"schema": bodies}}
    detokenize = _asking(
        "detokenize", "The text of tokens", tokens.DetokenizeBody, _json(tokens.DetokenizeAnswer)
    )
    return {
        "/v1/chat/token/encode": {"post": encode},
        "/tokenize": {"post": tokenize},
        "/detokenize": {"post": detokenize},
    }


def _response_paths() -> _Json:
    """OpenAI's Responses. Those that are kept are this node's own."""
    told, sent = response_answers, response_requests.ResponsesBody
    streamed = _stream(
        "text/event-stream",
        "Where a stream is asked for: events, each named by its type, whose data is this. The last one is "
        "response.completed, response.incomplete, or behind an error response.failed.",
        told.ResponseEvent,
    )
    items = _reading("input_items", "The conversation a response answers", told.ItemsAnswer, 400, 404)
    items["parameters"] = [
        {"name": "after", "in": "query", "description": "The id of an item.", "schema": _TEXT},
        {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100}},
        {"name": "order", "in": "query", "schema": {"enum": ["asc", "desc"], "default": "desc"}},
    ]
    return {
        "/v1/responses": {
            "post": _asking("respond", "Answer, and keep it", sent, _json(told.ResponseAnswer) | streamed)
        },
        "/v1/responses/{id}": {
            "get": _reading("response", "A response that is kept", told.ResponseAnswer, 400, 404),
            "delete": _reading("forget", "Keep a response no longer", told.ResponseDeleted, 400, 404),
            "parameters": [_ID],
        },
        "/v1/responses/{id}/input_items": {"get": items, "parameters": [_ID]},
    }


def _cluster_paths() -> _Json:
    explain = _reading("explain", "Where a request would go, and why", clusters.RoutesAnswer, *_ASKING)
    explain["parameters"] = [
        {"name": "model", "in": "query", "description": "Without it, the default model.", "schema": _TEXT},
        {"name": "prompt_tokens", "in": "query", "schema": _COUNT},
        {"name": "max_tokens", "in": "query", "schema": _COUNT},
    ]
    plan = _reading("plan", "Which node would have which layers of a model", shards.PlanAnswer, *_ASKING)
    plan["parameters"] = [
        {"name": "model", "in": "query", "description": "Without it, the default model.", "schema": _TEXT},
        {
            "name": "split",
            "in": "query",
            "description": "Layers by hand, NODE:FIRST-LAST and more of these, by commas.",
            "schema": _TEXT,
        },
    ]
    load = _asking("load", "Bring a model into memory here", clusters.LoadBody, _late(clusters.LoadAnswer))
    spread = _asking(
        "spread",
        "Have a model in memory on several nodes",
        clusters.SpreadBody,
        _late(clusters.SpreadAnswer),
    )
    return {
        "/v1/cluster": {"get": _reading("cluster", "The nodes as this one sees them", Cluster, 400)},
        "/v1/topology": {
            "get": _reading("topology", "The nodes as the first exo had them", clusters.Topology, 400)
        },
        "/v1/route/explain": {"get": explain},
        "/v1/cluster/plan": {"get": plan},
        "/v1/load": {"post": load},
        "/v1/spread": {"post": spread},
    }


def _download_paths() -> _Json:
    """The first exo's. What it calls a pool are the models that are here, or could be."""
    progress = _reading("progress", "Downloads under way", downloads.RepoProgress)
    initial = _reading("initial", "The models that are here or could be, with names", downloads.InitialModel)
    for operation, of in ((progress, downloads.RepoProgress), (initial, downloads.InitialModel)):
        schema = {"type": "object", "additionalProperties": _ref(of)}
        operation["responses"]["200"]["content"] = {"application/json": {"schema": schema}}
    pool = _reading("pool", "The models that are here or could be", downloads.PoolModel)
    pool["responses"]["200"]["content"] = _stream(
        "text/event-stream",
        "Events whose data is an object with one model's state under its id, the last one [DONE].",
        downloads.PoolModel,
    )
    answer = _json(downloads.DownloadAnswer)
    download = _asking("download", "Download a model in the background", downloads.DownloadBody, answer)
    return {
        "/download": {"post": download},
        "/v1/download/progress": {"get": progress},
        "/modelpool": {"get": pool},
        "/initial_models": {"get": initial},
        "/models/{id}": {
            "delete": _reading("delete", "Take a model off the disk", downloads.DownloadAnswer, 403, 404),
            "parameters": [_ID],
        },
    }


def _ollama_paths() -> _Json:
    """Ollama's API. Its failures have a shape of their own, and its streams are lines."""
    asked, told = ollama_requests, ollama_answers
    asking = {
        "chat": ("Answer a conversation", asked.OllamaChat, told.OllamaChatAnswer, True),
        "generate": ("Answer a prompt", asked.OllamaGenerate, told.OllamaGenerateAnswer, True),
        "embed": ("Turn texts into vectors", asked.OllamaEmbed, told.OllamaEmbedAnswer, False),
        "embeddings": ("Turn a text into one", asked.OllamaEmbeddings, told.OllamaEmbeddingsAnswer, False),
        "show": ("What is known of a model", asked.OllamaShow, told.OllamaShown, False),
        "pull": ("Download a model", asked.OllamaPull, told.OllamaStatus, True),
        "create": ("Make a model of another's files", asked.OllamaCreate, told.OllamaStatus, True),
    }
    reading = {
        "tags": ("The models that can be asked", told.OllamaModels),
        "ps": ("The models in memory", told.OllamaRunningModels),
        "version": ("The release of Ollama whose API this is", told.OllamaVersion),
    }
    delete = _asking("ollama_delete", "Delete a model", asked.OllamaDelete, {}, told.OllamaError)
    paths: _Json = {"/api/delete": {"delete": delete}}
    for name, (summary, body, answer, streams) in asking.items():
        content = _json(answer) | (_lines(answer) if streams else {})
        paths[f"/api/{name}"] = {"post": _asking(f"ollama_{name}", summary, body, content, told.OllamaError)}
    for name, (summary, answer) in reading.items():
        paths[f"/api/{name}"] = {"get": _reading(f"ollama_{name}", summary, answer, error=told.OllamaError)}
    return paths


def _anthropic_paths() -> _Json:
    """Anthropic's API. It lists models under OpenAI's paths."""
    asked, told = anthropic_requests, anthropic_answers
    events = {
        "type": "string",
        "description": "Where a stream is asked for: events named as their data's type, the last one "
        "message_stop. An error ends the answer without it.",
        "contentMediaType": "text/event-stream",
        "contentSchema": {"anyOf": [_ref(event) for event in get_args(told.AnthropicEvent)]},
    }
    answer = _json(told.AnthropicAnswer) | {"text/event-stream": {"schema": events}}
    error = told.AnthropicErrorAnswer
    messages = _asking("messages", "Answer a conversation", asked.AnthropicMessages, answer, error)
    count = _asking(
        "count_tokens",
        "How many tokens a conversation has",
        asked.AnthropicCountTokens,
        _json(told.AnthropicCount),
        error,
    )
    return {"/v1/messages": {"post": messages}, "/v1/messages/count_tokens": {"post": count}}


def _events(of: type) -> _Json:
    return _stream(
        "text/event-stream",
        "Where a stream is asked for: events whose data is a chunk, the last one "
        "[DONE]. An event with an error ends the answer without [DONE].",
        of,
    )


def _lines(of: type) -> _Json:
    return _stream(
        "application/x-ndjson",
        "Unless stream is false: lines of JSON. One with an error ends the answer without done.",
        of,
    )


def _stream(media: str, description: str, of: type) -> _Json:
    schema = {
        "type": "string",
        "description": description,
        "contentMediaType": media,
        "contentSchema": _ref(of),
    }
    return {media: {"schema": schema}}


def _asking(name: str, summary: str, body: type, content: _Json, error: type = answers.ErrorAnswer) -> _Json:
    answer: _Json = {"description": "The answer."} | ({"content": content} if content else {})
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {"required": True, "content": _json(body)},
        "responses": {"200": answer} | _errors(*_ASKING, body=error),
    }


def _reading(name: str, summary: str, answer: type, *errors: int, error: type = answers.ErrorAnswer) -> _Json:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {"200": {"description": summary + ".", "content": _json(answer)}}
        | _errors(*sorted({*_READING, *errors}), body=error),
    }


def _probe(name: str, summary: str, description: str, *errors: int, content: _Json | None = None) -> _Json:
    answer = {"description": description} | ({"content": content} if content else {})
    return {
        "operationId": name,
        "summary": summary,
        "security": [],
        "responses": {"200": answer} | _errors(*errors),
    }


def _errors(*statuses: int, body: type = answers.ErrorAnswer) -> _Json:
    return {str(status): {"description": _why(status), "content": _json(body)} for status in statuses}


def _why(status: int) -> str:
    """The kinds of error behind a status, by code."""
    kinds = [kind for kind, its_status in STATUS.items() if its_status == status]
    return " ".join(f"{kind.code}: {' '.join((kind.__doc__ or '').split())}" for kind in kinds)


def _json(kind: type) -> _Json:
    return {"application/json": {"schema": _ref(kind)}}


def _late(kind: type) -> _Json:
    """An answer that the status 200 may go ahead of, before its failure is known."""
    return _either(kind, answers.ErrorAnswer)


def _either(*kinds: type) -> _Json:
    return {"application/json": {"schema": {"anyOf": [_ref(kind) for kind in kinds]}}}


def _text() -> _Json:
    return {"text/plain": {"schema": {"type": "string"}}}


def _ref(kind: type) -> _Json:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
