"""The nodes of a cluster as Prometheus' HTTP service discovery wants them, without I/O.

The format is that of prometheus.io/docs/prometheus/latest/http_sd. A label "job" of a target goes before the
job's name in Prometheus' own configuration.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec

from exo.choice.nearest import nearest
from exo.nodes import Cluster, Node

_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})


class TargetGroup(msgspec.Struct, frozen=True):
    """Addresses as "host:port", and the labels of what is scraped there."""

    targets: tuple[str, ...]
    labels: dict[str, str]


def target_groups(cluster: Cluster, job: str, host: str) -> tuple[TargetGroup, ...]:
    """All nodes, this one first, and the NPU servers behind them, each of these once. `host` is this
    machine's address as the asker has it, `job` what this process is. The others are named by the address at
    which this node reaches them."""
    nodes = [(cluster.me, job, host)]
    nodes += [(peer, "exo", _host_of(peer, cluster.me)) for peer in cluster.peers]
    groups = [_group(host, *_api(node), job, node.id) for node, job, host in nodes]
    npus: dict[tuple[str, ...], TargetGroup] = {}
    for node, _, host in nodes:
        for group in _npu_servers(node, host):
            npus.setdefault(group.targets, group)
    return (*groups, *npus.values())


def answer(groups: tuple[TargetGroup, ...]) -> bytes:
    return msgspec.json.encode(groups)


def _npu_servers(node: Node, host: str) -> Iterator[TargetGroup]:
    """Those of a node, which call its own machine localhost."""
    for url in node.npu_servers:
        place = urlsplit(url)
        name = place.hostname or ""
        port = place.port or (443 if place.scheme == "https" else 80)
        yield _group(host if name in _THIS_MACHINE else name, place.scheme, port, "rkllama", node.id)


def _group(host: str, scheme: str, port: int, job: str, node: str) -> TargetGroup:
    labels = {"job": job, "node": node}
    if scheme == "https":
        labels["__scheme__"] = scheme
    return TargetGroup((f"[{host}]:{port}" if ":" in host else f"{host}:{port}",), labels)


def _host_of(peer: Node, me: Node) -> str:
    return urlsplit(nearest(peer.url, peer.addresses, me.addresses)).hostname or ""


def _api(node: Node) -> tuple[str, int]:
    """Scheme and port of a node's API. Of a release that does not say, it is plain HTTP, and where nodes have
    certificates `url` is of the port for nodes alone, which is the next one."""
    place = urlsplit(node.api or node.url)
    port = place.port or 80
    if node.api:
        return place.scheme, port
    return "http", port - 1 if place.scheme == "https" else port
