"""A real `exo` process, and what a test may wait for on it.

A test waits on events: a line of the process' log, a byte on a socket, the process' end. Where the node's own
state has no event (a request took its slot, one more waits), `eventually` asks the node itself until it says
so. `PATIENCE` bounds every wait; it is a failure to reach it, never a way to pass.
"""

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from prometheus_client.parser import text_string_to_metric_families

from exo.store.catalogue import BUNDLED

PATIENCE = 30.0

# What a healthy node never writes.
_DEFECT = re.compile(r"Traceback|defect of|was never retrieved|was never awaited|was destroyed but")


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> dict[str, Any]:
        """The error of OpenAI's shape; fails where the body is anything else."""
        body = self.json()
        assert set(body) == {"error"}, body
        error: dict[str, Any] = body["error"]
        assert set(error) == {"message", "type", "param", "code"}, error
        assert error["message"], error
        return error


class Node:
    """`exo serve` on a free port of 127.0.0.1, listening when the constructor returns."""

    program = "exo.main"

    def __init__(self, home: Path, *flags: str, env: Mapping[str, str] | None = None) -> None:
        self.home = home
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._checked = 0
        command = [sys.executable, "-m", self.program, "--host", "127.0.0.1", "--port", "0", *flags]
        self.process = subprocess.Popen(
            command,
            env=environment(home, env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.url = re.findall(r"listening on (https?://\S+)", self.line("listening on"))[0]
        except BaseException:
            self.kill()
            raise
        self.port = int(self.url.rpartition(":")[2])

    # Its log

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            for line in stderr:
                with self._news:
                    self._lines.append(line.decode(errors="replace").rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _wait_for(self, wanted: Callable[[str], bool], what: str) -> str:
        found: list[str] = []
        seen = 0

        def arrived() -> bool:
            nonlocal seen
            found.extend(line for line in self._lines[seen:] if wanted(line))
            seen = len(self._lines)
            return bool(found) or self._ended

        with self._news:
            self._news.wait_for(arrived, PATIENCE)
        assert found, f"no {what} in the log:\n{self.log}"
        return found[0]

    @property
    def log(self) -> str:
        return "\n".join(self._lines)

    def line(self, part: str) -> str:
        """The first line of the log that has `part` in it, once it has been written."""
        return self._wait_for(lambda line: part in line, f"line with {part!r}")

    def access(self, id: str) -> dict[str, Any]:
        """The access record of the request called `id`, once it has been written."""
        record: dict[str, Any] = json.loads(
            self._wait_for(lambda line: line.startswith("{") and f'"{id}"' in line, f"record of {id}")
        )
        return record

    def access_order(self) -> list[str]:
        """Ids of the requests that have ended, in the order in which they did."""
        return [json.loads(line)["id"] for line in self._lines if line.startswith("{")]

    def check_log(self) -> None:
        """Fails if the log shows a defect that has not been reported yet."""
        new, self._checked = self._lines[self._checked :], len(self._lines)
        assert not any(_DEFECT.search(line) for line in new), "a defect in the log:\n" + "\n".join(new)

    # Its API

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request on a connection of its own. A body that is not bytes is sent as JSON."""
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = self.connection()
        try:
            connection.request(method, path, sent, dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, headers=headers)

    def chat(self, model: str, content: str = "hi", *, id: str = "", **keys: object) -> Reply:
        headers = {"x-request-id": id} if id else {}
        return self.request("POST", "/v1/chat/completions", chat_body(model, content, **keys), headers)

    def me(self) -> dict[str, Any]:
        """What the node says of itself."""
        me: dict[str, Any] = self.get("/v1/cluster").json()["me"]
        return me

    def running(self) -> int:
        return sum(resident["running"] for resident in self.me()["loaded"])

    def waiting(self) -> int:
        waiting: int = self.me()["waiting"]
        return waiting

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry `labels`; 0 where there are none."""
        families = text_string_to_metric_families(self.get("/metrics").body.decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def assert_serves(self, model: str = "hello") -> None:
        """The next request is answered, and nothing of the ones before is left behind."""
        reply = self.chat(model)
        assert reply.status == 200, reply
        assert (self.running(), self.waiting()) == (0, 0)
        assert self.metric("exo_requests_in_progress") == 0

    def rss(self) -> int:
        """Bytes of memory the process has resident."""
        shown = subprocess.run(
            ["ps", "-o", "rss=", "-p", str(self.process.pid)], capture_output=True, check=True
        )
        return int(shown.stdout) * 1024

    # Its end

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self, seconds: float = PATIENCE) -> int:
        """Waits for the process to end by itself."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.log}") from None
        self._reader.join(PATIENCE)
        return code

    def stop(self) -> None:
        """Ends the process as its owner would; fails if it does not end well."""
        try:
            if self.process.poll() is None:
                self.signal(signal.SIGTERM)
            code = self.exit_code()
        finally:
            self.kill()
        assert code == 0, f"exit code {code}:\n{self.log}"
        self.check_log()

    def kill(self) -> None:
        """Leaves no process behind, nor any child of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join(PATIENCE)


class Wire:
    """A TCP connection to a node, and the bytes that came on it so far."""

    def __init__(self, node: Node, *, receive_buffer: int | None = None) -> None:
        self.received = b""
        self._socket = socket.socket()
        self._socket.settimeout(PATIENCE)
        if receive_buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.connect(("127.0.0.1", node.port))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def until(self, part: bytes) -> bytes:
        """Reads until `part` has come; all that has come on this connection."""
        deadline = time.monotonic() + PATIENCE
        while part not in self.received:
            assert time.monotonic() < deadline, f"{part!r} never came: {self.received!r}"
            self.more()
        return self.received

    def more(self) -> None:
        """Reads what comes next; fails at the end of the connection."""
        data = self._socket.recv(1 << 16)
        assert data, f"the connection ended: {self.received!r}"
        self.received += data

    def has_nothing(self) -> bool:
        """Nothing has come that was not read."""
        return not select.select([self._socket], [], [], 0)[0]

    def rest(self) -> bytes:
        """Reads to the end of the connection; all that has come on it."""
        # Keep-alive comments alone would go on for ever.
        deadline = time.monotonic() + PATIENCE
        while data := self._socket.recv(1 << 16):
            self.received += data
            assert time.monotonic() < deadline, f"the connection did not end: {self.received!r}"
        return self.received


def environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process' environment without its own settings for exo, so that a developer's do no harm."""
    ours = ("EXO_", "RKLLAMA_", "RKLLM_", "DEBUG")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**kept, "EXO_HOME": str(home), **(more or {})}


def eventually(holds: Callable[[], bool]) -> None:
    """Waits until the node says so, where there is no event to wait for."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.01)


# Requests


def chat_body(model: str, content: str = "hi", **keys: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **keys}


def raw_post(path: str, body: object, *, id: str = "") -> bytes:
    """The bytes of a POST."""
    sent = json.dumps(body).encode()
    headers = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(sent)}"]
    if id:
        headers.append(f"x-request-id: {id}")
    return "\r\n".join(headers).encode() + b"\r\n\r\n" + sent


def raw_chat(model: str, content: str = "hi", *, id: str = "", **keys: object) -> bytes:
    return raw_post("/v1/chat/completions", chat_body(model, content, **keys), id=id)


def events(body: bytes) -> list[str]:
    """The data of each server-sent event, in order, comments left out."""
    blocks = body.decode().split("\n\n")
    assert blocks.pop() == "", "the stream ends in the middle of an event"
    data = [block for block in blocks if not block.startswith(":")]
    assert all(block.startswith("data: ") and "\n" not in block for block in data), body
    return [block.removeprefix("data: ") for block in data]


# Scripts for the scripted engine

HANG: dict[str, object] = {"type": "hang"}


def text(said: str) -> dict[str, object]:
    return {"type": "text", "text": said}


def wait(seconds: float) -> dict[str, object]:
    return {"type": "wait", "seconds": seconds}


def fail(message: str, code: str = "engine_failed") -> dict[str, object]:
    return {"type": "fail", "message": message, "code": code}


def token(content: str) -> int:
    """The id of a token of the bundled model."""
    tokenizer = json.loads((BUNDLED / "exo-demo" / "tokenizer.json").read_text())
    added: dict[str, int] = {each["content"]: each["id"] for each in tokenizer["added_tokens"]}
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    return {**vocabulary, **added}[content]


def write_script(home: Path, name: str, steps: Sequence[object], **keys: object) -> None:
    folder = home / "models"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.script.json").write_text(json.dumps({"steps": steps, **keys}))
