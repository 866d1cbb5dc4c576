"""The queue by itself; with models behind it: `test_residency`."""

import asyncio

import pytest

from exo.engines.scripted import Script, ScriptedModel
from exo.errors import NotReady
from exo.residency.waiting import Queue

MODEL = ScriptedModel(Script(steps=()))


async def test_clients_take_turns() -> None:
    queue = Queue(8)
    first, second, other = queue.join("m", "a"), queue.join("m", "a"), queue.join("m", "b")
    assert queue.due() == [first, other, second]
    queue.start(first, MODEL)
    assert await first.turn is MODEL
    assert queue.due() == [other, second]


async def test_there_is_one_place_more_for_a_client_that_has_none() -> None:
    queue = Queue(1)
    queue.join("m", "a")
    assert (queue.room("a"), queue.room("b")) == (1, 2)


async def test_whoever_gave_up_is_not_due_and_leaves_once() -> None:
    queue = Queue(8)
    gone, there = queue.join("m", "a"), queue.join("m", "b")
    gone.turn.cancel()
    assert queue.due() == [there]
    assert not queue.leave(gone)
    assert queue.leave(there)
    assert len(queue) == 0


async def test_only_those_are_refused_who_wait_for_the_model() -> None:
    queue = Queue(8)
    refused, kept, gone = queue.join("m", ""), queue.join("n", ""), queue.join("m", "")
    gone.turn.cancel()
    queue.refuse(NotReady("broken"), "m")
    with pytest.raises(NotReady, match="broken"):
        await refused.turn
    assert queue.models == {"n": 1}
    queue.refuse(NotReady("over"))
    with pytest.raises(NotReady, match="over"):
        await kept.turn
    assert (len(queue), gone.turn.cancelled()) == (0, True)


async def test_the_expected_wait_grows_with_the_queue_and_with_what_answers_took() -> None:
    queue = Queue(8)
    assert queue.expected_wait(0) == 1.0
    for _ in range(6):
        queue.join("m", "")
    assert (queue.expected_wait(0), queue.expected_wait(2)) == (6.0, 3.0)
    queue.answered(11.0)
    assert queue.expected_wait(2) == pytest.approx(9.0)


async def test_a_request_knows_since_when_it_waits() -> None:
    before = asyncio.get_running_loop().time()
    assert before <= Queue(8).join("m", "").since <= asyncio.get_running_loop().time()
