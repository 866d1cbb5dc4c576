"""Whatever is sent, the answer is a 4xx that says what is wrong, and the next request is served."""

import gzip
import json
from contextlib import ExitStack

import pytest

from .conftest import Start
from .node import Node, Wire, chat_body, eventually, raw_chat, raw_post, text, write_script

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
LONG = "word " * 5000


def chat_with(**keys: object) -> dict[str, object]:
    return {**chat_body("exo-demo"), **keys}


def chat_saying(*messages: object) -> dict[str, object]:
    return chat_with(messages=list(messages))


NOT_JSON = {
    "empty": b"",
    "cut short": b'{"model": "exo-demo", ',
    "not UTF-8": b'{"model": "\xff\xfe"}',
    "lone surrogate": rb'{"model": "\ud800"}',
    "NaN": b'{"model": NaN}',
    "comment": b'{"model": "exo-demo" /* the toy */}',
    "deep": b"[" * 200_000,
    "NUL": b"\0" * 100,
    "form": b"model=exo-demo&messages=hi",
}

NOT_A_CHAT: dict[str, tuple[object, str | None]] = {
    "list": ([], None),
    "null": (b"null", None),
    "text": ("hi", None),
    "nothing": ({}, "messages"),
    "no model": ({"messages": HI}, "model"),
    "model of wrong type": (chat_with(model=7), "model"),
    "empty model": (chat_with(model=""), "model"),
    "no messages": ({"model": "exo-demo"}, "messages"),
    "null messages": (chat_with(messages=None), "messages"),
    "empty messages": (chat_with(messages=[]), "messages"),
    "messages of wrong type": (chat_with(messages="hi"), "messages"),
    "message of wrong type": (chat_saying("hi"), "messages[0]"),
    "no role": (chat_saying({"content": "hi"}), "messages[0].role"),
    "unknown role": (chat_saying(*HI, {"role": "wizard", "content": "hi"}), "messages[1].role"),
    "no content": (chat_saying({"role": "user"}), "messages[0].content"),
    "null content": (chat_saying({"role": "user", "content": None}), "messages[0].content"),
    "content of wrong type": (chat_saying({"role": "user", "content": 7}), "messages[0].content"),
    "empty parts": (chat_saying({"role": "user", "content": []}), "messages[0].content"),
    "image": (
        chat_saying({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
        "messages[0].content[0]",
    ),
    "temperature too high": (chat_with(temperature=2.01), "temperature"),
    "temperature below zero": (chat_with(temperature=-0.1), "temperature"),
    "temperature of wrong type": (chat_with(temperature="hot"), "temperature"),
    "temperature beyond floats": (
        b'{"model": "exo-demo", "messages": [{"role": "user", "content": "hi"}], "temperature": 1e999}',
        "temperature",
    ),
    "top_p zero": (chat_with(top_p=0), "top_p"),
    "top_p above one": (chat_with(top_p=1.1), "top_p"),
    "top_k below zero": (chat_with(top_k=-1), "top_k"),
    "min_p above one": (chat_with(min_p=2), "min_p"),
    "max_tokens zero": (chat_with(max_tokens=0), "max_tokens"),
    "max_tokens below zero": (chat_with(max_tokens=-1), "max_tokens"),
    "max_tokens fraction": (chat_with(max_tokens=1.5), "max_tokens"),
    "max_tokens beyond a C int": (chat_with(max_tokens=2**40), "max_tokens"),
    "max_completion_tokens zero": (chat_with(max_completion_tokens=0), "max_completion_tokens"),
    "penalty too high": (chat_with(presence_penalty=2.1), "presence_penalty"),
    "n zero": (chat_with(n=0), "n"),
    "n too many": (chat_with(n=1000), "n"),
    "seed of wrong type": (chat_with(seed="x"), "seed"),
    "seed beyond 64 bits": (chat_with(seed=2**70), "seed"),
    "stop empty": (chat_with(stop=""), "stop"),
    "stop of wrong type": (chat_with(stop=[7]), "stop[0]"),
    "stream of wrong type": (chat_with(stream="yes"), "stream"),
    "stream_options alone": (chat_with(stream_options={"include_usage": True}), "stream_options"),
    "logit_bias too high": (chat_with(logit_bias={"5": 101}), "logit_bias"),
    "logit_bias of no token": (chat_with(logit_bias={"x": 1}), "logit_bias"),
    "logit_bias beyond the vocabulary": (chat_with(logit_bias={"99999999": 1}), "logit_bias"),
    "top_logprobs alone": (chat_with(top_logprobs=2), "top_logprobs"),
    "top_logprobs too many": (chat_with(logprobs=True, top_logprobs=21), "top_logprobs"),
    "response_format unknown": (chat_with(response_format={"type": "xml"}), "response_format"),
    "schema that cannot be enforced": (
        chat_with(
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"type": "no such type"}},
            }
        ),
        "response_format",
    ),
    "grammar that does not parse": (chat_with(grammar="root ::= ((("), "grammar"),
    "tool without a name": (
        chat_with(tools=[{"type": "function", "function": {}}]),
        "tools[0].function.name",
    ),
    "forced tool without tools": (chat_with(tool_choice="required"), "tool_choice"),
    "functions": (chat_with(functions=[]), "functions"),
    "unknown key": (chat_with(temprature=1), "temprature"),
    "contradiction": (chat_with(max_tokens=1, max_completion_tokens=2), "max_completion_tokens"),
}


