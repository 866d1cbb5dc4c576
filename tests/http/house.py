"""A node over HTTP with a file of keys, and a clock that passes when it is told to."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from exo.admission import keyfile
from exo.admission.keyring import Keyring
from exo.admission.keys import Key, digest
from exo.admission.rates import Limits
from exo.chat import Text
from exo.engines.scripted import Fail, Hang
from exo.http import (
    anthropic_routes,
    cluster_routes,
    ollama_routes,
    openai_routes,
    responses_routes,
    rkllama_routes,
    service_routes,
    token_routes,
)
from exo.http.app import build
from exo.http.desk import Desk
from exo.http.guard import Guard
from exo.http.kept_responses import KeptResponses
from exo.metrics import Metrics
from exo.nodes import Cluster, Node
from exo.settings import HttpSettings
from tests.admission.test_limiter import Clock
from tests.http.test_ollama_routes import HI, Books

Client: TypeAlias = TestClient[web.Request, web.Application]

CHAT, BODY = "/v1/chat/completions", {"model": "m", **HI}


class House:
    """A node with a file of keys and a clock that stands still. A client's key is its name."""

    def __init__(self, folder: Path, *steps: Text | Fail | Hang) -> None:
        self.file, self.clock = folder / "keys.json", Clock()
        self.books, self.metrics = Books(*steps), Metrics("0", ())
        self.peers: tuple[Node, ...] = ()

    def add(self, name: str, **rights: Any) -> Mapping[str, str]:
        """The header that its client sends."""
        keyfile.add(self.file, Key(name=name, sha256=digest(name), **rights))
        return {"Authorization": f"Bearer {name}"}

    @asynccontextmanager
    async def serving(
        self, own: str | None = None, *, per_address: int | None = None, **options: Any
    ) -> AsyncIterator[Client]:
        me = self.books.cluster().me
        self.books.cluster = lambda: Cluster(me=me, peers=self.peers)  # type: ignore[method-assign]
        settings = HttpSettings(key=own, keys=self.file, requests_per_minute=per_address)
        desk = Desk(self.books, self.metrics, settings, lambda: None, **options)
        keys = Keyring(own, self.file, clock=self.clock)
        desk.guard = Guard(keys, Limits(per_address), self.metrics, self.clock)
        app = build(
            desk,
            openai_routes.routes(prefixes=("/v1",)),
            ollama_routes.routes(),
            anthropic_routes.routes(),
            responses_routes.routes(KeptResponses(), prefixes=("/v1",)),
            rkllama_routes.routes(),
            cluster_routes.routes(),
            token_routes.routes(),
            service_routes.routes(),
        )
        async with TestClient(TestServer(app, handler_cancellation=True)) as client:
            yield client

    def counted(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


async def status(
    client: Client, headers: Mapping[str, str], path: str = CHAT, body: object = BODY, verb: str = "POST"
) -> int:
    async with client.request(verb, path, json=body, headers=headers) as answer:
        await answer.read()
        return answer.status
