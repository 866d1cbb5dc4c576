"""Accounts of many clients, in bounded memory."""

from hypothesis import given
from hypothesis import strategies as st

from exo.admission.limiter import Limiter
from exo.admission.rates import Limits

ONE = Limits(requests=1)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_each_client_has_an_account_of_its_own() -> None:
    limiter = Limiter(Clock())
    assert limiter.ask("a", ONE) is None
    assert limiter.ask("a", ONE) is not None
    assert limiter.ask("b", ONE) is None


def test_it_is_served_again_after_the_time_it_is_told() -> None:
    clock = Clock()
    limiter = Limiter(clock)
    limiter.ask("a", ONE)
    refused = limiter.ask("a", ONE)
    assert refused is not None
    clock.now += refused.seconds
    assert limiter.ask("a", ONE) is None


def test_what_is_refused_counts_nothing() -> None:
    clock = Clock()
    limiter = Limiter(clock)
    waits = [refused.seconds for _ in range(5) if (refused := limiter.ask("a", ONE))]
    assert waits == [60.0] * 4


def test_addresses_without_end_share_one_account_and_take_nobodys() -> None:
    clock = Clock()
    limiter = Limiter(clock, most=10)
    for number in range(10):
        assert limiter.ask(f"early-{number}", ONE) is None
    served = [limiter.ask(f"late-{number}", ONE) is None for number in range(1000)]
    assert served.count(True) == 1
    assert len(limiter) == 11
    assert limiter.ask("early-3", ONE) is not None, "it has been served already"
    assert [each.remaining for each in limiter.standing("late-7", ONE)] == [0]


def test_places_of_those_who_are_done_are_free_again() -> None:
    clock = Clock()
    limiter = Limiter(clock, most=10)
    for number in range(10):
        limiter.ask(f"early-{number}", ONE)
    assert limiter.ask("late", ONE) is None
    clock.now += 61
    for number in range(10):
        assert limiter.ask(f"later-{number}", ONE) is None
    assert len(limiter) == 10


def test_who_has_no_limits_takes_no_place() -> None:
    limiter = Limiter(Clock())
    for number in range(100):
        assert limiter.ask(str(number), Limits()) is None
        limiter.answered(str(number), Limits(), 99)
    assert len(limiter) == 0


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 40)), max_size=200))
def test_forgetting_gives_nobody_more_than_he_may(asks: list[tuple[int, float]]) -> None:
    """The same clients, with few places and with enough for all."""
    clock = Clock()
    few, many = Limiter(clock, most=5), Limiter(clock, most=1000)
    for who, pause in asks:
        clock.now += pause
        served_by_few = few.ask(str(who), ONE) is None
        assert len(few) <= 6
        if served_by_few:
            assert many.ask(str(who), ONE) is None
