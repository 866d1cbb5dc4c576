"""Tells systemd how a service is, by its protocol: ready, alive, stopping, and a line of status.

A message is a datagram of NAME=VALUE lines to the socket that NOTIFY_SOCKET names (sd_notify(3)). Where
WATCHDOG_USEC is set, one that says WATCHDOG=1 has to come at least that often, or the service is killed and
started anew (sd_watchdog_enabled(3)). It is sent from the event loop, twice as often as asked for, and only
after the node has answered itself: so a loop that hangs and a port that nobody answers are both noticed.

Without a supervisor nothing is sent and nothing is asked.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from exo.errors import NotReady

log = logging.getLogger(__name__)

# How often the status is looked at where no watchdog asks for more.
_STATUS_SECONDS = 10.0
# How soon a node that does not answer is asked again.
_RETRY_SECONDS = 0.5


class Supervisor(msgspec.Struct, frozen=True):
    """Who started this process. `address` is the socket's as the kernel knows it: a path, or a name that
    begins with a zero byte. `watchdog` is in seconds."""

    address: str
    watchdog: float | None = None


def supervisor(environment: Mapping[str, str], pid: int) -> Supervisor | None:
    """That of the process `pid`, if it has one. Raises `NotReady` for variables that cannot be read."""
    named = environment.get("NOTIFY_SOCKET", "")
    if not named:
        return None
    if named[0] not in "/@":
        raise NotReady(f"NOTIFY_SOCKET is '{named}'; it takes a path, or @ and a name: unset it")
    address = "\0" + named[1:] if named[0] == "@" else named
    period, whose = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    # It is inherited, too, by programs that are not meant.
    if not period or (whose and whose != str(pid)):
        return Supervisor(address)
    if not (period.isascii() and period.isdigit() and int(period)):
        raise NotReady(f"WATCHDOG_USEC is '{period}'; it takes microseconds: unset it")
    return Supervisor(address, int(period) / 1e6)


class Reports:
    """What a supervisor is told. `answers` returns once the node has answered, and raises `OSError` where it
    does not; `why_not` says why no chat could be served now."""

    def __init__(
        self,
        supervisor: Supervisor | None,
        answers: Callable[[], Awaitable[None]],
        why_not: Callable[[], str | None],
    ) -> None:
        self._supervisor, self._answers, self._why_not = supervisor, answers, why_not
        self._ready = self._stopping = self._lost = False

    async def run(self) -> None:
        """Says that the node is ready once it answers, and from then on that it still does, until cancelled.

        READY=1 does not wait for models: one may take minutes to load, and a node without any is as it should
        be. What it waits for is in its status.
        """
        if self._supervisor is None:
            return
        watchdog = self._supervisor.watchdog
        pause = watchdog / 2 if watchdog else _STATUS_SECONDS
        while True:
            try:
                # The port is closed while it stops; that the loop turns is all that can be told then.
                if not self._stopping:
                    # Half of it, so that one slow answer is not the end: there is time to ask again.
                    async with asyncio.timeout(pause / 2):
                        await self._answers()
            except OSError as error:  # of which TimeoutError is one
                # Stopping closes the port under the question.
                if not self._stopping:
                    log.warning("this node does not answer itself: %s", str(error) or "nothing came in time")
                await asyncio.sleep(min(pause, _RETRY_SECONDS))
            else:
                self._say_well(watchdog)
                await asyncio.sleep(pause)

    def stopping(self) -> None:
        """Says that the node is on its way out, at once."""
        self._stopping = True
        self._send("STOPPING=1", "STATUS=stopping: waiting for answers under way")

    def _say_well(self, watchdog: float | None) -> None:
        lines = []
        if not self._stopping:
            why = self._why_not()
            # One line: what follows a line break would be another message.
            lines.append("STATUS=" + (" ".join(f"not ready: {why}".split()) if why else "ready for chats"))
            if not self._ready:
                lines.append("READY=1")
                self._ready = True
        if watchdog:
            lines.append("WATCHDOG=1")
        if lines:
            self._send(*lines)

    def _send(self, *lines: str) -> None:
        if self._supervisor is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
                sending.setblocking(False)
                sending.sendto("\n".join(lines).encode(), self._supervisor.address)
        except OSError as error:
            if not self._lost:  # once: it would be a line every few seconds
                log.warning("the service manager cannot be told of this node: %s", error)
            self._lost = True
        else:
            self._lost = False
