"""One trace from a client through nodes to the NPU: real processes, and a collector they send to."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from tests.e2e.node import Wire, chat_body, fail, raw_post, text, wait, write_script
from tests.traces.collector import Clock, Collector, Seen, with_header
from tests.traces.conftest import Machines

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
QUESTION = "What is 145 + 278?"
MOMENT = 200_000_000
MANUAL = (Path(__file__).parents[2] / "docs" / "TRACES.md").read_text(encoding="utf-8")
CHAT = chat_body("shared")


def only(spans: Sequence[Seen], service: str, name: str, kind: str = "internal", at: str = "") -> Seen:
    [found] = [
        span
        for span in spans
        if (span.service, span.name, span.kind) == (service, name, kind) and at in ("", span.instance)
    ]
    return found


def test_a_trace_goes_from_the_client_over_two_nodes_to_the_npu(
    machines: Machines, collector: Collector
) -> None:
    clock = Clock()
    npu = machines.npu(env={"STANDIN_TOKEN_MS": "2"})
    first, second = machines.members(a={}, b={"RKLLM_SERVER_PORT": str(npu.port)})
    body = {"model": "npu-demo", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    reply = first.request(
        "POST", "/v1/chat/completions", body, {"traceparent": TRACEPARENT, "x-request-id": "request-1"}
    )
    assert reply.status == 200
    said = reply.json()["choices"][0]["message"]["content"]
    assert "423" in said
    spans = collector.of(TRACE, *["chat npu-demo"] * 5, "queue", "load", "prefill", "decode", "npu run")
    assert len(spans) == 10

    # Who called whom.
    entry = only(spans, "exo", "chat npu-demo", "server", at="a")
    hop = only(spans, "exo", "chat npu-demo", "client", at="a")
    there = only(spans, "exo", "chat npu-demo", "server", at="b")
    upstream = only(spans, "exo", "chat npu-demo", "client", at="b")
    server = only(spans, "rkllama", "chat npu-demo", "server")
    chain = [entry, hop, there, upstream, server]
    assert [span.parent for span in chain] == [CALLER, *(span.id for span in chain[:-1])]
    queue, load, prefill, decode, run = (
        only(spans, "rkllama", name) for name in ("queue", "load", "prefill", "decode", "npu run")
    )
    assert [span.parent for span in (queue, prefill, decode, run)] == [server.id] * 4
    assert load.parent == queue.id

    # How long it took.
    assert clock.holds(*spans)
    for outer, inner in [*pairwise(chain), (server, queue), (server, run), (queue, load)]:
        assert outer.began <= inner.began
        # A server's span ends when all is written, which its client may have read before.
        assert inner.ended <= outer.ended + MOMENT
    assert queue.ended <= prefill.began <= prefill.ended <= decode.began <= decode.ended
    tokens = reply.json()["usage"]["completion_tokens"]
    assert decode.seconds >= 0.002 * (tokens - 1) * 0.9
    assert abs(run.attributes["exo.npu.generate_seconds"] - decode.seconds) < 0.5

    # What it was.
    assert not any(span.failed or span.error for span in spans)
    for span in chain:
        assert span.attributes["gen_ai.operation.name"] == "chat"
        assert span.attributes["gen_ai.provider.name"] == "exo"
        assert span.attributes["gen_ai.request.model"] == "npu-demo"
        assert span.attributes["gen_ai.usage.output_tokens"] == tokens
    for span in (entry, there, server):
        assert span.attributes["http.response.status_code"] == 200
        assert span.attributes["http.route"] == "/v1/chat/completions"
        assert span.attributes["gen_ai.response.finish_reasons"] == ["stop"]
        assert span.attributes["exo.request.id"] == "request-1"
    assert there.attributes["exo.via"] == "a"
    assert (hop.attributes["server.address"], hop.attributes["server.port"]) == ("127.0.0.1", second.port)
    assert upstream.attributes["server.port"] == npu.port
    assert run.attributes["exo.npu.generate_tokens"] == tokens
    assert run.attributes["exo.npu.release"] == "1.3.0"
    assert run.attributes["process.pid"] in npu.children()

    # The manual has all of it.
    for name in {name for span in spans for name in span.attributes}:
        assert f"`{name}`" in MANUAL or any(
            f"`.{name[end + 1 :]}`" in MANUAL for end, letter in enumerate(name) if letter == "."
        ), name

    # Nothing of what was said is in it.
    for words in (QUESTION, "145", "278", said):
        assert not any(words in str(value) for span in spans for value in span.attributes.values())
        assert words.encode() not in collector.raw


def test_nodes_that_record_nothing_are_no_end_of_a_trace(machines: Machines, collector: Collector) -> None:
    npu = machines.npu()
    first, _ = machines.members(dark_a={}, dark_b={"RKLLM_SERVER_PORT": str(npu.port)})
    state = "vendor=opaque,other=1"
    body = {"model": "npu-demo", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 3}
    headers = {"traceparent": TRACEPARENT, "tracestate": state}
    assert first.request("POST", "/v1/chat/completions", body, headers).status == 200
    spans = collector.of(TRACE, "chat npu-demo", "npu run")
    server = only(spans, "rkllama", "chat npu-demo", "server")
    assert server.parent == CALLER
    assert server.state == state
    assert {span.service for span in spans} == {"rkllama"}


def test_a_node_that_fails_is_seen_beside_the_one_that_answers(
    machines: Machines, collector: Collector
) -> None:
    write_script(machines.home("b"), "shared", [text("so far"), fail("the wheel came off")])
    write_script(machines.home("c"), "shared", [text("so far"), text(" so good")])
    first, *_ = machines.members(a={}, b={}, c={})
    traces = [f"{TRACE[:-2]}{number:02x}" for number in range(1, 9)]
    for trace in traces:
        reply = first.request(
            "POST", "/v1/chat/completions", CHAT, {"traceparent": f"00-{trace}-{CALLER}-01"}
        )
        assert reply.status == 200, reply
        if first.metric("exo_failovers_total"):
            break
    spans = collector.of(trace, *["chat shared"] * 5, *["queue"] * 2, *["prefill"] * 2, *["decode"] * 2)
    entry = only(spans, "exo", "chat shared", "server", at="a")
    broken, mended = (span for span in spans if span.kind == "client")
    assert [broken.parent, mended.parent] == [entry.id] * 2
    assert (broken.failed, broken.error) == (True, "engine_failed")
    assert not mended.failed
    assert broken.ended <= mended.began
    assert not entry.failed
    there = only(spans, "exo", "chat shared", "server", at="b")
    assert (there.parent, there.failed, there.error) == (broken.id, True, "engine_failed")
    assert only(spans, "exo", "chat shared", "server", at="c").parent == mended.id
    [prefill, decode] = [
        span for span in spans if span.instance == "b" and span.name in ("prefill", "decode")
    ]
    assert (prefill.error, decode.error) == ("", "engine_failed")
    assert b"wheel" not in collector.raw


def test_a_node_that_is_gone_is_seen_beside_the_one_that_answers(
    machines: Machines, collector: Collector
) -> None:
    """Killed in the middle of its answer: the one who asked it has all there is to be known."""
    for name in ("b", "c"):
        write_script(machines.home(name), "shared", [text("so far"), wait(0.5), text(" so good")])
    nodes = {node.me()["id"]: node for node in machines.members(a={}, b={}, c={})}
    with Wire(nodes["a"]) as wire:
        body = {**CHAT, "stream": True}
        wire.send(with_header(raw_post("/v1/chat/completions", body), "traceparent", TRACEPARENT))
        head = wire.until(b"so far").decode().lower()
        victim = "b" if "x-exo-route: b:" in head else "c"
        nodes[victim].kill()
        machines.forget(nodes[victim])
        wire.until(b"[DONE]")
    spans = collector.of(TRACE, *["chat shared"] * 4)
    lost, found = (span for span in spans if span.kind == "client")
    assert (lost.failed, lost.error) == (True, "connection_lost")
    assert (found.failed, found.error) == (False, "")
    assert {span.instance for span in spans} == {"a", "b", "c"} - {victim}
