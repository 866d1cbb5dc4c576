"""Room shared out: rows among sections, columns within one. Pure."""

from collections.abc import Sequence

import msgspec

GAP = 2
"""Columns between two cells."""


class Wish(msgspec.Struct, frozen=True):
    """Rows that a section needs to be worth showing, and those that it could fill."""

    least: int
    most: int


def rows(wishes: Sequence[Wish], room: int) -> list[int]:
    """Rows for each section, the most important first; 0 for one that is left out.

    Each gets what it needs, as long as there is room, and then one row more in turn until it has what it
    could fill.
    """
    given = [0] * len(wishes)
    for index, wish in enumerate(wishes):
        if wish.least <= room:
            given[index] = wish.least
            room -= wish.least
    while room > 0:
        hungry = [i for i, wish in enumerate(wishes) if 0 < given[i] < wish.most]
        if not hungry:
            break
        for index in hungry[:room]:
            given[index] += 1
        room -= min(room, len(hungry))
    return given


class Column(msgspec.Struct, frozen=True):
    """`rank` 0 is never left out; the larger, the sooner it is. It may be narrowed down to `least`, and takes
    no more than `most`. Figures, to the `right`, are whole or not there."""

    head: str
    rank: int
    least: int = 0
    most: int = 200
    right: bool = False


def columns(table: Sequence[Column], widest: Sequence[int], room: int) -> list[tuple[int, int]]:
    """Which columns are shown, and how wide, in their order. `widest` is the width of each one's widest cell.

    A column without any content is not shown. What there is room for beyond the least goes to the columns in
    the order of their rank.
    """
    wanted = {i: min(max(widest[i], len(c.head)), c.most) for i, c in enumerate(table) if widest[i]}
    by_rank = sorted(wanted, key=lambda i: (table[i].rank, i))
    given = {i: wanted[i] if table[i].right else min(wanted[i], table[i].least) for i in by_rank}
    while len(given) > 1 and sum(given.values()) + GAP * (len(given) - 1) > room:
        given.popitem()
    left = max(0, room - sum(given.values()) - GAP * (len(given) - 1))
    for i, least in given.items():
        given[i] = least + min(left, wanted[i] - least)
        left -= given[i] - least
    return [(i, min(given[i], room)) for i in sorted(given)]
