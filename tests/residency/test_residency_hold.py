"""Memory that a residency keeps for what is no model of its own."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from exo.errors import NotReady
from tests.residency.test_residency import Stage

# Of a budget of 8: "a", "b" and "c" take 4 each.


async def started(stage: Stage, *models: str) -> None:
    for model in models:
        await stage.ask(model)


async def test_what_is_held_counts_as_a_resident_in_use() -> None:
    stage = Stage()
    async with stage.residency.hold("part", 3):
        resident = stage.residency.residents["part"]
        assert (resident.memory, resident.state, resident.running, resident.slots) == (3, "ready", 1, 1)
        assert resident.expires_in is None
        await started(stage, "a")
        assert "part" in stage.residency.residents
    assert [*stage.residency.residents] == ["a"]


async def test_idle_models_make_room_the_least_recently_used_first() -> None:
    stage = Stage()
    await started(stage, "a", "b")
    async with stage.residency.hold("part", 4):
        assert [*stage.residency.residents] == ["b", "part"]
        assert ("evicted", "a") in stage.observer.events


async def test_models_that_leave_already_are_waited_for() -> None:
    stage = Stage()
    await started(stage, "big")
    leaving = asyncio.Event()
    go_on = asyncio.Event()

    async def unload() -> None:
        leaving.set()
        await go_on.wait()

    stage.models["big"].unload = unload  # type: ignore[method-assign]
    asked = stage.ask("a")  # for which the big one has to go
    await leaving.wait()

    async def held() -> None:
        async with stage.residency.hold("part", 4):
            assert "big" not in stage.residency.residents

    holding = asyncio.create_task(held())
    await asyncio.sleep(0)
    assert not holding.done()
    go_on.set()
    await holding
    assert await asked == "hi"


async def test_nobody_else_gets_what_is_made_free_for_it() -> None:
    stage = Stage()
    await started(stage, "big")
    async with AsyncExitStack() as stack:
        holding = asyncio.create_task(stack.enter_async_context(stage.residency.hold("part", 8)))
        await asyncio.sleep(0)
        asked = stage.ask("a")
        await holding
        assert not asked.done()
        assert stage.loads == ["big"]
    assert await asked == "hi"


async def test_what_is_in_use_leaves_no_room_and_nothing_behind() -> None:
    stage = Stage()
    async with stage.residency.hold("one", 6):
        with pytest.raises(NotReady, match="two takes about 0 MB"):
            async with stage.residency.hold("two", 3):
                pass
        assert [*stage.residency.residents] == ["one"]
        with pytest.raises(NotReady, match="one is in memory already"):
            async with stage.residency.hold("one", 1):
                pass


async def test_more_than_there_is_evicts_nobody() -> None:
    stage = Stage()
    await started(stage, "a")
    with pytest.raises(NotReady):
        async with stage.residency.hold("part", 9):
            pass
    assert [*stage.residency.residents] == ["a"]


async def test_who_waits_for_memory_gets_it_when_it_is_let_go() -> None:
    stage = Stage()
    async with stage.residency.hold("part", 8):
        asked = stage.ask("a")
        await stage.until(lambda: stage.residency.waiting == 1)
        assert not stage.loads
    assert await asked == "hi"


async def test_closing_leaves_what_is_held_to_its_holder() -> None:
    stage = Stage()
    async with stage.residency.hold("part", 1):
        await started(stage, "a")
        await stage.residency.close()
        assert [(name, each.state) for name, each in stage.residency.residents.items()] == [("part", "ready")]
    assert not stage.residency.residents
    with pytest.raises(NotReady, match="shutting down"):
        async with stage.residency.hold("part", 1):
            pass
