"""Machines that have IPv6 and nothing else, not even 127.0.0.1."""

import contextlib
import http.client
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, Hosts
from tests.cluster.machines import inside
from tests.e2e.node import PATIENCE, Node, environment, eventually
from tests.e2e.test_cli import command

PORT = 52415


class SixNode(Node):
    """`exo` on such a machine, asked there, at ::1."""

    def __init__(self, host: Host, home: Path, *flags: str, listens: str = "::") -> None:
        self.host = host
        with inside(host):
            super().__init__(home, "--host", listens, "--port", str(PORT), *flags)

    def connection(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("::1", self.port, timeout=PATIENCE)
        with inside(self.host):
            connection.connect()
        return connection

    def peers(self) -> list[str]:
        return [peer["id"] for peer in self.get("/v1/cluster").json()["peers"]]

    def exo(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command of the same machine."""
        with inside(self.host):
            program = subprocess.Popen(
                command(*arguments),
                env=environment(self.home),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        said, complained = program.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(arguments, program.returncode, said, complained)


@pytest.fixture
def six(make_hosts: Callable[..., Hosts]) -> Hosts:
    """Two of them on one network: fd00::1 and fd00::2."""
    hosts = make_hosts(2, addressed=False)
    for number, host in enumerate(hosts):
        host.ip("addr", "add", f"fd00::{number + 1}/64", "dev", "eth0", "nodad")
        host.ip("addr", "del", "127.0.0.1/8", "dev", "lo")
    return hosts


@pytest.fixture
def run(six: Hosts, tmp_path: Path) -> Iterator[Callable[..., SixNode]]:
    """Starts a node on one of the machines. At the end it must stop well and have logged no defect."""
    nodes: list[SixNode] = []

    def start(number: int, *flags: str, listens: str = "::") -> SixNode:
        home = tmp_path / str(number)
        nodes.append(SixNode(six[number], home, "--node-id", f"node-{number}", *flags, listens=listens))
        return nodes[-1]

    with contextlib.ExitStack() as stack:
        for node in nodes:
            stack.callback(node.kill)
        yield start
        for node in nodes:
            node.stop()


@pytest.mark.parametrize("listens", ["::", "::1", "fd00::1"])
def test_a_node_answers_there_and_commands_find_it(run: Callable[..., SixNode], listens: str) -> None:
    node = run(0, *(() if listens == "::1" else ("--discovery-module", "none")), listens=listens)
    assert node.url == f"http://[{listens}]:{PORT}"
    there = "::1" if listens == "::" else listens
    if listens != "fd00::1":
        node.assert_serves("exo-demo")
    for url in (f"http://[{there}]:{PORT}", f"[{there}]:{PORT}"):
        listed = node.exo("nodes", "--url", url)
        assert (listed.returncode, "node-0" in listed.stdout) == (0, True), listed


def test_nodes_find_each_other_there_and_answer_for_each_other(run: Callable[..., SixNode]) -> None:
    """By multicast, as they are told nothing."""
    first = run(0, "--inference-engine", "dummy")
    second = run(1)
    eventually(lambda: (first.peers(), second.peers()) == (["node-1"], ["node-0"]))
    reply = first.chat("exo-demo", "What is 145 + 278?", temperature=0)
    assert (reply.status, "145 + 278 = 423" in reply.body.decode()) == (200, True), reply
    assert reply.headers["x-exo-route"].startswith("node-1")


def test_nodes_that_are_told_where_the_others_are_connect_there(run: Callable[..., SixNode]) -> None:
    first = run(0, "--discovery-module", "none", "--peer", "[fd00::2]")
    second = run(1, "--discovery-module", "none", "--peer", "[fd00::1]:7447")
    eventually(lambda: (first.peers(), second.peers()) == (["node-1"], ["node-0"]))


def test_who_listens_for_ipv4_alone_is_told_so(six: Hosts, tmp_path: Path) -> None:
    class Unreached(Node):
        pass

    with inside(six[0]):
        node = Unreached(tmp_path, "--host", "0.0.0.0", "--discovery-module", "none")
    try:
        assert "use --host ::" in node.line("of which this machine has no address")
    finally:
        node.stop()
