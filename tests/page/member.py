"""Nodes of one cluster that is on this machine alone: `exo`, which by itself refuses that as of no use.

Run as a program it is the command.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from tests.e2e.node import Node, eventually


class Member(Node):
    program = "tests.page.member"

    def __init__(self, home: Path, id: str, cluster: str, port: int, other: int, *flags: str) -> None:
        """At `port` nodes find it, and it looks for another one at `other`."""
        ports = ("--cluster-port", str(port), "--peer", f"127.0.0.1:{other}")
        super().__init__(home, "--node-id", id, "--cluster-name", cluster, *ports, *flags)
        self.id = id


class Pair(Protocol):
    def __call__(self, *ids: str) -> tuple[Member, Member]: ...


@contextmanager
def pairs(home: Path) -> Iterator[Pair]:
    """Starts two nodes that see each other, with a folder each in `home`. What is left of them is killed."""
    with ExitStack() as stack:
        nodes: list[Member] = []

        def pair(*ids: str) -> tuple[Member, Member]:
            ports = free_port(), free_port()
            name = f"page-{os.getpid()}-{ports[0]}"
            for id, (port, other) in zip(ids, (ports, ports[::-1]), strict=True):
                nodes.append(Member(home / id, id, name, port, other))
                stack.callback(nodes[-1].kill)
            for node in nodes:
                eventually(lambda node=node: len(node.get("/v1/cluster").json()["peers"]) == 1)  # type: ignore[misc]
            return nodes[0], nodes[1]

        yield pair
        for node in nodes:
            node.check_log()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


if __name__ == "__main__":
    from exo.cli import clusters
    from exo.main import main

    clusters._LOOPBACK = ()  # type: ignore[assignment]
    main()
