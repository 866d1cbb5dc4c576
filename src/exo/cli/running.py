"""The running node that a command asks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from exo.cli import https, options
from exo.errors import ConnectionLost, NotReady

if TYPE_CHECKING:
    from exo.http.peer import Peer


@asynccontextmanager
async def running_node(url: str | None) -> "AsyncIterator[Peer]":
    """The node at `url`, or the one on this machine. Raises `NotReady` with the remedy where none answers."""
    from exo.http.peer import Peer

    asked = options.asked(url)
    peer = Peer(asked.url, key=asked.key, tls=asked.tls)
    try:
        try:
            await peer.get("/healthcheck")
        except NotReady as error:
            remedy = https.advice(error) or "; `exo` starts a node, --url names another one"
            raise NotReady(f"{error.message}{remedy}") from error
        except ConnectionLost as error:
            raise ConnectionLost(f"{error.message}{https.hint(asked.url)}") from error
        yield peer
    finally:
        await peer.close()


async def cluster_body(url: str | None) -> bytes:
    """What the node says of itself and of its peers: a `Cluster` as JSON."""
    async with running_node(url) as peer:
        return await peer.get("/v1/cluster")
