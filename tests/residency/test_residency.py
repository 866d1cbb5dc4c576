"""The residency with scripted models, their loads held back by gates."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import pytest

from exo.cards import ModelCard
from exo.chat import ChatRequest, EmbedRequest, Message, Text
from exo.engine import LoadedModel
from exo.engines.scripted import Die, Hang, Script, ScriptedModel, Wait
from exo.errors import BadRequest, EngineFailed, ModelNotFound, NotReady, Overloaded, Timeout
from exo.residency.residency import Limits, Residency
from tests.doubles import SIZES, SilentObserver, answer, card, text


class Stage:
    """Engines, shelf and residency in one, with gates that tests open."""

    formats = frozenset({"script"})

    def __init__(self, *, slots: int = 1, **limits: object) -> None:
        self.loads: list[str] = []
        self.models: dict[str, ScriptedModel] = {}
        self.may_load = asyncio.Event()
        self.may_load.set()
        self.script = Script(steps=(Text("hi"),), slots=slots)
        self.broken: Exception | None = None
        self.observer = SilentObserver()
        self.shelf: dict[str, tuple[ModelCard, Path]] = {
            id: (card(id, memory=memory), Path(id)) for id, memory in SIZES.items()
        }
        asked: dict[str, object] = {"memory": 8, "idle_seconds": None, **limits}
        self.changes = 0
        self.seen: list[dict[str, tuple[str, int, int]]] = []
        self.residency = Residency(
            [self],
            self.shelf,
            Limits(**asked),  # type: ignore[arg-type]
            self.observer,
            self.changed,
        )

    def changed(self) -> None:
        self.changes += 1
        asyncio.get_running_loop().call_soon(lambda: self.seen.append(self.look()))

    def look(self) -> dict[str, tuple[str, int, int]]:
        """Of each model its state, who runs on it and who waits for it."""
        queues = self.residency.queues
        return {
            model: (resident.state, resident.running, queues.get(model, 0))
            for model, resident in self.residency.residents.items()
        }

    def unavailable(self) -> str | None:
        return None

    async def load(self, card: ModelCard, files: Path) -> LoadedModel:
        self.loads.append(card.id)
        await self.may_load.wait()
        if self.broken:
            raise self.broken
        self.models[card.id] = ScriptedModel(self.script)
        return self.models[card.id]

    def ask(self, model: str, client: str = "") -> "asyncio.Task[str]":
        async def read() -> str:
            return text(await answer(self.residency, request(model, client)))

        return asyncio.create_task(read())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Lets the loop turn until it holds; every turn is caused by something, so this ends or hangs."""
        while not condition():
            await asyncio.sleep(0)


def request(model: str, client: str = "") -> ChatRequest:
    return ChatRequest(model=model, messages=(Message("user", "hello"),), client=client)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.residency.close()


async def test_many_first_requests_load_once(stage: Stage) -> None:
    assert await asyncio.gather(*(stage.ask("a") for _ in range(20))) == ["hi"] * 20
    assert stage.loads == ["a"]


async def test_requests_are_served_in_order_of_arrival(stage: Stage) -> None:
    stage.may_load.clear()
    order: list[int] = []

    async def ask(place: int) -> None:
        await stage.ask("a")
        order.append(place)

    tasks = [asyncio.create_task(ask(place)) for place in range(5)]
    await stage.until(lambda: stage.residency.waiting == 5)
    stage.may_load.set()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    stage = Stage(waiting=2)
    stage.script = Script(steps=(Text("hi"), Hang()))
    hanging = [stage.ask("a")]
    await stage.until(lambda: "a" in stage.models and stage.models["a"].running == 1)
    hanging += [stage.ask("a"), stage.ask("a")]
    await stage.until(lambda: stage.residency.waiting == 2)
    with pytest.raises(Overloaded) as refused:
        await stage.ask("a")
    assert refused.value.retry_after
    assert refused.value.retry_after >= 1
    assert stage.residency.waiting == 2
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    assert stage.residency.waiting == 0
    await stage.residency.close()


