"""A node of a cluster: its parts, those that tell the others of it, and those that ask them."""

import contextlib
import socket
import ssl
from collections.abc import Sequence

from exo.assembly.parts import Surroundings, tied_together
from exo.assembly.serving import Display, serve_node
from exo.cluster.dispatch import ClusterNode
from exo.cluster.membership import Membership
from exo.cluster.reach import reachable_at
from exo.cluster.settings import ClusterSettings
from exo.http.server import listen
from exo.http.tls import client_context, server_context
from exo.nodes import Node
from exo.settings import Settings


async def serve_together(
    settings: Settings,
    cluster: ClusterSettings,
    sock: socket.socket,
    display: Display | None = None,
    api_tls: ssl.SSLContext | None = None,
) -> None:
    """Serves until SIGINT or SIGTERM, with `api_tls` over HTTPS, and leaves the cluster."""
    others: list[Node] = []

    def see(nodes: Sequence[Node]) -> None:
        before = parts.shelf.cards
        others[:] = nodes
        parts.metrics.nodes.set(1 + len(nodes))
        parts.watch.changed()
        if parts.shelf.cards != before:  # by another split, as other nodes are there
            membership.announce()

    def announce() -> None:
        membership.announce()

    host = settings.http.host
    peers, tls = _certified(host, settings.http.port, cluster)
    with contextlib.closing(peers[0]) if peers else contextlib.nullcontext():
        url = f"https://{host}:{peers[0].getsockname()[1]}" if peers else None
        around = Surroundings(
            url=url,
            addresses=lambda: reachable_at(host),
            peers=lambda: others,
            changed=announce,
            secret=cluster.secret,
            tls=tls,
        )
        async with tied_together(settings, around) as parts:
            metrics = parts.metrics
            together = ClusterNode(
                parts.node,
                lambda: others,
                key=settings.http.key,
                secret=cluster.secret,
                tls=tls,
                on_failover=lambda when: metrics.failovers.labels(when).inc(),
                on_route=metrics.routed,
                traces=parts.traces,
            )
            membership = Membership(cluster, parts.node.state, see)
            try:
                # First of all: the others ask for a model at once.
                await parts.ask_upstreams()
                await membership.start()
                parts.readiness.wait_for(settings.wait_for_peers, lambda: len(others))
                await serve_node(parts, together, settings, sock, cluster.secret, peers, display, api_tls)
            finally:
                await membership.close()
                await together.close()


def _certified(
    host: str, port: int, cluster: ClusterSettings
) -> tuple[tuple[socket.socket, ssl.SSLContext] | None, ssl.SSLContext | None]:
    """In a cluster with certificates: the port for peers alone, and what this node shows to them."""
    if cluster.tls is None:
        return None, None
    files = (cluster.tls.ca, cluster.tls.certificate, cluster.tls.key)
    # Beside the API's, so that a firewall can be told.
    return (listen(host, port + 1), server_context(*files)), client_context(*files)
