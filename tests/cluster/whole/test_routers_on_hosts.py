"""More nodes than a mesh is for: clients of two routers, on four machines.

Each test prints what it measured (pytest -s), and holds it to just what is promised.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exo.cluster import certificates
from exo.cluster.settings import ClusterSettings
from tests.cluster.hosts import Host, Hosts
from tests.cluster.nodes import NodeProgram, all_see, took
from tests.e2e.node import environment

CLIENTS = 60
# So many start at once: this machine is not to be busier with starts than with what is measured.
AT_ONCE = 10

Start = Callable[..., NodeProgram]
Make = Callable[..., Hosts]


@pytest.fixture
def hosts(make_hosts: Make) -> Hosts:
    return make_hosts(4)


def router(host: Host, home: Path, *flags: str) -> "subprocess.Popen[str]":
    """Started as its owner would, and listening."""
    command = (sys.executable, "-m", "exo.main", "cluster", "router", *flags)
    program = host.run(*command, env=environment(home), stderr=subprocess.PIPE, text=True)
    assert program.stderr is not None
    with program.stderr as log:
        for line in log:
            if "a router" in line:
                return program
    raise AssertionError(f"the router ended: {program.wait()}")


def by(*routers: Host, **fields: object) -> ClusterSettings:
    """The way into a cluster for a client of these."""
    addresses = tuple(each.address for each in routers)
    return ClusterSettings(discovery="none", routers=addresses, **fields)  # type: ignore[arg-type]


def test_clients_of_two_routers_are_one_cluster(hosts: Hosts, start: Start, tmp_path: Path) -> None:
    left, right, *_ = hosts
    first = router(left, tmp_path)
    router(right, tmp_path, "--peer", left.address)
    ids = [f"n{number:02}" for number in range(CLIENTS)]
    nodes: list[NodeProgram] = []
    for begin in range(0, CLIENTS, AT_ONCE):
        for number in range(begin, begin + AT_ONCE):
            # Half of them at each router, and a quarter on each machine.
            order = (left, right) if number % 2 else (right, left)
            nodes.append(start(ids[number], by(*order), host=hosts[number // 2 % 4]))
        joined = max(node.joined() for node in nodes)
    took(f"{CLIENTS} clients of two routers", 2, all_see(nodes, ids) - joined)

    killed = time.monotonic()
    for node in nodes[-2:]:
        node.kill()
    del nodes[-2:], ids[-2:]
    took("SIGKILL of one of each router", 1, all_see(nodes, ids, killed) - killed)

    first.kill()
    first.wait()
    # Whoever sees this one, and is seen by it, has gone to the other router.
    ids.append("last")
    nodes.append(start("last", by(right), host=hosts[2]))
    joined = nodes[-1].joined()
    took("join after SIGKILL of a router", 2, all_see(nodes, ids, joined) - joined)


def test_a_client_that_is_cut_off_is_gone_and_comes_back(hosts: Hosts, start: Start, tmp_path: Path) -> None:
    left, right, near, far = hosts
    router(left, tmp_path)
    router(right, tmp_path, "--peer", left.address)
    a, b, c = (
        start("a", by(left, right), host=near),
        start("b", by(right, left), host=near),
        start("c", by(left, right), host=far),
    )
    all_see((a, b, c), "abc")
    cut = time.monotonic()
    hosts.cut(far)
    took("client cut", 3, max(all_see((a, b), "ab", cut), c.sees((), after=cut)) - cut)
    healed = time.monotonic()
    hosts.join()
    took("client healed", 10, all_see((a, b, c), "abc", healed) - healed)


def test_when_a_router_is_cut_off_its_clients_go_to_the_other_one(
    hosts: Hosts, start: Start, tmp_path: Path
) -> None:
    left, right, *others = hosts
    router(left, tmp_path)
    router(right, tmp_path, "--peer", left.address)
    a, b = start("a", by(left, right), host=others[0]), start("b", by(right, left), host=others[1])
    all_see((a, b), "ab")
    cut = time.monotonic()
    hosts.cut(left)
    alone = b.sees((), after=cut)
    took("clients of the router that is cut", 5, all_see((a, b), "ab", alone) - cut)


def test_with_certificates_a_stranger_is_no_client(hosts: Hosts, start: Start, tmp_path: Path) -> None:
    ca, another = certificates.make_ca("home"), certificates.make_ca("home")
    left, right, *others = hosts

    def settings(id: str, issuer: certificates.Identity) -> ClusterSettings:
        files = certificates.install(certificates.make_node_certificate(issuer, [id]), tmp_path / id)
        return by(right, tls=files)

    for name in ("left", "right"):
        certificates.install(certificates.make_node_certificate(ca, [name]), tmp_path / name / "cluster")
    router(left, tmp_path / "left")
    router(right, tmp_path / "right", "--peer", left.address)
    a, b = (start(id, settings(id, ca), host=host) for id, host in zip("ab", others, strict=True))
    stranger = start("x", settings("x", another), host=others[0])
    plain = start("p", by(right), host=others[1])
    all_see((a, b), "ab")
    for program in (stranger, plain):
        program.says("the cluster cannot be joined")
        assert program.peers == []
    assert not any(program.ever_saw(id) for program in (a, b) for id in "xp")
