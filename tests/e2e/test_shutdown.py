"""SIGTERM and SIGINT: answers under way end well, or with an error event; the process always ends."""

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .conftest import Start
from .node import HANG, Node, Wire, events, eventually, raw_chat, text, wait, write_script

BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
# Seconds within which a process that has nothing to wait for must have ended, on a busy machine too.
SOON = 10.0


def refuses_connections(node: Node) -> bool:
    try:
        socket.create_connection(("127.0.0.1", node.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def sse(received: bytes) -> bytes:
    """The body of a raw chunked answer, whose chunks each hold whole events."""
    body, rest = b"", received.split(b"\r\n\r\n", 1)[1]
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


@BOTH
def test_when_idle(start: Start, number: signal.Signals) -> None:
    node = start()
    node.get("/healthcheck")
    node.signal(number)
    assert node.exit_code(SOON) == 0
    assert refuses_connections(node)


def test_with_idle_connections_open(start: Start) -> None:
    node = start(scripts={"hello": [text("Hello")]})
    with Wire(node) as idle, Wire(node) as half, Wire(node):
        idle.send(raw_chat("hello"))
        idle.until(b"Hello")
        half.send(raw_chat("hello")[:40])
        node.signal(signal.SIGTERM)
        assert node.exit_code(SOON) == 0


@BOTH
def test_an_answer_under_way_is_finished(start: Start, number: signal.Signals) -> None:
    steps: list[object] = [text("started"), *[wait(0.1), text(".")] * 10]
    node = start(scripts={"slow": steps})
    with Wire(node) as wire:
        wire.send(raw_chat("slow", stream=True))
        wire.until(b"started")
        node.signal(number)
        node.line("stopping")
        wire.until(b"[DONE]")
        *data, done = events(sse(wire.rest()))
    said = "".join(json.loads(each)["choices"][0]["delta"].get("content", "") for each in data)
    assert (said, done) == ("started" + "." * 10, "[DONE]")
    assert node.exit_code(SOON) == 0


def test_a_whole_answer_under_way_is_finished(start: Start) -> None:
    node = start(scripts={"slow": [wait(1), text("Hello")]})
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(node.chat, "slow")
        eventually(lambda: node.running() == 1)
        node.signal(signal.SIGTERM)
        assert answer.result().status == 200
    assert node.exit_code(SOON) == 0


def test_those_who_wait_for_a_slot_are_answered_too(start: Start) -> None:
    node = start(scripts={"slow": [wait(0.5), text("Hello")]})
    with ThreadPoolExecutor(3) as clients:
        answers = [clients.submit(node.chat, "slow") for _ in range(3)]
        eventually(lambda: (node.running(), node.waiting()) == (1, 2))
        node.signal(signal.SIGTERM)
        assert [answer.result().status for answer in answers] == [200] * 3
    assert node.exit_code(SOON) == 0


def test_embeddings_under_way_are_finished(start: Start) -> None:
    node = start("--slots", "1")
    texts = ["a b c d " * 100] * 40
    with ThreadPoolExecutor(1) as client:
        answer = client.submit(node.request, "POST", "/v1/embeddings", {"model": "exo-demo", "input": texts})
        eventually(lambda: node.running() == 1)
        node.signal(signal.SIGTERM)
        assert answer.result().status == 200
    assert node.exit_code(SOON) == 0


@BOTH
def test_an_answer_that_outlives_the_grace_ends_with_an_error(start: Start, number: signal.Signals) -> None:
    node = start("--grace", "0.3", scripts={"hangs": [text("started"), HANG]})
    with Wire(node) as streamed, ThreadPoolExecutor(1) as client:
        streamed.send(raw_chat("hangs", stream=True))
        streamed.until(b"started")
        queued = client.submit(node.chat, "hangs")
        eventually(lambda: node.waiting() == 1)
        node.signal(number)
        *_, last = events(sse(streamed.rest()))
        assert json.loads(last)["error"]["code"] == "not_ready"
        assert b"[DONE]" not in streamed.received
        reply = queued.result()
        assert (reply.status, reply.error()["code"]) == (503, "not_ready")
    assert node.exit_code(SOON) == 0
    with socket.socket() as port:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port.bind(("127.0.0.1", node.port))


def test_nothing_new_is_taken_meanwhile(start: Start) -> None:
    node = start("--grace", "20", scripts={"hangs": [text("started"), HANG]})
    known = node.connection()
    known.request("GET", "/ready")
    assert known.getresponse().read()
    with Wire(node) as wire:
        wire.send(raw_chat("hangs", stream=True))
        wire.until(b"started")
        node.signal(signal.SIGTERM)
        eventually(lambda: refuses_connections(node))
        # A connection that was open before may be closed, or told no; it must not be served.
        try:
            known.request("GET", "/ready")
            reply = known.getresponse()
            assert reply.status == 503, reply.read()
            reply.read()
            known.request("POST", "/v1/chat/completions", json.dumps({"model": "hangs", "messages": []}))
            assert known.getresponse().status >= 400
        except (ConnectionError, OSError):
            pass
        finally:
            known.close()
        assert node.process.poll() is None
    # The last client left, so there is nothing to wait for.
    assert node.exit_code(SOON) == 0


def test_a_second_signal_does_not_wait(start: Start) -> None:
    node = start("--grace", "600", scripts={"hangs": [text("started"), HANG]})
    with Wire(node) as wire:
        wire.send(raw_chat("hangs", stream=True))
        wire.until(b"started")
        node.signal(signal.SIGTERM)
        node.line("stopping")
        node.signal(signal.SIGTERM)
        assert b'"not_ready"' in wire.rest()
    assert node.exit_code(SOON) == 0


def test_a_client_that_does_not_read_cannot_keep_it(start: Start, home: Path) -> None:
    write_script(home, "flood", [text("x" * 4096)], repeat=20_000, context=100_000)
    node = start("--grace", "0.3")
    with Wire(node, receive_buffer=1 << 16) as wire:
        wire.send(raw_chat("flood", stream=True))
        wire.until(b"xxxx")
        node.signal(signal.SIGTERM)
        assert node.exit_code(SOON) == 0


def test_while_a_model_loads(start: Start, home: Path) -> None:
    write_script(home, "large", [text("hi")], load=[HANG])
    node = start("--grace", "0.3")
    with Wire(node) as wire:
        wire.send(raw_chat("large"))
        eventually(lambda: node.waiting() == 1)
        node.signal(signal.SIGTERM)
        assert wire.until(b"not_ready").startswith(b"HTTP/1.1 503")
        assert node.exit_code(SOON) == 0


def test_while_a_model_is_preloaded(start: Start, home: Path) -> None:
    write_script(home, "large", [text("hi")], load=[HANG])
    node = start("--grace", "0.3", "--preload", "large")
    node.line("models:")
    node.signal(signal.SIGTERM)
    assert node.exit_code(SOON) == 0


def test_while_the_bundled_model_answers(start: Start) -> None:
    """Its threads are native: they must be told, or the process would crash or stay."""
    node = start("--grace", "0.1")
    with Wire(node) as wire:
        wire.send(
            raw_chat("exo-demo", stream=True, n=4, max_tokens=1900, logit_bias={"0": -1}, temperature=2)
        )
        wire.until(b'"content":')
        node.signal(signal.SIGTERM)
        assert wire.rest().count(b"[DONE]") + wire.received.count(b'"not_ready"') == 1
    assert node.exit_code(SOON) == 0
