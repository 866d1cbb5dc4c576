"""A terminal with a program in it: a pseudoterminal, and an emulator that understands what is sent to it."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import pyte

from tests.e2e.node import PATIENCE

_IN_FRONT = """
import fcntl, json, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
for number in json.loads(sys.argv[1]):
    signal.signal(number, signal.SIG_IGN)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Makes the terminal the one that controls the program, which then takes its place."""


class Terminal:
    """Runs `command` as a shell would have it in front. Wait for what is to be seen with `until`.

    `sent` is all that has been sent to the terminal, as bytes.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        columns: int = 100,
        rows: int = 30,
        ignored: Sequence[signal.Signals] = (),
    ) -> None:
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self.sent = b""
        self._news = threading.Condition()
        self._over = False
        self._master, slave = pty.openpty()
        self._resize(columns, rows)
        self.modes_before = self.modes()

        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_FRONT, json.dumps(ignored), *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={"TERM": "xterm-256color", "LANG": "C.UTF-8", **environment},
            start_new_session=True,
        )
        # Kept open, so that what is left on it can be looked at when the program has ended.
        self._slave = slave
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.hang_up()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 1 << 16):
                with self._news:
                    self.sent += data
                    self._stream.feed(data)
                    self._news.notify_all()
        with self._news:
            self._over = True
            self._news.notify_all()

    @property
    def shown(self) -> str:
        """The screen as it is now."""
        with self._news:
            return "\n".join(line.rstrip() for line in self._screen.display)

    def until(self, holds: Callable[[str], bool]) -> str:
        """The screen, once it is so."""
        with self._news:
            seen = self._news.wait_for(lambda: holds(self._text()) or self._over, PATIENCE)
            text = self._text()
        assert seen, f"it was never to be seen:\n{text}"
        assert holds(text), f"the terminal was closed before:\n{text}"
        return text

    def until_shows(self, *parts: str) -> str:
        return self.until(lambda text: all(part in text for part in parts))

    def _text(self) -> str:
        return "\n".join(line.rstrip() for line in self._screen.display)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        with self._news:
            self._screen.resize(rows, columns)
        self._resize(columns, rows)

    def _resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def modes(self) -> list[Any]:
        """How the terminal treats what is typed and written."""
        return termios.tcgetattr(self._master)

    def exit_code(self) -> int:
        code = self.process.wait(PATIENCE)
        # All that it has written is read once the terminal says so itself.
        os.write(self._slave, b"\x1b]end\x07")
        with self._news:
            assert self._news.wait_for(lambda: b"\x1b]end\x07" in self.sent or self._over, PATIENCE)
        return code

    def hang_up(self) -> None:
        """Closes the window."""
        for fd in (self._slave, self._master):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._slave = self._master = -1
        self._reader.join(PATIENCE)
