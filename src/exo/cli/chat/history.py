"""What was typed in earlier chats: a file in EXO_HOME, which only its owner can read.

An entry is a line, in which a line break is `\\n` and a backslash `\\\\`. There are `MOST` lines at most: the
oldest tenth makes room, so that an entry is one short write, and the file is written anew once in a hundred
times. Chats that run side by side add to the same file.
"""

import errno
import os
from pathlib import Path

MOST = 1000
LONGEST = 10_000
"""Characters; what is longer was pasted, and would make the file large."""


class History:
    """Every method raises `OSError` where the file cannot be had."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0

    def read(self) -> list[str]:
        """The entries, the oldest first."""
        lines = self._read()
        self._lines = len(lines)
        return [_unescaped(line) for line in lines[-MOST:]]

    def add(self, entry: str) -> None:
        if len(entry) > LONGEST:
            return
        line = _escaped(entry) + "\n"
        if self._lines >= MOST:
            kept = self._read()[-(MOST - MOST // 10) :]
            self._replace("".join(f"{each}\n" for each in kept) + line)
            self._lines = len(kept) + 1
        else:
            self._append(line)
            self._lines += 1

    def _read(self) -> list[str]:
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return text.removesuffix("\n").split("\n") if text else []

    def _append(self, line: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(file, "wb", buffering=0) as out:
            # Whoever made it, and with whatever mask.
            os.fchmod(file, 0o600)
            before = os.fstat(file).st_size
            if out.write(line.encode()) < len(line.encode()):
                # A full disk takes the beginning of it, which the next entry would be added to.
                os.ftruncate(file, before)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _replace(self, text: str) -> None:
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
                out.write(text.encode())
            new.replace(self._path)
        finally:
            new.unlink(missing_ok=True)


def _escaped(entry: str) -> str:
    return entry.replace("\\", "\\\\").replace("\r", "").replace("\n", "\\n")


def _unescaped(line: str) -> str:
    parts = line.split("\\\\")
    return "\\".join(part.replace("\\n", "\n") for part in parts)
