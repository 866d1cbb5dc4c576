"""What is found out about this machine's ports and its network."""

import os
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from exo.cluster.network import addresses
from exo.doctor.evidence import Port
from exo.doctor.gather import Scope
from exo.doctor.gather.network import dropped, network, ports
from exo.settings import UpstreamSettings


def silent(command: Sequence[str]) -> str | None:
    return None


@pytest.fixture
def listening() -> Iterator[int]:
    """A port at which this very process listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def found(
    port: int, *servers: UpstreamSettings, host: str = "127.0.0.1", cluster: int = 7447
) -> dict[str, Port]:
    scope = Scope(
        home=Path("/nowhere"),
        folders=(),
        url=f"http://{host}:{port}",
        servers=servers,
        cluster_port=cluster,
    )
    return {each.use: each for each in ports(scope)}


def test_a_port_that_is_taken_names_the_program(listening: int) -> None:
    api = found(listening)["exo's API"]
    assert api.number == listening
    assert api.owner is not None
    assert api.owner.endswith(f"(pid {os.getpid()})")
    assert not api.ours


def test_a_port_that_nobody_has_is_free() -> None:
    with socket.socket() as bound:  # and so is given to nobody else; it does not listen
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert found(port)["exo's API"].owner == ""


def test_a_port_that_a_client_has_is_free(listening: int) -> None:
    with socket.create_connection(("127.0.0.1", listening)) as client:
        assert found(client.getsockname()[1])["exo's API"].owner == ""


def test_a_datagrams_port_is_another_one_than_a_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        monkeypatch.setattr("exo.doctor.gather.network.SCOUTING", port)
        here = found(port)
    assert (here["exo's API"].number, here["exo's API"].owner) == (port, "")
    assert here["finding other nodes"].number == port
    assert str(os.getpid()) in str(here["finding other nodes"].owner)


def test_ports_are_those_that_are_configured(listening: int) -> None:
    npu = UpstreamSettings(kind="rkllm", url="http://localhost:8099")
    other = UpstreamSettings(kind="rkllm", url="http://npu.lan:8099")
    assert found(listening, npu, cluster=7500)["rkllama"].number == 8099
    assert found(listening, other)["rkllama"].number == 8080, "that one is another machine's"
    assert found(listening, npu, cluster=7500)["other nodes"].number == 7500
    assert found(listening, host="node.lan")["exo's API"].number == 52415


def test_each_interface_hears_itself() -> None:
    here = network(silent)
    assert set(here.addresses) == set(map(str, addresses()))
    assert all(each.address in here.addresses for each in here.multicast)
    assert all(each.problem is None for each in here.multicast), here.multicast


NFTABLES = """\
table inet filter {
	chain input {
		type filter hook input priority filter; policy %s;
		ct state established,related accept
		%s
	}
	chain output {
		type filter hook output priority filter; policy drop;
		tcp dport 25 drop
	}
}
"""


@pytest.mark.parametrize(
    ("rules", "which"),
    [
        (NFTABLES % ("drop", "tcp dport 22 accept"), "nftables, chain input"),
        (NFTABLES % ("accept", "tcp dport 22 drop"), "nftables, chain input"),
        (NFTABLES % ("accept", "iif lo reject with icmp type port-unreachable"), "nftables, chain input"),
        (NFTABLES % ("accept", "tcp dport 22 accept"), ""),
        ("-P INPUT DROP\n-P FORWARD ACCEPT\n", "iptables, -P INPUT DROP"),
        ("-P INPUT ACCEPT\n-A INPUT -p tcp -j REJECT\n", "iptables, -A INPUT -p tcp -j REJECT"),
        ("-P INPUT ACCEPT\n-P FORWARD DROP\n-A FORWARD -j DROP\n", ""),
        ("", ""),
    ],
)
def test_rules_that_drop_what_comes_in(rules: str, which: str) -> None:
    assert dropped(rules) == which
