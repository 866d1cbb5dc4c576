"""Other servers, whose models a node offers as its own: they are routed to, and not loaded here."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from exo.cards import ModelCard
from exo.engine import Embedder, Responder, Tokenizer
from exo.errors import ExoError
from exo.nodes import Residence


class Upstream(Responder, Embedder, Tokenizer, Protocol):
    """Another server, whose models this node offers as its own."""

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """Those of its models that can be asked for, as far as is known."""
        ...

    def absent(self, model: str) -> ExoError | None:
        """Why a model that is not in `cards` cannot be asked for, though this server has it, or should or
        may have it; None for a model it does not know."""
        ...

    @property
    def slots(self) -> int:
        """How many requests it makes progress on at once, as far as is known."""
        ...

    async def refresh(self) -> None:
        """Asks it again which models it has. A server that does not answer is no failure here."""
        ...


class Upstreams:
    """All of a node's, and how many requests it has passed on to them.

    `changed` is called when a request for one of their models comes or goes.
    """

    def __init__(self, upstreams: Sequence[Upstream], changed: Callable[[], None]) -> None:
        self._upstreams = upstreams
        self._changed = changed
        self._passed_on: Counter[str] = Counter()

    @property
    def cards(self) -> dict[str, ModelCard]:
        """Their models that can be asked for, by id; the first server's where several have the same."""
        return {card.id: card for upstream in reversed(self._upstreams) for card in upstream.cards}

    def behind(self, model: str) -> Upstream | None:
        """The server that answers for the model, if one does."""
        for upstream in self._upstreams:
            if model in {card.id for card in upstream.cards}:
                return upstream
        return None

    def absent(self, model: str) -> ExoError | None:
        """Why a server that has the model, or may have it, cannot be asked for it."""
        return next((why for upstream in self._upstreams if (why := upstream.absent(model))), None)

    async def refresh(self) -> None:
        """Asks all of them again which models they have."""
        await asyncio.gather(*(upstream.refresh() for upstream in self._upstreams))

    @contextmanager
    def counted(self, model: str) -> Iterator[None]:
        """Counts a request that is passed on for as long as it is."""
        self._passed_on[model] += 1
        self._changed()
        try:
            yield
        finally:
            self._passed_on[model] -= 1
            self._changed()

    def residences(self, here: Collection[str]) -> Iterator[Residence]:
        """Their models but for those that are `here`, as a node says them: theirs to load, with the requests
        for them that were counted."""
        for upstream in self._upstreams:
            for card in upstream.cards:
                if card.id not in here:
                    count = self._passed_on[card.id]
                    running = min(count, upstream.slots)
                    yield Residence(
                        model=card.id,
                        state="ready",
                        bytes=0,
                        slots=upstream.slots,
                        running=running,
                        waiting=count - running,
                    )
