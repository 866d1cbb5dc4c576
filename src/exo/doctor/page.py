"""Findings as a page of text: for a person at a terminal, or for whoever reads the lines of a file."""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence

import click

from exo.doctor.finding import Finding, Level, summary

_MARKS: dict[Level, str] = {"ok": "ok", "note": "note", "slow": "SLOW", "broken": "BROKEN"}
_COLOURS: dict[Level, str] = {"ok": "green", "note": "cyan", "slow": "yellow", "broken": "red"}
_INDENT, _REMEDY = " " * 8, " " * 10
# Longer lines are hard to read.
_WIDEST = 100
_NARROWEST = 40


def lines(findings: Sequence[Finding], *, columns: int | None = None, colour: bool = False) -> Iterator[str]:
    """A line for each finding and one for its remedy, folded to so many `columns`, and a last one that
    counts. Without `columns` nothing is folded, so that a line can be searched for. What a terminal would
    take for a command is written out: names come from other machines, too."""
    for finding in findings:
        mark = f"{_MARKS[finding.level]:<7} "
        first, *rest = _folded(f"{mark}{finding.subject}: {finding.says}", _INDENT, columns)
        if colour:
            first = (
                click.style(mark, fg=_COLOURS[finding.level], bold=finding.level == "broken")
                + (first[len(mark) :])
            )
        yield first
        yield from rest
        if finding.remedy:
            for line in _folded(_REMEDY + finding.remedy, _REMEDY, columns):
                yield click.style(line, dim=True) if colour else line
    yield summary(findings)


def show(findings: Sequence[Finding]) -> None:
    """Prints the page. Only a terminal gets colours and folded lines; NO_COLOR (no-color.org) takes the
    colours away."""
    terminal = sys.stdout.isatty()
    columns = shutil.get_terminal_size().columns if terminal else None
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    for line in lines(findings, columns=columns, colour=terminal and not plain):
        click.echo(line)


def _folded(text: str, indent: str, columns: int | None) -> list[str]:
    text = "".join(
        each if each.isprintable() else " " if each.isspace() else repr(each)[1:-1] for each in text
    )
    if columns is None:
        return [text]
    # Names of files stay whole, to be copied.
    return textwrap.wrap(
        text,
        max(_NARROWEST, min(columns, _WIDEST)),
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )
