"""What a diagnosis is made of, and what it comes to: plain values."""

import re
from typing import Literal, TypeAlias

import msgspec

from rkllama.board.facts import Board
from rkllama.vendor.diagnosis import Facts

Level: TypeAlias = Literal["ok", "note", "slow", "broken"]


class Finding(msgspec.Struct, frozen=True):
    """One result. "slow" costs speed; "broken" keeps models from answering."""

    level: Level
    subject: str
    says: str
    remedy: str | None = None


class FoundLibrary(msgspec.Struct, frozen=True, kw_only=True):
    """The vendor's library with its release, or why it cannot be used."""

    path: str | None = None
    release: str | None = None
    error: str | None = None


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """The median of some runs; None for what could not be measured. `by_clock`: not the runtime's own."""

    prefill_tokens: int | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    by_clock: bool = False


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file, and what came of loading and running it if that was done.

    `folder` is the name of its directory. `error` is why it did not load or answer. `corrupt`: it answered
    with tokens that its vocabulary does not have.
    """

    file: str
    folder: str
    bytes: int
    loaded: bool = False
    facts: Facts = Facts()
    release: str | None = None
    error: str | None = None
    speed: Speed | None = None
    corrupt: bool = False


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that a diagnosis is made of. `working` is the board as it was while a model was answering."""

    board: Board
    library: FoundLibrary
    models: tuple[ModelFile, ...] = ()
    working: Board | None = None

    @property
    def platform(self) -> str | None:
        """The chip, by the device tree or else by what the runtime said."""
        said = [model.facts.platform for model in self.models if model.facts.platform]
        return self.board.platform or (said[0].lower() if said else None)


def parts(version: str) -> tuple[int, ...]:
    """ "0.9.8" as something to compare."""
    return tuple(map(int, re.findall(r"\d+", version)))


def gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def mhz(hertz: int) -> str:
    return f"{hertz / 1e6:.0f}"
