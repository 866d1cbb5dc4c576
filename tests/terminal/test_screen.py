"""The terminal's other screen, on a pseudoterminal that the test reads from, or does not."""

import asyncio
import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import AsyncIterator

import pytest

from exo.terminal.screen import Screen


class Pseudoterminal:
    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        os.set_blocking(self.master, False)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.screen = Screen(self.slave)

    def sent(self) -> bytes:
        """What has come since the last time."""
        data = b""
        while True:
            try:
                data += os.read(self.master, 1 << 16)
            except BlockingIOError:
                return data

    def close(self) -> None:
        self.screen.close()
        os.close(self.slave)
        if self.master >= 0:
            os.close(self.master)


@pytest.fixture
async def terminal() -> AsyncIterator[Pseudoterminal]:
    made = Pseudoterminal()
    yield made
    made.close()


async def test_only_lines_that_have_changed_are_sent(terminal: Pseudoterminal) -> None:
    screen = terminal.screen
    screen.enter()
    screen.draw(["one", "two", "three"])
    terminal.sent()
    screen.draw(["one", "two", "three"])
    assert terminal.sent() == b""
    screen.draw(["one", "2", "three"])
    assert terminal.sent() == b"\x1b[2;1H\x1b[2K2"


async def test_after_a_resize_all_is_sent_again(terminal: Pseudoterminal) -> None:
    screen = terminal.screen
    assert screen.size() == (80, 24)
    screen.enter()
    screen.draw(["one", "two"])
    terminal.sent()
    screen.changed()
    screen.draw(["one", "two"])
    assert terminal.sent() == b"\x1b[2J\x1b[1;1H\x1b[2Kone\x1b[2;1H\x1b[2Ktwo"


async def test_what_another_program_wrote_over_it_does_not_stay(
    terminal: Pseudoterminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = terminal.screen
    screen.enter()
    screen.draw(["one", "two"])
    terminal.sent()
    later = time.monotonic() + 11
    monkeypatch.setattr(time, "monotonic", lambda: later)
    screen.draw(["one", "2"])
    assert b"one" in terminal.sent()


async def test_the_terminal_is_left_as_it_was_found(terminal: Pseudoterminal) -> None:
    before = termios.tcgetattr(terminal.slave)
    terminal.screen.enter()
    assert termios.tcgetattr(terminal.slave) != before
    assert os.get_blocking(terminal.slave)
    os.write(terminal.master, b"typed")
    assert select.select([terminal.slave], [], [], 10)[0]
    terminal.screen.leave()
    assert termios.tcgetattr(terminal.slave) == before
    assert terminal.sent().endswith(b"\x1b[?7h\x1b[?25h\x1b[999;1H\r\n\x1b[?1049l")
    os.set_blocking(terminal.slave, False)
    with pytest.raises(BlockingIOError):
        os.read(terminal.slave, 10)


async def test_a_terminal_that_is_not_read_is_not_waited_for(terminal: Pseudoterminal) -> None:
    screen = terminal.screen
    screen.enter()
    began = time.monotonic()
    for number in range(1000):
        screen.draw([f"{number} " * 200] * 24)
    assert time.monotonic() - began < 5
    assert screen._unwritten
    # One of them and no more is waiting to be shown; then the latest is.
    seen = b""
    while screen._unwritten:
        seen += terminal.sent()
        await asyncio.sleep(0)
    seen += terminal.sent()
    assert b"999 " not in seen
    screen.draw(["the latest"])
    assert b"the latest" in terminal.sent()


async def test_leaving_one_that_is_not_read_takes_half_a_second(terminal: Pseudoterminal) -> None:
    screen = terminal.screen
    screen.enter()
    for number in range(10):
        screen.draw([f"{number} " * 5000] * 24)
    began = time.monotonic()
    screen.leave()
    assert 0.4 < time.monotonic() - began < 5


async def test_one_that_hangs_up_is_gone(terminal: Pseudoterminal) -> None:
    screen = terminal.screen
    screen.enter()
    os.close(terminal.master)
    terminal.master = -1
    screen.draw(["one"])
    assert screen.gone
    screen.draw(["two"])
    screen.size()
    screen.leave()
