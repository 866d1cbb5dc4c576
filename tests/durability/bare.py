"""An `exo` process whose standard streams, limits and signals a test has in hand: no pipe reads its log."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.e2e.node import PATIENCE, chat_body, environment, eventually

QUESTION, ANSWER = "What is 145 + 278?", "145 + 278 = 423"


# Also where these tests were started with nohup, which what they start would inherit.
_HEARS_HANG_UPS = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""


class Bare:
    """`exo serve` at a free port of 127.0.0.1, started by `shell`, a line of sh in which "$@" is the command.
    Use as a context manager: nothing is left of it."""

    def __init__(self, home: Path, shell: str = 'exec "$@"', *flags: str, **options: Any) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        command = [sys.executable, "-m", "exo.main", "--host", "127.0.0.1", "--port", str(self.port), *flags]
        env = environment(home, options.pop("env", None))
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HEARS_HANG_UPS, "sh", "-c", shell, "sh", *command],
            env=env,
            start_new_session=True,
            **options,
        )

    def __enter__(self) -> Self:
        try:
            eventually(self._serves)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def request(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"null")

    def answers(self) -> None:
        """It says the right thing."""
        status, said = self.request(
            "POST", "/v1/chat/completions", chat_body("exo-demo", QUESTION, temperature=0)
        )
        assert status == 200, said
        assert said["choices"][0]["message"]["content"] == ANSWER

    def ends(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status, once it has been told to end."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _serves(self) -> bool:
        assert self.process.poll() is None, f"it ended by itself, with status {self.process.returncode}"
        try:
            return self.request("GET", "/healthcheck")[0] == 200
        except ConnectionRefusedError:
            return False
