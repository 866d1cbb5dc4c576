"""What every handler is handed, and the work that a shutdown waits for."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from aiohttp import web

from exo.admission.keyring import Keyring
from exo.admission.rates import Limits
from exo.cards import ModelCard, Progress, Recipe
from exo.choice.routing import Asked, Route
from exo.engine import Embedder, Responder, Tokenizer
from exo.errors import ExoError, NotReady
from exo.http.automatic import Automatic
from exo.http.guard import Guard
from exo.metrics import Metrics
from exo.nodes import Cluster
from exo.settings import HttpSettings
from exo.traces import OFF, Traces

# Seconds for telling clients that their answers have failed.
_LAST_WORDS = 1.0


class Served(Responder, Embedder, Tokenizer, Protocol):
    """What is behind the HTTP side: this node, or whatever answers like one."""

    async def cards(self) -> Sequence[ModelCard]: ...
    def cluster(self) -> Cluster: ...
    async def card(self, model: str, via: str = "") -> ModelCard: ...
    def taken(self, id: str) -> str: ...
    def explain(self, asked: Asked) -> Sequence[Route]: ...
    async def load(self, model: str, client: str = "") -> None: ...
    async def unload(self, model: str) -> None: ...
    def keep(self, model: str, seconds: float | None) -> None: ...
    async def delete(self, model: str) -> None: ...
    def create(self, model: str, recipe: Recipe) -> None: ...
    def pull(self, name: str) -> AsyncGenerator[Progress, None]: ...


class Desk:
    """Under `DESK` in the application. `ready` says why the node cannot serve, or None where it can."""

    def __init__(
        self,
        served: Served,
        metrics: Metrics,
        settings: HttpSettings,
        ready: Callable[[], str | None],
        secret: bytes | None = None,
        *,
        certified: bool = False,
        automatic: Automatic | None = None,
        traces: Traces = OFF,
        idle_seconds: float | None = None,
    ) -> None:
        """Raises `NotReady` for a file of keys that cannot be used."""
        self.served = served
        self.metrics = metrics
        self.settings = settings
        self.secret = secret
        """The cluster's, where it has one."""
        self.certified = certified
        """Whether nodes have to show a certificate of the cluster to pass requests on."""
        self.automatic = automatic
        """What "auto" means here; None where it is no model's name."""
        self.traces = traces
        """Where what requests do is recorded."""
        self.guard = Guard(
            Keyring(settings.key, settings.keys), Limits(settings.requests_per_minute), metrics
        )
        """Who may ask this node, and how much."""
        self.idle_seconds = idle_seconds
        """How long a model that nobody uses stays in memory; None is for ever."""
        self._ready = ready
        self._under_way: set[Callable[[ExoError], None]] = set()
        self._none_under_way = asyncio.Event()
        self._none_under_way.set()
        self.draining = False

    async def models(self) -> Sequence[ModelCard]:
        """The models that clients can be shown, "auto" first where it means something."""
        cards = await self.served.cards()
        choice = self._choice()
        return (choice, *cards) if choice else cards

    async def model(self, id: str) -> ModelCard:
        """One of `models`. Raises `ModelNotFound`."""
        choice = self._choice() if id == "auto" else None
        return choice or await self.served.card(id)

    def _choice(self) -> ModelCard | None:
        return self.automatic.card(self.served.cluster()) if self.automatic else None

    def why_not_ready(self) -> str | None:
        """Why this node cannot serve a chat now; None where it can."""
        return "this node is shutting down" if self.draining else self._ready()

    @contextmanager
    def under_way(self, fail: Callable[[ExoError], None]) -> Iterator[None]:
        """Marks work that a shutdown waits for, and then ends by calling `fail`."""
        if self.draining:
            raise NotReady("this node is shutting down")
        self._under_way.add(fail)
        self._none_under_way.clear()
        try:
            yield
        finally:
            self._under_way.discard(fail)
            if not self._under_way:
                self._none_under_way.set()

    async def drain(self) -> None:
        """Takes no more requests and gives those under way the grace time; then fails what is left.

        A client that does not read cannot be told, and is not waited for any longer.
        """
        self.draining = True
        if not await self._emptied(self.settings.grace):
            self.abandon()
            await self._emptied(_LAST_WORDS)

    def abandon(self) -> None:
        """Fails what is under way."""
        for fail in list(self._under_way):
            fail(NotReady("this node is shutting down"))

    async def _emptied(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._none_under_way.wait()
        except TimeoutError:
            return False
        return True


DESK = web.AppKey("desk", Desk)
