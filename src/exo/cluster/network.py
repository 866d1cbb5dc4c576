"""This machine's network, as far as the cluster has to know it."""

import errno
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

import msgspec

from exo.errors import NotReady

Address: TypeAlias = IPv4Address | IPv6Address

_LOOPBACK: Address = IPv4Address("127.0.0.1")
# Times that a free port of one address may turn out to be taken at another.
_ATTEMPTS = 8


class Place(msgspec.Struct, frozen=True):
    """Where a node listens. The first address is one that programs of this machine reach."""

    addresses: tuple[Address, ...]
    port: int

    @property
    def endpoints(self) -> tuple[str, ...]:
        """As "host:port"."""
        return tuple(
            f"[{each}]:{self.port}" if each.version == 6 else f"{each}:{self.port}" for each in self.addresses
        )


def addresses() -> frozenset[Address]:
    """Those of this machine that another one may reach; without IPv6's link-local ones, which mean nothing
    without an interface."""
    import psutil

    every = (each for interface in psutil.net_if_addrs().values() for each in interface)
    texts = (each.address for each in every if each.family in (socket.AF_INET, socket.AF_INET6))
    found = (ip_address(text.partition("%")[0]) for text in texts)
    return frozenset(
        each for each in found if not each.is_loopback and not (each.version == 6 and each.is_link_local)
    )


def place(ports: Iterable[int], addresses: Iterable[Address]) -> Place:
    """Where to listen: these addresses and this machine's own, at the first of `ports` that nobody has. 0 is
    any. An address that is not ready (IPv6 looks for duplicates first) is left out. Raises `NotReady`."""
    wanted = (_LOOPBACK, *sorted(addresses, key=lambda each: (each.version, each)))
    failure: OSError | None = None
    for port in ports:
        # What is free at the first address may be taken at the next one.
        for _ in range(_ATTEMPTS if port == 0 else 1):
            try:
                return _listenable(port, wanted)
            except OSError as error:
                failure = error
    reason = failure.strerror if failure is not None else "none is given"
    raise NotReady(f"no port can be listened on for the cluster: {reason}") from failure


def _listenable(port: int, addresses: Iterable[Address]) -> Place:
    usable: list[Address] = []
    for each in addresses:
        try:
            port = _bound(each, port)
            usable.append(each)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
    return Place(tuple(usable), port)


def _bound(address: Address, port: int) -> int:
    """The port that could be listened on just now: `port`, or a free one for 0."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the session does: connections of an earlier process that linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((str(address), port))
        probe.listen()
        bound: int = probe.getsockname()[1]
        return bound
