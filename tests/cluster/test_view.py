from collections.abc import Sequence
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.cluster import view
from exo.cluster.states import State
from exo.cluster.view import PATIENCE, TIME_TO_LIVE, View
from tests.cluster.node import node


def state(id: str, incarnation: str = "1", sequence: int = 1, hears: dict[str, str] | None = None) -> State:
    return State(incarnation=incarnation, sequence=sequence, hears=hears or {}, node=node(id, sequence))


def ids(seen: View, now: float) -> list[str]:
    return [peer.id for peer in seen.peers(now)]


@pytest.fixture
def seen() -> View:
    seen = View("me")
    seen.begin("mine")
    return seen


def test_a_node_is_a_peer_once_its_token_and_its_state_have_come_in_either_order(seen: View) -> None:
    assert seen.appeared("a", "1")
    assert ids(seen, 0) == []
    assert seen.heard(state("a"), 0)
    assert ids(seen, 0) == ["a"]

    seen.heard(state("b"), 0)
    assert ids(seen, 0) == ["a"]
    seen.appeared("b", "1")
    assert ids(seen, 0) == ["a", "b"]


def test_a_peer_is_gone_with_its_token_and_a_late_state_does_not_bring_it_back(seen: View) -> None:
    seen.appeared("a", "1")
    seen.heard(state("a", sequence=1), 0)
    seen.vanished("a", "1")
    assert ids(seen, 0) == []
    seen.heard(state("a", sequence=2), 0.1)
    assert ids(seen, 0.1) == []


def test_a_state_grows_old_by_this_nodes_clock(seen: View) -> None:
    seen.appeared("a", "1")
    seen.heard(state("a"), 100)
    assert ids(seen, 100 + TIME_TO_LIVE - 0.01) == ["a"]
    assert ids(seen, 100 + TIME_TO_LIVE) == []
    seen.heard(state("a", sequence=2), 110)
    assert ids(seen, 110) == ["a"]


def test_a_repeated_or_older_state_does_not_count(seen: View) -> None:
    seen.appeared("a", "1")
    assert seen.heard(state("a", sequence=7), 0)
    assert not seen.heard(state("a", sequence=7), TIME_TO_LIVE)
    assert not seen.heard(state("a", sequence=6), TIME_TO_LIVE)
    seen.forget(TIME_TO_LIVE)
    assert not seen.heard(state("a", sequence=7), 2 * TIME_TO_LIVE), "forgotten"
    assert ids(seen, TIME_TO_LIVE) == []


def test_a_restarted_node_replaces_its_former_life(seen: View) -> None:
    for life, sequence in (("9", 500), ("5", 1), ("7", 1)):
        seen.appeared("a", life)
        seen.heard(state("a", life, sequence), 0)
        assert seen.peers(0)[0].waiting == sequence
        seen.vanished("a", life)
    seen.heard(state("a", "9", 501), 0)
    assert ids(seen, 0) == []


def test_a_link_that_comes_back_brings_the_same_life_back(seen: View) -> None:
    seen.appeared("a", "1")
    seen.heard(state("a", sequence=4), 0)
    seen.vanished("a", "1")
    assert seen.appeared("a", "1"), "it has to be told of this node again"
    seen.heard(state("a", sequence=9), 30)
    assert ids(seen, 30) == ["a"]


def test_of_two_processes_with_one_id_all_nodes_see_the_same_and_it_is_told_once() -> None:
    chosen = []
    for order in (("5", "3"), ("3", "5")):
        seen = View("me")
        told: list[str] = []
        for tick in range(12):
            for life in order:
                seen.appeared("a", life)
                seen.heard(State(incarnation=life, sequence=tick, hears={}, node=node("a", int(life))), tick)
            told += seen.doubles(tick)
        assert told == ["a"]
        chosen.append(seen.peers(11)[0].waiting)
    assert chosen == [3, 3]


def test_a_quick_restart_is_no_double(seen: View) -> None:
    seen.appeared("a", "1")
    for tick in range(10):
        seen.heard(state("a", "1", tick), tick)
    for tick in range(10, 20):
        seen.appeared("a", "2")
        seen.heard(state("a", "2", tick), tick)
        assert seen.doubles(tick) == []


def test_another_process_with_this_nodes_id_is_told_and_never_a_peer(seen: View) -> None:
    told: list[str] = []
    for tick in range(6):
        seen.appeared("me", "other")
        seen.heard(state("me", "other", tick), tick)
        told += seen.doubles(tick)
        assert ids(seen, tick) == []
    assert told == ["me"]


def test_what_this_node_says_itself_is_nobodys_state(seen: View) -> None:
    assert not seen.appeared("me", "mine")
    assert not seen.heard(state("me", "mine"), 0)
    assert seen.hears(0) == {}


def test_a_new_session_keeps_peers_while_their_states_live_and_is_told_of_all_tokens(seen: View) -> None:
    for id in ("stays", "goes"):
        seen.appeared(id, "1")
        seen.heard(state(id), 0)
    seen.begin("mine-2")
    assert ids(seen, 1) == ["goes", "stays"]
    assert seen.appeared("stays", "1")
    seen.heard(state("stays", sequence=2), 2)
    seen.forget(TIME_TO_LIVE)
    assert ids(seen, TIME_TO_LIVE) == ["stays"]
    seen.heard(state("goes", sequence=2), TIME_TO_LIVE)
    assert ids(seen, TIME_TO_LIVE) == ["stays"], "its token is not there any more"


