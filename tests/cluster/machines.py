"""`exo` and `rkllama` on machines of their own: hosts of a test's network, each with a disk.

    exo = lan.machine("pc", scripts={"hello": [text("Hello")]}).start()
    exo.chat("hello")
    lan.hosts.cut(exo.host)

Processes are started and asked on the network of their host, as 127.0.0.1 there: the clients of these tests
sit at the machine they ask, and reach it while it is cut off from the others.
"""

import contextlib
import ctypes
import http.client
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from exo.http.headers import ROUTE_HEADER
from tests.cluster.hosts import Host, Hosts
from tests.e2e.node import Node, Reply, chat_body, eventually, write_script
from tests.e2e.npu import NpuServer
from tests.rkllama.npu import put_model

PORT, NPU_PORT = 52415, 8080
"""Where both commands listen by themselves."""

_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def inside(host: Host) -> Iterator[None]:
    """This thread is on the host's network: there is what it connects and starts."""
    with open("/proc/thread-self/ns/net") as ours, open(f"/run/netns/{host.namespace}") as theirs:
        _enter(theirs.fileno())
        try:
            yield
        finally:
            _enter(ours.fileno())


def _enter(namespace: int) -> None:
    # `os.setns` came with Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class _There(Node):
    """A process that is asked on its own host."""

    host: Host

    def connection(self) -> http.client.HTTPConnection:
        connection = super().connection()
        with inside(self.host):
            connection.connect()
        return connection


class Exo(_There):
    """`exo serve` on a host. It is told the address and the port it takes by itself, and nothing more."""

    def __init__(self, host: Host, home: Path, *flags: str, env: Mapping[str, str] | None = None) -> None:
        self.host = host
        self._key = (env or {}).get("EXO_API_KEY")
        with inside(host):
            super().__init__(home, "--host", "0.0.0.0", "--port", str(PORT), *flags, env=env)
        self.id: str = self.me()["id"]

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """As a client that has the node's key, unless the headers say otherwise."""
        keyed = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return super().request(method, path, body, {**keyed, **(headers or {})})

    def ids(self) -> list[str]:
        """The nodes it lists, itself included."""
        cluster = self.get("/v1/cluster").json()
        return sorted(node["id"] for node in (cluster["me"], *cluster["peers"]))

    def models(self) -> list[str]:
        listed = {model["id"] for model in self.get("/v1/models").json()["data"]}
        return sorted(listed - {"auto"})

    def sees(self, *others: "Exo") -> None:
        """Waits until it lists just these nodes besides itself."""
        wanted = sorted({self.id, *(other.id for other in others)})
        try:
            eventually(lambda: self.ids() == wanted)
        except AssertionError:
            raise AssertionError(f"{self.id} lists {self.ids()}, not {wanted}:\n{self.log}") from None

    def sees_all_idle(self) -> None:
        """Waits until it knows that nothing runs or waits anywhere: what it knows is up to a second old."""

        def idle(node: Any) -> bool:
            return not node["waiting"] and not any(resident["running"] for resident in node["loaded"])

        eventually(lambda: all(idle(node) for node in self.get("/v1/cluster").json()["peers"]))

    def failovers(self, when: str) -> float:
        return self.metric("exo_failovers_total", when=when)

    def ask(self, model: str, content: str = "hi", **keys: Any) -> str:
        """A whole answer's text, reasoning left out."""
        reply = self.chat(model, content, **keys)
        assert reply.status == 200, reply
        said: str = reply.json()["choices"][0]["message"]["content"]
        return said


class Rkllama(_There, NpuServer):
    """`rkllama` on a host, at the port where exo looks for it, reached from that host only."""

    def __init__(self, host: Host, home: Path, runtime: "Runtime", env: Mapping[str, str]) -> None:
        self.host = host
        with inside(host):
            super().__init__(home, runtime.library, env=env, port=NPU_PORT)


