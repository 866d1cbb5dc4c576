"""No label has more values than it may."""

from hypothesis import given
from hypothesis import strategies as st

from exo.metrics.names import OTHER, Names


def test_the_first_names_stay_as_they_are() -> None:
    names = Names(2)
    assert [names(each) for each in "abca"] == ["a", "b", OTHER, "a"]


@given(st.lists(st.text()), st.integers(0, 5))
def test_there_are_never_more_than_so_many_and_one(given: list[str], most: int) -> None:
    names = Names(most)
    said = {names(each) for each in given}
    assert len(said - {OTHER}) <= most
    assert all(names(each) in said for each in given)
