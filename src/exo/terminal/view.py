"""A snapshot laid out as the lines of a terminal. Pure, and without markup: what others call their models and
say in their errors is never more than text."""

from collections.abc import Callable, Sequence

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from exo.terminal import layout, tables
from exo.terminal.layout import GAP, Wish
from exo.terminal.snapshot import Access, Snapshot
from exo.terminal.tables import Cell, Table
from exo.terminal.words import harmless, rate

_SPACED = 18
"""Rows of a terminal from which on there is an empty one between two sections."""

_ACCESS: dict[Access, Cell] = {
    "key": ("key needed", "green"),
    "certificate": ("certificate needed", "green"),
    "open": ("no key: open to this network", "yellow"),
    "here": ("this machine only", "dim"),
}


class Glyphs(msgspec.Struct, frozen=True):
    """What is drawn beyond letters. Without `unicode` all is ASCII, strangers' text included."""

    unicode: bool
    dot: str
    cut: str
    full: str
    empty: str


UNICODE = Glyphs(unicode=True, dot="·", cut="…", full="━", empty="─")
ASCII = Glyphs(unicode=False, dot="-", cut="~", full="#", empty=".")


class _Section(msgspec.Struct, frozen=True):
    """`things` are what it could show a row of, and `table` says them in so many rows. `empty` is said where
    there are none; a section without it is then left out."""

    place: int
    things: int
    table: Callable[[int], Table]
    empty: str = ""


def lines(snapshot: Snapshot, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    """`height` lines of at most `width` columns. Sections that there is no room for are left out, those that
    matter least first, and so are columns."""
    drawn = _header(snapshot, width, glyphs)
    gap = [Text()] if height >= _SPACED else []
    sections = [each for each in _sections(snapshot, width, glyphs) if each.things or each.empty]
    wishes = [Wish(2 + len(gap), 1 + len(gap) + max(1, each.things)) for each in sections]
    given = layout.rows(wishes, height - len(drawn))
    for room, section in sorted(zip(given, sections, strict=True), key=lambda pair: pair[1].place):
        if room:
            drawn += gap + _section(section, room - len(gap), width, glyphs)
    for line in drawn:
        line.truncate(width)
    return (drawn + [Text()] * height)[:height]


def _sections(snapshot: Snapshot, width: int, glyphs: Glyphs) -> list[_Section]:
    """Those that matter most first; `place` is where they are read, those that stay longest above."""
    nodes, models = tables.nodes(snapshot.cluster), tables.models(snapshot)
    bar = max(10, min(40, width // 5))
    downloads = tables.downloads(snapshot.downloads, glyphs.full, glyphs.empty, bar)
    nobody = f"none yet: open {snapshot.urls[0]} in a browser"
    return [
        _Section(0, len(nodes.rows), lambda room: nodes),
        _Section(2, len(snapshot.requests), lambda room: tables.requests(snapshot, room), nobody),
        _Section(4, len(snapshot.lines), lambda room: tables.log(snapshot.lines, room), "nothing yet"),
        _Section(3, len(downloads.rows), lambda room: downloads),
        _Section(1, len(models.rows), lambda room: models, "there is none on this node's disk"),
    ]


def _header(snapshot: Snapshot, width: int, glyphs: Glyphs) -> list[Text]:
    """Two lines: what it is and how it is, where it is to be opened and for whom."""
    me, title, access = snapshot.cluster.me, f"exo {snapshot.version}", _ACCESS[snapshot.access]
    urls, room = list[str](), width - cell_len(access[0]) - GAP
    for url in snapshot.urls:
        room -= len(url) + GAP
        if room >= 0 or not urls:
            urls.append(url)
    room = width - len(title) - cell_len(me.id) - 2 * GAP
    return [
        _spread((title, "bold cyan"), (me.id, "bold"), _state(snapshot, room, glyphs), width, glyphs),
        _spread((urls[0], "cyan"), ((" " * GAP).join(urls[1:]), ""), access, width, glyphs),
    ]


def _state(snapshot: Snapshot, room: int, glyphs: Glyphs) -> Cell:
    """Whether it is ready, and before that what it has done and does, as far as there is room."""
    if snapshot.stopping:
        text, style = "stopping: Ctrl-C again ends it at once", "bold yellow"
    elif snapshot.problem:
        text, style = snapshot.problem, "yellow"
    else:
        text, style = "ready", "bold green"
    now, failed = sum(snapshot.rates.values()), snapshot.failed
    counts = f"{snapshot.answered} answered" + (f", {failed} failed" if failed else "")
    for more in (f"{rate(now)} tok/s" if now else "", counts if snapshot.answered or failed else ""):
        longer = f"{more} {glyphs.dot} {text}" if more else text
        if cell_len(longer) <= room:
            text = longer
    return text, style


def _spread(first: Cell, second: Cell, last: Cell, width: int, glyphs: Glyphs) -> Text:
    """Two from the left and one to the right, which gives way, as does the second."""
    left = width - cell_len(first[0]) - GAP
    right = min(cell_len(last[0]), max(left // 2, left - cell_len(second[0]) - GAP))
    line = Text(no_wrap=True)
    line.append(_fitted(first[0], min(width, cell_len(first[0])), glyphs), first[1])
    line.append(" " * GAP + _fitted(second[0], max(0, left - right - GAP), glyphs), second[1])
    line.append(" " * GAP + _fitted(last[0], right, glyphs, right=True), last[1])
    return line


def _section(section: _Section, room: int, width: int, glyphs: Glyphs) -> list[Text]:
    """A line with the heads of the columns, and one for each row that fits into `room` with it."""
    table = section.table(room - 1)
    shown = table.rows[: room - 1]
    rows = [[(_shown(text, glyphs), style) for text, style in row] for row in shown]
    every = range(len(table.columns))
    head = table.head(len(shown))
    widest = [max((cell_len(row[index][0]) for row in rows), default=not index) for index in every]
    columns = layout.columns((head, *table.columns[1:]), widest, width)
    heads = [(table.columns[index].head, "dim") for index, _ in columns]
    drawn = [_row([(head.head, "bold cyan"), *heads[1:]], table, columns, glyphs)]
    drawn += [_row([row[index] for index, _ in columns], table, columns, glyphs) for row in rows]
    if not rows:
        drawn.append(Text(_fitted(section.empty, width, glyphs), "dim"))
    return drawn


def _row(cells: Sequence[Cell], table: Table, columns: Sequence[tuple[int, int]], glyphs: Glyphs) -> Text:
    line = Text(no_wrap=True)
    for place, ((text, style), (index, width)) in enumerate(zip(cells, columns, strict=True)):
        line.append(" " * GAP if place else "")
        line.append(_fitted(text, width, glyphs, right=table.columns[index].right), style)
    return line


def _shown(text: str, glyphs: Glyphs) -> str:
    """What may be drawn of a stranger's text."""
    text = harmless(text)
    return text if glyphs.unicode else text.replace("°", " ").encode("ascii", "replace").decode()


def _fitted(text: str, width: int, glyphs: Glyphs, *, right: bool = False) -> str:
    """The text in exactly so many columns, cut where it is too long for them."""
    text = _shown(text, glyphs)
    missing = width - cell_len(text)
    if missing < 0:
        return set_cell_size(text, width - 1) + glyphs.cut if width > 0 else ""
    return " " * missing + text if right else text + " " * missing