class Runtime(NamedTuple):
    """A release of the stand-in, and a model file for it."""

    library: Path
    file: Path


class Machine:
    """A host with a disk. What runs on it may end, and be started again."""

    def __init__(self, host: Host, home: Path, flags: Sequence[str], env: Mapping[str, str]) -> None:
        self.host, self.home = host, home
        self.flags, self.env = flags, env
        self.runs: list[Exo] = []

    @property
    def exo(self) -> Exo:
        """The last process that was started."""
        return self.runs[-1]

    def put(self, scripts: Mapping[str, Sequence[object]], **keys: object) -> None:
        for name, steps in scripts.items():
            write_script(self.home, name, steps, **keys)

    def start(self) -> Exo:
        self.runs.append(Exo(self.host, self.home, *self.flags, env=self.env))
        return self.exo

    def stop(self) -> None:
        """Ends what runs, as its owner would."""
        if self.runs and self.exo.process.poll() is None:
            self.exo.stop()

    def kill(self) -> None:
        """As when the power fails: nothing on it says goodbye."""
        for run in self.runs[-1:]:
            run.kill()


class Board(Machine):
    """A machine with the NPU server on it, over the stand-in; its model is "demo". `env` is the server's."""

    def __init__(
        self, host: Host, home: Path, flags: Sequence[str], env: Mapping[str, str], runtime: Runtime
    ) -> None:
        super().__init__(host, home, ("--inference-engine", "rkllm", *flags), {})
        self._runtime, self._npu_env = runtime, env
        self.servers: list[Rkllama] = []
        put_model(home / "npu" / "models", runtime.file)

    @property
    def npu(self) -> Rkllama:
        return self.servers[-1]

    def start_npu(self) -> Rkllama:
        self.servers.append(Rkllama(self.host, self.home / "npu", self._runtime, self._npu_env))
        return self.npu

    def start(self) -> Exo:
        self.start_npu()
        return super().start()

    def restart(self) -> None:
        """Starts again what of it has ended."""
        if self.npu.process.poll() is not None:
            self.start_npu()
        if self.exo.process.poll() is not None:
            super().start()

    def stop(self) -> None:
        super().stop()
        if self.servers and self.npu.process.poll() is None:
            self.npu.stop()

    def kill(self) -> None:
        super().kill()
        for server in self.servers[-1:]:
            server.kill()


