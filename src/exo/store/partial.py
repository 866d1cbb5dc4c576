"""A file that is on its way here, and becomes a file when all of it is, and is right."""

import fcntl
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from exo.errors import EngineFailed, NotReady

_CHUNK = 1 << 20
_SHA256, _SHA1 = 64, 40  # hexadecimal digits


class Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


def hash_for(etag: str, size: int | None) -> Hash | None:
    """What computes the checksum that the hub's entity tag is: SHA-256 of a large file, git's SHA-1 of a
    small one. None where the tag is neither."""
    if len(etag) == _SHA256:
        return hashlib.sha256()
    if len(etag) == _SHA1 and size is not None:
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    return None


def size_if_whole(path: Path, etag: str, size: int | None) -> int | None:
    """The size of a file that is there, and is what the tag says; None where it is not, or cannot be told."""
    hash = hash_for(etag, size)
    if hash is None or not path.is_file() or size not in (None, path.stat().st_size):
        return None
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            hash.update(chunk)
        return file.tell() if hash.hexdigest() == etag else None


class Partial:
    """A hidden file beside `whole`, locked while this is open. Its methods block; one runs at a time.

    Its name says which version of the file it holds, so that no other one is added to it.
    """

    def __init__(self, whole: Path, etag: str, size: int | None) -> None:
        self._whole = whole
        self._etag = etag
        self._size = size
        version = hashlib.sha256(etag.encode()).hexdigest()[:16]
        self.path = whole.with_name(f".{whole.name}.{version}.partial")
        self.done = 0
        """Bytes that are here."""

    def __enter__(self) -> Self:
        """Raises `NotReady` where somebody else is at it."""
        self._file = self.path.open("a+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise NotReady(f"{self._whole.name} is being downloaded already") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def complete(self) -> bool:
        return self._size is not None and self.done >= self._size

    def take_up(self) -> None:
        """Reads what is here from an earlier time, if it is known where that should end."""
        self._hash, self.done = hash_for(self._etag, self._size), 0
        if self._size is None or os.fstat(self._file.fileno()).st_size > self._size:
            self.restart()
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            self._count(chunk)

    def restart(self) -> None:
        """Forgets what is here."""
        self._file.truncate(0)
        self._hash, self.done = hash_for(self._etag, self._size), 0

    def add(self, chunk: bytes) -> None:
        rest = memoryview(chunk)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._count(chunk)

    def install(self) -> None:
        """Puts the file in its place, for good: it is on the disk when this returns. Raises `EngineFailed`
        for one that is not what it should be, and throws that away."""
        if (self._size not in (None, self.done)) or (self._hash and self._hash.hexdigest() != self._etag):
            self.path.unlink()
            raise EngineFailed(
                f"what came as {self._whole.name} is not the file it should be: its checksum or its size "
                "differs, and it was thrown away; download it again"
            )
        os.fsync(self._file.fileno())
        self.path.replace(self._whole)
        folder = os.open(self._whole.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        for other in self._whole.parent.iterdir():
            if other.name.startswith(f".{self._whole.name}.") and other.suffix == ".partial":
                other.unlink()  # of an older version

    def _count(self, chunk: bytes) -> None:
        self.done += len(chunk)
        if self._hash:
            self._hash.update(chunk)
