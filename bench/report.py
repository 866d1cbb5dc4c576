"""Tables and figures: printed as Markdown, written as JSON."""

import argparse
import os
import platform
import signal
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

Cell: TypeAlias = str | int | float | None

_MET, _MISSED = "met", "**MISSED**"


class Figure(msgspec.Struct, frozen=True):
    """A measured value beside the value to reach."""

    name: str
    value: float
    target: float
    unit: str
    wanted: Literal["at most", "at least"]

    @property
    def met(self) -> bool:
        return self.value <= self.target if self.wanted == "at most" else self.value >= self.target


class Table(msgspec.Struct, frozen=True):
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Report(msgspec.Struct, frozen=True):
    """One benchmark: `method` says what was run and how it was timed, `notes` what to make of it."""

    name: str
    method: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...]
    notes: tuple[str, ...] = ()


def main(measure: Callable[[], Report], doc: str | None) -> None:
    """The command line of one benchmark."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result here")
    options = parser.parse_args()
    stop_on_sigterm()
    report = measure()
    print(f"{machine()}\n\n{markdown(report)}")
    if options.json:
        write_json(options.json, [report])


def stop_on_sigterm() -> None:
    """Lets `finally` end the server processes on SIGTERM as it does on Ctrl-C."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def markdown(report: Report) -> str:
    parts = [f"## {report.name}", report.method]
    parts += [_table(table.columns, table.rows) for table in report.tables]
    if report.figures:
        rows = [_verdict(figure) for figure in report.figures]
        parts.append(_table(("figure", "measured", "wanted", ""), rows))
    parts += [f"- {note}" for note in report.notes]
    return "\n\n".join(parts)


def sections(document: str) -> dict[str, str]:
    """What `markdown` made of each report of a document, by the report's name."""
    parts = document.split("\n## ")[1:]
    return {part.partition("\n")[0]: "## " + part.strip() for part in parts}


def summary(sections: Iterable[str]) -> str:
    """How many of the figures in these sections were met, and which were not."""
    rows = [row for section in sections for row in section.splitlines() if row.startswith("| ")]
    verdicts = [(cells[1].strip(), cells[-2].strip()) for row in rows if len(cells := row.split("|")) > 3]
    missed = [name for name, verdict in verdicts if verdict == _MISSED]
    count = len(missed) + sum(verdict == _MET for _, verdict in verdicts)
    met = f"{count - len(missed)} of {count} figures met"
    return f"{met}; MISSED: {'; '.join(missed)}" if missed else met


def write_json(path: Path, reports: Sequence[Report]) -> None:
    result = {"machine": machine(), "reports": reports}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")


def machine() -> str:
    """What the figures depend on, without a date or a name."""
    packages = ("exo-rkllama", "xllamacpp", "aiohttp", "uvloop", "msgspec")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    hardware = f"{_cpu()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    return f"{hardware}; Python {platform.python_version()}, {versions}"


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown CPU"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown CPU"


def _verdict(figure: Figure) -> tuple[Cell, ...]:
    wanted = f"{figure.wanted} {_cell(figure.target)} {figure.unit}".strip()
    return (
        figure.name,
        f"{_cell(figure.value)} {figure.unit}".strip(),
        wanted,
        _MET if figure.met else _MISSED,
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    cells = [[_cell(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in (columns, *cells)) for i in range(len(columns))]
    # Numbers to the right, the first column to the left.
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [columns, rule, *cells]
    return "\n".join("| " + " | ".join(_justified(line, widths)) + " |" for line in lines)


def _justified(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        line[0].ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
    ]


def _cell(cell: Cell) -> str:
    match cell:
        case None:
            return ""
        case float() if abs(cell) >= 1000:
            return f"{cell:,.0f}"
        case float() if abs(cell) >= 100:
            return f"{cell:.0f}"
        case float() if abs(cell) >= 10:
            return f"{cell:.1f}"
        case float():
            return f"{cell:.3f}" if abs(cell) < 1 else f"{cell:.2f}"
        case int():
            return f"{cell:,}"
        case _:
            return cell
