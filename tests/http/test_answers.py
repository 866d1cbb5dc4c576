"""Answers under way: batches, back-pressure, failures, and letting go."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import pytest

from exo.chat import ChatRequest, Delta, Finished, Message, Text, Usage
from exo.errors import EngineFailed, NotReady
from exo.http.answers import Answers
from exo.metrics import Answer, Metrics

END = Finished("stop", Usage(3, 2))


class Source:
    """A responder that gives `deltas` and then raises or hangs; counts what it has given."""

    def __init__(self, *deltas: Delta, error: Exception | None = None, hangs: bool = False) -> None:
        self.deltas = deltas
        self.error = error
        self.hangs = hangs
        self.given = 0
        self.open = 0

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        self.open += 1
        try:
            for delta in self.deltas:
                self.given += 1
                yield delta
            if self.hangs:
                await asyncio.Event().wait()
            if self.error:
                raise self.error
        finally:
            self.open -= 1


def answers(source: Source, *, n: int = 1) -> Answers:
    request = ChatRequest(model="m", messages=(Message("user", "hi"),))
    metrics = Metrics("0", ())
    return Answers(source, [request] * n, [Answer(metrics, "m") for _ in range(n)])


async def all_of(under_way: Answers) -> list[tuple[int, Delta]]:
    taken: list[tuple[int, Delta]] = []
    while not under_way.over:
        taken += await under_way.take(60)
    return taken


async def test_everything_comes_in_order() -> None:
    async with answers(Source(Text("a"), Text("b"), END)) as under_way:
        assert await all_of(under_way) == [(0, Text("a")), (0, Text("b")), (0, END)]


async def test_a_fast_engine_comes_in_batches_and_waits_for_a_slow_client() -> None:
    source = Source(*[Text(str(i)) for i in range(2000)], END)
    async with answers(source) as under_way:
        first = await under_way.take(60)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(first) > 100
        assert source.given < 600, "it has run ahead of a client that takes nothing"
        rest = await all_of(under_way)
    assert [delta for _, delta in first + rest] == [*source.deltas]


async def test_choices_are_told_apart() -> None:
    async with answers(Source(Text("a"), END), n=3) as under_way:
        taken = await all_of(under_way)
    assert sorted(index for index, _ in taken) == [0, 0, 1, 1, 2, 2]
    assert under_way.usage(3) == Usage(prompt_tokens=3, completion_tokens=6)


async def test_silence_is_an_empty_batch() -> None:
    async with answers(Source(Text("a"), hangs=True)) as under_way:
        assert await under_way.take(60) == [(0, Text("a"))]
        assert await under_way.take(0.001) == []
        assert not under_way.over


async def test_what_came_before_a_failure_is_taken_before_it() -> None:
    async with answers(Source(Text("a"), error=NotReady("gone"))) as under_way:
        assert await under_way.take(60) == [(0, Text("a"))]
        with pytest.raises(NotReady, match="gone"):
            await under_way.take(60)


async def test_one_failure_ends_all_choices() -> None:
    source = Source(Text("a"), hangs=True)
    async with answers(source, n=2) as under_way:
        await under_way.take(60)
        under_way.fail(NotReady("gone"))
        with pytest.raises(NotReady):
            await under_way.take(60)
    assert source.open == 0


async def test_a_defect_of_an_engine_is_an_engine_failure() -> None:
    async with answers(Source(error=ZeroDivisionError("in there"))) as under_way:
        with pytest.raises(EngineFailed, match="ZeroDivisionError: in there") as failed:
            await all_of(under_way)
    assert isinstance(failed.value.__cause__, ZeroDivisionError)


async def test_leaving_lets_go_before_it_returns() -> None:
    source = Source(Text("a"), hangs=True)
    async with answers(source, n=4) as under_way:
        await under_way.take(60)
        assert source.open == 4
    assert source.open == 0


@pytest.mark.parametrize(
    ("source", "status", "error"),
    [
        (Source(Text("a"), END), "success", None),
        (Source(error=NotReady("gone")), "error", "not_ready"),
        (Source(Text("a"), hangs=True), "cancelled", None),
    ],
    ids=["success", "error", "cancelled"],
)
async def test_each_answer_is_counted_once(source: Source, status: str, error: str | None) -> None:
    metrics = Metrics("0", ())
    request = ChatRequest(model="m", messages=(Message("user", "hi"),))
    with contextlib.suppress(NotReady):
        async with Answers(source, [request], [Answer(metrics, "m")]) as under_way:
            while not under_way.over and not (source.hangs and source.given):
                await under_way.take(60)

    def count(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert count("exo_requests_total", model="m", status=status) == 1
    assert count("exo_requests_in_progress") == 0
    assert count("exo_request_duration_seconds_count", model="m") == 1
    assert count("exo_errors_total", type="not_ready", model="m") == (1 if error else None)
    if status == "success":
        assert count("exo_prompt_tokens_total", model="m") == 3
        assert count("exo_tokens_generated_total", model="m") == 2
        assert count("exo_first_token_latency_seconds_count", model="m") == 1
