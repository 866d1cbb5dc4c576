"""What fills a template's slots: numbers, and what is written in `slots.txt`."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random

_NUMBERS: Mapping[str, Callable[[Random], str]] = {
    "n": lambda rng: str(rng.randint(2, 20)),
    "big": lambda rng: str(rng.randint(21, 999)),
    "huge": lambda rng: str(rng.randint(1000, 99_999)),
    "pct": lambda rng: str(rng.randint(5, 95)),
    "price": lambda rng: f"{rng.randint(0, 40)}.{rng.randint(0, 99):02}",
    "time": lambda rng: f"{rng.randint(6, 22)}:{rng.choice(('00', '15', '30', '45'))}",
    "year": lambda rng: str(rng.randint(1850, 2025)),
}

# Most passages are short, some fill a page.
_SENTENCES = (1, 2, 2, 3, 3, 4, 6, 9, 20)


def text(kind: str, language: str, rng: Random) -> str:
    """A text for a slot of that kind, which may have slots itself; in English where the language has none.
    Raises `KeyError` where there is no such kind."""
    if kind in _NUMBERS:
        return _NUMBERS[kind](rng)
    if kind == "passage":
        prose = _read()["prose", language]
        return space(language).join(rng.choice(prose) for _ in range(rng.choice(_SENTENCES)))
    known = _read()
    return rng.choice(known[kind, language if (kind, language) in known else "en"])


def space(language: str) -> str:
    """What stands between sentences."""
    return "" if language == "zh" else " "


@cache
def _read() -> Mapping[tuple[str, str], Sequence[str]]:
    found: dict[tuple[str, str], list[str]] = {}
    items: list[str] = []
    for line in Path(__file__).with_name("slots.txt").read_text("utf-8").splitlines():
        if line.startswith("= "):
            _, kind, language = line.split(" ")
            items = found[kind, language] = []
        elif line and not line.startswith("#"):
            items.append(line)
    return found
