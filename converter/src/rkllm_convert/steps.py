"""Steps that need not be done twice: what each was made of, and checksums of what it made.

They are kept in `state.json` beside the files, in a hidden folder that is locked while a conversion is at it.
A step is done if it was made of the same things and its files are still what they were.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from rkllm_convert.errors import NotReady

_STATE = "state.json"
_CHUNK = 1 << 20


class Steps:
    """The steps of the conversion in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._done: dict[str, Any] = {}
        with contextlib.suppress(FileNotFoundError, ValueError):  # damaged, all is done anew
            self._done = dict(json.loads((folder / _STATE).read_text(encoding="utf-8")))

    def done(self, step: str, key: str) -> Mapping[str, Any] | None:
        """What was noted of the step, if it need not be done again."""
        entry = self._done.get(step)
        if not isinstance(entry, dict) or entry.get("key") != key:
            return None
        for name, checksum in entry["files"].items():
            path = self._folder / name
            if not path.is_file() or sha256(path) != checksum:
                return None
        noted: Mapping[str, Any] = {**entry["noted"], "files": entry["files"]}
        return noted

    def finish(self, step: str, key: str, files: Sequence[str], **noted: Any) -> Mapping[str, Any]:
        """Notes that the step has made these files, which are on the disk before the note is."""
        checksums = {}
        for name in files:
            sync(self._folder / name)
            checksums[name] = sha256(self._folder / name)
        self._done[step] = {"key": key, "files": checksums, "noted": noted}
        write_whole(self._folder / _STATE, json.dumps(self._done, indent=1).encode())
        return {**noted, "files": checksums}


def key_of(*parts: Any) -> str:
    """Changes with any of the parts, which are plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder, and keeps others out of it, in other processes too. At the end it is gone if there is
    nothing in it. Raises `NotReady` where one is at it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(str(folder), os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotReady(f"another conversion is at work in {folder}") from None
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # it is gone already, or something is in it
                folder.rmdir()
    finally:
        os.close(handle)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that there is the old one or the new one, whatever happens."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(content)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file, or a folder's names, are on the disk."""
    handle = os.open(str(path), os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
