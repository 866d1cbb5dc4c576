"""The bytes of an answer: streams, headers, the routes that are not about a model, and the logs."""

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .conftest import ALLOWED_ORIGIN, Start
from .node import HANG, Node, Wire, chat_body, events, fail, raw_chat, text, wait, write_script

# Streams


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that lets no tenth of a second pass in silence."""
    home = tmp_path_factory.mktemp("impatient")
    write_script(home, "silent", [HANG])
    write_script(home, "late", [wait(0.5), text("at last")])
    write_script(home, "breaks", [wait(0.5), fail("the wheel came off")])
    node = Node(home, "--keepalive", "0.1")
    try:
        yield node
        node.stop()
    finally:
        node.kill()


def test_shape_of_a_stream(node: Node) -> None:
    reply = node.chat("hello", stream=True)
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["cache-control"] == "no-cache"
    *data, done = events(reply.body)
    assert done == "[DONE]"
    assert reply.body.endswith(b"data: [DONE]\n\n")
    chunks = [json.loads(each) for each in data]
    assert len({(chunk["id"], chunk["created"], chunk["object"], chunk["model"]) for chunk in chunks}) == 1
    assert chunks[0]["id"].startswith("chatcmpl-")
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert all("role" not in choice["delta"] for choice in choices[1:])
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert choices[-1]["delta"] == {}
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "Hello, wörld!"
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_comes_last_on_request(node: Node) -> None:
    reply = node.chat("hello", "two words", stream=True, stream_options={"include_usage": True})
    *data, _ = events(reply.body)
    *chunks, last = [json.loads(each) for each in data]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["id"] == chunks[0]["id"]
    assert last["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": 4,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_choices_of_a_stream_keep_apart(node: Node) -> None:
    *data, _ = events(node.chat("hello", stream=True, n=3).body)
    said = ["", "", ""]
    ends: list[int] = []
    for chunk in map(json.loads, data):
        for choice in chunk["choices"]:
            said[choice["index"]] += choice["delta"].get("content", "")
            if choice["finish_reason"]:
                ends.append(choice["index"])
    assert said == ["Hello, wörld!"] * 3
    assert sorted(ends) == [0, 1, 2]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
def test_a_stream_ends_for_clients_of_http_1_0(node: Node, path: str) -> None:
    body = json.dumps(chat_body("hello", stream=True)).encode()
    with Wire(node) as wire:
        wire.send(f"POST {path} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        assert wire.rest().endswith(b"data: [DONE]\n\n")


def test_the_connection_serves_again_after_a_stream(node: Node) -> None:
    connection = node.connection()
    try:
        for stream in (True, False, True):
            connection.request("POST", "/v1/chat/completions", json.dumps(chat_body("hello", stream=stream)))
            assert "wörld" in connection.getresponse().read().decode()
    finally:
        connection.close()


def test_keep_alive_comments_while_nothing_comes(impatient: Node) -> None:
    with Wire(impatient) as wire:
        wire.send(raw_chat("silent", stream=True))
        wire.until(b'"role":"assistant"')
        while wire.received.count(b": keep-alive\n\n") < 3:
            wire.more()
    assert wire.received.startswith(b"HTTP/1.1 200")
    assert wire.received.count(b"data: ") == 1, "only the role has been said"


def test_comments_do_not_disturb_the_answer(impatient: Node) -> None:
    reply = impatient.chat("late", stream=True)
    assert b": keep-alive\n\n" in reply.body
    *data, done = events(reply.body)
    assert done == "[DONE]"
    said = [json.loads(each)["choices"][0]["delta"].get("content", "") for each in data]
    assert "".join(said) == "at last"


def test_failure_after_keep_alives_is_an_event(impatient: Node) -> None:
    reply = impatient.chat("breaks", stream=True)
    assert reply.status == 200
    assert json.loads(events(reply.body)[-1])["error"]["message"] == "the wheel came off"
    assert b"[DONE]" not in reply.body


def test_failure_before_the_first_delta_is_a_status(node: Node) -> None:
    reply = node.chat("broken", stream=True)
    assert reply.status == 502
    assert reply.error()["code"] == "engine_failed"
    assert "the wheel came off" in reply.error()["message"]
    node.assert_serves()


def test_failure_after_the_first_delta_is_an_event(start: Start) -> None:
    codes = ["timeout", "not_ready", "overloaded", "engine_failed"]
    node = start(scripts={code: [text("so far"), fail("the wheel came off", code)] for code in codes})
    for code in codes:
        reply = node.chat(code, stream=True, id=f"broken-{code}")
        assert reply.status == 200
        *data, last = events(reply.body)
        assert "so far" in "".join(data)
        assert json.loads(last)["error"]["code"] == code
        assert json.loads(last)["error"]["message"] == "the wheel came off"
        assert b"[DONE]" not in reply.body
        assert b'"finish_reason":"' not in reply.body
        assert node.access(f"broken-{code}")["error"] == code
        assert node.metric("exo_requests_total", model=code, status="error") == 1
        assert node.metric("exo_errors_total", model=code, type=code) == 1
        assert node.metric("exo_requests_total", model=code, status="success") == 0


def test_silence_beyond_the_time_allowed(start: Start) -> None:
    node = start("--timeout", "0.3", scripts={"silent": [HANG], "hello": [text("Hello")]})
    for stream in (True, False):
        reply = node.chat("silent", stream=stream)
        assert reply.status == 504
        assert reply.error()["code"] == "timeout"
        node.assert_serves()


# Headers

EVERY_KIND = [
    ("POST", "/v1/chat/completions", chat_body("hello"), 200),
    ("POST", "/v1/chat/completions", chat_body("hello", stream=True), 200),
    ("POST", "/v1/chat/completions", chat_body("breaks-midway", stream=True), 200),
    ("POST", "/v1/chat/completions", chat_body("nope"), 404),
    ("POST", "/v1/chat/completions", {}, 400),
    ("GET", "/v1/models", None, 200),
    ("GET", "/nowhere", None, 404),
    ("PUT", "/v1/models", None, 405),
    ("GET", "/healthcheck", None, 200),
    ("GET", "/metrics", None, 200),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), EVERY_KIND)
def test_request_id_is_echoed_or_made(node: Node, method: str, path: str, body: object, status: int) -> None:
    named = node.request(method, path, body, {"x-request-id": "my-own.id/7"})
    assert (named.status, named.headers["x-request-id"]) == (status, "my-own.id/7")
    ids = {node.request(method, path, body).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", id) for id in ids)


@pytest.mark.parametrize("id", ["a" * 129, "with space", "ümlaut"])
def test_a_request_id_that_could_harm_a_log_is_replaced(node: Node, id: str) -> None:
    with Wire(node) as wire:
        request = f"GET /healthcheck HTTP/1.1\r\nHost: h\r\nx-request-id: {id}\r\nConnection: close\r\n\r\n"
        wire.send(request.encode())
        assert re.search(rb"(?i)x-request-id: [0-9a-f]{32}\r\n", wire.rest())


def test_answers_carry_the_request_id_in_their_own(node: Node) -> None:
    assert node.chat("hello", id="abc").json()["id"] == "chatcmpl-abc"


@pytest.mark.parametrize("origin", [ALLOWED_ORIGIN, "http://localhost:3000", "http://127.0.0.1"])
def test_allowed_origin(node: Node, origin: str) -> None:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    preflight = node.request("OPTIONS", "/v1/chat/completions", headers=asked)
    assert preflight.status in (200, 204)
    assert preflight.headers["access-control-allow-origin"] == origin
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    for body in (chat_body("hello"), chat_body("hello", stream=True), chat_body("nope")):
        reply = node.request("POST", "/v1/chat/completions", body, {"Origin": origin})
        assert reply.headers["access-control-allow-origin"] == origin
        assert "x-request-id" in reply.headers["access-control-expose-headers"]


def test_own_page_is_allowed(node: Node) -> None:
    reply = node.request("POST", "/v1/chat/completions", chat_body("hello"), {"Origin": node.url})
    assert reply.status == 200


@pytest.mark.parametrize("origin", ["https://evil.example", f"{ALLOWED_ORIGIN}.evil", "null"])
def test_other_origins_are_refused(node: Node, origin: str) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for reply in (
        node.request("OPTIONS", "/v1/chat/completions", headers=asked),
        node.request("POST", "/v1/chat/completions", chat_body("hello"), {"Origin": origin}),
    ):
        assert reply.status == 403
        assert reply.error()["code"] == "forbidden"
        assert "access-control-allow-origin" not in reply.headers


def test_key_is_asked_everywhere_but_for_health(start: Start) -> None:
    node = start(env={"EXO_API_KEY": "s3cret"}, scripts={"hello": [text("Hello")]})
    for path in ("/v1/models", "/models", "/metrics", "/openapi.json", "/v1/cluster", "/nowhere"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer "}):
            reply = node.request("GET", path, headers=headers)
            assert (path, reply.status) == (path, 401)
            assert reply.error()["code"] == "unauthorized"
    assert node.get("/v1/models", Authorization="Bearer s3cret").status == 200
    assert node.get("/healthcheck").status == node.get("/ready").status == 200
    with Wire(node) as wire:
        wire.send(b"GET /v1/models HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")
        assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 401")


# Routes


@pytest.mark.parametrize("prefix", ["/v1", ""])
def test_routes_with_and_without_v1(node: Node, prefix: str) -> None:
    ids = {model["id"] for model in node.get(f"{prefix}/models").json()["data"]}
    assert {"exo-demo", "hello"} <= ids
    assert node.get(f"{prefix}/models/exo-demo").json()["id"] == "exo-demo"
    chat = node.request("POST", f"{prefix}/chat/completions", chat_body("hello"))
    assert chat.json()["choices"][0]["message"]["content"] == "Hello, wörld!"
    completion = node.request("POST", f"{prefix}/completions", {"model": "hello", "prompt": "hi"})
    assert completion.json()["choices"][0]["text"] == "Hello, wörld!"
    vectors = node.request("POST", f"{prefix}/embeddings", {"model": "exo-demo", "input": "hi"})
    assert len(vectors.json()["data"]) == 1


def test_models_that_appear_later_are_found(start: Start) -> None:
    node = start()
    assert node.chat("hello").status == 404
    write_script(node.home, "hello", [text("Hello")])
    assert node.chat("hello").status == 200


def test_health_and_readiness(node: Node) -> None:
    assert node.get("/healthcheck").json() == {"status": "ok"}
    assert node.get("/ready").json() == {"status": "ready"}


def test_a_node_without_a_model_is_alive_but_not_ready(start: Start) -> None:
    node = start("--inference-engine", "dummy")
    assert node.get("/healthcheck").status == 200
    reply = node.get("/ready")
    assert reply.status == 503
    assert reply.error()["code"] == "not_ready"
    assert "no engine" in reply.error()["message"]


def test_healthy_while_a_model_is_preloaded(start: Start, home: Path) -> None:
    """A balancer must not take a node that loads a large model for a dead one."""
    write_script(home, "large", [text("hi")], load=[wait(3.0)])
    node = start("--preload", "large")
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=1.5)
    try:
        connection.request("GET", "/healthcheck")
        assert connection.getresponse().status == 200
    finally:
        connection.close()


def test_description_names_only_routes_that_are_there(node: Node) -> None:
    document = node.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"} <= set(
        document["paths"]
    )
    for path, verbs in document["paths"].items():
        if path == "/v1/cluster/events":
            continue  # which has no end
        for verb in verbs.keys() & {"get", "post", "put", "delete"}:
            takes_body = "requestBody" in verbs[verb]
            queried = [each["name"] for each in verbs[verb].get("parameters", ()) if each["in"] == "query"]
            query = "?model=exo-demo" if "model" in queried else ""
            reply = node.request(
                verb.upper(), path.replace("{id}", "exo-demo") + query, b"" if takes_body else None
            )
            # What came with the program cannot be deleted, no response is kept, and nothing is downloaded.
            expected = 400 if takes_body else 403 if verb == "delete" else 200
            if path.startswith(("/v1/responses/", "/download/")):
                expected = 404
                assert "exo-demo" in reply.error()["message"]
            assert reply.status == expected, (verb, path, reply)


def test_a_node_tells_the_port_it_really_has(node: Node) -> None:
    assert node.me()["url"].endswith(f":{node.port}")


def test_default_model(start: Start) -> None:
    node = start("--default-model", "hello", scripts={"hello": [text("Hello")]})
    body = chat_body("hello")
    del body["model"]
    reply = node.request("POST", "/v1/chat/completions", body)
    assert (reply.status, reply.json().get("model")) == (200, "hello"), reply


# Metrics and logs

METRICS = {
    "exo_requests": ("model", "status"),
    "exo_requests_in_progress": (),
    "exo_tokens_generated": ("model",),
    "exo_prompt_tokens": ("model",),
    "exo_request_duration_seconds": ("model",),
    "exo_first_token_latency_seconds": ("model",),
    "exo_tokens_per_second": ("model",),
    "exo_nodes_active": (),
    "exo_model_info": ("model",),
    "exo_inference_engine_info": (),
    "exo_errors": ("type", "model"),
    "exo_queue_seconds": ("model",),
    "exo_inter_token_seconds": ("model",),
    "exo_requests_waiting": (),
}


def test_metrics_of_a_chat(start: Start) -> None:
    node = start()
    usage = node.chat("exo-demo", "What is 2 + 2?").json()["usage"]
    node.chat("nope")
    exposed = node.get("/metrics")
    assert exposed.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(exposed.body.decode())}
    assert set(METRICS) - set(families) - {"exo_inference_engine_info"} == set()
    for name, labels in METRICS.items():
        family = families.get(name) or families[name.removesuffix("_info")]
        for sample in family.samples:
            assert set(labels) <= set(sample.labels), sample
        assert family.samples, name
    demo = {"model": "exo-demo"}
    assert node.metric("exo_requests_total", status="success", **demo) == 1
    assert node.metric("exo_requests_total", status="error", model="unknown") == 1
    assert node.metric("exo_errors_total", type="model_not_found", model="unknown") == 1
    assert node.metric("exo_tokens_generated_total", **demo) == usage["completion_tokens"]
    assert node.metric("exo_prompt_tokens_total", **demo) == usage["prompt_tokens"]
    assert node.metric("exo_request_duration_seconds_count", **demo) == 1
    assert node.metric("exo_first_token_latency_seconds_count", **demo) == 1
    assert node.metric("exo_queue_seconds_count", **demo) == 1
    assert node.metric("exo_model_load_seconds_count", **demo) == 1
    assert 0 < node.metric("exo_inter_token_seconds_count", **demo) < usage["completion_tokens"]
    assert node.metric("exo_tokens_per_second", **demo) > 1
    assert node.metric("exo_model_info", **demo) == 1
    assert node.metric("exo_nodes_active") == 1
    assert node.metric("exo_requests_in_progress") == node.metric("exo_requests_waiting") == 0


def test_made_up_models_make_no_time_series(node: Node) -> None:
    for number in range(5):
        assert node.chat(f"made-up-{number}").status == 404
    assert b"made-up" not in node.get("/metrics").body


def test_a_refused_request_is_not_in_progress_any_more(start: Start) -> None:
    node = start()
    for stream in (False, True):
        assert node.chat("nope", n=3, stream=stream).status == 404
        assert node.metric("exo_requests_in_progress") == 0


def test_embeddings_are_counted(start: Start) -> None:
    node = start()
    for model in ("exo-demo", "nope"):
        node.request("POST", "/v1/embeddings", {"model": model, "input": "hi"})
    assert node.metric("exo_requests_total", model="exo-demo", status="success") == 1
    assert node.metric("exo_errors_total", model="unknown", type="model_not_found") == 1


@pytest.mark.parametrize("stream", [True, False])
def test_access_record_of_a_chat(node: Node, stream: bool) -> None:
    id = f"record-{stream}"
    node.chat("hello", "three little words", id=id, stream=stream)
    record = node.access(id)
    assert (record["method"], record["path"]) == ("POST", "/v1/chat/completions")
    assert (record["status"], record["model"]) == (200, "hello")
    assert (record["prompt_tokens"], record["completion_tokens"]) == (3, 4)
    assert 0 < record["ttft_ms"] <= record["duration_ms"]
    assert record["remote"] == "127.0.0.1"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", record["time"])
    assert "error" not in record


def test_access_record_of_a_failure(node: Node) -> None:
    node.chat("nope", id="record-failed")
    record = node.access("record-failed")
    assert (record["status"], record["model"], record["error"]) == (404, "nope", "model_not_found")


def test_records_never_hold_what_was_said(node: Node) -> None:
    node.chat("hello", "my deepest secret", id="record-secret")
    assert "secret" not in json.dumps(node.access("record-secret")).replace("record-secret", "")
    assert "deepest" not in node.log
