"""A real `rkllama` process over the stand-in runtime."""

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.e2e.node import Node
from tests.rkllama.npu import put_model

RELEASES = ("1.1.4", "1.2.0", "1.2.3", "1.3.0")


class NpuServer(Node):
    """`rkllama` on a free port of 127.0.0.1, with the models in `home`/models."""

    program = "rkllama.main"

    def __init__(
        self, home: Path, library: Path, *flags: str, env: Mapping[str, str] | None = None, port: int = 0
    ) -> None:
        options = ("--models", str(home / "models"), "--target_platform", "rk3588", *flags)
        if port:
            options = (*options, "--port", str(port))
        super().__init__(home, *options, env={"RKLLM_LIB_PATH": str(library), **(env or {})})

    def children(self) -> list[int]:
        """The processes that hold a model."""
        shown = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, check=False
        )
        return [int(line) for line in shown.stdout.split()]

    def loads(self) -> int:
        return int(self.metric("rkllm_model_load_duration_seconds_count"))


class Bench:
    """Starts NPU servers for a release, their models made for it."""

    def __init__(self, home: Path, build: Path, file_for: Callable[..., Path], release: str) -> None:
        self.home, self.release = home, release
        self.library = build / release / "librkllmrt.so"
        self._file_for = file_for
        self.servers: list[NpuServer] = []

    def put(self, name: str = "demo", **keys: object) -> None:
        put_model(self.home / "models", self._file_for(self.release), name, **keys)  # type: ignore[arg-type]

    def start(self, *flags: str, env: Mapping[str, str] | None = None, port: int = 0) -> NpuServer:
        self.servers.append(NpuServer(self.home, self.library, *flags, env=env, port=port))
        return self.servers[-1]
