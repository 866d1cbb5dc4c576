"""What spoke for a node, in one word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.choice.reasons import Costs, reason

HERE = Costs(prefill=1.0, decode=2.0)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (Costs(wait=5.0, load=1.0, prefill=1.0, decode=2.0), "queue"),
        (Costs(wait=1.0, load=5.0, prefill=1.0, decode=2.0), "loaded"),
        (Costs(prefill=1.0, decode=9.0), "faster"),
        (Costs(prefill=9.0, decode=2.0), "faster"),
        (Costs(prefill=1.01, decode=2.01), "equal"),
        # It would have been quicker in one thing, and was slower in another one.
        (Costs(wait=3.0, prefill=0.5, decode=2.0), "queue"),
    ],
)
def test_what_saves_most_is_the_reason(other: Costs, why: str) -> None:
    assert reason([HERE, other]) == why


def test_a_prompt_that_is_cached_is_no_faster_node() -> None:
    assert reason([Costs(prefill=0.1, decode=1.0, cached=900), Costs(prefill=4.0, decode=2.0)]) == "cached"


def test_one_node_is_the_only_one() -> None:
    assert reason([HERE]) == "only"


def test_after_a_failure_that_is_the_reason() -> None:
    assert reason([HERE, Costs(wait=9.0)], failed=True) == "failover"


SECONDS = st.floats(0, 1000)


@given(st.lists(st.builds(Costs, SECONDS, SECONDS, SECONDS, SECONDS, st.integers(0, 9)), min_size=1))
def test_there_is_a_reason_for_any_choice(nodes: list[Costs]) -> None:
    assert reason(nodes) in {"only", "queue", "loaded", "cached", "faster", "equal"}
