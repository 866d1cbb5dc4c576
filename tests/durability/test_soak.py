"""What the soak (bench/soak.py) takes for a leak, and for an answer that is none."""

import random
from collections.abc import Sequence

import pytest

from bench.soak import _excused
from bench.soak_asks import Failed, Wrong, asks, failure, questions
from bench.soak_faults import Fault
from bench.soak_load import Loss
from bench.soak_samples import Sample, trend

CHANCE = random.Random(0)
READ = {ask.name: ask.read for ask in asks(questions(1))}
CHUNK = (
    b'data: {"choices":[{"delta":{"content":"4"},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
)


def samples(sizes: Sequence[float]) -> list[Sample]:
    zero = dict.fromkeys(("threads", "children", "close_wait", "temporary"), 0)
    return [
        Sample(at=3.0 * number, rss=size, pss=size, fds=0, home=0.0, **zero)
        for number, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(
    ("sizes", "flat"),
    [
        ([100 + CHANCE.uniform(-5, 5) for _ in range(200)], True),
        ([100 + (50 if number % 20 == 7 else 0) for number in range(200)], True),
        ([100 + number * 0.2 for number in range(200)], False),
        ([100 + number * 0.2 + CHANCE.uniform(-15, 15) for number in range(200)], False),
        ([100.0] * 140 + [150.0] * 60, False),
        ([150.0] * 100 + [100.0] * 100, True),
    ],
    ids=["noise", "spikes", "a leak", "a leak in noise", "a step that stays", "less"],
)
def test_what_grows(sizes: Sequence[float], flat: bool) -> None:
    assert trend(samples(sizes), lambda sample: sample.rss, 10).flat is flat


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("chat, streamed", CHUNK),
        ("chat, streamed", b"data: [DONE]\n\n"),
        ("chat, streamed", CHUNK + b"data: [DONE]"),
        ("Ollama, streamed", b'{"message":{"content":"4"},"done":false}\n'),
        ("Responses, streamed", b'data: {"type":"response.output_text.delta","delta":"4"}\n\n'),
        ("Anthropic, streamed", b'data: {"type":"message_delta","delta":{}}\n\n'),
    ],
)
def test_a_stream_that_ends_early_as_if_it_were_whole_is_wrong(name: str, cut: bytes) -> None:
    with pytest.raises(Wrong, match=r"ended|ends"):
        READ[name](cut)


def test_a_stream_that_says_it_failed_is_not_wrong() -> None:
    error = b'data: {"error":{"code":"connection_lost","message":"gone"}}\n\n'
    with pytest.raises(Failed, match="connection_lost"):
        READ["chat, streamed"](CHUNK[: CHUNK.index(b"\n\n") + 2] + error)
    assert READ["chat, streamed"](CHUNK + b"data: [DONE]\n\n") == "|4| [stop]"
    assert isinstance(failure(502, b"<html>"), Wrong)


def test_a_fault_excuses_what_failed_while_it_lasted_and_nothing_else() -> None:
    fault = Fault("SIGKILL", 10.0, 20.0)
    loss = Loss("chat", 12.0, 13.0, "the engine failed", "", excusable=True)
    assert _excused(loss, [fault])
    assert not _excused(Loss("chat", 2.0, 9.0, "the engine failed", "", excusable=True), [fault])
    assert not _excused(Loss("chat", 12.0, 13.0, "wrong text", "", excusable=False), [fault])
