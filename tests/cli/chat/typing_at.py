"""`exo run` on a real terminal, as its user sees it and types at it; and as one question without one."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.e2e.node import PATIENCE, Node, environment

CTRL_C, CTRL_D, ENTER, UP = "\x03", "\x04", "\r", "\x1b[A"

# A terminal marks pastes from the one to the other, which is what ends a prompt.
_MARKED, _SENT = "\x1b[?2004h", "\x1b[?2004l"
_MARK = "\0"

# Escape sequences that draw a prompt.
_DRAWN = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|\][^\x07]*\x07|[=>])")


class Terminal:
    """`until` reads what is shown; the keys that `type` sends come as from a keyboard, Ctrl-C too."""

    # Makes the slave its controlling terminal, which only a process itself can do.
    _ATTACH = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.executable, [sys.executable, '-m', 'exo.main', *sys.argv[1:]])"
    )

    def __init__(self, home: Path, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.raw = b""
        """All that has been written to the terminal."""
        self._read = 0  # so far of what is shown
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", self._ATTACH, *arguments],
            env={**environment(home), "TERM": "xterm-256color", **(env or {})},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    @property
    def shown(self) -> str:
        """Without what draws it, and with a mark where a prompt ends."""
        return _DRAWN.sub("", self.raw.decode(errors="replace").replace(_SENT, _MARK)).replace("\r", "")

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def paste(self, text: str) -> None:
        """Marked as a paste where that was asked for, as terminals do."""
        marked = self.raw.rfind(_MARKED.encode()) > self.raw.rfind(_SENT.encode())
        self.type(f"\x1b[200~{text}\x1b[201~" if marked else text)

    def until(self, part: str) -> str:
        """Reads until `part` is shown, behind what an earlier call has read; what stood before it."""
        while (place := self.shown.find(part, self._read)) < 0:
            assert self._more(), f"it ended and had not shown {part!r}: {self.shown!r}"
        before = self.shown[self._read : place]
        self._read = place + len(part)
        return before

    def ask(self, keys: str) -> str:
        """Types it at the prompt, and Enter; what is shown from there to the next one."""
        self.type(keys + ENTER)
        self.until(_MARK)
        return self.until(">>>")

    def end(self) -> int:
        """Its exit code, after everything it still writes."""
        deadline = time.monotonic() + PATIENCE
        while self._more():
            assert time.monotonic() < deadline, "it does not end"
        return self.process.wait(PATIENCE)

    def _more(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], PATIENCE)
        assert ready, f"nothing more is shown: {self.shown!r}"
        try:
            data = os.read(self._master, 4096)
        except OSError:  # Linux' end of file
            return False
        self.raw += data
        return bool(data)


def chat(home: Path, node: Node, *arguments: str, env: Mapping[str, str] | None = None) -> Terminal:
    """At its first prompt."""
    terminal = Terminal(home, "run", *arguments, "--url", node.url, env=env)
    terminal.until(">>>")
    return terminal


def run(
    home: Path, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [sys.executable, "-m", "exo.main", "run", *arguments],
        env=environment(home, {"PYTHONUTF8": "1", **(env or {})}),
        input=stdin,
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    out, err = ended.stdout.decode(), ended.stderr.decode()
    assert "Traceback" not in out + err, err
    return subprocess.CompletedProcess(ended.args, ended.returncode, out, err)


def saved(terminal: Terminal, file: Path) -> dict[str, Any]:
    """The conversation as the chat saves it."""
    assert " saved in " in terminal.ask(f"/save {file}")
    conversation: dict[str, Any] = json.loads(file.read_bytes())
    return conversation
