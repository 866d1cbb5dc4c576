"""The file of a node's keys, `EXO_HOME/keys.json`: read with suspicion, changed whole or not at all.

It has hashes only, but whoever could write it could let himself in, and whoever reads it learns who may ask:
so nobody but its owner may do either.
"""

import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from exo.admission.keys import MOST, OWN, Key
from exo.errors import BadRequest, NotReady
from exo.private import exposed

NAME = "keys.json"

# Of MOST keys with the longest names there are some 60 KB.
_LARGEST = 1 << 20


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: tuple[Key, ...]


def read(path: Path) -> tuple[Key, ...] | None:
    """The keys in the file, None where there is no file. Raises `NotReady`, naming the file and the remedy,
    for one that others can read, that cannot be read, or that is not as `write` makes it."""
    try:
        # Whatever else it may be, opening it must not wait for somebody to write.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NotReady(f"{path}: {error.strerror}; the user that runs exo has to be its owner") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotReady(f"{path} is no file; take it away, and make keys with exo key add")
        if remedy := exposed(path, status):
            raise NotReady(f"{path}: other users of this machine have access to it; run {remedy}")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise NotReady(f"{path}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return _decoded(path, content)


def add(path: Path, key: Key) -> None:
    """Puts one more key into the file, which is made where there is none. Raises `BadRequest` for a name that
    is taken and for one key too many, `NotReady` as `read` does and for a file that cannot be written."""

    def more(keys: Sequence[Key]) -> Sequence[Key]:
        if key.name in {each.name for each in keys} or key.name == OWN:
            raise BadRequest(f"there is a key '{key.name}' already; exo key rm takes it away")
        if len(keys) >= MOST:
            raise BadRequest(f"there are {MOST} keys already, which is the most; exo key rm takes one away")
        return (*keys, key)

    _change(path, more)


def remove(path: Path, name: str) -> None:
    """Takes a key out of the file. Raises `BadRequest` for one that is not there, and as `add` does."""

    def fewer(keys: Sequence[Key]) -> Sequence[Key]:
        rest = [each for each in keys if each.name != name]
        if len(rest) == len(keys):
            names = ", ".join(each.name for each in keys)
            raise BadRequest(
                f"there is no key '{name}'; {f'there are {names}' if names else 'there is none'}"
            )
        return rest

    _change(path, fewer)


def _decoded(path: Path, content: bytes) -> tuple[Key, ...]:
    remedy = "mend it, or take it away and make keys anew with exo key add"
    if len(content) > _LARGEST:
        raise NotReady(f"{path} has more than {_LARGEST >> 20} MiB; {remedy}")
    try:
        keys = msgspec.json.decode(content, type=_Content).keys
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotReady(f"{path} is damaged: {error}; {remedy}") from error
    names = [key.name for key in keys]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise NotReady(f"{path} has two keys of the name '{twice[0]}'; {remedy}")
    if OWN in names:
        raise NotReady(f"{path} has a key '{OWN}', which is the name of the node's own; {remedy}")
    if len(keys) > MOST:
        raise NotReady(f"{path} has {len(keys)} keys, and {MOST} are the most; {remedy}")
    return keys


def _change(path: Path, change: Callable[[Sequence[Key]], Sequence[Key]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent) as folder:
            _write(path, change(read(path) or ()))
            os.fsync(folder)
    except OSError as error:
        raise NotReady(f"{error.filename or path}: {error.strerror}") from error


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Two commands at once would each write what the other one has not seen."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _write(path: Path, keys: Sequence[Key]) -> None:
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)  # of a command that was killed
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            if os.geteuid() == 0:
                # Else the node, which runs as the folder's owner, could not read what root has written.
                owner = os.stat(path.parent)
                os.fchown(descriptor, owner.st_uid, owner.st_gid)
            file.write(msgspec.json.format(msgspec.json.encode(_Content(tuple(keys))), indent=2) + b"\n")
            file.flush()
            os.fsync(descriptor)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