# Nodes that do not hear this one


def test_a_node_that_never_says_it_hears_this_one_is_deaf_after_a_while_and_ever_less_often(
    seen: View,
) -> None:
    seen.appeared("a", "1")
    told = []
    for tick in range(200):
        seen.heard(state("a", "1", tick), tick)
        if seen.deaf(tick) is not None:
            told.append(tick)
            seen.begin(f"mine-{tick}")
    assert told[0] == PATIENCE
    waits = [later - earlier for earlier, later in pairwise(told)]
    assert waits == [2 * PATIENCE + 1, 4 * PATIENCE + 1]


def test_a_node_that_hears_this_one_again_is_borne_with_as_at_first(seen: View) -> None:
    seen.appeared("a", "1")
    told = []
    for tick in range(60):
        hears = {"me": "mine"} if tick == 20 else {}
        seen.heard(state("a", "1", tick, hears), tick)
        if seen.deaf(tick) is not None:
            told.append(tick)
    assert told == [PATIENCE, 21 + PATIENCE, 21 + PATIENCE + 1 + 2 * PATIENCE][: len(told)]
    assert len(told) == 2


def test_a_node_that_is_silent_or_gone_is_not_deaf(seen: View) -> None:
    seen.appeared("silent", "1")
    seen.heard(state("silent"), 0)
    seen.appeared("gone", "1")
    seen.heard(state("gone"), 0)
    seen.vanished("gone", "1")
    for tick in range(1, 100):
        seen.heard(state("gone", sequence=tick + 1), tick)
        assert seen.deaf(tick) is None


# Proof


def test_signed_states_count_once_they_say_that_they_hear_this_process(seen: View) -> None:
    seen = View("me", proof=True)
    seen.begin("mine")
    seen.appeared("a", "1")
    recorded = state("a", sequence=900, hears={"me": "an earlier life"})
    seen.heard(recorded, 0)
    assert ids(seen, 0) == []
    assert seen.hears(0) == {"a": "1"}, "or the two would wait for each other"

    seen.heard(state("a", sequence=901, hears={"me": "mine"}), 0)
    assert ids(seen, 0) == ["a"]
    seen.begin("mine-2")
    assert ids(seen, 0) == ["a"], "what this process was before is proof as well"


# In any order


class Model:
    """The same told as plainly as can be: all that happened is kept, and gone through for every answer."""

    def __init__(self) -> None:
        self.tokens: set[tuple[str, str]] = set()
        self.states: dict[tuple[str, str], tuple[int, float]] = {}

    def peers(self, now: float) -> list[tuple[str, int]]:
        alive = {
            life: sequence
            for life, (sequence, at) in self.states.items()
            if life in self.tokens and now - at < TIME_TO_LIVE
        }
        return sorted(
            (id, alive[min(each for each in alive if each[0] == id)]) for id in {id for id, _ in alive}
        )


lives = st.tuples(st.sampled_from("ab"), st.sampled_from("123"))
events = st.one_of(
    st.tuples(st.just("appeared"), lives),
    st.tuples(st.just("vanished"), lives),
    st.tuples(st.just("heard"), lives, st.integers(0, 9)),
    st.tuples(st.just("wait"), st.sampled_from([0.3, 1.0, 2.0, 4.0])),
    st.tuples(st.just("forget")),
)


@given(st.lists(events, max_size=60))
def test_whatever_happens_peers_are_those_with_a_token_and_a_fresh_state(happened: Sequence[tuple]) -> None:  # type: ignore[type-arg]
    seen, model, now = View("me"), Model(), 0.0
    seen.begin("mine")
    for event in happened:
        match event:
            case ("appeared", (id, life)):
                seen.appeared(id, life)
                model.tokens.add((id, life))
            case ("vanished", (id, life)):
                seen.vanished(id, life)
                model.tokens.discard((id, life))
            case ("heard", (id, life), sequence):
                seen.heard(state(id, life, sequence), now)
                if sequence > model.states.get((id, life), (-1, 0.0))[0]:
                    model.states[(id, life)] = (sequence, now)
            case ("wait", seconds):
                now += seconds
            case ("forget",):
                seen.forget(now)
        assert [(peer.id, peer.waiting) for peer in seen.peers(now)] == model.peers(now)
        assert set(seen.hears(now)) == {id for id, _ in model.peers(now)}


def test_a_node_with_countless_lives_takes_no_more_memory_for_it(seen: View) -> None:
    for life in range(1000):
        seen.appeared("a", str(life))
        seen.heard(state("a", str(life)), life)
        seen.vanished("a", str(life))
        seen.appeared("b", str(life))
        seen.vanished("b", str(life))
    seen.forget(2000)
    assert len(seen._lives["a"]) == view._REMEMBERED
    assert "b" not in seen._lives
    assert all(life.state is None for life in seen._lives["a"].values())


def test_the_state_in_a_view_is_the_last(seen: View) -> None:
    seen.appeared("a", "1")
    for sequence in (1, 2, 3):
        seen.heard(state("a", sequence=sequence), 0)
    assert seen.peers(0) == (msgspec.structs.replace(node("a"), waiting=3),)
