"""How fast counts grow."""

import pytest

from exo.terminal.rates import Rates


def test_a_count_is_measured_over_the_last_seconds() -> None:
    rates = Rates(3.0)
    assert rates.now(0.0, {"a": 100.0}) == {}
    assert rates.now(1.0, {"a": 110.0}) == {"a": 10.0}
    assert rates.now(2.0, {"a": 130.0}) == {"a": 15.0}
    assert rates.now(5.0, {"a": 160.0}) == {"a": 10.0}


def test_what_does_not_grow_is_left_out() -> None:
    rates = Rates(3.0)
    rates.now(0.0, {"a": 5.0, "b": 1.0})
    assert rates.now(1.0, {"a": 5.0, "b": 2.0}) == {"b": 1.0}
    for at in (2.0, 3.0, 4.0, 5.0):
        last = rates.now(at, {"a": 5.0, "b": 2.0})
    assert last == {}


def test_a_count_that_is_new_or_begins_anew_is_not_negative() -> None:
    rates = Rates(3.0)
    rates.now(0.0, {"a": 50.0})
    assert rates.now(2.0, {"a": 10.0, "b": 4.0}) == {"b": 2.0}


def test_no_time_has_no_rate() -> None:
    rates = Rates(3.0)
    rates.now(1.0, {"a": 1.0})
    assert rates.now(1.0, {"a": 2.0}) == {}


@pytest.mark.parametrize("seconds", [0.5, 3.0])
def test_it_keeps_no_more_than_it_needs(seconds: float) -> None:
    rates = Rates(seconds)
    for tick in range(100):
        rates.now(tick * 0.5, {"a": tick * 5.0})
    assert len(rates._seen) <= seconds / 0.5 + 2
    assert rates.now(50.0, {"a": 500.0}) == {"a": 10.0}
