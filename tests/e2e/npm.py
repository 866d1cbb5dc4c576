"""The npm clients: scripts of `tests/clients`, each in a process of its own, that do what they are asked.

`scripts/setup dev` has installed what they import. Nothing is downloaded here.
"""

import json
import select
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .node import PATIENCE

_FOLDER = Path(__file__).parents[1] / "clients"


class Npm(NamedTuple):
    """A client: a script, and for the AI SDK through which of its providers."""

    script: str
    provider: str = ""

    def __str__(self) -> str:
        return self.script.removesuffix(".mjs") + (f"-{self.provider}" if self.provider else "")


OPENAI = Npm("openai.mjs")
OPENAI_RESPONSES = Npm("openai_responses.mjs")
AI_OPENAI = Npm("ai.mjs", "openai-chat")
AI_COMPATIBLE = Npm("ai.mjs", "openai-compatible")
AI_RESPONSES = Npm("ai.mjs", "openai-responses")
AI_ANTHROPIC = Npm("ai.mjs", "anthropic")


class Script:
    """A script's process. It is asked one thing after the other, and is there until it is closed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._start()

    def _start(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `_kill`)
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            ["node", self._name], cwd=_FOLDER, stdin=pipe, stdout=pipe, stderr=self._said
        )

    def ask(self, asked: dict[str, object]) -> dict[str, Any]:
        """What came of it; fails where that is neither an answer nor an error of the server's."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            # What might still come is no answer to what is asked next.
            log = self._log()
            self._kill()
            self._start()
            pytest.fail(f"nothing came of {asked}:\n{log}")
        got: dict[str, Any] = json.loads(line)
        assert "defect" not in got, f"{asked}:\n{got['defect']}\n{self._log()}"
        return got

    def _log(self) -> str:
        self._said.seek(0)
        return self._said.read().decode()

    def close(self) -> None:
        """Ends the process, by the end of its input; fails where that does not end it well."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            assert self._process.wait(PATIENCE) == 0, self._log()
        finally:
            self._kill()

    def _kill(self) -> None:
        # Waits for its end, and closes its pipes.
        with self._process, self._said:
            self._process.kill()


class Client:
    """One of them, to be asked."""

    def __init__(self, name: Npm, script: Script) -> None:
        self.name = name
        self._script = script

    def ask(self, behaviour: str, url: str, **asked: object) -> dict[str, Any]:
        return self._script.ask({"behaviour": behaviour, "url": url, "provider": self.name.provider, **asked})

    def error(self, behaviour: str, url: str, **asked: object) -> dict[str, Any]:
        """The error that the client made of what the server answered."""
        got = self.ask(behaviour, url, **asked)
        assert set(got) == {"error"}, got
        error: dict[str, Any] = got["error"]
        return error
