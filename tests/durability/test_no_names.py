"""No name can be looked up: what is here goes on, and what is not says which name it was."""

import http.client
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.cluster.hosts import Host, Hosts
from tests.cluster.machines import inside
from tests.e2e.node import PATIENCE, Node, eventually

HUB = "hub.example.invalid"


class Nameless(Node):
    """`exo` on a host that reaches no name server, asked there."""

    def __init__(self, host: Host, home: Path, *flags: str) -> None:
        self.host = host
        with inside(host):
            env = {"HF_ENDPOINT": f"https://{HUB}", "HF_HOME": str(home / "hf")}
            super().__init__(home, "--host", "0.0.0.0", "--port", "52415", *flags, env=env)

    def connection(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with inside(self.host):
            connection.connect()
        return connection


@pytest.fixture
def hosts(make_hosts: Callable[..., Hosts]) -> Hosts:
    return make_hosts(2)


def test_a_download_says_which_name_it_is_and_models_that_are_here_are_served(
    hosts: Hosts, tmp_path: Path
) -> None:
    node = Nameless(hosts[0], tmp_path, "--discovery-module", "none")
    try:
        pulled = node.request("POST", "/api/pull", {"model": "user/tiny", "stream": False})
        assert (pulled.status, f"cannot reach https://{HUB}" in pulled.body.decode()) == (503, True), pulled
        node.assert_serves("exo-demo")
        node.stop()
    finally:
        node.kill()


def test_a_server_and_a_node_that_go_by_such_a_name_hold_up_nothing(hosts: Hosts, tmp_path: Path) -> None:
    flags = ("--upstream", "http://llm.example.invalid", "--peer", "node.example.invalid")
    nodes = [Nameless(host, tmp_path / host.address, "--node-id", host.address, *flags) for host in hosts]
    try:
        # By multicast they find each other all the same.
        for node, other in zip(nodes, reversed(hosts), strict=True):
            eventually(partial(_sees, node, other.address))
            node.assert_serves("exo-demo")
        assert "llm.example.invalid" in nodes[0].log
        for node in nodes:
            node.stop()
    finally:
        for node in nodes:
            node.kill()


def test_the_clusters_port_that_is_taken_is_replaced_and_that_is_said(hosts: Hosts, tmp_path: Path) -> None:
    """Who has it may be another node of the machine."""
    first = Nameless(hosts[0], tmp_path / "1", "--node-id", "first")
    with inside(hosts[0]):
        second = Node(tmp_path / "2", "--host", "0.0.0.0", "--node-id", "second")
    try:
        assert "port 7447 is taken: this node is at port" in second.line("7447 is taken")
        eventually(partial(_sees, first, "second"))
        first.stop()
        second.stop()
    finally:
        first.kill()
        second.kill()


def _sees(node: Node, other: str) -> bool:
    return [peer["id"] for peer in node.get("/v1/cluster").json()["peers"]] == [other]
