"""Room shared out."""

from hypothesis import given
from hypothesis import strategies as st

from exo.terminal.layout import GAP, Column, Wish, columns, rows

wishes = st.lists(
    st.builds(lambda least, more: Wish(least, least + more), st.integers(1, 4), st.integers(0, 50))
)
tables = st.lists(
    st.tuples(
        st.builds(Column, st.text("HEAD", max_size=9), st.integers(1, 6), st.integers(3, 20)),
        st.integers(0, 99),
    ),
    max_size=9,
)
FIRST = (Column("NAME", 0, 12), 20)


@given(wishes, st.integers(0, 100))
def test_rows_are_neither_more_than_there_are_nor_fewer_than_needed(wanted: list[Wish], room: int) -> None:
    given = rows(wanted, room)
    assert sum(given) <= max(0, room)
    for got, wish in zip(given, wanted, strict=True):
        assert got == 0 or wish.least <= got <= wish.most
    # None is left over that somebody could have used.
    assert sum(given) == room or all(got in (0, wish.most) for got, wish in zip(given, wanted, strict=True))


def test_what_matters_most_is_there_last() -> None:
    wanted = [Wish(2, 9), Wish(2, 9), Wish(2, 9)]
    assert rows(wanted, 6) == [2, 2, 2]
    assert rows(wanted, 5) == [3, 2, 0]
    assert rows(wanted, 1) == [0, 0, 0]


def test_what_is_left_is_shared_in_turn() -> None:
    assert rows([Wish(2, 3), Wish(2, 20), Wish(2, 20)], 15) == [3, 6, 6]


@given(tables, st.integers(12, 200))
def test_columns_fit_and_the_first_is_always_there(table: list[tuple[Column, int]], room: int) -> None:
    every, widest = zip(FIRST, *table, strict=True)
    chosen = columns(every, widest, room)
    assert sum(width for _, width in chosen) + GAP * (len(chosen) - 1) <= room
    assert chosen[0][0] == 0
    assert [index for index, _ in chosen] == sorted(index for index, _ in chosen)
    assert all(widest[index] for index, _ in chosen)


def test_columns_go_by_their_rank() -> None:
    table = (Column("A", 0, 10), Column("B", 2, 10), Column("C", 1, 10))
    assert columns(table, (10, 10, 10), 40) == [(0, 10), (1, 10), (2, 10)]
    assert columns(table, (10, 10, 10), 30) == [(0, 10), (2, 10)]
    assert columns(table, (10, 10, 10), 20) == [(0, 10)]


def test_room_that_is_left_is_for_the_first_ranks() -> None:
    table = (Column("A", 0, 10), Column("B", 1, 10))
    assert columns(table, (30, 30), 40) == [(0, 28), (1, 10)]


def test_figures_are_whole_or_not_there() -> None:
    table = (Column("A", 0, 10), Column("B", 1, right=True))
    assert columns(table, (30, 7), 30) == [(0, 21), (1, 7)]
    assert columns(table, (30, 7), 19) == [(0, 10), (1, 7)]
    assert columns(table, (30, 7), 18) == [(0, 18)]


def test_a_column_with_nothing_in_it_is_left_out() -> None:
    assert columns((Column("A", 0, 4), Column("B", 0, 4)), (4, 0), 80) == [(0, 4)]