async def test_swaps_models_that_do_not_fit_together(stage: Stage) -> None:
    assert await stage.ask("a") == "hi"
    assert await stage.ask("big") == "hi"
    assert await stage.ask("a") == "hi"
    assert stage.observer.events == [
        ("loaded", "a"),
        ("started", "a"),
        ("evicted", "a"),
        ("loaded", "big"),
        ("started", "big"),
        ("evicted", "big"),
        ("loaded", "a"),
        ("started", "a"),
    ]
    assert stage.models["big"].unloaded


async def test_a_running_model_is_not_evicted_until_it_is_done(stage: Stage) -> None:
    stage.script = Script(steps=(Text("hi"), Hang()))
    async with aclosing(stage.residency.respond(request("a"))) as held:
        assert await anext(held) == Text("hi")
        stage.script = Script(steps=(Text("hi"),))
        big = stage.ask("big")
        await stage.until(lambda: stage.residency.waiting == 1)
        assert not stage.models["a"].unloaded
    assert await big == "hi"
    assert stage.models["a"].unloaded


async def test_a_waiter_that_leaves_gives_up_its_place(stage: Stage) -> None:
    stage.may_load.clear()
    first, second = stage.ask("a"), stage.ask("a")
    await stage.until(lambda: stage.residency.waiting == 2)
    first.cancel()
    stage.may_load.set()
    assert await second == "hi"
    assert stage.residency.residents["a"].running == 0


async def test_a_waiter_that_leaves_as_its_turn_comes_holds_no_slot(stage: Stage) -> None:
    assert await stage.ask("a") == "hi"
    async with aclosing(stage.residency.respond(request("a"))) as held:
        await anext(held)
        waiter = stage.ask("a")
        await stage.until(lambda: stage.residency.waiting == 1)
    # The slot has just been handed over, and the waiter has not run since.
    assert stage.residency.waiting == 0
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert stage.residency.residents["a"].running == 0
    assert await stage.ask("a") == "hi"


async def test_a_failed_load_fails_its_waiters_and_is_tried_again(stage: Stage) -> None:
    stage.broken = EngineFailed("a is cut short")
    results = await asyncio.gather(stage.ask("a"), stage.ask("a"), return_exceptions=True)
    assert [str(result) for result in results] == ["a is cut short"] * 2
    assert stage.loads == ["a"]
    stage.broken = None
    assert await stage.ask("a") == "hi"


async def test_an_engine_that_raises_anything_fails_as_an_engine(stage: Stage) -> None:
    stage.broken = ZeroDivisionError("in there")
    with pytest.raises(EngineFailed, match="loading model 'a' failed: ZeroDivisionError: in there"):
        await stage.ask("a")


async def test_idle_models_leave_memory() -> None:
    stage = Stage(idle_seconds=0.02)
    assert await stage.ask("a") == "hi"
    assert "a" in stage.residency.residents
    await stage.until(lambda: not stage.residency.residents)
    assert stage.observer.events[-1] == ("idle", "a")
    assert await stage.ask("a") == "hi"
    await stage.residency.close()


async def test_a_model_in_use_is_never_idle() -> None:
    stage = Stage(idle_seconds=0.02)
    stage.script = Script(steps=(Text("hi"), Hang()))
    async with aclosing(stage.residency.respond(request("a"))) as held:
        await anext(held)
        stage.script = Script(steps=(Text("hi"),))
        assert await stage.ask("b") == "hi"
        await stage.until(lambda: "b" not in stage.residency.residents)
        assert stage.residency.residents["a"].running == 1
    await stage.until(lambda: not stage.residency.residents)
    await stage.residency.close()


async def test_what_can_never_run_is_refused_at_once(stage: Stage) -> None:
    with pytest.raises(ModelNotFound, match="'nope'"):
        await stage.ask("nope")
    stage.shelf["huge"] = (card("huge", memory=9), Path("huge"))
    with pytest.raises(NotReady, match="--memory"):
        await stage.ask("huge")
    stage.shelf["other"] = (card("other", format="gguf"), Path("other"))
    with pytest.raises(EngineFailed, match="is gguf, which no engine enabled on this node loads"):
        await stage.ask("other")


