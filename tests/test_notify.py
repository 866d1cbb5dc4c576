"""What a service manager is told: by real programs, over the socket that systemd would listen on."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Self

import pytest

from exo.errors import NotReady
from exo.http.server import answers_itself
from exo.notify import Reports, Supervisor, supervisor
from tests.e2e.node import PATIENCE, Node, Wire, raw_chat, text, wait, write_script
from tests.e2e.npu import Bench
from tests.page.member import free_port

WATCHDOG = 0.4
"""Seconds between two signs of life that systemd would wait for."""


class Manager:
    """The socket that systemd listens on, and the messages that came."""

    def __init__(self, name: str) -> None:
        """`name` is as in NOTIFY_SOCKET."""
        self.name = name
        self.address = "\0" + name[1:] if name[0] == "@" else name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def environment(self, **more: str) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.name, **more}

    def next(self, seconds: float = PATIENCE) -> dict[str, str]:
        self._socket.settimeout(seconds)
        lines = self._socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def until(self, name: str) -> list[dict[str, str]]:
        """All messages up to the first that says `name`."""
        came = [self.next()]
        deadline = time.monotonic() + PATIENCE
        while name not in came[-1]:
            assert time.monotonic() < deadline, f"{name} never came: {came}"
            came.append(self.next())
        return came

    def is_silent(self) -> bool:
        """No message comes for longer than a watchdog would wait, but for those that are here already."""
        self._socket.setblocking(False)
        while True:
            try:
                self._socket.recv(4096)
            except BlockingIOError:
                break
        try:
            self.next(WATCHDOG * 2)
        except TimeoutError:
            return True
        return False


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with Manager(str(tmp_path / "notify")) as listening:
        yield listening


class Hanging(Node):
    program = "tests.hanging"


class Waiting(Node):
    """May be one of a cluster on this machine alone."""

    program = "tests.page.member"


WATCHED = {"WATCHDOG_USEC": str(int(WATCHDOG * 1e6))}


# Real programs


def test_a_node_is_ready_when_it_answers_and_drains_before_it_ends(tmp_path: Path, manager: Manager) -> None:
    home = tmp_path / "home"
    write_script(home, "slow", [text("first"), wait(1.5), text("last")])
    node = Node(home, env=manager.environment(**WATCHED))
    try:
        *before, ready = manager.until("READY")
        assert not before
        assert node.get("/healthcheck").status == 200
        assert ready["STATUS"] == "ready for chats"
        with Wire(node) as client:
            client.send(raw_chat("slow", stream=True))
            client.until(b"first")
            node.signal(signal.SIGTERM)
            told = manager.until("STOPPING")[-1]
            assert "answers under way" in told["STATUS"]
            # Signs of life go on for as long as the answer does, and nothing else is said.
            assert manager.until("WATCHDOG")[-1] == {"WATCHDOG": "1"}
            body = client.rest()
        assert b"last" in body
        assert body.rstrip().endswith((b"data: [DONE]", b"0"))
        assert node.exit_code() == 0
        node.check_log()
    finally:
        node.kill()


@pytest.mark.parametrize(
    ("halt", "go_on"), [(signal.SIGSTOP, signal.SIGCONT), (signal.SIGUSR1, signal.SIGUSR2)]
)
def test_signs_of_life_stop_when_the_process_or_its_loop_does(
    tmp_path: Path, manager: Manager, halt: signal.Signals, go_on: signal.Signals
) -> None:
    node = Hanging(tmp_path / "home", env=manager.environment(**WATCHED))
    try:
        manager.until("READY")
        began = time.monotonic()
        for _ in range(4):
            manager.until("WATCHDOG")
        assert time.monotonic() - began < 4 * WATCHDOG
        node.signal(halt)
        assert manager.is_silent()
        node.signal(go_on)
        manager.until("WATCHDOG")
        node.stop()
    finally:
        node.kill()


def test_the_npu_server_says_so_too_and_over_an_abstract_socket(
    tmp_path: Path, build: Path, file_for: Callable[..., Path]
) -> None:
    bench = Bench(tmp_path, build, file_for, "1.2.3")
    bench.put()
    with Manager(f"@exo-test-{os.getpid()}") as manager:
        server = bench.start(env=manager.environment(**WATCHED))
        try:
            assert manager.until("READY")[-1]["STATUS"] == "ready for chats"
            manager.until("WATCHDOG")
            server.signal(signal.SIGTERM)
            manager.until("STOPPING")
            assert server.exit_code() == 0
        finally:
            server.kill()


def test_a_node_that_waits_for_others_says_for_what(tmp_path: Path, manager: Manager) -> None:
    node = Waiting(
        tmp_path / "home",
        *("--cluster-name", f"notify-{os.getpid()}", "--cluster-port", str(free_port())),
        *("--peer", f"127.0.0.1:{free_port()}", "--wait-for-peers", "1"),
        env=manager.environment(),
    )
    try:
        told = manager.until("READY")[-1]
        assert told["STATUS"] == "not ready: waiting for other nodes: 0 of 1 are here"
        node.stop()
    finally:
        node.kill()


# Reports


def nobody() -> str | None:
    return None


async def run_until(reports: Reports, done: Callable[[], Awaitable[None]]) -> None:
    running = asyncio.create_task(reports.run())
    try:
        async with asyncio.timeout(PATIENCE):
            await done()
    finally:
        running.cancel()
        await asyncio.wait([running])


@pytest.mark.parametrize("watchdog", [None, 0.05])
async def test_nothing_is_said_before_the_node_answers(manager: Manager, watchdog: float | None) -> None:
    asked, may_answer = asyncio.Event(), False

    async def answers() -> None:
        asked.set()
        if not may_answer:
            raise ConnectionRefusedError(111, "Connection refused")

    async def came() -> None:
        nonlocal may_answer
        for _ in range(2):
            await asked.wait()
            asked.clear()
            with pytest.raises(BlockingIOError):
                manager.next(0)
        may_answer = True
        assert "READY" in await asyncio.to_thread(manager.next)

    await run_until(Reports(Supervisor(manager.address, watchdog), answers, nobody), came)


async def test_a_node_that_stops_answering_gives_no_sign_of_life(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    """Though its loop turns: an answer that does not come in time is none."""
    hangs = asyncio.Event()
    calls = 0

    async def answers() -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            hangs.set()
            await asyncio.Event().wait()

    async def came() -> None:
        assert await asyncio.to_thread(manager.next) == {
            "STATUS": "ready for chats",
            "READY": "1",
            "WATCHDOG": "1",
        }
        await hangs.wait()
        assert await asyncio.to_thread(manager.is_silent)

    await run_until(Reports(Supervisor(manager.address, 0.1), answers, nobody), came)
    assert "does not answer itself: nothing came in time" in caplog.text


async def test_a_status_is_one_line(manager: Manager) -> None:
    async def answers() -> None:
        pass

    async def came() -> None:
        told = await asyncio.to_thread(manager.next)
        assert told["STATUS"] == "not ready: a file is broken WATCHDOG=trigger"
        assert "WATCHDOG" not in told

    await run_until(
        Reports(Supervisor(manager.address), answers, lambda: "a file is broken\nWATCHDOG=trigger"), came
    )


async def test_a_manager_that_has_gone_is_complained_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = asyncio.Queue[None]()

    async def answers() -> None:
        asked.put_nowait(None)

    async def came() -> None:
        for _ in range(4):
            await asked.get()

    await run_until(Reports(Supervisor(str(tmp_path / "none"), 0.02), answers, nobody), came)
    assert caplog.text.count("cannot be told") == 1


# Answering itself


@pytest.mark.parametrize(
    ("family", "host"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "0.0.0.0"),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET6, "::"),
    ],
)
async def test_a_node_is_asked_where_it_listens(family: socket.AddressFamily, host: str) -> None:
    said = b"200 OK"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readline()).startswith(b"GET /healthcheck ")
        writer.write(b"HTTP/1.1 " + said + b"\r\n\r\n")
        writer.close()

    with socket.create_server((host, 0), family=family) as listening:
        own = listening.getsockname()
        async with await asyncio.start_server(answer, sock=listening):
            await answers_itself(family, own)
            said = b"503 Service Unavailable"
            with pytest.raises(OSError, match="503"):
                await answers_itself(family, own)
    with pytest.raises(ConnectionRefusedError):
        await answers_itself(family, own)


# The environment


def test_the_environment_names_the_supervisor() -> None:
    socket_ = {"NOTIFY_SOCKET": "/run/systemd/notify"}
    assert supervisor({}, 7) is None
    assert supervisor({"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "1"}, 7) is None
    assert supervisor(socket_, 7) == Supervisor("/run/systemd/notify")
    assert supervisor({"NOTIFY_SOCKET": "@a/b"}, 7) == Supervisor("\0a/b")
    watched = {**socket_, "WATCHDOG_USEC": "30000000"}
    assert supervisor(watched, 7) == Supervisor("/run/systemd/notify", 30.0)
    assert supervisor({**watched, "WATCHDOG_PID": "7"}, 7) == Supervisor("/run/systemd/notify", 30.0)


def test_a_watchdog_of_another_process_is_not_ours() -> None:
    inherited = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}
    assert supervisor(inherited, 7) == Supervisor("/run/n")


@pytest.mark.parametrize(
    ("name", "value"), [("NOTIFY_SOCKET", "vsock:2:1234"), ("WATCHDOG_USEC", "soon"), ("WATCHDOG_USEC", "-1")]
)
def test_what_cannot_be_read_is_named(name: str, value: str) -> None:
    with pytest.raises(NotReady, match=f"{name} is '{value}'"):
        supervisor({"NOTIFY_SOCKET": "/run/n", name: value}, 7)
