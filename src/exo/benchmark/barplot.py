"""A bar plot as SVG text: groups of bars, one of each series side by side. Pure."""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence

_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
_BAR, _GAP, _LEAST_GROUP = 34, 28, 120
_LEFT, _RIGHT, _HEIGHT, _LINE = 68, 20, 260, 16
_LABEL_LETTERS, _NAME_LETTERS = 17, 80
_TICKS = 4

# What XML 1.0 has no way to write, not even as a reference.
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def barplot(
    title: str, unit: str, groups: Sequence[str], series: Mapping[str, Sequence[float | None]]
) -> str:
    """A whole SVG document. Each series has a value, zero or more, for each of the `groups`; None is drawn as
    a dash. Characters that XML cannot hold become U+FFFD."""
    group = max(_LEAST_GROUP, len(series) * _BAR + _GAP)
    labels = [textwrap.wrap(label, _LABEL_LETTERS) for label in groups]
    top = _LINE * (3 + len(series))
    bottom = top + _HEIGHT
    names = [name if len(name) <= _NAME_LETTERS else name[: _NAME_LETTERS - 3] + "..." for name in series]
    # Letters are about 7 wide; a long name must not be cut off.
    legend = 16 + 7 * max(map(len, names), default=0)
    width = _LEFT + max(group * len(groups), legend) + _RIGHT
    height = bottom + _LINE * (max(map(len, labels), default=0) + 2)
    most = _round_up(max((value for each in series.values() for value in each if value), default=1.0))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        _text(_LEFT, _LINE * 1.5, title, ' font-size="15"'),
    ]
    for row, name in enumerate(names):
        y = _LINE * (2.5 + row)
        parts.append(f'<rect x="{_LEFT}" y="{y - 10:g}" width="10" height="10" fill="{_color(row)}"/>')
        parts.append(_text(_LEFT + 16, y, name))
    for tick in range(_TICKS + 1):
        y = bottom - _HEIGHT * tick / _TICKS
        parts.append(f'<path d="M{_LEFT} {y:g}H{width - _RIGHT}" stroke="#cccccc"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{most * tick / _TICKS:g}", ' text-anchor="end"'))
    parts.append(_text(_LEFT - 6, top - 10, unit, ' text-anchor="end"'))
    for column, lines in enumerate(labels):
        middle = _LEFT + group * (column + 0.5)
        left = middle - len(series) * _BAR / 2
        for row, values in enumerate(series.values()):
            parts += _bar(left + row * _BAR, bottom, values[column], most, _color(row))
        for number, line in enumerate(lines):
            parts.append(_text(middle, bottom + _LINE * (number + 1), line, ' text-anchor="middle"'))
    return "\n".join((*parts, "</svg>\n"))


def _bar(x: float, bottom: float, value: float | None, most: float, color: str) -> list[str]:
    middle = x + _BAR / 2
    if value is None:
        return [_text(middle, bottom - 4, "-", ' text-anchor="middle"')]
    height = _HEIGHT * value / most
    shown = f"{value:.1f}" if value < 100 else f"{value:.0f}"
    return [
        f'<rect class="bar" x="{x + 2:g}" y="{bottom - height:.1f}" width="{_BAR - 4}" '
        f'height="{height:.1f}" fill="{color}"/>',
        _text(middle, bottom - height - 4, shown, ' text-anchor="middle" font-size="10"'),
    ]


def _text(x: float, y: float, text: str, more: str = "") -> str:
    text = _NO_XML.sub("\ufffd", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f'<text x="{x:g}" y="{y:g}"{more}>{text}</text>'


def _color(row: int) -> str:
    return _COLORS[row % len(_COLORS)]


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 5 or 10 times a power of ten: quarters of it are short to write."""
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in (1, 2, 4, 5) if step * power >= value), 10 * power)
