"""HAProxy in front of three nodes, as deploy/haproxy has it."""

import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from tests.e2e.node import chat_body, eventually

from .balancing import Balancing
from .fronts import (
    DEPLOY,
    Behind,
    Front,
    FrontOf,
    certificate,
    free_ports,
    program,
    substituted,
    trio,
)

SHIPPED = DEPLOY / "haproxy" / "exo.cfg"
NODES = ("192.168.1.21:52415", "192.168.1.22:52415", "192.168.1.23:52415")

# In place of Debian's own configuration, which the shipped one stands beside.
BASE = "global\n    log stderr format raw local0\n"


def configured(folder: Path, nodes: Sequence[Behind], changes: Mapping[str, str]) -> tuple[list[str], int]:
    """The command that runs it in `folder`, and the port where it will listen."""
    made, key = certificate(folder)
    (folder / "exo.pem").write_bytes(made.read_bytes() + key.read_bytes())
    port = free_ports(1)[0]
    places = {
        **{old: f"127.0.0.1:{node.port}" for old, node in zip(NODES, nodes, strict=True)},
        "bind :443": f"bind 127.0.0.1:{port}",
        "/etc/haproxy/exo.pem": str(folder / "exo.pem"),
    }
    (folder / "base.cfg").write_text(BASE)
    (folder / "exo.cfg").write_text(substituted(SHIPPED, {**changes, **places}))
    found = program("haproxy", "haproxy")
    return [found, "-f", str(folder / "base.cfg"), "-f", str(folder / "exo.cfg")], port


class TestHaproxy(Balancing):
    plain: ClassVar[Mapping[str, str]] = {" ssl crt /etc/haproxy/exo.pem ssl-min-ver TLSv1.2": ""}

    @classmethod
    def started(cls, folder: Path, nodes: Sequence[Behind], changes: Mapping[str, str]) -> Front:
        command, port = configured(folder, nodes, changes)
        # As Debian's unit runs it: a master that is told to reload, but in the foreground.
        command += ["-W", "-db"]
        return Front(command, folder, port, signal.SIGUSR2, tls=changes != cls.plain)

    def has_noticed(self, front: Front, number: int, state: str) -> None:
        front.says(f"Server exo/node{number} is {state}")

    def has_reloaded(self, front: Front) -> None:
        front.says("Proxy exo stopped")

    def test_a_stream_that_hangs_before_its_first_byte_is_asked_of_another_node(
        self, front_of: FrontOf, tmp_path: Path
    ) -> None:
        """A tenth of all: two seconds for twenty, and a comment every half. What is no stream, or one of
        Ollama's, is waited for all the same."""
        quick = ("--keepalive", "0.5")
        with (
            trio(tmp_path, quick, quick, quick) as nodes,
            front_of(nodes, {"server 20s": "server 2s"}) as front,
            ThreadPoolExecutor(9) as clients,
        ):
            assert front.chat("slow").status == 200
            ollama = front.request("POST", "/api/chat", {**chat_body("slow"), "stream": True})
            assert (ollama.status, b"Hello" in ollama.body) == (200, True)
            nodes[0].signal(signal.SIGSTOP)
            try:
                streams = [clients.submit(front.whole_stream, "slow") for _ in range(9)]
                assert all(b"Hello" in stream.result() for stream in streams)
                front.says("Server exo/node1 is DOWN")
            finally:
                nodes[0].signal(signal.SIGCONT)
            front.says("Server exo/node1 is UP")
            eventually(lambda: nodes[0].running() == 0)


class Nobody:
    port = 9


def test_haproxy_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    command, _ = configured(tmp_path, [Nobody()] * 3, {})
    checked = subprocess.run([*command, "-c", "-dW"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr, checked.stderr
