"""Machines on a network, made of Linux network namespaces: real interfaces, addresses, multicast, and cables
to pull.

    with Hosts(4) as hosts:
        server = hosts[0].run(sys.executable, "-m", "http.server")
        hosts.part([hosts[0]], [hosts[1], hosts[2]])  # and hosts[3] is alone
        hosts.join()  # one network again

Each host is a namespace with one interface, `eth0`, on a switch, which is a bridge in a namespace of its own.
So nothing but the namespaces themselves is seen outside, and removing them removes everything. Files and
processes are shared with the machine the test runs on. A host's frames are lost without a sign where hosts
are parted: interfaces stay up, and nobody is told, as with a switch that loses power. `unplug` is what the
host does notice.

With `outside`, the test's own process is on the network, too, and reaches hosts by their addresses.

Names carry the process id of the test: whatever a killed test left behind is removed by the next one.
Needs root, and the program `ip`; `why_not` says what is missing.
"""

import contextlib
import itertools
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

_PREFIX = "exotest"
_NAME = re.compile(rf"{_PREFIX}-(\d+)-\S+")
_count = itertools.count()


class Host:
    """A machine. Programs on it see its network only."""

    def __init__(self, namespace: str, number: int, network: str) -> None:
        self.namespace = namespace
        self.port = f"port{number}"
        """The switch's end of its cable."""
        self.address = f"{network}.{number + 1}"
        self._programs: list[subprocess.Popen[Any]] = []

    def __repr__(self) -> str:
        return f"<Host {self.address}>"

    def run(
        self, *command: str, env: Mapping[str, str] | None = None, **options: Any
    ) -> "subprocess.Popen[Any]":
        """Starts a program; the process returned is the program itself. `options` are Popen's."""
        program = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *command],
            env=None if env is None else dict(env),
            **options,
        )
        self._programs.append(program)
        return program

    def ip(self, *arguments: str) -> str:
        """The program `ip` on this host, as in `host.ip("addr", "add", "10.1.2.3/24", "dev", "eth0")`."""
        return _ip("-n", self.namespace, *arguments)

    def unplug(self) -> None:
        """Takes the cable out: the host itself sees that."""
        self.ip("link", "set", "eth0", "down")

    def plug(self) -> None:
        self.ip("link", "set", "eth0", "up")

    def stop(self) -> None:
        """Ends every program that was started here."""
        for program in self._programs:
            if program.poll() is None:
                program.kill()
            program.wait()
        self._programs.clear()


class Hosts(Sequence[Host]):
    """So many machines on one switch. Use as a context manager, which takes them down again.

    `addressed` is whether they have their addresses from the start.
    """

    def __init__(self, count: int, *, outside: bool = False, addressed: bool = True) -> None:
        self._count, self._outside, self._addressed = count, outside, addressed
        self._name = f"{_PREFIX}-{os.getpid()}-{next(_count)}"
        self._switch = f"{self._name}-switch"
        self._hosts: list[Host] = []
        self._bridges = 0

    def __getitem__(self, index: Any) -> Any:
        return self._hosts[index]

    def __len__(self) -> int:
        return len(self._hosts)

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts)

    def __enter__(self) -> Self:
        remove_stale()
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def part(self, *groups: Sequence[Host]) -> None:
        """Only hosts of one group reach each other from now on, and a host in no group nobody. Silently. The
        test's own process, where it is `outside`, goes with the first group."""
        grouped = {id(host) for group in groups for host in group}
        alone = [[host] for host in self._hosts if id(host) not in grouped]
        for number, group in enumerate([*groups, *alone]):
            self._bridge(number)
            for host in group:
                self._plug(host.port, number)

    def cut(self, host: Host) -> None:
        """Nobody reaches this host any more, nor it anybody. Silently."""
        self.part([each for each in self._hosts if each is not host])

    def join(self) -> None:
        """All hosts reach each other again."""
        for host in self._hosts:
            self._plug(host.port, 0)

    def close(self) -> None:
        for host in self._hosts:
            host.stop()
        for name in (*(host.namespace for host in self._hosts), self._switch):
            _remove(name)
        self._hosts.clear()

    def _make(self) -> None:
        _ip("netns", "add", self._switch)
        self._bridge(0)
        network = "198.18.0"  # for tests of networks: RFC 2544
        if self._outside:
            network = self._reach_out()
        for number in range(self._count):
            host = Host(f"{self._name}-{number}", number, network)
            _ip("netns", "add", host.namespace)
            self._hosts.append(host)
            cable = ("netns", self._switch, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            _ip("link", "add", host.port, *cable)
            self._plug(host.port, 0)
            host.ip("link", "set", "lo", "up")
            host.ip("link", "set", "eth0", "up")
            if self._addressed:
                host.ip("addr", "add", f"{host.address}/24", "dev", "eth0")

    def _reach_out(self) -> str:
        """A cable from the switch to this process' own network; what the hosts' addresses begin with."""
        for third in range(1, 255):
            # An interface's name is taken by one test at a time, and so is its network.
            cable = (f"{_PREFIX}{third}", "type", "veth", "peer", "name", "outside", "netns", self._switch)
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("link", "add", *cable)
                _ip("addr", "add", f"198.18.{third}.254/24", "dev", f"{_PREFIX}{third}")
                _ip("link", "set", f"{_PREFIX}{third}", "up")
                self._plug("outside", 0)
                return f"198.18.{third}"
        raise RuntimeError("no network is left for the hosts")

    def _bridge(self, number: int) -> None:
        if number >= self._bridges:
            # Without snooping, multicast goes to everybody, as on the switches people have.
            kind = ("type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
            _ip("-n", self._switch, "link", "add", f"bridge{number}", *kind)
            _ip("-n", self._switch, "link", "set", f"bridge{number}", "up")
            self._bridges = number + 1

    def _plug(self, port: str, number: int) -> None:
        _ip("-n", self._switch, "link", "set", port, "master", f"bridge{number}")
        _ip("-n", self._switch, "link", "set", port, "up")


def why_not() -> str | None:
    """Why there can be no hosts on this machine; None if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with Hosts(1):
            return None
    except FileNotFoundError:
        return "the program 'ip' is missing (apt install iproute2)"
    except subprocess.CalledProcessError as error:
        return f"network namespaces cannot be made: {error.stderr.strip()}"


def remove_stale() -> None:
    """Removes what tests left behind whose process is no more."""
    for line in _ip("netns", "list").splitlines():
        found = _NAME.match(line)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            _remove(found[0])


def _remove(namespace: str) -> None:
    """A namespace lives as long as a process in it, so these go first."""
    if namespace not in _ip("netns", "list").split():
        return
    for pid in _ip("netns", "pids", namespace).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "delete", namespace)


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout
