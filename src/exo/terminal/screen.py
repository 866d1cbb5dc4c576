"""A terminal's other screen, drawn on without ever waiting for the terminal.

A terminal that nobody reads from (a laptop asleep at the other end of SSH) must not hold up a node.
So the terminal is opened a second time, for writing without waiting: the flag for that belongs to an opening,
and the shell's own stays as it is. What a full terminal does not take is written once it does; until then
nothing more is drawn. Only lines that have changed are sent.

A process that is killed at once (SIGKILL, a crash of native code) cannot give the screen back: `reset` does.
"""

import asyncio
import contextlib
import os
import select
import termios
import time
from collections.abc import Iterator, Sequence

_ENTER = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
"""To the other screen, without a cursor, and without going on in the next line where one is too long."""

_LEAVE = b"\x1b[m\x1b[?7h\x1b[?25h\x1b[999;1H\n\x1b[?1049l"
"""The way back. Where there is no other screen (a Linux console), it goes on below."""

_LAST_SECONDS = 0.5
_WHOLE_SECONDS = 10.0


class Screen:
    """The terminal at `fd`, which stays the caller's. `gone` is whether it has hung up."""

    def __init__(self, fd: int) -> None:
        self._fd = opened_again(fd)
        self._modes: list[int | list[bytes | int]] = []
        self._unwritten = b""
        self._drawn: list[str] = []
        self._whole_at = 0.0
        self.shown = False
        self.gone = False

    def size(self) -> os.terminal_size:
        try:
            return os.get_terminal_size(self._fd)
        except OSError:
            self.gone = True
            return os.terminal_size((80, 24))

    def enter(self) -> None:
        """Takes the screen, and keeps from it what is typed; Ctrl-S no longer stops it. Call it in the
        foreground only: from the background, a process that changes a terminal's modes is stopped."""
        with self._hang_up_noticed():
            self._modes, quiet = termios.tcgetattr(self._fd), termios.tcgetattr(self._fd)
            quiet[0] &= ~termios.IXON
            quiet[3] &= ~(termios.ECHO | termios.ICANON)
            termios.tcsetattr(self._fd, termios.TCSANOW, quiet)
            self.shown = True
            self._drawn = []
            self._write(_ENTER)

    def leave(self) -> None:
        """Gives the screen back, and drops what was typed. Waits for half a second at most."""
        if not self.shown:
            return
        self.shown = False
        self._write(_LEAVE)
        deadline = time.monotonic() + _LAST_SECONDS
        while self._unwritten and (left := deadline - time.monotonic()) > 0:
            select.select([], [self._fd], [], left)
            self._more()
        self._unwritten = b""
        asyncio.get_running_loop().remove_writer(self._fd)
        with self._hang_up_noticed():
            termios.tcsetattr(self._fd, termios.TCSANOW, self._modes)
            termios.tcflush(self._fd, termios.TCIFLUSH)

    def draw(self, lines: Sequence[str]) -> None:
        """Shows these lines from the top; not while the terminal has yet to take what it was sent before."""
        if self._unwritten or self.gone:
            return
        changed = [
            row for row, line in enumerate(lines) if row >= len(self._drawn) or self._drawn[row] != line
        ]
        whole = len(lines) != len(self._drawn)
        # Another program may have written here.
        if changed and time.monotonic() - self._whole_at > _WHOLE_SECONDS:
            whole = True
        if whole:
            changed = [*range(len(lines))]
            self._whole_at = time.monotonic()
        if changed:
            self._drawn = list(lines)
            self._write("".join(f"\x1b[{row + 1};1H\x1b[2K{lines[row]}" for row in changed).encode())

    def changed(self) -> None:
        """What is on the screen is no longer known: terminals move it about when they change their size."""
        self._drawn = []
        if self.shown and not self._unwritten:
            self._write(b"\x1b[2J")

    def close(self) -> None:
        self.leave()
        os.close(self._fd)

    @contextlib.contextmanager
    def _hang_up_noticed(self) -> Iterator[None]:
        try:
            yield
        except termios.error:
            self.gone = True

    def _write(self, data: bytes) -> None:
        self._unwritten += data
        self._more()

    def _more(self) -> None:
        try:
            self._unwritten = self._unwritten[os.write(self._fd, self._unwritten) :]
        except BlockingIOError:
            pass
        except OSError:  # it has hung up
            self.gone, self._unwritten = True, b""
        loop = asyncio.get_running_loop()
        if self._unwritten:
            loop.add_writer(self._fd, self._more)
        else:
            loop.remove_writer(self._fd)


def opened_again(fd: int) -> int:
    """The terminal at `fd`, opened once more, for writing without waiting. Raises `OSError` where that cannot
    be: it then belongs to somebody else."""
    flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(os.ttyname(fd), flags)
    except OSError:
        # After `su`, it is another user's by its name, and ours as the one that controls us.
        return os.open("/dev/tty", flags)
