"""A collector, and processes that are gone after the test."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.node import Node, eventually
from tests.e2e.npu import NpuServer
from tests.page.member import free_port
from tests.rkllama.npu import put_model
from tests.traces.collector import SOON, Collector


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


class Member(Node):
    """A node of a cluster that is on this machine alone."""

    program = "tests.page.member"


class Machines:
    """Starts processes that send their traces to a collector, unless they are told not to."""

    def __init__(self, folder: Path, collector: Collector, runtime: Callable[[], tuple[Path, Path]]) -> None:
        self._folder, self._collector, self._runtime = folder, collector, runtime
        self._running: list[Node] = []
        self._cluster = f"traced-{os.getpid()}-{free_port()}"

    def home(self, name: str) -> Path:
        return self._folder / name

    def node(self, name: str, *flags: str, traced: bool = True, env: Mapping[str, str] | None = None) -> Node:
        """One alone."""
        return self._keep(
            Node(self.home(name), *self._flags(name, flags, traced), env={**SOON, **(env or {})})
        )

    def members(self, **env: Mapping[str, str]) -> list[Node]:
        """Nodes of a cluster that see each other, by name with the environment of each; the names of those
        that send no traces begin with "dark"."""
        ports = {name: free_port() for name in env}
        nodes = []
        for name, own in env.items():
            others = [f"127.0.0.1:{port}" for other, port in ports.items() if other != name]
            find = ["--cluster-name", self._cluster, "--cluster-port", str(ports[name])]
            find += [part for other in others for part in ("--peer", other)]
            flags = self._flags(name, find, not name.startswith("dark"))
            nodes.append(self._keep(Member(self.home(name), *flags, env={**SOON, **own})))
        for node in nodes:
            eventually(lambda node=node: len(node.get("/v1/cluster").json()["peers"]) == len(env) - 1)  # type: ignore[misc]
        return nodes

    def npu(self, *flags: str, env: Mapping[str, str] | None = None) -> NpuServer:
        """`rkllama` over the stand-in, with a model "npu-demo"."""
        library, file = self._runtime()
        put_model(self.home("npu") / "models", file, "npu-demo")
        server = NpuServer(
            self.home("npu"), library, "--traces", self._collector.url, *flags, env={**SOON, **(env or {})}
        )
        self._running.append(server)
        return server

    def stop(self) -> None:
        """As their owner would; each must end well, and have logged no defect."""
        for node in self._running:
            node.stop()

    def forget(self, node: Node) -> None:
        """One that has been killed."""
        self._running.remove(node)

    def kill(self) -> None:
        for node in self._running:
            node.kill()

    def _flags(self, name: str, flags: object, traced: bool) -> tuple[str, ...]:
        traces = ("--traces", self._collector.url) if traced else ()
        return ("--node-id", name, *traces, *flags)  # type: ignore[misc]

    def _keep(self, node: Node) -> Node:
        self._running.append(node)
        return node


@pytest.fixture
def machines(
    tmp_path: Path, collector: Collector, build: Path, file_for: Callable[..., Path]
) -> Iterator[Machines]:
    with ExitStack() as stack:
        made = Machines(tmp_path, collector, lambda: (build / "1.3.0" / "librkllmrt.so", file_for("1.3.0")))
        stack.callback(made.kill)
        yield made
        made.stop()
