"""This machine's network: its ports and who has them, multicast, rules that drop what comes in."""

import contextlib
import os
import re
import secrets
import select
import shutil
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlsplit

import msgspec

from exo import devices
from exo.cluster.network import addresses
from exo.doctor.evidence import Multicast, Network, Port
from exo.doctor.gather.scope import Scope

SCOUTING = 7446
"""The UDP port that Zenoh's multicast scouting uses."""
_GROUP = "224.0.0.224"
_API, _RKLLAMA = 52415, 8080
# A datagram of this machine to itself takes less than a millisecond.
_PATIENCE = 0.5
_OURS = re.compile(r"(?:^|[/\\])(?:exo|rkllama)$|^(?:exo|rkllama)\.main$")


def ports(scope: Scope) -> tuple[Port, ...]:
    """Those that a node on this machine, and an NPU server, would listen on, and who has them now.

    The programs of other users are told to root only, on macOS all are. Raises psutil's errors.
    """
    api = _port_here(scope.url) or _API
    servers = (_port_here(each.url) for each in scope.servers if each.kind == "rkllm")
    rkllama = next(filter(None, servers), _RKLLAMA)
    listening = _listening()
    return tuple(
        _with_owner(port, listening)
        for port in (
            Port(number=api, use="exo's API", option="--port"),
            Port(number=scope.cluster_port, use="other nodes", option="--cluster-port"),
            Port(number=SCOUTING, use="finding other nodes", protocol="udp"),
            Port(number=rkllama, use="rkllama", option="--port"),
        )
    )


def _port_here(url: str) -> int | None:
    """The port of a URL on this machine, by its address or its usual name; None for another's. Asks
    nobody."""
    parts = urlsplit(url)
    here = parts.hostname in ("localhost", "127.0.0.1", "::1", *map(str, addresses()))
    return parts.port or (443 if parts.scheme == "https" else 80) if here else None


def network(run: devices.Run = devices.ask) -> Network:
    """Sends a datagram to itself on each interface that does multicast. It does not leave the machine: its
    TTL is 0. So it proves that the interface does multicast at all, and nothing of the switches behind it."""
    found = sorted(addresses(), key=lambda each: (each.version, int(each)))
    return Network(
        addresses=tuple(map(str, found)), multicast=_multicast(_interfaces()), firewall=_firewall(run)
    )


def dropped(rules: str) -> str:
    """The first rule that drops what comes in, of what `nft list ruleset` or `iptables -S` prints; "" where
    there is none. A rule that drops by itself is one, too, as which ports it is for is not read."""
    for match in re.finditer(r"chain (\S+) \{[^}]*?hook input[^}]*\}", rules):
        if "policy drop" in match[0] or re.search(r"^\s*(?:.*\s)?(?:drop|reject)\b", match[0], re.MULTILINE):
            return f"nftables, chain {match[1]}"
    if found := re.search(
        r"^-P INPUT (?:DROP|REJECT)|^-A INPUT .*-j (?:DROP|REJECT).*$", rules, re.MULTILINE
    ):
        return f"iptables, {found[0]}"
    return ""


def _listening() -> dict[tuple[int, int], list[int | None]] | None:
    """Process ids by kind of socket and port, None for a process that is not told; None where only root is
    told anything. It takes a while, as every process' files are looked through."""
    import psutil

    try:
        connections = psutil.net_connections("inet")
    except psutil.AccessDenied:
        return None
    found: dict[tuple[int, int], list[int | None]] = {}
    for each in connections:
        if each.laddr and (each.type == socket.SOCK_DGRAM or each.status == psutil.CONN_LISTEN):
            found.setdefault((each.type, each.laddr.port), []).append(each.pid)
    return found


def _with_owner(port: Port, listening: Mapping[tuple[int, int], Sequence[int | None]] | None) -> Port:
    import psutil

    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    if listening is None:
        return msgspec.structs.replace(port, owner=None if _taken(port.number, kind) else "")
    pids = listening.get((kind, port.number), ())
    if not pids:
        return port
    pid = next((each for each in pids if each is not None), None)
    if pid is None:
        return msgspec.structs.replace(port, owner=None)
    try:
        process = psutil.Process(pid)
        name, words = process.name(), process.cmdline()
    except psutil.Error:
        return msgspec.structs.replace(port, owner=f"pid {pid}")
    ours = any(_OURS.search(word) for word in words[:4])
    return msgspec.structs.replace(port, owner=f"{name} (pid {pid})", ours=ours)


def _taken(number: int, kind: socket.SocketKind) -> bool:
    with socket.socket(socket.AF_INET, kind) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("", number))
        except OSError:
            return True
    return False


def _interfaces() -> dict[str, str]:
    """IPv4 addresses of interfaces that are up and do multicast, by name."""
    import psutil

    states = psutil.net_if_stats()
    able = {
        name
        for name, state in states.items()
        if state.isup and {"multicast", "up"} <= set(state.flags.split(","))
    }
    found = {
        name: each.address
        for name, every in psutil.net_if_addrs().items()
        for each in every
        if name in able and each.family == socket.AF_INET and not each.address.startswith("127.")
    }
    return dict(sorted(found.items()))


def _multicast(interfaces: dict[str, str]) -> tuple[Multicast, ...]:
    word = secrets.token_bytes(16)
    problems: dict[str, str | None] = {}
    with contextlib.ExitStack() as stack:
        waiting: dict[socket.socket, str] = {}
        for name, address in interfaces.items():
            try:
                waiting[_told(stack, address, word)] = name
            except OSError as error:
                problems[name] = str(error.strerror or error)
        deadline = time.monotonic() + _PATIENCE
        while waiting and (left := deadline - time.monotonic()) > 0:
            for heard in select.select(list(waiting), [], [], left)[0]:
                if heard.recv(64) == word:
                    problems[waiting.pop(heard)] = None
        for name in waiting.values():
            problems[name] = f"a datagram to {_GROUP} did not come back"
    return tuple(Multicast(name, address, problems[name]) for name, address in interfaces.items())


def _told(stack: contextlib.ExitStack, address: str, word: bytes) -> socket.socket:
    """A socket that should hear what has been sent to the group on that interface."""
    hears = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    hears.bind((_GROUP, 0))
    join = socket.inet_aton(_GROUP) + socket.inet_aton(address)
    hears.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, join)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as says:
        says.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
        says.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
        says.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        says.sendto(word, (_GROUP, hears.getsockname()[1]))
    return hears


def _firewall(run: devices.Run) -> str | None:
    if os.geteuid() != 0:
        return None
    commands: Iterable[tuple[str, ...]] = (("nft", "list", "ruleset"), ("iptables", "-S"))
    said = [run(command) for command in commands if shutil.which(command[0])]
    known = [each for each in said if each is not None]
    return next(filter(None, map(dropped, known)), "") if known else None
