"""How much may be asked in a minute, whatever is asked when."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.admission.rates import Account, Limits, answered, asked, empty_at, refusal, standing

PER_MINUTE = st.integers(1, 10_000)
PAUSES = st.lists(st.floats(0, 90, allow_nan=False), min_size=1, max_size=60)
NEW = Account()


def let_in(limits: Limits, pauses: list[float]) -> tuple[list[float], Account]:
    """When requests were let in that came so far apart, and the account after them."""
    account, times = NEW, []
    for now in itertools.accumulate(pauses):
        if refusal(limits, account, now) is None:
            account = asked(limits, account, now)
            times.append(now)
    return times, account


@given(PER_MINUTE, PAUSES)
def test_no_stretch_of_time_has_more_requests_than_a_burst_and_what_leaks_in_it(
    per_minute: int, pauses: list[float]
) -> None:
    times, _ = let_in(Limits(per_minute), pauses)
    for first, last in itertools.combinations(range(len(times)), 2):
        seconds = times[last] - times[first]
        assert last - first + 1 <= per_minute * (1 + seconds / 60) + 1e-3


@given(st.integers(1, 5), PAUSES)
def test_whoever_waits_as_long_as_told_is_let_in_and_not_much_sooner(
    per_minute: int, pauses: list[float]
) -> None:
    limits = Limits(per_minute)
    _, account = let_in(limits, pauses)
    now = sum(pauses)
    refused = refusal(limits, account, now)
    if refused is None:
        return
    assert refused.what == "requests"
    assert 0 < refused.seconds <= 60 / per_minute + 1e-6
    assert refusal(limits, account, now + refused.seconds) is None
    assert refusal(limits, account, now + refused.seconds * 0.99) is not None


@given(PER_MINUTE, PAUSES)
def test_a_client_that_keeps_to_the_pace_never_waits(per_minute: int, pauses: list[float]) -> None:
    steady = [max(each, 60 / per_minute) for each in pauses]
    assert len(let_in(Limits(per_minute), steady)[0]) == len(steady)


@given(PER_MINUTE, st.lists(st.tuples(st.floats(0, 90), st.integers(0, 50_000)), max_size=40))
def test_tokens_are_as_many_as_allowed_in_the_long_run(
    per_minute: int, answers: list[tuple[float, int]]
) -> None:
    """But for the last answer, whose length nobody knew before."""
    limits, account, now, had = Limits(tokens=per_minute), NEW, 0.0, 0
    for pause, tokens in answers:
        now += pause
        if refusal(limits, account, now) is None:
            assert had <= per_minute * (1 + now / 60) + 1e-3
            account = answered(limits, asked(limits, account, now), now, tokens)
            had += tokens


def test_what_an_answer_took_too_much_is_waited_for() -> None:
    limits = Limits(tokens=60)
    account = answered(limits, NEW, 100.0, 150)
    refused = refusal(limits, account, 100.0)
    assert refused is not None
    assert (refused.what, refused.per_minute, round(refused.seconds)) == ("tokens", 60, 91)
    [shown] = standing(limits, account, 100.0)
    assert (shown.remaining, round(shown.reset)) == (0, 150)


def test_of_two_limits_the_longer_wait_is_told() -> None:
    limits = Limits(requests=2, tokens=60)
    account = answered(limits, asked(limits, asked(limits, NEW, 0), 0), 0, 61)
    refused = refusal(limits, account, 0)
    assert refused is not None
    assert refused.what == "requests"
    account = answered(limits, account, 0, 100)
    refused = refusal(limits, account, 0)
    assert refused is not None
    assert refused.what == "tokens"


@pytest.mark.parametrize(("limits", "end"), [(Limits(3), 25), (Limits(tokens=30), 27), (Limits(3, 30), 27)])
def test_an_account_that_is_empty_is_as_good_as_none(limits: Limits, end: float) -> None:
    account = answered(limits, asked(limits, NEW, 5.0), 7.0, 10)
    assert empty_at(limits, account) == end
    for later in (end + 1e-6, end + 100):
        assert [each.remaining for each in standing(limits, account, later)] == [
            each.remaining for each in standing(limits, NEW, later)
        ]
        assert all(each.reset == 0 for each in standing(limits, account, later))
    assert any(each.reset > 0 for each in standing(limits, account, end - 0.1))


def test_without_limits_nothing_is_kept() -> None:
    assert asked(Limits(), NEW, 1) == answered(Limits(), NEW, 1, 99) == NEW
    assert standing(Limits(), NEW, 1) == ()
    assert refusal(Limits(), NEW, 1) is None


def test_a_limit_that_is_changed_counts_at_once() -> None:
    account = NEW
    for _ in range(5):
        account = asked(Limits(10), account, 0)
    assert refusal(Limits(5), account, 0) is not None
    assert [each.remaining for each in standing(Limits(20), account, 0)] == [15]
