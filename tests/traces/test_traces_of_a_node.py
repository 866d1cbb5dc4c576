"""What a node's spans say of requests that end well, badly, or not at all; real processes."""

import signal
import socket
import time
from collections.abc import Mapping, Sequence

import pytest

from tests.e2e.node import HANG, Node, Wire, chat_body, eventually, fail, raw_chat, text, wait, write_script
from tests.page.member import free_port
from tests.traces.collector import Collector, Seen, with_header
from tests.traces.conftest import Machines

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET_WORDS = "nobody may read this"


def headers(trace: str = TRACE, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{CALLER}-{flags}"}


def ask(node: Node, model: str, trace: str = TRACE, **keys: object) -> int:
    body = chat_body(model, SECRET_WORDS, **keys)
    return node.request("POST", "/v1/chat/completions", body, headers(trace)).status


def named(spans: Sequence[Seen], name: str) -> Seen:
    [found] = [span for span in spans if span.name == name]
    return found


def test_a_failure_before_the_first_token(machines: Machines, collector: Collector) -> None:
    write_script(machines.home("a"), "broken", [fail("the wheel came off")])
    assert ask(machines.node("a"), "broken") == 502
    spans = collector.of(TRACE, "chat broken", "prefill", "queue")
    entry, prefill = named(spans, "chat broken"), named(spans, "prefill")
    assert (entry.failed, entry.error, entry.attributes["http.response.status_code"]) == (
        True,
        "engine_failed",
        502,
    )
    assert (prefill.failed, prefill.error) == (True, "engine_failed")
    assert "decode" not in {span.name for span in spans}
    assert b"wheel" not in collector.raw


def test_a_failure_behind_the_status_200(machines: Machines, collector: Collector) -> None:
    write_script(machines.home("a"), "breaks", [text("so far"), wait(0.05), fail("the wheel came off")])
    assert ask(machines.node("a"), "breaks", stream=True) == 200
    spans = collector.of(TRACE, "chat breaks", "prefill", "decode")
    entry, decode = named(spans, "chat breaks"), named(spans, "decode")
    assert (entry.failed, entry.error, entry.attributes["http.response.status_code"]) == (
        True,
        "engine_failed",
        200,
    )
    assert (decode.failed, decode.error, named(spans, "prefill").failed) == (True, "engine_failed", False)
    assert decode.seconds >= 0.04


def test_a_clients_own_mistake_is_no_failure_of_the_server(machines: Machines, collector: Collector) -> None:
    write_script(machines.home("a"), "hello", [text("Hello")])
    body = {"model": "hello", "input": SECRET_WORDS}
    assert machines.node("a").request("POST", "/v1/embeddings", body, headers()).status == 400
    entry = named(collector.of(TRACE, "embeddings hello"), "embeddings hello")
    assert (entry.failed, entry.error) == (False, "bad_request")


def test_a_hang_up_ends_everything_as_cancelled(machines: Machines, collector: Collector) -> None:
    write_script(machines.home("a"), "hangs", [text("started"), HANG])
    node = machines.node("a")
    with Wire(node) as wire:
        wire.send(with_header(raw_chat("hangs", stream=True), *next(iter(headers().items()))))
        wire.until(b"started")
    spans = collector.of(TRACE, "chat hangs", "prefill", "decode")
    for name in ("chat hangs", "decode"):
        assert (named(spans, name).failed, named(spans, name).error) == (True, "cancelled")
    assert not named(spans, "prefill").failed
    assert named(spans, "chat hangs").attributes["http.response.status_code"] == 499


def test_the_wait_for_a_turn_is_seen_and_the_loading_of_all_who_waited_for_it(
    machines: Machines, collector: Collector
) -> None:
    write_script(machines.home("a"), "slow", [wait(0.3), text("a")], load=[wait(0.2)])
    node = machines.node("a")
    other = TRACE[::-1]
    with Wire(node) as wire:
        wire.send(with_header(raw_chat("slow"), "traceparent", headers(other)["traceparent"]))
        eventually(lambda: node.waiting() + node.running() > 0)
        assert ask(node, "slow") == 200
        wire.until(b"chatcmpl")
    first = collector.of(other, "queue", "load", "prefill", "decode", "chat slow")
    second = collector.of(TRACE, "queue", "load", "prefill", "decode", "chat slow")
    assert named(first, "load").seconds >= 0.15
    assert named(second, "queue").seconds >= 0.3
    assert named(second, "queue").ended >= named(first, "decode").ended - 50_000_000
    # Of the one loading each has what it waited for.
    assert named(second, "load").ended == named(first, "load").ended
    assert named(second, "load").began >= named(second, "queue").began


def test_each_choice_has_phases_of_its_own(machines: Machines, collector: Collector) -> None:
    write_script(machines.home("a"), "hello", [text("Hello")], slots=2)
    assert ask(machines.node("a"), "hello", n=2, max_tokens=9, temperature=0.5) == 200
    spans = collector.of(TRACE, "chat hello", *["prefill", "decode", "queue"] * 2)
    entry = named(spans, "chat hello")
    assert entry.attributes["gen_ai.request.choice.count"] == 2
    assert entry.attributes["gen_ai.request.max_tokens"] == 9
    assert entry.attributes["gen_ai.request.temperature"] == 0.5
    assert len(entry.attributes["gen_ai.response.finish_reasons"]) == 2
    assert entry.attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert {span.parent for span in spans if span.name in ("queue", "prefill", "decode")} == {entry.id}


_MESSAGES = [{"role": "user", "content": SECRET_WORDS}]
DIALECTS: Mapping[str, tuple[Mapping[str, object], str]] = {
    "/v1/chat/completions": ({"messages": _MESSAGES, "max_tokens": 5}, "chat"),
    "/chat/completions": ({"messages": _MESSAGES, "max_tokens": 5}, "chat"),
    "/v1/completions": ({"prompt": SECRET_WORDS, "max_tokens": 5}, "text_completion"),
    "/v1/messages": ({"messages": _MESSAGES, "max_tokens": 5}, "chat"),
    "/v1/responses": ({"input": SECRET_WORDS}, "chat"),
    "/api/chat": ({"messages": _MESSAGES}, "chat"),
    "/api/generate": ({"prompt": SECRET_WORDS}, "chat"),
    "/v1/embeddings": ({"input": SECRET_WORDS}, "embeddings"),
    "/api/embed": ({"input": SECRET_WORDS}, "embeddings"),
}


def test_every_dialect_is_traced_and_nothing_that_was_said(machines: Machines, collector: Collector) -> None:
    node = machines.node("a")
    for number, (path, (body, operation)) in enumerate(DIALECTS.items(), 1):
        trace = f"{TRACE[:-2]}{number:02x}"
        reply = node.request("POST", path, {"model": "exo-demo", **body}, headers(trace))
        assert reply.status == 200, reply
        entry = named(collector.of(trace, f"{operation} exo-demo"), f"{operation} exo-demo")
        assert (entry.kind, entry.parent) == ("server", CALLER)
        assert entry.attributes["http.route"] == path
        assert entry.attributes["gen_ai.usage.input_tokens"] > 0
        phase = "embed" if operation == "embeddings" else "decode"
        assert named(collector.of(trace, phase), phase).parent == entry.id
    assert SECRET_WORDS.encode() not in collector.raw


@pytest.mark.parametrize("given", [None, "not-a-trace", f"00-{'0' * 32}-{CALLER}-01"])
def test_a_request_without_a_trace_begins_one(
    machines: Machines, collector: Collector, given: str | None
) -> None:
    write_script(machines.home("a"), "hello", [text("Hello")])
    sent = {"traceparent": given} if given else {}
    node = machines.node("a")
    assert node.request("POST", "/v1/chat/completions", chat_body("hello"), sent).status == 200
    spans = collector.until(lambda spans: len(spans) == 5)
    assert len({span.trace for span in spans}) == 1
    assert named(spans, "chat hello").parent == ""


def test_what_asks_for_no_model_has_no_trace(machines: Machines, collector: Collector) -> None:
    write_script(machines.home("a"), "hello", [text("Hello")])
    node = machines.node("a")
    for path in ("/healthcheck", "/v1/models", "/metrics", "/v1/cluster", "/"):
        assert node.get(path, **headers()).status == 200
    assert ask(node, "nobody", other := TRACE[::-1]) == 404
    assert ask(node, "hello") == 200
    collector.of(TRACE, "chat hello")
    assert len(collector.of(TRACE)) <= 5
    assert collector.of(other) == []


def test_what_its_caller_does_not_record_is_not_recorded(machines: Machines, collector: Collector) -> None:
    write_script(machines.home("a"), "hello", [text("Hello")])
    node = machines.node("a")
    body, other = chat_body("hello"), TRACE[::-1]
    for trace, flags in ((other, "00"), (TRACE, "01")):
        sent = headers(trace, flags)
        assert node.request("POST", "/v1/chat/completions", body, sent).status == 200
    collector.of(TRACE, "chat hello")
    assert collector.of(other) == []


def test_the_standards_variables_are_heeded(machines: Machines, collector: Collector) -> None:
    """The sampler, headers for the collector, and what the process is called."""
    write_script(machines.home("a"), "hello", [text("Hello")])
    env = {
        "OTEL_TRACES_SAMPLER": "traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.5",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20abc",
        "OTEL_SERVICE_NAME": "kitchen",
        "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=oven",
    }
    node = machines.node("a", env=env)
    # The ratio is of trace ids, whose last half is the number that counts.
    low, high = f"{TRACE[:16]}{1:016x}", f"{TRACE[:16]}{'f' * 16}"
    assert ask(node, "hello", high) == ask(node, "hello", low) == 200
    spans = collector.of(low, "chat hello")
    assert {(span.service, span.instance) for span in spans} == {("kitchen", "oven")}
    assert collector.of(high) == []
    assert collector.headers["authorization"] == "Bearer abc"


# A collector that is not there


def test_a_collector_that_is_away_costs_no_request(machines: Machines) -> None:
    port = free_port()
    write_script(machines.home("a"), "hello", [text("Hello")])
    # So a batch is given up soon.
    node = machines.node(
        "a", "--traces", f"http://127.0.0.1:{port}", env={"OTEL_EXPORTER_OTLP_TIMEOUT": "1.5"}, traced=False
    )
    for _ in range(5):
        began = time.monotonic()
        assert ask(node, "hello") == 200
        assert time.monotonic() - began < 1
    line = node.line("traces cannot be sent")
    assert f"http://127.0.0.1:{port}" in line
    assert "Connection refused" in line
    with Collector(port) as collector:
        assert ask(node, "hello", TRACE[::-1]) == 200
        collector.of(TRACE[::-1], "chat hello")
        eventually(lambda: "again" in node.log)


def test_a_collector_that_refuses_is_told_once_with_its_reason(
    machines: Machines, collector: Collector
) -> None:
    write_script(machines.home("a"), "hello", [text("Hello")])
    collector.status = 401
    node = machines.node("a")
    for batch in range(1, 5):
        assert ask(node, "hello") == 200
        collector.refused(batch)
    assert "401" in node.line("traces cannot be sent")
    # What was said of the last batch but one has been said, as they are sent one after another.
    assert node.log.count("traces") == 2, node.log
    collector.status = 200
    assert ask(node, "hello", TRACE[::-1]) == 200
    collector.of(TRACE[::-1], "chat hello")
    eventually(lambda: "again" in node.log)
    assert "opentelemetry" not in node.log


@pytest.mark.parametrize("listens", [False, True])
def test_a_collector_that_does_not_answer_does_not_hold_up_the_end(machines: Machines, listens: bool) -> None:
    write_script(machines.home("a"), "hello", [text("Hello")])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if not listens:
            silent.close()
        node = machines.node("a", "--traces", f"http://127.0.0.1:{port}", traced=False)
        assert ask(node, "hello") == 200
        began = time.monotonic()
        node.signal(signal.SIGTERM)
        assert node.exit_code() == 0
        assert time.monotonic() - began < 6  # of which a node without traces takes some, too
    assert "traces cannot be sent" in node.log


def test_what_is_left_is_sent_at_the_end(machines: Machines, collector: Collector) -> None:
    write_script(machines.home("a"), "hello", [text("Hello")])
    node = machines.node("a", env={"OTEL_BSP_SCHEDULE_DELAY": "600000"})
    assert ask(node, "hello") == 200
    assert collector.batches == 0
    node.signal(signal.SIGTERM)
    assert node.exit_code() == 0
    assert len(collector.of(TRACE, "chat hello", "queue", "load", "prefill", "decode")) == 5