async def test_a_script_gives_no_embeddings(stage: Stage) -> None:
    with pytest.raises(BadRequest) as refused:
        await stage.residency.embed(EmbedRequest(model="a", texts=("hi",)))
    assert refused.value.param == "model"


async def test_unload_waits_for_nobody(stage: Stage) -> None:
    stage.script = Script(steps=(Text("hi"), Hang()))
    async with aclosing(stage.residency.respond(request("a"))) as held:
        await anext(held)
        with pytest.raises(NotReady, match="answering"):
            await stage.residency.unload("a")
    await stage.residency.unload("a")
    assert not stage.residency.residents
    await stage.residency.unload("a")


async def test_closing_refuses_who_waits_and_unloads(stage: Stage) -> None:
    assert await stage.ask("a") == "hi"
    stage.may_load.clear()
    waiter = stage.ask("b")
    await stage.until(lambda: "b" in stage.loads)
    await stage.residency.close()
    with pytest.raises(NotReady, match="shutting down"):
        await waiter
    assert stage.models["a"].unloaded
    with pytest.raises(NotReady, match="shutting down"):
        await stage.ask("a")


async def test_its_repr_is_a_status_line(stage: Stage) -> None:
    async with aclosing(stage.residency.respond(request("a"))) as held:
        await anext(held)
        assert repr(stage.residency) == "<Residency [a ready 1/1] waiting 0>"


async def test_clients_take_turns_whatever_each_has_sent(stage: Stage) -> None:
    stage.may_load.clear()
    order: list[str] = []

    async def ask(client: str) -> None:
        await stage.ask("a", client)
        order.append(client)

    sent = ["greedy", "greedy", "greedy", "greedy", "modest", "late"]
    tasks = [asyncio.create_task(ask(client)) for client in sent]
    await stage.until(lambda: stage.residency.waiting == len(sent))
    stage.may_load.set()
    await asyncio.gather(*tasks)
    assert order == ["greedy", "modest", "late", "greedy", "greedy", "greedy"]


async def test_a_queue_filled_by_one_client_has_room_for_another() -> None:
    stage = Stage(waiting=2)
    stage.may_load.clear()
    greedy = [stage.ask("a", "greedy") for _ in range(2)]
    await stage.until(lambda: stage.residency.waiting == 2)
    with pytest.raises(Overloaded):
        await stage.ask("a", "greedy")
    modest = stage.ask("a", "modest")
    await stage.until(lambda: stage.residency.waiting == 3)
    with pytest.raises(Overloaded):
        await stage.ask("a", "modest")
    stage.may_load.set()
    assert await asyncio.gather(*greedy, modest) == ["hi"] * 3
    await stage.residency.close()


async def test_a_model_that_died_is_loaded_anew_for_the_next_request(stage: Stage) -> None:
    stage.script = Script(steps=(Die(),))
    dying, waiting = stage.ask("a"), stage.ask("a")
    await stage.until(lambda: stage.residency.waiting == 1)
    stage.script = Script(steps=(Text("hi"),))
    with pytest.raises(EngineFailed, match="died"):
        await dying
    assert await waiting == "hi"
    assert stage.loads == ["a", "a"]
    assert ("died", "a") in stage.observer.events


async def test_a_model_that_died_while_idle_costs_nobody_an_answer(stage: Stage) -> None:
    assert await stage.ask("a") == "hi"
    stage.models["a"].alive = False
    assert await stage.ask("a") == "hi"
    assert stage.loads == ["a", "a"]


async def test_a_silent_model_is_a_timeout_and_is_let_go() -> None:
    stage = Stage(silence=0.02)
    stage.script = Script(steps=(Text("hi"), Hang()))
    with pytest.raises(Timeout, match=r"0\.02 s"):
        await stage.ask("a")
    assert stage.models["a"].running == 0
    stage.models["a"].script = Script(steps=(Text("hi"),))
    assert await stage.ask("a") == "hi"
    await stage.residency.close()


