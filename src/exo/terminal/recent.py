"""What happened lately: the log and the requests, kept from what the node logs anyway."""

import contextlib
import io
import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

import msgspec

from exo.http.app import AccessRecord, access
from exo.terminal.snapshot import Line, Request
from exo.terminal.words import harmless

_REQUESTS, _LINES = 100, 500
_LONGEST = 20_000


class Log(logging.Handler):
    """The last lines of the log. While it is `muting`, the log's own handlers to stderr are silent, as are
    those who write to stdout or stderr themselves: a screen would be torn. What they would have said is said
    when that ends."""

    def __init__(self, changed: Callable[[], None]) -> None:
        super().__init__()
        self.lines: deque[Line] = deque(maxlen=_LINES)
        self._changed = changed
        self._unsaid: deque[str] = deque(maxlen=_LINES)
        self._lost = 0
        self._muted: list[tuple[logging.Logger, logging.Handler]] = []
        self._stderr = sys.stderr
        self._streams = sys.stdout, sys.stderr
        # As they look on stderr.
        self.setFormatter(next((each.formatter for _, each in self._to_stderr() if each.formatter), None))
        logging.getLogger().addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            plain, text = self.format(record), record.getMessage()
        except Exception:
            self.handleError(record)  # as all handlers do: whoever logs is not to fail
            return
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {record.exc_info[1]!r}"
        self.keep(Line(record.created, record.levelno, text, plain))

    def keep(self, line: Line) -> None:
        self.lines.append(line)
        if self._muted:
            self._lost += len(self._unsaid) == _LINES
            # Some of it is from strangers, and it is a terminal that it goes to.
            plain = (harmless(each, _LONGEST) for each in line.plain[:_LONGEST].splitlines())
            self._unsaid.append("\n".join(plain))
        self._changed()

    @property
    def muting(self) -> bool:
        return bool(self._muted)

    def mute(self) -> None:
        self._muted = self._to_stderr()
        for logger, handler in self._muted:
            logger.removeHandler(handler)
        self._streams = sys.stdout, sys.stderr
        sys.stdout = sys.stderr = _Strays(self.keep, self._stderr)

    def unmute(self) -> None:
        """Says what has come in the meantime, but for the access log."""
        sys.stdout, sys.stderr = self._streams
        for logger, handler in self._muted:
            logger.addHandler(handler)
        self._muted = []
        lost = [f"{self._lost} earlier lines of the log are left out"] if self._lost else []
        # Where the terminal has hung up there is nobody to tell.
        with contextlib.suppress(OSError):
            self._stderr.writelines(f"{line}\n" for line in (*lost, *self._unsaid))
        self._unsaid.clear()
        self._lost = 0

    def close(self) -> None:
        logging.getLogger().removeHandler(self)
        super().close()

    def _to_stderr(self) -> list[tuple[logging.Logger, logging.Handler]]:
        """The handlers of this program's log that write there."""
        return [
            (logger, handler)
            for logger in (logging.getLogger(), access)
            for handler in logger.handlers
            if isinstance(handler, logging.StreamHandler) and handler.stream is self._stderr
        ]


class Requests(logging.Handler):
    """The last requests that a model answered, and those that failed. `taken` says which node answered one of
    them, and why, as `desk.Served.taken` does."""

    def __init__(self, changed: Callable[[], None]) -> None:
        super().__init__()
        self.answered = self.failed = 0
        self.latest: deque[Request] = deque(maxlen=_REQUESTS)
        self.taken: Callable[[str], str] = lambda id: ""
        self.here = ""
        self._changed = changed
        access.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        said = msgspec.json.decode(record.getMessage(), type=AccessRecord)
        asked = said.prompt_tokens or said.completion_tokens or said.ttft_ms is not None
        if not (asked or said.error or (said.model and said.status >= 400)):
            return  # it asked for a list, a download, a model to be loaded
        seconds = said.duration_ms / 1e3
        node = self.taken(said.id).partition(": ")[0]
        request = Request(
            at=record.created - seconds,
            model=said.model,
            # One that another node passed on is answered here, without a choice.
            node=node or (self.here if said.completion_tokens else ""),
            status=said.status,
            error=said.error,
            tokens=said.completion_tokens,
            seconds=seconds,
            ttft=None if said.ttft_ms is None else said.ttft_ms / 1e3,
        )
        self.latest.appendleft(request)
        self.failed += request.failed
        self.answered += not (request.failed or request.hung_up)
        self._changed()

    def close(self) -> None:
        access.removeHandler(self)
        super().close()


class _Strays(io.TextIOBase):
    """A stream whose lines go to the log; its file is that of `stream`, for processes to be given."""

    def __init__(self, keep: Callable[[Line], None], stream: TextIO) -> None:
        self._keep = keep
        self._begun = ""
        self._stream = stream

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            if line.strip():
                self._keep(Line(time.time(), logging.WARNING, line, line))
        self._begun = self._begun[-_LONGEST:]
        return len(text)
