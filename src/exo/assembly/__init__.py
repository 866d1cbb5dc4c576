"""Ties a node together from its settings, and runs it.

`parts` are what every node has, `serving` puts them on the network, and `together` is for a node of a
cluster.
"""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from exo.assembly.parts import Parts, Surroundings, tied_together
from exo.assembly.serving import Display, serve_node
from exo.cluster.settings import ClusterSettings
from exo.http.server import listen
from exo.http.tls import api_context
from exo.node.local import LocalNode
from exo.settings import Settings

__all__ = ["Display", "Parts", "Surroundings", "local_node", "run", "tied_together"]


@asynccontextmanager
async def local_node(settings: Settings) -> AsyncIterator[LocalNode]:
    """A node without its HTTP side, for a program that answers itself; unloads everything at the end."""
    async with tied_together(settings) as parts:
        yield parts.node


async def run(settings: Settings, cluster: ClusterSettings, display: Display | None = None) -> None:
    """Serves until SIGINT or SIGTERM; a second one does not wait for answers under way. `display` shows the
    node while it serves.

    Raises `NotReady` where the address cannot be had or the files for TLS cannot be used, and `ModelNotFound`
    for a model to preload that is not here.
    """
    tls = api_context(settings.http.tls) if settings.http.tls else None
    sock = listen(settings.http.host, settings.http.port)
    with contextlib.closing(sock):
        http = msgspec.structs.replace(settings.http, port=sock.getsockname()[1])
        settings = msgspec.structs.replace(settings, http=http)
        if cluster.discovery == "none" and not cluster.peers and not cluster.routers:
            async with tied_together(settings) as parts:
                await parts.ask_upstreams()
                await serve_node(parts, parts.node, settings, sock, display=display, tls=tls)
        else:
            # What it takes is imported here, as a node alone does without it.
            from exo.assembly.together import serve_together

            await serve_together(settings, cluster, sock, display, tls)
