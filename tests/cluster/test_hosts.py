"""The hosts that other tests stand on do what they say."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.hosts import Host, Hosts

_LISTEN = """
import socket
with socket.create_server(("", 9)) as server:
    print("ready", flush=True)
    while True:
        server.accept()[0].close()
"""
_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 9), float(sys.argv[2])).close()"


def listen(host: Host) -> "subprocess.Popen[bytes]":
    program = host.run(sys.executable, "-c", _LISTEN, stdout=subprocess.PIPE)
    assert program.stdout is not None
    with program.stdout as stdout:
        assert stdout.readline() == b"ready\n"
    return program


def reaches(one: Host, other: Host, patience: float = 10.0) -> bool:
    command = (sys.executable, "-c", _CONNECT, other.address, str(patience))
    return one.run(*command, stderr=subprocess.DEVNULL).wait() == 0


def namespaces() -> str:
    return subprocess.run(["ip", "netns"], check=True, capture_output=True, text=True).stdout


def runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def lost(one: Host, other: Host) -> bool:
    return not reaches(one, other, 0.5)


def test_hosts_reach_each_other_until_they_are_parted(make_hosts: Callable[..., Hosts]) -> None:
    hosts = make_hosts(4)
    a, b, c, d = hosts
    for host in hosts:
        listen(host)
    assert reaches(a, b)
    assert reaches(d, a)

    hosts.part([a, b], [c])
    assert reaches(a, b)
    assert all(lost(*pair) for pair in ((a, c), (c, b), (d, a), (c, d)))
    assert "state UP" in d.ip("link", "show", "eth0"), "the cut is not silent"

    hosts.join()
    assert reaches(c, d)
    hosts.cut(a)
    assert lost(b, a)
    assert reaches(b, c)
    hosts.join()
    c.unplug()
    assert "state DOWN" in c.ip("link", "show", "eth0")
    assert lost(a, c)


def test_the_test_itself_reaches_hosts_that_have_an_outside(make_hosts: Callable[..., Hosts]) -> None:
    for hosts in (make_hosts(1, outside=True), make_hosts(1, outside=True)):
        listen(hosts[0])
        socket.create_connection((hosts[0].address, 9), 10.0).close()


def test_nothing_is_left_of_hosts_nor_of_those_of_a_test_that_was_killed(
    make_hosts: Callable[..., Hosts],
) -> None:
    make_hosts(1)
    orphan = (
        "import os, sys; from tests.cluster.hosts import Hosts\n"
        "hosts = Hosts(2, outside=True).__enter__()\n"
        "print(hosts[0].namespace, hosts[0].run('sleep', '1000', stdout=-3).pid, flush=True)\n"
        "os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", orphan], check=False, stdout=subprocess.PIPE, text=True)
    namespace, pid = killed.stdout.split()
    assert namespace in namespaces()
    assert runs(pid)
    deadline = time.monotonic() + 10
    while (
        pid
        not in subprocess.run(
            ["ip", "netns", "pids", namespace], check=True, capture_output=True, text=True
        ).stdout
    ):
        assert time.monotonic() < deadline, "it never came into its namespace"

    with Hosts(1, outside=True) as hosts:
        program = hosts[0].run("sleep", "1000")
    left = namespaces()
    assert namespace not in left
    assert hosts._name not in left
    assert program.returncode is not None
    while runs(pid):
        assert time.monotonic() < deadline, "it was not killed"