async def test_a_model_may_have_more_patience_or_less_than_the_others() -> None:
    stage = Stage(silence=0.05, silence_for={"a": 30.0, "b": 0.02})
    stage.script = Script(steps=(Wait(0.15), Text("hi")))
    assert await stage.ask("a") == "hi"
    with pytest.raises(Timeout, match=r"model 'b' for 0\.02 s.*--chatgpt-api-response-timeout-for b=SECONDS"):
        await stage.ask("b")
    with pytest.raises(Timeout, match=r"model 'c' for 0\.05 s"):
        await stage.ask("c")
    await stage.residency.close()


async def test_a_model_may_have_an_end_of_patience_where_others_have_none() -> None:
    stage = Stage(silence=None, silence_for={"b": 0.02})
    stage.script = Script(steps=(Wait(0.15), Text("hi")))
    assert await stage.ask("a") == "hi"
    with pytest.raises(Timeout, match="model 'b'"):
        await stage.ask("b")
    await stage.residency.close()


async def test_waiting_for_a_turn_is_no_silence() -> None:
    stage = Stage(silence=0.2)
    stage.script = Script(steps=(Wait(0.08), Text("hi"), Wait(0.08)))
    assert await asyncio.gather(*(stage.ask("a") for _ in range(3))) == ["hi"] * 3
    await stage.residency.close()


async def test_a_slow_reader_is_no_silence() -> None:
    stage = Stage(silence=0.05)
    stage.script = Script(steps=(Text("hi"), Text("hi")))
    async with aclosing(stage.residency.respond(request("a"))) as deltas:
        assert await anext(deltas) == Text("hi")
        await asyncio.sleep(0.12)
        assert await anext(deltas) == Text("hi")
    await stage.residency.close()


async def test_a_cancelled_answer_is_no_timeout() -> None:
    stage = Stage(silence=60.0)
    stage.script = Script(steps=(Hang(),))
    asked = stage.ask("a")
    await stage.until(lambda: "a" in stage.models and stage.models["a"].running == 1)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await stage.residency.close()


async def test_a_model_may_be_kept_longer_or_shorter_than_others(stage: Stage) -> None:
    assert await stage.ask("a") == "hi"
    assert await stage.ask("b") == "hi"
    stage.residency.keep("a", 0.0)
    stage.residency.keep("b", 1000.0)
    stage.residency.keep("nowhere", 1.0)
    await stage.until(lambda: "a" not in stage.residency.residents)
    left = stage.residency.residents["b"].expires_in
    assert left is not None
    assert 900 < left <= 1000


async def test_every_change_is_told(stage: Stage) -> None:
    stage.may_load.clear()
    stage.script = Script(steps=(Text("hi"), Hang()))

    async def told(**models: tuple[str, int, int]) -> None:
        await stage.until(lambda: bool(stage.seen) and stage.seen[-1] == models)

    first = stage.ask("a")
    await told(a=("loading", 0, 1))
    stage.may_load.set()
    await told(a=("ready", 1, 0))
    second = stage.ask("a")
    await told(a=("ready", 1, 1))
    second.cancel()
    await told(a=("ready", 1, 0))
    first.cancel()
    await told(a=("ready", 0, 0))
    await stage.residency.unload("a")
    await told()
    assert stage.seen[-2] == {"a": ("leaving", 0, 0)}
    stage.broken, changes = EngineFailed("a is cut short"), stage.changes
    await asyncio.gather(first, second, stage.ask("a"), return_exceptions=True)
    await told()
    assert stage.changes > changes


async def test_a_request_that_is_refused_is_no_change() -> None:
    stage = Stage(waiting=1)
    stage.script = Script(steps=(Text("hi"), Hang()))
    hanging = [stage.ask("a")]
    await stage.until(lambda: stage.look() == {"a": ("ready", 1, 0)})
    hanging.append(stage.ask("a"))
    await stage.until(lambda: stage.look() == {"a": ("ready", 1, 1)})
    changes = stage.changes
    for model, error in (("a", Overloaded), ("nope", ModelNotFound)):
        with pytest.raises(error):
            await stage.ask(model)
    assert stage.changes == changes
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    await stage.residency.close()
