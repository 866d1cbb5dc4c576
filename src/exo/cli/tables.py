"""What is printed for people: tables, and sizes in them."""

from collections.abc import Sequence

import click


def size(count: int) -> str:
    """Bytes in the unit that suits them."""
    for unit, each in (("GB", 10**9), ("MB", 10**6)):
        if count >= each:
            return f"{count / each:.1f} {unit}"
    return f"{count / 1000:.0f} KB"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