def assert_refused(reply_status: int, error: dict[str, object], param: str | None) -> None:
    assert (reply_status, error["type"], error["param"]) == (400, "invalid_request_error", param), error


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_not_json(node: Node, path: str, body: bytes) -> None:
    reply = node.request("POST", path, body)
    assert_refused(reply.status, reply.error(), None)
    node.assert_serves()


@pytest.mark.parametrize(("body", "param"), NOT_A_CHAT.values(), ids=NOT_A_CHAT)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_not_a_chat(node: Node, body: object, param: str | None, stream: bool) -> None:
    if stream and isinstance(body, dict) and "stream" not in body and "stream_options" not in body:
        body = {**body, "stream": True}
    reply = node.request("POST", CHAT, body)
    assert_refused(reply.status, reply.error(), param)
    node.assert_serves()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "exo-demo"}, "prompt"),
        ({"model": "exo-demo", "prompt": 7}, "prompt"),
        ({"model": "exo-demo", "prompt": []}, "prompt"),
        ({"model": "exo-demo", "prompt": [1, 2, 3]}, "prompt[0]"),
        ({"model": "exo-demo", "prompt": "a", "best_of": 3}, "best_of"),
        ({"model": "exo-demo", "prompt": "a", "suffix": "b"}, "suffix"),
        ({"model": "exo-demo", "prompt": "a", "logprobs": 6}, "logprobs"),
        ({"model": "exo-demo", "prompt": "a", "messages": HI}, "messages"),
    ],
)
def test_not_a_completion(node: Node, body: object, param: str) -> None:
    reply = node.request("POST", "/v1/completions", body)
    assert_refused(reply.status, reply.error(), param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "exo-demo"}, "input"),
        ({"model": "exo-demo", "input": ""}, "input"),
        ({"model": "exo-demo", "input": []}, "input"),
        ({"model": "exo-demo", "input": [""]}, "input[0]"),
        ({"model": "exo-demo", "input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"model": "exo-demo", "input": "a", "dimensions": 3}, "dimensions"),
        ({"model": "hello", "input": "a"}, "model"),
    ],
)
def test_not_an_embedding(node: Node, body: object, param: str) -> None:
    reply = node.request("POST", "/v1/embeddings", body)
    assert_refused(reply.status, reply.error(), param)


@pytest.mark.parametrize(
    "name", ["exo-dmo", "EXO-DEMO", "exo-demo/", "../exo-demo", "/etc/passwd", "ö" * 200]
)
def test_unknown_model(node: Node, name: str) -> None:
    for path, body in (
        (CHAT, chat_body(name)),
        ("/v1/completions", {"model": name, "prompt": "hi"}),
        ("/v1/embeddings", {"model": name, "input": "hi"}),
    ):
        reply = node.request("POST", path, body)
        error = reply.error()
        assert (reply.status, error["code"], error["param"]) == (404, "model_not_found", "model")
    node.assert_serves()


def test_model_of_a_million_letters(node: Node) -> None:
    """Neither the answer nor the log repeats it, nor is the node busy comparing it for seconds."""
    reply = node.chat("ab" * 500_000, id="long-model")
    assert (reply.status, reply.error()["param"]) in ((400, "model"), (404, "model"))
    assert len(reply.body) < 4000
    assert len(json.dumps(node.access("long-model"))) < 4000
    node.assert_serves()


def test_unknown_model_names_the_nearest_wherever_it_is_asked_for(node: Node) -> None:
    asked = [
        node.chat("exo-dmo"),
        node.chat("exo-dmo", stream=True),
        node.request("POST", "/v1/embeddings", {"model": "exo-dmo", "input": "hi"}),
        node.get("/v1/models/exo-dmo"),
    ]
    assert [(reply.status, "exo-demo" in reply.error()["message"]) for reply in asked] == [(404, True)] * 4


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["exo-demo", "hello"])
def test_prompt_beyond_the_context(node: Node, model: str, stream: bool) -> None:
    for path, body, param in (
        (CHAT, chat_body(model, LONG, stream=stream), "messages"),
        ("/v1/completions", {"model": model, "prompt": LONG, "stream": stream}, "prompt"),
    ):
        reply = node.request("POST", path, body)
        error = reply.error()
        assert (reply.status, error["code"]) == (400, "context_length_exceeded")
        assert error["param"] == param
        assert any(figure in error["message"] for figure in ("2048", "4096")), error
    node.assert_serves()


def test_text_to_embed_beyond_the_context(node: Node) -> None:
    reply = node.request("POST", "/v1/embeddings", {"model": "exo-demo", "input": ["hi", LONG]})
    assert (reply.status, reply.error()["code"]) == (400, "context_length_exceeded")
    assert reply.error()["param"].startswith("input")
    node.assert_serves()


def test_body_of_32_mib(node: Node) -> None:
    reply = node.chat("hello", "a" * (32 << 20))
    assert (reply.status, reply.error()["code"]) == (413, "request_too_large")
    assert "MiB" in reply.error()["message"]
    node.assert_serves()


def test_body_of_32_mib_that_was_1_mib_when_sent(node: Node) -> None:
    body = gzip.compress(json.dumps(chat_body("hello", "a" * (32 << 20))).encode())
    reply = node.request("POST", CHAT, body, {"Content-Encoding": "gzip"})
    assert (reply.status, reply.error()["code"]) == (413, "request_too_large")
    node.assert_serves()


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nowhere"), ("POST", "/v1/chat"), ("GET", "/v1/models/"), ("GET", "//"), ("GET", "/%ff")],
)
def test_unknown_route(node: Node, method: str, path: str) -> None:
    reply = node.request(method, path)
    assert (reply.status, reply.error()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "takes"),
    [
        ("GET", CHAT, "POST"),
        ("DELETE", CHAT, "POST"),
        ("POST", "/v1/models", "GET"),
        ("PUT", "/metrics", "GET"),
    ],
)
def test_wrong_method(node: Node, method: str, path: str, takes: str) -> None:
    reply = node.request(method, path)
    assert (reply.status, reply.error()["code"]) == (405, "method_not_allowed")
    assert takes in reply.headers["allow"]
    assert takes in reply.error()["message"]


BROKEN_HTTP = {
    "not HTTP": b"hello there\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40 + b"\r\n\r\n",
    "unknown method": b"BREW /healthcheck HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "bad header": b"GET /healthcheck HTTP/1.1\r\nHost: h\r\nno colon here\r\n\r\n",
    "long header": b"GET /healthcheck HTTP/1.1\r\nHost: h\r\nx: " + b"a" * 100_000 + b"\r\n\r\n",
    "long path": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    "bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "length is no number": b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: many\r\n\r\n",
    "length below zero": b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\n"
    b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "bad chunks": b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
    b"Connection: close\r\n\r\nzz\r\n{}\r\n",
    "not gzip": b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\n"
    b"Connection: close\r\nContent-Length: 4\r\n\r\nabcd",
    "odd expectation": b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nExpect: miracles\r\n"
    b"Connection: close\r\nContent-Length: 2\r\n\r\n{}",
    "bytes in the origin": b"GET /healthcheck HTTP/1.1\r\nHost: h\r\nOrigin: \xff\xfe\r\n"
    b"Connection: close\r\n\r\n",
}


@pytest.mark.parametrize("sent", BROKEN_HTTP.values(), ids=BROKEN_HTTP)
def test_broken_http(node: Node, sent: bytes) -> None:
    with Wire(node) as wire:
        wire.send(sent)
        answer = wire.until(b"\r\n")
    assert answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answer
    assert b"Traceback" not in answer
    node.assert_serves()


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"POST /v1/chat/completions HTTP/1.1\r\nHo",
        b"",
    ],
    ids=["in the body", "in a chunk", "in the head", "at once"],
)
def test_client_leaves_while_it_asks(node: Node, sent: bytes) -> None:
    with Wire(node) as wire:
        wire.send(sent)
    node.assert_serves()


def test_200_half_open_connections(start: Start) -> None:
    """They cost their sockets and nothing else; completed later, each is still answered."""
    node = start(scripts={"hello": [text("Hello")]})
    half = raw_chat("hello")
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(node)) for _ in range(200)]
        for place, wire in enumerate(wires):
            wire.send(half[: len(half) * (place % 10) // 10])
        for _ in range(5):
            node.assert_serves()
        for place, wire in list(enumerate(wires))[::20]:
            wire.send(half[len(half) * (place % 10) // 10 :])
            assert wire.until(b"Hello").startswith(b"HTTP/1.1 200")


def test_a_slow_reader_costs_no_memory_and_blocks_nobody(start: Start) -> None:
    node = start(scripts={"hello": [text("Hello")]})
    write_script(node.home, "flood", [text("x" * 4096)], repeat=20_000, context=100_000, slots=2)
    node.assert_serves()
    before = node.rss()
    with Wire(node, receive_buffer=1 << 16) as wire:
        wire.send(raw_chat("flood", stream=True, id="slow"))
        wire.until(b"xxxx")
        # Long enough to play all 80 MB to somebody who reads: this does just that, on the other slot.
        assert len(node.chat("flood", stream=True).body) > 80 << 20
        for _ in range(5):
            assert node.chat("hello").status == 200
        assert node.running() == 1, "the slow reader's answer was played to the end without being read"
        assert node.rss() - before < 32 << 20
    assert node.access("slow")["status"] == 499
    eventually(lambda: node.running() == 0)
    node.assert_serves()


def test_pipelined_requests_are_answered_in_order(node: Node) -> None:
    with Wire(node) as wire:
        wire.send(raw_chat("hello", id="first") + raw_post("/v1/embeddings", {}, id="second"))
        received = wire.until(b"second")
    assert received.index(b"first") < received.index(b"second")
