"""How the cluster sets Zenoh up, as plain values by its configuration's keys. Measured with release 1.10.2.

The keys are those of `DEFAULT_CONFIG.json5` in eclipse-zenoh/zenoh.
"""

from collections.abc import Iterable, Mapping

from exo.cluster.network import Place
from exo.cluster.settings import ClusterSettings, TlsFiles

RUNTIME = "(net:(worker_threads:16),rx:(worker_threads:16))"
"""For the environment variable ZENOH_RUNTIME, read when Zenoh is imported. With its default of few threads,
each further node that is silently lost delays the notice of the others by up to 10 s."""

# Hidden states of a long prompt have to fit into one message.
_LARGEST_MESSAGE = 1 << 30
# Milliseconds within which a silently cut node is gone. It has to be the same on every node.
_LEASE = 2000
# Milliseconds that making a link may take. Closing a session waits for links that are being made.
_OPENING = 4000


def session(settings: ClusterSettings, place: Place, addresses: Iterable[str]) -> Mapping[str, object]:
    """Of the session that is this node's part in its cluster: listens at `place`, connects to `addresses`.

    Interfaces are named by their addresses, and listened on one by one, as Zenoh looks at them once in a
    process' life: with "auto" and "[::]" it neither finds nor tells of addresses that came later.
    """
    # One of two nodes connects, not both to each other: see eclipse-zenoh/zenoh#2806.
    one = {"peer": {"to_router": "always", "to_peer": "greater-zid"}}
    return {
        **_both(settings, addresses),
        "listen/endpoints": [f"{protocol(settings)}/{each}" for each in place.endpoints],
        "scouting/multicast/enabled": settings.discovery == "udp",
        "scouting/multicast/interface": ",".join(str(each) for each in place.addresses if each.version == 4),
        "scouting/multicast/autoconnect_strategy": one,
        "scouting/gossip/autoconnect_strategy": one,
    }


def introduction(settings: ClusterSettings, addresses: Iterable[str]) -> Mapping[str, object]:
    """Of a session that connects to these addresses and nobody else, and tells who is there of each other."""
    return {
        **_both(settings, addresses),
        "listen/endpoints": [],
        "scouting/multicast/enabled": False,
        "scouting/gossip/autoconnect": {"router": [], "peer": []},
    }


def protocol(settings: ClusterSettings) -> str:
    """Not tls: its links stall on large messages, which are not flushed."""
    return "tcp" if settings.tls is None else "quic"


def _both(settings: ClusterSettings, addresses: Iterable[str]) -> dict[str, object]:
    values: dict[str, object] = {
        "mode": "peer",
        "connect/endpoints": [f"{protocol(settings)}/{address}" for address in sorted(addresses)],
        # Nodes with certificates and nodes without are none of each other's business.
        "transport/link/protocols": [protocol(settings)],
        "transport/link/tx/lease": _LEASE,
        "transport/unicast/open_timeout": _OPENING,
        "transport/link/rx/max_message_size": _LARGEST_MESSAGE,
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
