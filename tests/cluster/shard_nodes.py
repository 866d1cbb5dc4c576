"""Nodes that work with layers for each other: each a server on loopback with an engine of layers in processes
of its own. As a program (`python -m tests.cluster.shard_nodes ID PEER`) one that prints its port and lives
until its standard input ends."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from aiohttp.test_utils import TestServer

from exo.cards import ModelCard, Share
from exo.chat import Text
from exo.cluster.dispatch import ClusterNode
from exo.cluster.pipeline import Credentials, Pipeline
from exo.cluster.planning import Planner
from exo.cluster.settings import TlsFiles
from exo.cluster.shard_host import ShardHost
from exo.engine import LoadedModel
from exo.engines.scripted import Script, ScriptedModel
from exo.http import cluster_routes, openai_routes, service_routes, shard_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.tls import client_context, server_context
from exo.metrics import Metrics
from exo.node.local import LocalNode
from exo.nodes import Cluster, Device, Node
from exo.residency.residency import Limits, Residency
from exo.settings import Defaults, HttpSettings
from exo.shards.engine import LayersEngine
from exo.store.catalogue import BUNDLED, Catalogue
from tests.doubles import SilentObserver

DEMO = "exo-demo"
FOLDER = BUNDLED / DEMO
LAYERS, WIDTH = 6, 128
SLOTS, CONTEXT = 2, 256
NUMPY, TROUBLED = "tests.engines.numpy_shard", "tests.cluster.trouble"


class _Scripts:
    """Loads scripted models, so that there is something to evict."""

    formats = frozenset({"script"})

    def unavailable(self) -> str | None:
        return None

    async def load(self, card: ModelCard, files: Path) -> LoadedModel:
        return ScriptedModel(Script(steps=(Text("hi"),)))


class ShardNode:
    def __init__(
        self,
        id: str,
        *,
        memory: int = 1 << 30,
        secret: bytes | None = None,
        key: str | None = None,
        tls: TlsFiles | None = None,
        engine: str = NUMPY,
        folder: Path = BUNDLED,
        split: Sequence[Share] = (),
        known: Sequence[str] = (),
    ) -> None:
        """`known` are ids of nodes that it takes to be there beside `peers`."""
        self.id, self._secret, self._key, self._tls, self._known = id, secret, key, tls, known
        self.shelf = Catalogue(
            folder, context=CONTEXT, slots=SLOTS, formats=("safetensors", "gguf", "script")
        )
        self.peers: list[ShardNode] = []
        self.planner = Planner(
            self.shelf, self._cluster, slots=SLOTS, context=CONTEXT, by_hand={DEMO: split} if split else {}
        )
        self.credentials = Credentials(
            id, key=key, secret=secret, tls=client_context(tls.ca, tls.certificate, tls.key) if tls else None
        )
        self.layers = LayersEngine(
            "numpy", NUMPY, slots=SLOTS, context=CONTEXT, plan=Pipeline(self.planner, self.credentials)
        )
        self.residency = Residency(
            [_Scripts(), self.layers], self.shelf, Limits(memory, 64, None), SilentObserver()
        )
        self.here = LocalNode(
            id=id,
            url="",
            version="0",
            device=Device(name=id, cores=1, memory=1),
            shelf=self.shelf,
            residency=self.residency,
            defaults=Defaults(),
        )
        self.node = ClusterNode(self.here, lambda: [peer.state() for peer in self.peers], secret=secret)
        for_others = LayersEngine("numpy", engine)
        self.host = ShardHost(
            self.planner, self.residency, {"numpy": for_others}, self.shelf.pull_part, kind="cpu"
        )
        self.url = "http://127.0.0.1:9"

    def _cluster(self) -> Cluster:
        return self.node.cluster()

    def state(self) -> Node:
        return msgspec.structs.replace(self.here.state(), url=self.url)

    @property
    def held(self) -> list[str]:
        """What its memory holds for others."""
        return [name for name in self.residency.residents if "layers" in name]

    async def start(self) -> None:
        desk = Desk(
            _Sees(self.node, self._known),  # type: ignore[arg-type]
            Metrics("0", ()),
            HttpSettings(key=self._key),
            lambda: None,
            self._secret,
            certified=self._tls is not None,
        )
        app = build(
            desk,
            openai_routes.routes(),
            cluster_routes.routes(),
            service_routes.routes(),
            shard_routes.routes(self.host),
        )
        context = server_context(self._tls.ca, self._tls.certificate, self._tls.key) if self._tls else None
        self.server = TestServer(app, scheme="https" if context else "http", handler_cancellation=True)
        await self.server.start_server(ssl=context)
        self.url = str(self.server.make_url("")).rstrip("/")

    async def stop(self) -> None:
        await self.server.close()
        await self.node.close()
        await self.residency.close()


class _Sees:
    """A node that sees more peers than there are."""

    def __init__(self, node: ClusterNode, known: Sequence[str]) -> None:
        self._node, self._known = node, known

    def __getattr__(self, name: str) -> object:
        return getattr(self._node, name)

    def cluster(self) -> Cluster:
        cluster = self._node.cluster()
        more = tuple(msgspec.structs.replace(cluster.me, id=id) for id in self._known)
        return msgspec.structs.replace(cluster, peers=(*cluster.peers, *more))


async def live(id: str, peer: str) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(0, lambda: None if os.read(0, 4096) else over.set())
    node = ShardNode(id, known=(peer,))
    await node.start()
    print(node.server.port, flush=True)
    await over.wait()
    await node.stop()


if __name__ == "__main__":
    asyncio.run(live(*sys.argv[1:]))
