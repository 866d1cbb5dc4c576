"""A node, or the NPU server, as its own process on loopback; gone when the context is left."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.client import Connection

_START_SECONDS = 30.0
_STOP_SECONDS = 10.0
# Settings of servers, and of the stand-in runtime.
_OURS = ("EXO_", "RKLLM_", "STANDIN_")


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """What a server's process gets of this one's environment: not what is meant for servers like it."""
    return {name: value for name, value in environ.items() if not name.startswith(_OURS)}


class NodeProcess:
    """`python -m exo.main`, or another program with its `--host` and `--port`, on a free port.

    `models` are files put in its home: name -> content or a file. `environment` is added to this process's
    own, less what is meant for servers like it. `core` pins it to one CPU core. What it logs goes to a file,
    as under systemd it would to the journal.
    """

    def __init__(
        self,
        *flags: str,
        program: str = "exo.main",
        environment: Mapping[str, str] | None = None,
        models: Mapping[str, bytes | Path] | None = None,
        core: int | None = None,
        python: Sequence[str] = (),
    ) -> None:
        self._flags = flags
        self._program = program
        self._environment = environment or {}
        self._models = models or {}
        self._core = core
        self._python = python
        self._home = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.spawned = 0.0
        """When the process was started, on `time.perf_counter`'s clock."""

    def __enter__(self) -> Self:
        self._home = Path(tempfile.mkdtemp(prefix="exo-bench-"))
        try:
            self._put_models()
            self._spawn()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ConnectionError | RuntimeError | TimeoutError) and self._process is not None:
            error.add_note(f"the node's exit status: {self._process.poll()}; its log:\n{self.log[-2000:]}")
        self._stop()

    @property
    def pid(self) -> int:
        assert self._process is not None, "only while in the context"
        return self._process.pid

    @property
    def children(self) -> list[int]:
        """The processes it has started, which are still there."""
        lists = [each / "children" for each in Path(f"/proc/{self.pid}/task").iterdir()]
        return [int(child) for each in lists for child in each.read_text(encoding="ascii").split()]

    @property
    def log(self) -> str:
        return (self._home / "log").read_text(encoding="utf-8", errors="replace")

    def connect(self) -> Connection:
        """A connection, as soon as the node accepts one. Raises with its log if it never does."""
        until = time.perf_counter() + _START_SECONDS
        while time.perf_counter() < until:
            assert self._process is not None, "only while in the context"
            if self._process.poll() is not None:
                raise RuntimeError(f"the node ended by itself:\n{self.log[-2000:]}")
            try:
                return Connection(self.port)
            except ConnectionRefusedError:
                time.sleep(0.002)
        raise TimeoutError(f"the node did not listen within {_START_SECONDS:g} s:\n{self.log[-2000:]}")

    def cpu_seconds(self) -> float:
        """CPU time the process' threads have used: to the nanosecond, which /proc/PID/stat is not."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9

    def _put_models(self) -> None:
        folder = self._home / "models"
        folder.mkdir()
        for name, content in self._models.items():
            if isinstance(content, Path):
                (folder / name).symlink_to(content)
            else:
                (folder / name).write_bytes(content)

    def _spawn(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [
            sys.executable,
            *self._python,
            "-m",
            self._program,
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
        ]
        with (self._home / "log").open("wb") as log:
            self.spawned = time.perf_counter()
            # A session of its own: Ctrl-C reaches the benchmark alone, which then ends the node in order.
            self._process = subprocess.Popen(
                [*command, *self._flags],
                env={**inherited(os.environ), "EXO_HOME": str(self._home), **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if self._core is not None:
            # It has one thread yet; those to come inherit this.
            os.sched_setaffinity(self._process.pid, {self._core})

    def _stop(self) -> None:
        process = self._process
        try:
            if process is not None and process.poll() is None:
                process.terminate()
                try:
                    process.wait(_STOP_SECONDS)
                finally:
                    process.kill()
                    process.wait()
        finally:
            shutil.rmtree(self._home, ignore_errors=True)
