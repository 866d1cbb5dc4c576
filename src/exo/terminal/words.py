"""Figures for people, and text of strangers made harmless. Pure."""

import unicodedata

_LONGEST = 400
"""Characters of one text that are looked at: a terminal shows no more of it."""


def harmless(text: str, longest: int = _LONGEST) -> str:
    """One line of `text` without anything that drives a terminal or turns it around: control characters,
    those that change the direction of writing, and half characters are left out; ends of lines are spaces.
    """
    if text.isascii() and text.isprintable():
        return text[:longest]
    spaced = (" " if char.isspace() else char for char in text[:longest])
    # Cc control, Cf format (direction, joiners), Cs halves, Co private, Cn unassigned, Zl and Zp lines.
    kept = (char for char in spaced if unicodedata.category(char) not in _DROPPED)
    return "".join(kept)


_DROPPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def size(count: float) -> str:
    """Bytes in the unit that suits them: "1.9 GB"."""
    for unit, each in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= each:
            return f"{count / each:.1f} {unit}"
    return f"{count / 1e3:.0f} KB"


def span(seconds: float) -> str:
    """A time that passes in steps of its own length, so that it need not be drawn each second: "40 s",
    "12 min", "3 h"."""
    for unit, each in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * each:
            return f"{seconds / each:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def short(seconds: float) -> str:
    """A measured time: "85 ms", "1.24 s", "38 s"."""
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"


def rate(tokens: float) -> str:
    """Tokens a second: "14.9", "212"."""
    return f"{tokens:.1f}" if tokens < 100 else f"{tokens:.0f}"
