"""Clusters for benchmarks: nodes as their own processes, each on a machine of its own, and nginx before them.

A machine is a network namespace on a bridge where those can be made, which takes root; elsewhere it is an
address of its own on loopback.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from bench.client import Connection, get
from bench.server import inherited
from tests.cluster.hosts import Hosts, why_not

_START_SECONDS = 60.0
_STOP_SECONDS = 10.0


class Place(Protocol):
    """A machine that programs can be started on."""

    address: str

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, **options: Any
    ) -> "subprocess.Popen[Any]": ...


class _Loopback:
    """An address of this machine."""

    def __init__(self, number: int) -> None:
        self.address = f"127.0.0.{2 + number}"

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, **options: Any
    ) -> "subprocess.Popen[Any]":
        return subprocess.Popen(command, env=None if env is None else dict(env), **options)


class Process:
    """A program on a machine, in a folder of its own for its files and its log. It can be ended and started
    again; the folder stays until `remove`."""

    def __init__(self, place: Place, *command: str, environment: Mapping[str, str] | None = None) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="exo-bench-"))
        (self.home / "tmp").mkdir()
        self._place = place
        self._command = command
        folders = {"EXO_HOME": str(self.home), "TMPDIR": str(self.home / "tmp")}
        self._environment = {**inherited(os.environ), **folders, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return self._place.address

    @property
    def log(self) -> str:
        return (self.home / "log").read_text(encoding="utf-8", errors="replace")

    def start(self, **environment: str) -> None:
        """Starts it in its own folder; `environment` is added to what it has."""
        with (self.home / "log").open("ab") as log:
            # A session of its own: Ctrl-C reaches the benchmark alone, which then ends it in order.
            self._process = self._place.run(
                *self._command,
                env={**self._environment, **environment},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def connect(self, port: int) -> Connection:
        """A connection, as soon as the program accepts one. Raises with its log if it never does."""
        until = time.perf_counter() + _START_SECONDS
        while time.perf_counter() < until:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"{self._command} ended by itself:\n{self.log[-2000:]}")
            try:
                return _Reached(self.address, port)
            except ConnectionRefusedError:
                time.sleep(0.01)
        raise TimeoutError(f"{self._command} did not listen:\n{self.log[-2000:]}")

    @property
    def pid(self) -> int | None:
        """Of the program while it runs."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process is not None and running else None

    def signal(self, number: signal.Signals) -> None:
        """Sends it to the program, where that runs."""
        if self.pid is not None:
            os.kill(self.pid, number)

    def ended(self, seconds: float) -> int | None:
        """Its exit status, once it has ended by itself; None if that took longer."""
        assert self._process is not None, "only once it was started"
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def cpu_seconds(self) -> float:
        """CPU time its threads have used: to the nanosecond, which /proc/PID/stat is not."""
        assert self._process is not None, "only while it runs"
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text(encoding="ascii").split()[0]) for task in tasks) / 1e9

    def kill(self) -> None:
        """Ends it without a word, as a machine does that loses power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self) -> None:
        """Tells it to end in order."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def remove(self) -> None:
        """Ends it in order, and deletes its files. May be called again."""
        try:
            self.terminate()
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_STOP_SECONDS)
                self.kill()
        finally:
            shutil.rmtree(self.home, ignore_errors=True)


