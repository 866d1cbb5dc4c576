"""What a diagnosis of a board is made of: plain values. What it comes to is what exo's doctor's does."""

import re

import msgspec

from exo.doctor.finding import Finding, Level, gb
from rkllama.board.facts import Board
from rkllama.vendor.diagnosis import Facts

__all__ = ["Evidence", "Finding", "FoundLibrary", "Level", "ModelFile", "Speed", "gb", "mhz", "parts"]


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


def mhz(hertz: int) -> str:
    return f"{hertz / 1e6:.0f}"
