"""A TOML file, and the line at which a key stands.

tomllib keeps no lines. But every whole statement of a file is one more that can be parsed behind those before
it, so a key's line follows the last one up to which the file can be parsed and has not the key. It is looked
for by halves, and only to tell a person where something stands.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from exo.configuration.noted import Faulty

# What a person writes is far below; it bounds the search for lines.
_LARGEST = 1 << 18

_BARE = re.compile(r"[A-Za-z0-9_-]+")


class Document:
    """A file that was read. Raises `Faulty`, naming it and the line, for one that cannot be."""

    def __init__(self, path: Path) -> None:
        import tomllib

        self.path = path
        try:
            if path.stat().st_size > _LARGEST:
                raise Faulty([f"{path}: has more than {_LARGEST} bytes; is that a configuration?"])
            text = path.read_bytes().decode("utf-8-sig")
            self.values: Mapping[str, Any] = tomllib.loads(text)
        except OSError as error:
            raise Faulty([f"{path}: {error.strerror}"]) from error
        except UnicodeDecodeError as error:
            raise Faulty([f"{path}: is no UTF-8 at byte {error.start}"]) from error
        except RecursionError as error:
            raise Faulty([f"{path}: is nested too deep"]) from error
        except tomllib.TOMLDecodeError as error:
            what, _, where = str(error).partition(" (at ")
            line = re.match(r"line (\d+)", where)
            named = f"{path}:{line[1]}" if line else f"{path}: at its end"
            raise Faulty([f"{named}: is no TOML: {what[:1].lower()}{what[1:]}"]) from error
        self._lines = text.split("\n")

    def line(self, key: Sequence[str]) -> int | None:
        """Where the statement begins that says `key`, which is a path of names; None where none does."""
        if not has(self.values, key):
            return None
        before, behind = 0, len(self._lines)
        while (end := self._whole(before, behind)) < behind:
            if has(self._parsed(end) or {}, key):
                behind = end
            else:
                before = end
        return before + 1

    def place(self, key: Sequence[str]) -> str:
        """`FILE:LINE`."""
        line = self.line(key)
        return str(self.path) if line is None else f"{self.path}:{line}"

    def _whole(self, after: int, before: int) -> int:
        """A number of lines that ends with a whole statement, about the middle of the two; `before` where
        there is none between them."""
        middle = (after + before) // 2
        for count in chain(range(middle, after, -1), range(middle + 1, before)):
            if self._parsed(count) is not None:
                return count
        return before

    def _parsed(self, count: int) -> Mapping[str, Any] | None:
        import tomllib

        try:
            return tomllib.loads("\n".join(self._lines[:count]) + "\n")
        except tomllib.TOMLDecodeError:
            return None


def has(values: Any, key: Sequence[str]) -> bool:
    """Whether a tree of tables has that path."""
    for name in key:
        if not isinstance(values, Mapping) or name not in values:
            return False
        values = values[name]
    return True


def dotted(key: Sequence[str]) -> str:
    """A path as TOML writes it: `models."qwen3:0.6b".timeout`."""
    return ".".join(name if _BARE.fullmatch(name) else text(name) for name in key)


def text(value: str) -> str:
    """As a TOML string."""
    import json

    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def written(value: Any) -> str:
    """A plain value as TOML writes it. Whole numbers of seconds and the like have no point."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return text(value)
    return f"[{', '.join(written(each) for each in value)}]"
