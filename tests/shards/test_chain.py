"""Chains over shards in this test's hands: who is asked for what, when, and what is handed on."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from exo.cards import Span
from exo.chat import Sampling
from exo.errors import EngineFailed
from exo.shards.chain import Chain
from exo.shards.frames import Drawn, Rows
from exo.shards.process import ShardProcess
from tests.shards.conftest import Start

Call = tuple[Any, ...]


class Recorder:
    """A shard, first or further, that writes down what it is asked for and answers when the test lets it."""

    width = 1
    alive = True

    def __init__(self, name: str, log: list[Call]) -> None:
        self.name, self.log = name, log
        self.span = Span(0, 1)
        self.open = asyncio.Event()
        self.open.set()
        self.fails_at: int | None = None

    async def _do(self, *call: Any) -> None:
        self.log.append((self.name, *call))
        await self.open.wait()
        if self.fails_at in call:
            raise EngineFailed(f"{self.name} failed")

    async def embed(self, slot: int, position: int, tokens: tuple[int, ...]) -> bytes:
        await self._do(slot, position, len(tokens))
        return bytes(tokens)

    async def forward(self, slot: int, position: int, hidden: bytes, *, rows: Rows = "all") -> bytes:
        await self._do(slot, position, len(hidden), rows)
        return {"all": hidden, "last": hidden[-1:], "none": b""}[rows]

    async def draw(self, slot: int, hidden: bytes) -> Drawn:
        await self._do(slot)
        return Drawn(0, hidden[-1])

    async def free(self, slot: int) -> None:
        await self._do("free", slot)

    async def stop(self) -> None:
        self.alive = False


Made = tuple[Chain, list[Recorder], list[Call]]


@pytest.fixture
def chain() -> Callable[[int], Made]:
    def make(further: int) -> Made:
        log: list[Call] = []
        shards = [Recorder(name, log) for name in "abcd"[: further + 1]]
        first: Sequence[Any] = shards
        return Chain(cast(ShardProcess, first[0]), first[1:], chunk=4), shards, log

    return make


async def test_a_short_prompt_goes_through_all_in_one(chain: Callable[[int], Made]) -> None:
    made, _, log = chain(2)
    assert (await made.next(1, 5, (7, 8, 9))).token == 9
    assert log == [("a", 1, 5, 3), ("b", 1, 5, 3, "all"), ("c", 1, 5, 3, "last"), ("a", 1)]


async def test_a_long_prompt_goes_in_chunks_of_which_the_last_is_wanted(chain: Callable[[int], Made]) -> None:
    made, _, log = chain(2)
    assert (await made.next(0, 2, tuple(range(10)))).token == 9
    assert [call for call in log if call[0] == "a"] == [
        ("a", 0, 2, 4),
        ("a", 0, 6, 4),
        ("a", 0, 10, 2),
        ("a", 0),
    ]
    assert [call for call in log if call[0] == "b"] == [
        ("b", 0, at, n, "all") for at, n in ((2, 4), (6, 4), (10, 2))
    ]
    assert [call[2:] for call in log if call[0] == "c"] == [(2, 4, "none"), (6, 4, "none"), (10, 2, "last")]


async def test_shards_work_on_neighbouring_chunks_at_once(chain: Callable[[int], Made]) -> None:
    made, (_, second, _), log = chain(2)
    second.open.clear()
    drawing = asyncio.create_task(made.next(0, 0, tuple(range(20))))
    for _ in range(100):
        await asyncio.sleep(0)
    # The second shard is still at the first chunk. The first one is ahead, but not by the whole prompt, as
    # what it gives has to be kept.
    assert [call for call in log if call[0] == "b"] == [("b", 0, 0, 4, "all")]
    assert [call[2] for call in log if call[0] == "a"] == [0, 4, 8]
    second.open.set()
    assert (await drawing).token == 19


async def test_a_shard_that_fails_ends_the_others(chain: Callable[[int], Made]) -> None:
    made, (_, second, third), log = chain(2)
    second.fails_at = 4
    with pytest.raises(EngineFailed, match="b failed"):
        await made.next(0, 0, tuple(range(40)))
    asked = len(log)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(log) == asked
    third.fails_at = 3
    with pytest.raises(EngineFailed, match="c failed"):
        await made.next(0, 3, (1,))


async def test_a_prompt_that_is_left_is_read_no_further(chain: Callable[[int], Made]) -> None:
    made, (_, second, _), log = chain(2)
    second.open.clear()
    drawing = asyncio.create_task(made.next(0, 0, tuple(range(40))))
    for _ in range(100):
        await asyncio.sleep(0)
    drawing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drawing
    asked = len(log)
    second.open.set()
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(log) == asked


async def test_a_slot_is_freed_in_all_though_one_fails(chain: Callable[[int], Made]) -> None:
    made, shards, log = chain(2)
    shards[1].fails_at = 3
    with pytest.raises(EngineFailed, match="b failed"):
        await made.free(3)
    assert log == [("a", "free", 3), ("b", "free", 3), ("c", "free", 3)]


async def test_it_lives_while_all_shards_do(chain: Callable[[int], Made]) -> None:
    made, shards, _ = chain(2)
    assert made.alive
    shards[2].alive = False
    assert not made.alive
    await made.stop()
    assert not any(shard.alive for shard in shards)


async def test_chunks_give_what_one_step_gives(start: Start) -> None:
    tokens = tuple(40 + n % 60 for n in range(50))
    odds = []
    for spans, chunk in (
        (((0, 6),), 512),
        (((0, 6),), 7),
        (((0, 2), (2, 3), (3, 6)), 512),
        (((0, 2), (2, 6)), 7),
    ):
        first, *rest = [await start(*span) for span in spans]
        chain = Chain(first, rest, chunk=chunk)
        await chain.begin(1, Sampling(temperature=0), form=None, logprobs=3, prompt=tokens)
        drawn = await chain.next(1, 0, tokens)
        assert drawn.odds is not None
        odds.append([drawn.odds.chosen, *(logprob for _, logprob in drawn.odds.top)])
    for others in odds[1:]:
        assert others == pytest.approx(odds[0], abs=1e-4)