class _Reached(Connection):
    """A connection to a machine that is not this one."""

    def __init__(self, address: str, port: int) -> None:
        self.socket = socket.create_connection((address, port), timeout=120.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Machines:
    """So many machines on one network, and the programs that were started on them; all gone when the context
    is left."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._cleanup = contextlib.ExitStack()
        self._places: Sequence[Place] = ()
        self._processes: list[Process] = []
        self.apart = why_not() is None
        """Whether each has a network of its own, and not only an address."""

    @property
    def words(self) -> str:
        if self.apart:
            return "in a network namespace of its own, all on one bridge"
        return f"at an address of its own on loopback ({why_not()})"

    def __enter__(self) -> Self:
        if self.apart:
            self._places = self._cleanup.enter_context(Hosts(self._count, outside=True))
        else:
            self._places = [_Loopback(number) for number in range(self._count)]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._cleanup:
            # All at once, as each takes a moment.
            for process in self._processes:
                process.terminate()
            for process in self._processes:
                process.remove()

    def process(self, number: int, *command: str, environment: Mapping[str, str] | None = None) -> Process:
        """A program on the machine of this number, not yet started."""
        process = Process(self._places[number], *command, environment=environment)
        self._processes.append(process)
        return process

    def address(self, number: int) -> str:
        return self._places[number].address

    def cut(self, number: int) -> None:
        """Nobody reaches this machine any more, nor it anybody, silently; only where they are `apart`."""
        hosts = self._places
        assert isinstance(hosts, Hosts), "addresses of one machine cannot be cut off"
        hosts.cut(hosts[number])

    def join(self) -> None:
        """All reach each other again."""
        assert isinstance(self._places, Hosts), "addresses of one machine cannot be cut off"
        self._places.join()


class Nodes:
    """A cluster that grows: node n is on machine n."""

    def __init__(self, machines: Machines) -> None:
        self._machines = machines
        self._nodes: list[Process] = []
        self._name = f"bench-{os.getpid()}"
        self._ports: list[int] = []  # of the cluster, where the machines share theirs
        self.port = free_ports(1)[0]

    def __len__(self) -> int:
        return len(self._nodes)

    def __getitem__(self, number: int) -> Process:
        return self._nodes[number]

    @property
    def targets(self) -> list[tuple[str, int]]:
        return [(node.address, self.port) for node in self._nodes]

    def add(
        self,
        *flags: str,
        models: Mapping[str, bytes] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Starts one more node. `models` are files put in its home: name -> content."""
        number = len(self._nodes)
        node = self._machines.process(
            number,
            *(sys.executable, "-m", "exo.main"),
            *("--host", self._machines.address(number), "--port", str(self.port)),
            *("--node-id", f"node-{number}", "--cluster-name", self._name),
            *("--idle-unload", "0", *self._discovery(number), *flags),
            environment=environment,
        )
        (node.home / "models").mkdir()
        for name, content in (models or {}).items():
            (node.home / "models" / name).write_bytes(content)
        self._nodes.append(node)
        node.start()
        return node

    def wait(self, model: str, holders: int) -> None:
        """Until every node sees all others, and `holders` that could answer for the model at once."""
        until = time.perf_counter() + _START_SECONDS
        for node in self._nodes:
            wanted, seen = (len(self._nodes), holders), (0, 0)
            try:
                with contextlib.closing(node.connect(self.port)) as connection:
                    while (seen := self._sees(connection, model)) != wanted:
                        if time.perf_counter() > until:
                            raise TimeoutError(
                                f"of nodes, and of those with {model}, {wanted} were to be there"
                            )
                        time.sleep(0.05)
            except (ConnectionError, TimeoutError) as error:
                error.add_note(f"{node.address} saw {seen}; its log:\n{node.log[:2000]}")
                raise

    def _sees(self, connection: Connection, model: str) -> tuple[int, int]:
        cluster = json.loads(connection.ask(get("/v1/cluster")))
        nodes = [cluster["me"], *cluster["peers"]]
        ready = [
            any(each["model"] == model and each["state"] == "ready" for each in node["loaded"])
            for node in nodes
        ]
        return len(nodes), sum(ready)

    def _discovery(self, number: int) -> tuple[str, ...]:
        if self._machines.apart:
            return ("--discovery-module", "udp")
        while len(self._ports) <= number + 1:
            self._ports = free_ports(32)
        # The first one knows the second, all others the first.
        other = self._ports[0 if number else 1]
        return (
            *("--discovery-module", "none", "--peer", f"127.0.0.1:{other}"),
            *("--cluster-port", str(self._ports[number])),
        )


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as probes:
        bound = [probes.enter_context(socket.socket()) for _ in range(count)]
        for each in bound:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in bound]
