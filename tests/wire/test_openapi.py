"""The OpenAPI document is valid, complete, and tells the truth about what is decoded and encoded."""

import json
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from exo.chat import ChatRequest, Delta, Finished, Message, Reasoning, Sampling, Text, ToolCall, Usage
from exo.choice.routing import Route
from exo.errors import EngineFailed
from exo.nodes import Cluster, Device, Node
from exo.wire import anthropic, cluster, downloads, ollama, openai, openapi
from exo.wire.openai import encode_chat, encode_completion
from tests.doubles import card

DOCUMENT = json.loads(openapi.document("1.2.3"))


def conforms(name: str, data: bytes) -> bool:
    """Whether `data` is what the document calls `name`."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return bool(OAS31Validator(schema).is_valid(json.loads(data)))


def references(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(references, value))
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set()


def test_document_is_valid() -> None:
    validate(DOCUMENT)
    assert DOCUMENT["openapi"].startswith("3.1")
    assert DOCUMENT["info"]["version"] == "1.2.3"


def test_every_route_is_there() -> None:
    assert set(DOCUMENT["paths"]) == {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/chat/token/encode",
        "/tokenize",
        "/detokenize",
        "/v1/models",
        "/v1/models/{id}",
        "/v1/cluster",
        "/v1/cluster/events",
        "/v1/topology",
        "/v1/cluster/plan",
        "/v1/route/explain",
        "/v1/load",
        "/v1/spread",
        "/download",
        "/download/{id}",
        "/v1/download/progress",
        "/modelpool",
        "/initial_models",
        "/models/{id}",
        "/healthcheck",
        "/ready",
        "/metrics",
        "/v1/prometheus/targets",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/responses",
        "/v1/responses/{id}",
        "/v1/responses/{id}/input_items",
        "/api/chat",
        "/api/generate",
        "/api/embed",
        "/api/embeddings",
        "/api/tags",
        "/api/ps",
        "/api/version",
        "/api/show",
        "/api/pull",
        "/api/create",
        "/api/delete",
    }


def test_every_schema_is_used() -> None:
    used = {reference.rsplit("/", 1)[1] for reference in references(DOCUMENT)}
    mapped = {
        target.rsplit("/", 1)[1]
        for schema in json.dumps(DOCUMENT).split('"mapping": ')[1:]
        for target in json.JSONDecoder().raw_decode(schema)[0].values()
    }
    assert used | mapped == set(DOCUMENT["components"]["schemas"])


def test_ranges_are_told() -> None:
    temperature = DOCUMENT["components"]["schemas"]["ChatBody"]["properties"]["temperature"]
    assert {"type": "number", "minimum": 0, "maximum": 2} in temperature["anyOf"]


REQUEST = ChatRequest(
    model="m",
    messages=(
        Message("user", "x"),
        Message("assistant", "", (ToolCall(0, "c", "f", "{}"),)),
        Message("tool", "1", (), "c"),
    ),
    sampling=Sampling(temperature=0.5, logit_bias={1: 2.0}),
    json_schema={"type": "object"},
    thinking=True,
)
WHO = ("i", 1, "m")
ALONE = Cluster(
    me=Node(
        id="a",
        url="",
        version="0",
        device=Device(name="a", cores=1, memory=1 << 30),
        cards=(),
        loaded=(),
        waiting=0,
    )
)
ANSWER: list[Delta] = [
    Reasoning("r"),
    Text("a"),
    ToolCall(0, "c", "f", "{}"),
    Finished("tool_calls", Usage(1, 2)),
]


def last_event(data: bytes) -> bytes:
    return data.removeprefix(b"data: ").removesuffix(b"\n\n")


def event_data(data: bytes) -> bytes:
    return data.partition(b"\ndata: ")[2].strip()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("ChatBody", encode_chat(REQUEST)),
        ("CompletionBody", encode_completion(ChatRequest(model="m", prompt="x", stop=("a",)))),
        ("EmbeddingsBody", b'{"model":"m","input":["a"]}'),
        ("ChatAnswer", openai.chat_answer(*WHO, [ANSWER])),
        ("ErrorAnswer", openai.error_answer(EngineFailed("x"))),
        ("Topology", cluster.topology_answer(ALONE)),
        ("RoutesAnswer", cluster.routes_answer("m", [Route(ALONE.me, card("m"), ("loaded",), 0.25)])),
        ("SpreadBody", b'{"model":"m","nodes":2}'),
        ("DownloadBody", b'{"model":"user/m"}'),
        ("DownloadAnswer", downloads.answer("x")),
        ("OllamaChat", b'{"model":"m","messages":[{"role":"user","content":"x"}],"keep_alive":"5m"}'),
        (
            "AnthropicMessages",
            b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":[{"type":"text","text":"x"}]},'
            b'{"role":"assistant","content":[{"type":"tool_use","id":"c","name":"f","input":{}}]},'
            b'{"role":"user","content":[{"type":"tool_result","tool_use_id":"c","content":"1"}]}],'
            b'"tools":[{"name":"f","input_schema":{"type":"object"}}],"tool_choice":{"type":"any"},'
            b'"thinking":{"type":"enabled","budget_tokens":1024}}',
        ),
        ("AnthropicCountTokens", b'{"model":"m","messages":[{"role":"user","content":"x"}]}'),
        ("AnthropicAnswer", anthropic.message_answer("i", "m", ANSWER)),
        ("AnthropicErrorAnswer", anthropic.error_answer(EngineFailed("x"))),
        ("AnthropicModels", anthropic.models_answer([card("m")])),
        ("AnthropicMessageStart", event_data(anthropic.MessageStream("i", "m").start(0))),
        ("OllamaGenerate", b'{"model":"m","prompt":"x","format":"json","options":{"num_predict":-1}}'),
        ("OllamaEmbed", b'{"model":"m","input":["a"]}'),
        ("OllamaCreate", b'{"model":"m","from":"n"}'),
        ("OllamaChatAnswer", ollama.CHAT.whole("m", "now", 1.0, ANSWER)),
        ("OllamaGenerateAnswer", ollama.GENERATE.held("m", "now", "load")),
        ("OllamaError", ollama.error_answer(EngineFailed("x"))),
        *(("ChatChunk", last_event(openai.ChatStream(*WHO).delta(0, delta))) for delta in ANSWER),
        ("TextAnswer", last_event(openai.CompletionStream(*WHO, include_usage=True).delta(0, Text("a")))),
    ],
)
def test_what_is_sent_conforms(name: str, data: bytes) -> None:
    assert conforms(name, data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("ChatBody", b'{"model":"m","messages":[]}'),
        ("ChatBody", b'{"model":"m","messages":[{"role":"user","content":"x"}],"temperature":3}'),
        ("ChatBody", b'{"model":"m","messages":[{"role":"user","content":"x"}],"temprature":1}'),
        ("ChatAnswer", b"{}"),
        ("SpreadBody", b'{"model":"m","nodes":0}'),
        ("OllamaChat", b'{"model":"m","options":{"temprature":1}}'),
        ("AnthropicMessages", b'{"model":"m","messages":[{"role":"user","content":"x"}]}'),
        (
            "AnthropicMessages",
            b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":[{"type":"image"}]}]}',
        ),
        ("OllamaGenerate", b'{"model":"m","suffix":"x"}'),
        ("OllamaError", b'{"error":{"message":"x"}}'),
    ],
)
def test_what_is_refused_does_not(name: str, data: bytes) -> None:
    assert not conforms(name, data)
