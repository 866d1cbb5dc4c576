import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.shards.slots import Slots

TALK = tuple(range(100, 200))


@pytest.mark.parametrize(
    ("held", "prompt", "slot", "cached"),
    [
        # The longest that is common.
        ([(1, 2), (1, 2, 3, 4), (1, 2, 3)], (1, 2, 3, 4, 5), 1, 4),
        # Not all of it: the last token is read for what follows it.
        ([(1, 2, 3)], (1, 2, 3), 0, 2),
        ([(1, 2, 3)], (1,), 0, 0),
        # However much is forgotten for it, a thought of the turn before, say.
        ([(), TALK], (*TALK[:10], 7, 8, 9), 1, 10),
        # But not for the little with which all begin.
        ([(), TALK], (*TALK[:3], *range(40)), 0, 0),
        ([TALK, (), (5, 6)], (*TALK[:3], *range(40)), 0, 3),
    ],
)
def test_which_slot_a_prompt_gets(
    held: list[tuple[int, ...]], prompt: tuple[int, ...], slot: int, cached: int
) -> None:
    slots = Slots(len(held))
    for number, _ in enumerate(held):
        slots.take((number,))
    for number, tokens in enumerate(held):
        slots.give_back(number, tokens)
    assert slots.take(prompt) == (slot, cached)


def test_of_equals_the_one_used_longest_ago() -> None:
    slots = Slots(3)
    taken = [slots.take((0,))[0] for _ in range(3)]
    for slot in (2, 0, 1):
        slots.give_back(slot, ())
    assert sorted(taken) == [0, 1, 2]
    assert [slots.take((0,))[0] for _ in range(3)] == [2, 0, 1]


def test_a_taken_slot_is_not_given_again() -> None:
    slots = Slots(2)
    slots.give_back(slots.take(TALK)[0], TALK)
    first, cached = slots.take((*TALK, 1))
    assert cached == len(TALK)
    second, cached = slots.take((*TALK, 2))
    assert second != first
    assert cached == 0
    assert repr(slots) == "<Slots 0 of 2 free, holding [100, 0]>"


@given(st.lists(st.integers(0, 2), max_size=8), st.lists(st.integers(0, 2), min_size=1, max_size=8))
def test_what_is_cached_is_the_prompts_own_beginning(held: list[int], prompt: list[int]) -> None:
    slots = Slots(1)
    slots.give_back(slots.take((0,))[0], held)
    _, cached = slots.take(prompt)
    assert held[:cached] == prompt[:cached]
    assert cached < len(prompt)
    assert cached == len(prompt) - 1 or held[cached : cached + 1] != prompt[cached : cached + 1]
