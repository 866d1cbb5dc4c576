"""How the cluster sets Zenoh up, as plain values by its configuration's keys. Measured with release 1.10.2.

The keys are those of `DEFAULT_CONFIG.json5` in eclipse-zenoh/zenoh.
"""

import secrets
import socket
from collections.abc import Iterable, Mapping

from exo.cluster.network import Place
from exo.cluster.settings import ClusterSettings, TlsFiles

RUNTIME = "(net:(worker_threads:16),rx:(worker_threads:16))"
"""For the environment variable ZENOH_RUNTIME, read when Zenoh is imported. With its default of few threads,
each further node that is silently lost delays the notice of the others by up to 10 s."""

# Zenoh ids of nodes, reversed, are below the first, which leaves room for 2³² newcomers in turn.
_OURS, _STEP = 1 << 96, 1 << 64
# Milliseconds within which a silently cut node is gone. It has to be the same on every node.
_LEASE = 2000
# Milliseconds that making a link may take. Closing a session waits for links that are being made.
_OPENING = 4000
# The same for a client, which tries one router after the other.
_OPENING_CLIENT = 1000


# Where there is no IPv4. Zenoh binds no group of ff02::/16, which would take an interface's number, and looks
# at the interface that the machine's routes give for this one: with several, only there.
_GROUP_OF_IPV6 = "[ff05::224]:7446"


def session(
    settings: ClusterSettings, place: Place, addresses: Iterable[str], zid: int
) -> Mapping[str, object]:
    """Of the session that is this node's part in its cluster: listens at `place`, connects to `addresses`.
    With routers it connects to the first of `addresses` that answers, and anew whenever that is gone."""
    if settings.routers:
        return {
            **_both(settings, addresses),
            "mode": "client",
            "transport/unicast/open_timeout": _OPENING_CLIENT,
            "id": f"{zid:x}",
            "scouting/multicast/enabled": False,
        }
    # One of two nodes connects, not both to each other: see eclipse-zenoh/zenoh#2806.
    one = {"peer": {"to_router": "always", "to_peer": "greater-zid"}}
    return {
        **_both(settings, sorted(addresses)),
        **scouting(place, enabled=settings.discovery == "udp"),
        "id": f"{zid:x}",
        "listen/endpoints": [f"{protocol(settings)}/{each}" for each in place.endpoints],
        "scouting/multicast/autoconnect_strategy": one,
        "scouting/gossip/autoconnect_strategy": one,
    }


def scouting(place: Place, *, enabled: bool = True) -> Mapping[str, object]:
    """Of looking for others by multicast.

    Interfaces are named by their addresses (and listened on one by one), as Zenoh looks at them once in a
    process' life: with "auto" (and "[::]") it neither finds nor tells of addresses that came later.
    """
    four, six = (
        ",".join(str(each) for each in place.addresses if each.version == version) for version in (4, 6)
    )
    values: dict[str, object] = {"scouting/multicast/enabled": enabled}
    if six and set(four.split(",")) <= {"", "127.0.0.1"}:
        return {**values, "scouting/multicast/address": _GROUP_OF_IPV6, "scouting/multicast/interface": six}
    return {**values, "scouting/multicast/interface": four}


def newcomer(others: Iterable[int]) -> int:
    """A Zenoh id that comes after those of the nodes that are there, and random enough to be nobody else's.

    Of two nodes the one whose id comes after the other's connects, once it has heard of the other. A newcomer
    asks who is there, and hears at once; the others ask ever more rarely, every 8 s in the end. So it has to
    be the newcomer that connects. Ids of other programs are random, 128 bits, and left out of the count.
    """
    ranks = (rank for rank in map(_reversed, others) if rank < _OURS)
    return _reversed(max(ranks, default=_STEP) + 1 + secrets.randbelow(_STEP))


def _reversed(id: int) -> int:
    """Zenoh compares ids from their last byte on. Its own inverse."""
    return int.from_bytes(id.to_bytes(16, "little"), "big")


def introduction(settings: ClusterSettings, addresses: Iterable[str]) -> Mapping[str, object]:
    """Of a session that connects to these addresses and nobody else, and tells who is there of each other."""
    return {
        **_both(settings, sorted(addresses)),
        "listen/endpoints": [],
        "scouting/multicast/enabled": False,
        "scouting/gossip/autoconnect": {"router": [], "peer": []},
    }


def router(settings: ClusterSettings, addresses: Iterable[str]) -> Mapping[str, object]:
    """Of a router: listens at the settings' port, connects to the routers at `addresses`, tries again those
    that do not answer, and relays between all that are connected."""
    # All of this machine's addresses, and those it gets later, as it is found by address alone.
    here = "[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"
    return {
        **_both(settings, sorted(addresses)),
        "mode": "router",
        "listen/endpoints": [f"{protocol(settings)}/{here}:{settings.port}"],
        "scouting/multicast/enabled": False,
    }


def protocol(settings: ClusterSettings) -> str:
    """Not quic: nobody would be told that a node was killed, before its lease ends. What tls does not flush
    at once, of messages larger than a socket's buffer, goes with the next sign of life; states are smaller.
    """
    return "tcp" if settings.tls is None else "tls"


def _both(settings: ClusterSettings, addresses: Iterable[str]) -> dict[str, object]:
    values: dict[str, object] = {
        "mode": "peer",
        "connect/endpoints": [f"{protocol(settings)}/{address}" for address in addresses],
        # Nodes with certificates and nodes without are none of each other's business.
        "transport/link/protocols": [protocol(settings)],
        "transport/link/tx/lease": _LEASE,
        "transport/unicast/open_timeout": _OPENING,
        "transport/shared_memory/enabled": False,
    }
    if settings.tls is not None:
        values["transport/link/tls"] = _mutual(settings.tls)
    return values


def _mutual(tls: TlsFiles) -> dict[str, object]:
    return {
        "root_ca_certificate": str(tls.ca),
        "listen_certificate": str(tls.certificate),
        "listen_private_key": str(tls.key),
        "connect_certificate": str(tls.certificate),
        "connect_private_key": str(tls.key),
        "enable_mtls": True,
        # Addresses of nodes change. Who has a certificate of the cluster's own CA belongs to it.
        "verify_name_on_connect": False,
    }
