"""The keys that a running node asks for: that of its settings, and those of a file as it is now."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from exo.admission import keyfile
from exo.admission.keys import Key, own_key
from exo.errors import NotReady

log = logging.getLogger(__name__)

# The file is looked at so often at most, and only while there are requests. A look is one system call.
_PAUSE = 1.0

_Mark: TypeAlias = tuple[int, ...] | str | None


class Keyring:
    """`own` is the key of the settings; what is in `file` is read again when it has changed.

    A file that was there and is gone, or can no longer be used, takes no key away: the last good ones go on
    counting, and the log says so once. A node does not open itself because something is broken.
    """

    def __init__(
        self, own: str | None = None, file: Path | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises `NotReady` for a file that cannot be used."""
        self._own = (own_key(own),) if own else ()
        self._file, self._clock = file, clock
        self._looked = clock()
        self._mark = _mark(file)
        self._found = keyfile.read(file) if file else None
        self._keys = self._all()

    def __call__(self) -> tuple[Key, ...] | None:
        """The keys, of which a request has to have one; None where it needs none. No keys at all, where the
        last one was taken out of the file, let nobody in."""
        if self._file is not None and self._clock() - self._looked >= _PAUSE:
            self._look(self._file)
        return self._keys

    def _all(self) -> tuple[Key, ...] | None:
        # The node's own is the last: with its limits and rights, where the file has the same one.
        return (self._own or None) if self._found is None else (*self._found, *self._own)

    def _look(self, file: Path) -> None:
        self._looked = self._clock()
        # Before it is read: what is written in between is seen the next time.
        mark = _mark(file)
        if mark == self._mark:
            return
        self._mark = mark
        try:
            found = keyfile.read(file)
        except NotReady as error:
            log.error("%s; until then the keys of before go on counting", error.message)
            return
        if found is None:
            if self._found is not None:
                log.error("%s is gone; its keys go on counting until this node is started again", file)
            return
        self._found = found
        self._keys = self._all()
        log.info("keys of %s: %s", file, ", ".join(key.name for key in found) or "none")


def _mark(file: Path | None) -> _Mark:
    """Is another one when the file is: it is replaced by another one, or its content or mode change."""
    if file is None:
        return None
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    except OSError as error:
        return str(error)
    return (found.st_dev, found.st_ino, found.st_ctime_ns, found.st_mtime_ns, found.st_size)
