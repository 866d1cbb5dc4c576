"""Looking up tokens: it takes no slot, and keeps nobody waiting that has a turn."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from exo.chat import ChatRequest
from exo.engine import LoadedModel, SpellRequest
from exo.engines.scripted import Die, Hang, Script, ScriptedModel
from exo.errors import BadRequest, EngineFailed, ModelNotFound, NotReady
from tests.doubles import card
from tests.residency.test_residency import Stage

# Of a budget of 8: "a", "b" and "c" take 4 each, "big" takes 8.


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.residency.close()


class Slow(ScriptedModel):
    """Looks things up once it may."""

    def __init__(self, script: Script) -> None:
        super().__init__(script)
        self.reading, self.may_read = asyncio.Event(), asyncio.Event()

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        self.reading.set()
        await self.may_read.wait()
        assert not self.unloaded
        return await super().tokens(request, begin=begin)


def asked(model: str, client: str = "") -> ChatRequest:
    return ChatRequest(model=model, prompt="hi", client=client)


async def tokens(stage: Stage, model: str) -> Sequence[int]:
    return await stage.residency.tokens(asked(model))


async def slow(stage: Stage) -> Slow:
    """A slow model in memory, as "a"."""
    await stage.ask("a")
    model = stage.residency._places["a"].model = Slow(stage.script)
    return model


async def test_a_model_in_memory_tells_them_while_all_its_slots_answer(stage: Stage) -> None:
    stage.script = Script(steps=(Hang(),))
    busy, waiting = stage.ask("a"), stage.ask("a", "another")
    await stage.until(lambda: stage.look().get("a") == ("ready", 1, 1))
    assert await tokens(stage, "a") == (104, 105)
    assert await stage.residency.spell(SpellRequest(model="a", tokens=(104, 105))) == (b"h", b"i")
    assert stage.look()["a"] == ("ready", 1, 1)
    for task in (busy, waiting):
        task.cancel()
    await asyncio.gather(busy, waiting, return_exceptions=True)


async def test_a_model_that_is_not_in_memory_is_loaded_once_for_all(stage: Stage) -> None:
    found = await asyncio.gather(*(tokens(stage, "a") for _ in range(5)), stage.ask("a"))
    assert found == [(104, 105)] * 5 + ["hi"]
    assert stage.loads == ["a"]


async def test_a_busy_model_is_not_evicted_for_it(stage: Stage) -> None:
    stage.script = Script(steps=(Hang(),))
    busy = stage.ask("a")
    await stage.until(lambda: stage.look().get("a") == ("ready", 1, 0))
    looking = asyncio.create_task(tokens(stage, "big"))
    await stage.until(lambda: stage.residency.waiting == 1)
    assert stage.loads == ["a"]
    busy.cancel()
    assert await looking == (104, 105)
    assert stage.loads == ["a", "big"]


async def test_it_waits_its_turn_where_memory_is_waited_for(stage: Stage) -> None:
    stage.script = Script(steps=(Hang(),))
    busy = stage.ask("a", "one")
    await stage.until(lambda: stage.look().get("a") == ("ready", 1, 0))
    first = stage.ask("big", "two")
    await stage.until(lambda: stage.residency.waiting == 1)
    # There is room for it, but who came before needs that room.
    looking = asyncio.create_task(stage.residency.tokens(asked("b", "three")))
    await stage.until(lambda: stage.residency.waiting == 2)
    assert "b" not in stage.residency.residents
    busy.cancel()
    await stage.until(lambda: stage.look().get("big") == ("ready", 1, 0))
    assert stage.loads == ["a", "big"]
    first.cancel()
    assert await looking == (104, 105)


async def test_a_model_does_not_leave_under_the_hands_of_who_looks_something_up(stage: Stage) -> None:
    model = await slow(stage)
    looking = asyncio.create_task(tokens(stage, "a"))
    await model.reading.wait()
    next_one = stage.ask("big")  # for which it has to go
    await stage.until(lambda: stage.residency.residents["a"].state == "leaving")
    assert not model.unloaded
    model.may_read.set()
    assert await looking == (104, 105)
    assert await next_one == "hi"
    assert model.unloaded


async def test_who_comes_when_a_model_leaves_stands_in_the_queue(stage: Stage) -> None:
    model = await slow(stage)
    looking = asyncio.create_task(tokens(stage, "a"))
    await model.reading.wait()
    next_one = stage.ask("big")
    await stage.until(lambda: stage.residency.residents["a"].state == "leaving")
    late = asyncio.create_task(tokens(stage, "a"))
    await stage.until(lambda: stage.residency.waiting == 2)
    model.may_read.set()
    await asyncio.gather(looking, next_one)
    assert await late == (104, 105)
    assert stage.loads == ["a", "big", "a"]


async def test_one_who_leaves_lets_go_of_the_model(stage: Stage) -> None:
    model = await slow(stage)
    looking = asyncio.create_task(tokens(stage, "a"))
    await model.reading.wait()
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    await stage.residency.unload("a")
    assert model.unloaded


async def test_it_is_a_use_of_the_model() -> None:
    stage = Stage(idle_seconds=1000.0)
    await stage.ask("a")
    place = stage.residency._places["a"]
    place.idle_since -= 500
    await tokens(stage, "a")
    left = stage.residency.residents["a"].expires_in
    assert left is not None
    assert left > 900
    await stage.residency.close()


async def test_a_model_that_has_died_is_loaded_anew(stage: Stage) -> None:
    stage.script = Script(steps=(Die(),))
    with pytest.raises(EngineFailed):
        await stage.ask("a")
    assert await tokens(stage, "a") == (104, 105)
    assert stage.loads == ["a", "a"]


class Mute:
    """A model of an engine that knows text only."""

    slots, alive = 1, True
    respond = ScriptedModel.respond

    async def unload(self) -> None:
        pass


async def test_a_model_that_does_not_tell_them_says_so(stage: Stage) -> None:
    async def load(card: object, files: object) -> LoadedModel:
        return Mute()

    stage.load = load  # type: ignore[method-assign]
    for _ in range(2):  # loaded for it, and in memory already
        with pytest.raises(BadRequest, match="'a' does not tell its tokens"):
            await tokens(stage, "a")


async def test_a_model_that_is_not_here_is_not_found(stage: Stage) -> None:
    with pytest.raises(ModelNotFound, match="'nothing'"):
        await tokens(stage, "nothing")


async def test_a_node_that_shuts_down_looks_nothing_up() -> None:
    stage = Stage()
    stage.shelf["late"] = (card("late"), stage.shelf["a"][1])
    await stage.residency.close()
    with pytest.raises(NotReady):
        await tokens(stage, "late")
