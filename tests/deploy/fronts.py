"""Balancers in front of three nodes, as processes of their own.

What is tested is the shipped configuration: only addresses, ports and paths are put in place of what is
there, and in tests that say so the seconds of a time-out.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from tests.e2e.node import HANG, PATIENCE, Node, Reply, chat_body, eventually, text, wait, write_script

DEPLOY = Path(__file__).parents[2] / "deploy"
KEY = "a-key-of-this-test"
WORDS = 12
PACE = 0.1

SCRIPTS: dict[str, list[object]] = {
    "hello": [text("Hello")],
    "slow": [wait(3), text("Hello")],
    "words": [text(f"{n} ") for n in range(WORDS)],
    "long": [*[wait(PACE), text(".")] * 30],
    "hangs": [HANG],
    "begins": [text("begun"), HANG],
}

CERTIFICATE = """
    req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 825 -subj /CN=exo
    -addext subjectAltName=IP:127.0.0.1
"""


def program(name: str, package: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    assert found, f"these tests run {name}: apt-get install {package}"
    return found


def substituted(shipped: Path, changes: Mapping[str, str]) -> str:
    """The text of a shipped file with each of these put in place; all of them have to be there in it."""
    written = whole = shipped.read_text()
    for old, new in changes.items():
        assert old in whole, (shipped, old)
        written = written.replace(old, new)
    return written


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(number)]
        return [each.getsockname()[1] for each in sockets]


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 and its key, made as docs/BALANCING.md says."""
    key, made = folder / "exo.key", folder / "exo.crt"
    command = [program("openssl", "openssl"), *CERTIFICATE.split(), "-keyout", str(key), "-out", str(made)]
    subprocess.run(command, check=True, capture_output=True)
    return made, key


# Nodes


class Member(Node):
    """A node with a key."""

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        return super().request(method, path, body, {"Authorization": f"Bearer {KEY}", **(headers or {})})

    def taken(self) -> float:
        """The requests for models that it has got. Under "unknown" it counts that it was asked whether it is
        ready, and was not."""
        counted = self.metric("exo_requests_total") - self.metric("exo_requests_total", model="unknown")
        return counted + self.metric("exo_requests_in_progress")


def member(home: Path, *flags: str) -> Member:
    for name, steps in SCRIPTS.items():
        write_script(home, name, steps, slots=32, pace=PACE if name == "words" else 0.0)
    write_script(home, "stuck", SCRIPTS["hello"], load=[HANG])
    write_script(home, "single", SCRIPTS["begins"], slots=1)
    preload = [flag for name in SCRIPTS for flag in ("--preload", name)]
    return Member(home, *preload, *flags, env={"EXO_API_KEY": KEY})


@contextmanager
def trio(folder: Path, *flags: Sequence[str]) -> Iterator[list[Member]]:
    """Three nodes that know nothing of each other, each of its own flags, if any."""
    with ThreadPoolExecutor(3) as starters, ExitStack() as stack:
        each = [*flags, *[()] * (3 - len(flags))]
        starting = [
            starters.submit(member, folder / f"node{n}", *given) for n, given in enumerate(each, start=1)
        ]
        nodes = []
        for one in starting:
            nodes.append(one.result())
            stack.callback(nodes[-1].kill)
        for node, given in zip(nodes, each, strict=True):
            if "stuck" not in given:
                eventually(lambda node=node: node.get("/ready").status == 200)  # type: ignore[misc]
        yield nodes
        for node in nodes:
            node.check_log()


class Recorder:
    """In a node's place: is ready, and answers every request with what it was sent."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self._answer({name.lower(): value for name, value in self.headers.items()})

            def _answer(self, sent: dict[str, str]) -> None:
                body = json.dumps(sent).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE)


class Behind(Protocol):
    """Whatever listens at a port of 127.0.0.1."""

    port: int


# Fronts


class Front:
    """A balancer that listens at `port` when the constructor returns, with what `configured` has put into
    `folder`. `reloads` is the signal that makes it read its configuration again."""

    def __init__(
        self, command: Sequence[str], folder: Path, port: int, reloads: signal.Signals, *, tls: bool
    ) -> None:
        self.port, self._reloads = port, reloads
        self._tls = ssl.create_default_context(cafile=folder / "exo.crt") if tls else None
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            eventually(self._listens)
        except BaseException:
            self.close()
            raise

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.port), PATIENCE).close()
            return True
        return False

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def says(self, part: str) -> None:
        """Waits until it is in the log."""
        eventually(lambda: part in self.log)

    def reload(self) -> None:
        self.process.send_signal(self._reloads)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def connection(self) -> http.client.HTTPConnection:
        if self._tls is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=self._tls)

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request on a connection of its own, with the nodes' key unless `headers` say otherwise. A body
        that is bytes or an iterator is sent as it is, the latter in chunks."""
        as_it_is = body is None or isinstance(body, (bytes, Iterator))
        sent: Any = body if as_it_is else json.dumps(body).encode()
        connection = self.connection()
        try:
            connection.request(method, path, sent, {"Authorization": f"Bearer {KEY}", **(headers or {})})
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def chat(self, model: str, content: str = "hi", **keys: object) -> Reply:
        return self.request("POST", "/v1/chat/completions", chat_body(model, content, **keys))

    @contextmanager
    def stream(self, model: str) -> Iterator[http.client.HTTPResponse]:
        connection = self.connection()
        try:
            body = json.dumps(chat_body(model, stream=True)).encode()
            connection.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {KEY}"})
            yield connection.getresponse()
        finally:
            connection.close()

    def whole_stream(self, model: str) -> bytes:
        with self.stream(model) as answer:
            return answer.read()

    @contextmanager
    def abandoned(self, model: str, *, stream: bool = False) -> Iterator[None]:
        """A client that asks, and is gone at the end without having read anything."""
        connection = self.connection()
        body = json.dumps(chat_body(model, stream=stream)).encode()
        connection.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {KEY}"})
        try:
            yield
        finally:
            connection.close()


class FrontOf(Protocol):
    """Starts a front of three nodes, with these changes to what is shipped."""

    def __call__(
        self, nodes: Sequence[Behind], changes: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Front]: ...