class Lan:
    """Machines on one network, made as a test wants them. Use as a context manager: at its end all have to
    stop well, to have logged no defect, and to leave no process behind."""

    def __init__(self, hosts: Hosts, folder: Path, runtime: Callable[[str], Runtime]) -> None:
        self.hosts = hosts
        self.machines: list[Machine] = []
        self.folder, self._runtime = folder, runtime

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.stop()
        finally:
            for machine in self.machines:
                machine.kill()
        assert error is not None or self._left_over() == []

    def machine(
        self,
        name: str = "",
        *flags: str,
        scripts: Mapping[str, Sequence[object]] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Machine:
        """One more machine, that runs `exo` once it is started; without a name, exo gives it one."""
        host, home = self._next()
        named = ("--node-id", name) if name else ()
        machine = Machine(host, home, (*named, *flags), env or {})
        machine.put(scripts or {})
        self.machines.append(machine)
        return machine

    def board(
        self, name: str, *flags: str, release: str = "1.3.0", env: Mapping[str, str] | None = None
    ) -> Board:
        host, home = self._next()
        board = Board(host, home, ("--node-id", name, *flags), env or {}, self._runtime(release))
        self.machines.append(board)
        return board

    def start(self, *machines: Machine) -> list[Exo]:
        """Starts these, or all, at once, and waits until each lists the others of them."""
        nodes = self.start_apart(*(machines or self.machines))
        for node in nodes:
            node.sees(*(other for other in nodes if other is not node))
        return nodes

    def start_apart(self, *machines: Machine) -> list[Exo]:
        """Starts these at once."""
        return _at_once(machines, lambda machine: machine.start())

    def stop(self) -> None:
        """Ends all as their owner would. Fails if one does not end well, or ever logged a defect."""
        _at_once(self.machines, lambda machine: machine.stop())
        for machine in self.machines:
            for run in machine.runs:
                run.check_log()

    def _next(self) -> tuple[Host, Path]:
        host = self.hosts[len(self.machines)]
        return host, self.folder / f"machine-{len(self.machines)}"

    def _left_over(self) -> list[str]:
        """Processes of this machine whose environment names a folder of this network."""
        ours, found = f"{self.folder}/machine-".encode(), []
        for process in Path("/proc").glob("[0-9]*"):
            # It may end meanwhile.
            with contextlib.suppress(OSError):
                if ours in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        return found


def _at_once(machines: Iterable[Machine], act: Callable[[Machine], Any]) -> list[Any]:
    todo = list(machines)
    with ThreadPoolExecutor(max(1, len(todo))) as pool:
        return list(pool.map(act, todo))


class Stream:
    """A streamed chat as its client reads it. Use as a context manager, which hangs up."""

    def __init__(self, node: Node, model: str, content: str = "hi", *, id: str = "", **keys: Any) -> None:
        self.said = self.reasoning = ""
        self.chunks: list[dict[str, Any]] = []
        self.error: dict[str, Any] | None = None
        self.done = False
        self._connection = node.connection()
        body = json.dumps(chat_body(model, content, stream=True, **keys))
        self._connection.request("POST", "/v1/chat/completions", body, {"x-request-id": id} if id else {})
        self._answer = self._connection.getresponse()
        self.status = self._answer.status
        self.route = self._answer.headers.get(ROUTE_HEADER, "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._answer.close()
        self._connection.close()

    @property
    def node(self) -> str:
        """Which node answers."""
        return self.route.partition(":")[0]

    def until(self, part: str) -> None:
        """Reads until the text has `part` in it."""
        while part not in self.said:
            assert self.more(), f"{part!r} never came: {self.said!r}, {self.error}"

    def rest(self) -> str:
        """Reads to the end; the whole text, of an answer that is complete and one."""
        while self.more():
            pass
        assert self.whole(), (self.error, self.done, self.chunks[-3:])
        return self.said

    def whole(self) -> bool:
        """It has ended as an answer ends: one finish, then [DONE], all of one id and role."""
        ids = {chunk["id"] for chunk in self.chunks}
        choices = [choice for chunk in self.chunks for choice in chunk["choices"]]
        reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
        roles = [choice["delta"]["role"] for choice in choices if "role" in choice["delta"]]
        return self.done and self.error is None and (len(ids), len(reasons), len(roles)) == (1, 1, 1)

    def read(self) -> bytes:
        """The body of an answer that is no stream."""
        return self._answer.read()

    def more(self) -> bool:
        """Reads an event; says whether there was one."""
        while line := self._answer.readline():
            text = line.decode().rstrip("\n")
            if not text or text.startswith(":"):
                continue
            assert text.startswith("data: "), text
            assert not self.done, f"after [DONE] comes {text}"
            self._take(text.removeprefix("data: "))
            return True
        return False

    def _take(self, data: str) -> None:
        if data == "[DONE]":
            self.done = True
            return
        chunk = json.loads(data)
        if "error" in chunk:
            self.error = chunk["error"]
            return
        self.chunks.append(chunk)
        for choice in chunk["choices"]:
            self.said += choice["delta"].get("content") or ""
            self.reasoning += choice["delta"].get("reasoning_content") or ""


def node_of(reply: Reply) -> str:
    """Which node gave the answer."""
    return reply.headers[ROUTE_HEADER].partition(":")[0]


def seconds(act: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.monotonic()
    act()
    return time.monotonic() - began
