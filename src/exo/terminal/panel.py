"""The panel of a node while it serves: an `assembly.Display`.

Theory of operation. A task on the node's own loop makes a snapshot, lays it out and draws what has changed:
at most twice a second while something happens, and once a second to look whether something does. What is
logged wakes it sooner. While the shell has the terminal, as after Ctrl-Z and `bg`, there are plain log lines.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator

from exo.assembly.parts import Parts
from exo.http.desk import Served
from exo.settings import HttpSettings
from exo.terminal import view
from exo.terminal.fitting import Terminal, in_front
from exo.terminal.gather import Gatherer, urls
from exo.terminal.paint import Painter
from exo.terminal.recent import Log, Requests
from exo.terminal.screen import Screen
from exo.terminal.words import span

log = logging.getLogger(__name__)

_SOONEST, _LATEST = 0.5, 1.0


class Panel:
    """Keeps what is logged from now on, and has the terminal while a node serves."""

    def __init__(self, terminal: Terminal) -> None:
        self._fd = sys.stderr.fileno()
        self._painter = Painter(colours=terminal.colours)
        self._glyphs = view.UNICODE if terminal.unicode else view.ASCII
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news = asyncio.Event()
        self._log = Log(self._changed)
        self._requests = Requests(self._changed)

    @contextlib.asynccontextmanager
    async def __call__(
        self, parts: Parts, served: Served, http: HttpSettings, stop: asyncio.Event
    ) -> AsyncIterator[None]:
        try:
            self._screen = Screen(self._fd)
        except OSError as error:
            log.warning("no panel is shown: the terminal cannot be opened again (%s)", error)
            yield
            return
        self._loop = asyncio.get_running_loop()
        self._requests.taken, self._requests.here = served.taken, parts.node.id
        self._gatherer = Gatherer(parts, served, http, self._log, self._requests)
        self._stop = stop
        began = time.monotonic()
        on_signal = {
            signal.SIGWINCH: self._screen_changed,
            signal.SIGCONT: self._screen_changed,
            signal.SIGTSTP: self._suspended,
        }
        for number, do in on_signal.items():
            self._loop.add_signal_handler(number, do)
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            self._hide()
            self._screen.close()
            for number in on_signal:
                self._loop.remove_signal_handler(number)
            self._loop = None
            self._sum_up(http, time.monotonic() - began)
            self._log.close()
            self._requests.close()

    async def _run(self) -> None:
        try:
            while not self._screen.gone:
                self._news.clear()
                began = time.monotonic()
                if not self._screen.shown and in_front(self._fd):
                    self._show()
                moving = self._draw() if self._screen.shown else False
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_SOONEST if moving else _LATEST):
                        await self._news.wait()
                await asyncio.sleep(max(0.0, began + _SOONEST - time.monotonic()))
        except Exception:
            self._hide()
            log.exception("the panel met a defect of this program, and is gone; the node goes on")
        else:
            self._hide()

    def _draw(self) -> bool:
        """Draws the node as it is now; whether its figures are moving."""
        size = self._screen.size()
        snapshot = self._gatherer.snapshot(time.monotonic(), stopping=self._stop.is_set())
        self._screen.draw(self._painter.ansi(view.lines(snapshot, size.columns, size.lines, self._glyphs)))
        return snapshot.moving

    def _show(self) -> None:
        self._log.mute()
        self._screen.enter()

    def _hide(self) -> None:
        self._screen.leave()
        if self._log.muting:
            self._log.unmute()

    def _screen_changed(self) -> None:
        """It has another size, or somebody else has had it."""
        self._screen.changed()
        self._news.set()

    def _suspended(self) -> None:
        """Ctrl-Z: the shell gets its screen back. We go on here when the shell lets us."""
        assert self._loop is not None
        self._hide()
        self._loop.remove_signal_handler(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTSTP)
        self._loop.add_signal_handler(signal.SIGTSTP, self._suspended)
        self._news.set()

    def _changed(self) -> None:
        """Called by whichever thread logs."""
        if self._loop is not None and not self._news.is_set():
            self._loop.call_soon_threadsafe(self._news.set)

    def _sum_up(self, http: HttpSettings, seconds: float) -> None:
        answered, failed = self._requests.answered, self._requests.failed
        where = urls(http)[0]
        log.info("was at %s for %s: %d requests answered, %d failed", where, span(seconds), answered, failed)
