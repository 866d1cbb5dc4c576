from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.residency.schedule import Plan, Resident, Rounds, State, plan
from tests.doubles import SIZES


def ready(
    memory: int, *, slots: int = 1, running: int = 0, used: int = 0, state: State = "ready"
) -> Resident:
    return Resident(memory, state, slots, running, used)


PLANS: dict[str, tuple[list[str], dict[str, Resident], Plan]] = {
    "nobody waits": ([], {"a": ready(4)}, Plan()),
    "loads what fits": (["a", "b"], {}, Plan(load=("a", "b"))),
    "loads once however many ask": (["a", "a", "a"], {}, Plan(load=("a",))),
    "starts as many as there are slots": (["a"] * 3, {"a": ready(4, slots=2)}, Plan(start=(0, 1))),
    "a full model holds up nobody of another": (
        ["a", "b"],
        {"a": ready(4, running=1), "b": ready(4)},
        Plan(start=(1,)),
    ),
    "waits for a load under way": (["a"], {"a": ready(4, state="loading")}, Plan()),
    "evicts the least recently used": (
        ["c"],
        {"a": ready(4, used=2), "b": ready(4, used=1)},
        Plan(evict=("b",)),
    ),
    "evicts no more than it must, and all it must": (
        ["big"],
        {"a": ready(4, used=1), "b": ready(4, used=2)},
        Plan(evict=("a", "b")),
    ),
    "never evicts under a running request": (
        ["c"],
        {"a": ready(4, running=1, used=1), "b": ready(4, used=2)},
        Plan(evict=("b",)),
    ),
    "evicts nothing when it would not help": (
        ["big"],
        {"a": ready(4, running=1), "b": ready(4)},
        Plan(),
    ),
    "what leaves already is room to come": (
        ["c"],
        {"a": ready(4, state="leaving"), "b": ready(4)},
        Plan(),
    ),
    "whoever waits for memory is not overtaken": (
        ["c", "a"],
        {"a": ready(4, slots=2, running=1), "b": ready(4, running=1)},
        Plan(),
    ),
    "nothing claimed ahead in the queue is evicted": (
        ["a", "c"],
        {"a": ready(4, slots=1, used=1), "b": ready(4, used=2)},
        Plan(start=(0,), evict=("b",)),
    ),
}


@pytest.mark.parametrize(("waiting", "residents", "expected"), PLANS.values(), ids=PLANS.keys())
def test_plan(waiting: list[str], residents: Mapping[str, Resident], expected: Plan) -> None:
    assert plan(waiting, residents, SIZES, budget=8) == expected


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[str], dict[str, Resident], dict[str, int]]:
    """Any queue over five models, some of them in memory, all of it within a budget of 10."""
    models = ["a", "b", "c", "d", "e"]
    sizes = {model: draw(st.integers(1, 6)) for model in models}
    residents: dict[str, Resident] = {}
    for model in models:
        if sum(r.memory for r in residents.values()) + sizes[model] <= 10 and draw(st.booleans()):
            state: State = draw(st.sampled_from(["loading", "ready", "leaving"]))
            slots = draw(st.integers(1, 3))
            running = draw(st.integers(0, slots)) if state == "ready" else 0
            residents[model] = Resident(sizes[model], state, slots, running, draw(st.integers(0, 9)))
    return draw(st.lists(st.sampled_from(models), max_size=8)), residents, sizes


@given(situations())
def test_a_plan_keeps_its_promises(situation: tuple[list[str], dict[str, Resident], dict[str, int]]) -> None:
    waiting, residents, sizes = situation
    todo = plan(waiting, residents, sizes, budget=10)

    started = [waiting[position] for position in todo.start]
    for model in set(started):
        assert residents[model].state == "ready"
        assert residents[model].running + started.count(model) <= residents[model].slots
    for model in todo.evict:
        assert residents[model].state == "ready"
        assert residents[model].running == 0
        assert model not in started
    assert len(set(todo.load)) == len(todo.load)
    assert not set(todo.load) & set(residents)
    # Memory never goes over the budget, not even for a moment.
    held = sum(resident.memory for resident in residents.values())
    assert held + sum(sizes[model] for model in todo.load) <= 10 or not todo.load


@given(situations())
def test_carrying_plans_out_serves_everyone_in_order(
    situation: tuple[list[str], dict[str, Resident], dict[str, int]],
) -> None:
    """Loads and unloads end, answers end: then the queue empties, each model's requests in order."""
    waiting, residents, sizes = situation
    queue = list(enumerate(waiting))
    served: list[tuple[int, str]] = []
    for _ in range(50):
        todo = plan([model for _, model in queue], residents, sizes, budget=10)
        served += [queue[position] for position in todo.start]
        queue = [ticket for place, ticket in enumerate(queue) if place not in todo.start]
        leaving = {m for m, r in residents.items() if r.state == "leaving"} | set(todo.evict)
        residents = {
            model: Resident(resident.memory, "ready", max(1, resident.slots))
            for model, resident in residents.items()
            if model not in leaving
        } | {model: Resident(sizes[model], "loading") for model in todo.load}
    assert not queue
    for model in set(waiting):
        order = [place for place, name in served if name == model]
        assert order == sorted(order)


def turns(waiting: str) -> str:
    """Who is served, one after the other, of those who have come already."""
    rounds, left, served = Rounds(), list(waiting), ""
    while left:
        client = left.pop(rounds.order(left)[0])
        rounds, served = rounds.served(client), served + client
    return served


@pytest.mark.parametrize(
    ("waiting", "served"),
    [("aaaab", "abaaa"), ("aaabbc", "abcaba"), ("ba", "ba"), ("aaa", "aaa"), ("", "")],
)
def test_clients_take_turns(waiting: str, served: str) -> None:
    assert turns(waiting) == served


@given(st.text("abc", max_size=20))
def test_turns_lose_nobody_and_nobody_has_two_while_another_waits_for_one(waiting: str) -> None:
    served = turns(waiting)
    assert sorted(served) == sorted(waiting)
    for end in range(len(served)):
        had = {client: served[:end].count(client) for client in "abc"}
        still = [client for client in "abc" if client in served[end:]]
        assert all(had[served[end]] <= had[client] for client in still)


def test_newcomers_do_not_keep_out_who_waits() -> None:
    rounds, waiting = Rounds(), ["many"] * 3
    served = []
    for _ in range(12):
        waiting.append("again")
        served.append(waiting.pop(rounds.order(waiting)[0]))
        rounds = rounds.served(served[-1])
    assert served[:6] == ["many", "again"] * 3


def test_a_client_long_gone_is_forgotten() -> None:
    rounds = Rounds()
    for client in ("a", "b", "b", "b"):
        rounds = rounds.served(client)
    assert dict(rounds.due) == {"b": rounds.now + 1}
