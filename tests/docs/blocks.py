"""The fenced blocks of a Markdown file."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,})(?P<language>\S*).*$")


class Block(NamedTuple):
    """`line` is that of its first line of text, counted from 1."""

    path: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks(path: Path, language: str | None = None) -> list[Block]:
    """All of them, or those of a language, in order. Fails for one that does not end."""
    return [each for each in _blocks(path) if language in (None, each.language)]


def _blocks(path: Path) -> Iterator[Block]:
    lines = iter(enumerate(path.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        if opened := _FENCE.match(line):
            indent, fence = opened["indent"], opened["fence"]
            text = []
            for _, inside in lines:
                if inside.strip() == fence:
                    break
                text.append(inside.removeprefix(indent))
            else:
                raise AssertionError(f"{path}:{number}: this block does not end")
            yield Block(path, number + 1, opened["language"], "".join(f"{each}\n" for each in text))
