"""How a node finds the others, as plain values."""

from pathlib import Path
from typing import Literal

import msgspec


class TlsFiles(msgspec.Struct, frozen=True, kw_only=True):
    """PEM files: the cluster's CA, and this node's certificate of it with its key."""

    ca: Path
    certificate: Path
    key: Path


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One node's way into its cluster.

    Nodes of another `name` are not seen. `discovery` is who is looked for: "udp" whoever answers a multicast
    on the local networks, "manual" those of `manual_file`, "tailscale" the machines of the tailnet that are
    online, "none" nobody. `peers` ("host" or "host:port") are connected to in all of these, and whoever
    names this node can connect to it. `port` is listened on, or a free one where it is taken.

    With `routers` ("host" or "host:port") the node is a client of the first of them that answers, and of the
    next one when that is gone. It looks for nobody and listens nowhere, so `discovery` is "none" then, and
    there are no `peers`. `port` is that of the routers.

    With a `secret`, only states signed with it are believed. With `tls`, links are mutual TLS, and a node
    without a certificate of the same CA can neither connect nor be connected to.
    """

    name: str = "exo"
    discovery: Literal["udp", "manual", "tailscale", "none"] = "udp"
    port: int = 7447
    peers: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()
    manual_file: Path | None = None
    secret: bytes | None = None
    tls: TlsFiles | None = None
