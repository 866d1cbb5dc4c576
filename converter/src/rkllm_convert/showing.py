"""What people see: progress, plans and findings as lines."""

from __future__ import annotations

import sys
import time
from typing import Iterator, Sequence

import click

from rkllm_convert import names
from rkllm_convert.doctor import Finding
from rkllm_convert.log import Progress
from rkllm_convert.plan import Plan
from rkllm_convert.source import Source

_WIDTH = 24
_MARKS = {"ok": "ok", "note": "note", "broken": "BROKEN"}


def say(text: str) -> None:
    """A line for people, apart from what other programs read."""
    click.echo(text, err=True)


class Bars:
    """Progress on stderr: a bar that is redrawn on a terminal, a line every tenth elsewhere."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._shown = ("", -1)
        self._open = False
        self._drawn = sys.stderr.isatty()

    def __call__(self, what: str, progress: Progress | None) -> None:
        if progress is None:
            if self._open:
                click.echo("", err=True)
                self._open = False
            self._began = time.monotonic()
            say(f"{what} ...")
            return
        if progress.total <= 0:
            return
        tenths = 10 * progress.done // progress.total
        if self._shown[0] != progress.doing:
            self._began = time.monotonic()
        elif self._shown[1] == tenths and not self._drawn:
            return
        self._shown = (progress.doing, tenths)
        line = bar(progress, time.monotonic() - self._began)
        if self._drawn:
            click.echo(f"\r{line}\x1b[K", err=True, nl=False)
            self._open = progress.done < progress.total
            if not self._open:
                click.echo("", err=True)
        else:
            say(line)


def bar(progress: Progress, seconds: float) -> str:
    """One line: what is done, how far, and how long the rest takes at that pace."""
    filled = _WIDTH * progress.done // progress.total
    left = seconds / progress.done * (progress.total - progress.done) if progress.done else None
    rest = f", {span(left)} left" if left is not None and progress.done < progress.total else ""
    drawn = "#" * filled + "." * (_WIDTH - filled)
    return f"  {progress.doing} [{drawn}] {progress.done}/{progress.total}{rest}"


def span(seconds: float) -> str:
    """Roughly, as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def file_of(plan: Plan) -> str:
    return names.file_name(plan.name, plan.build, plan.release)


def plan_lines(plan: Plan, source: Source) -> Iterator[str]:
    """A plan for people."""
    context = f"{plan.context} tokens" if plan.context else "chosen on the board"
    speed = plan.board.speed
    rate = f"{speed.tokens_per_second:g} tokens/s ({speed.basis})" if speed else "not known"
    fits = {"yes": "fits", "tight": "just fits", "no": "does not fit"}[plan.board.fits]
    arguments = ", ".join(f"{name}={value!r}" for name, value in {**plan.load, **plan.build}.items())
    rows = (
        (
            "Model",
            f"{plan.name}: {source.architecture or 'unknown'}, {source.billions:.2f} billion parameters",
        ),
        ("Thinks", source.thinking),
        ("Toolkit", plan.release),
        ("Arguments", arguments),
        ("Calibration", f"{plan.rows} rows, seed {plan.seed}" if plan.rows else "none of its own"),
        ("File", file_of(plan)),
        ("Context", context),
        ("On the board", f"about {plan.board.memory_mb:,} MB ({plan.board.basis}); {fits} 8 GB"),
        ("Speed there", rate),
        (
            "Converting",
            f"about {span(plan.work.seconds)}, {plan.work.memory / 1e9:.0f} GB of memory, "
            f"{plan.work.disk / 1e9:.1f} GB of disk (estimates, see docs/MODELS.md)",
        ),
    )
    for subject, says in rows:
        yield f"{subject + ':':<14}{says}"
    for note in plan.notes:
        yield f"{'Note:':<14}{note}"


def finding_lines(findings: Sequence[Finding]) -> Iterator[str]:
    for each in findings:
        yield f"{_MARKS[each.level]:<7} {each.subject}: {each.says}"
        if each.remedy:
            yield f"{'':<10}{each.remedy}"
    broken = sum(each.level == "broken" for each in findings)
    yield f"{broken} broken" if broken else "This machine can convert."
