"""What a diagnosis comes to, for `exo doctor` and `rkllama doctor` alike: plain values."""

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

import msgspec

Level: TypeAlias = Literal["ok", "note", "slow", "broken"]

_URGENCY: tuple[Level, ...] = ("broken", "slow", "note", "ok")


class Finding(msgspec.Struct, frozen=True):
    """One result: what was looked at, the evidence, and what would mend it.

    "broken" keeps models from answering, "slow" costs speed, a "note" is worth knowing.
    """

    level: Level
    subject: str
    says: str
    remedy: str | None = None


def by_urgency(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The worst first, and within a level as they came."""
    return tuple(sorted(findings, key=lambda finding: _URGENCY.index(finding.level)))


def status(findings: Iterable[Finding]) -> int:
    """A command's exit status: 1 where something is broken. 2 means elsewhere that it could not be read."""
    return int(any(finding.level == "broken" for finding in findings))


def summary(findings: Sequence[Finding]) -> str:
    """The line below all findings: "1 broken, 2 slow"."""
    counted = [(level, sum(each.level == level for each in findings)) for level in ("broken", "slow")]
    return ", ".join(f"{count} {level}" for level, count in counted if count) or "Nothing is wrong."


def gb(size: float) -> str:
    """Bytes, in the unit that suits them."""
    if size >= 1e8:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} KB"
