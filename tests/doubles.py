"""Small stand-ins that several test files share."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from exo.cards import ModelCard, Progress, Recipe
from exo.chat import ChatRequest, Delta, Embeddings, EmbedRequest, Finished, Reasoning, Text
from exo.choice.routing import Asked, Route, choose, explain
from exo.engine import Embedder, Responder, SpellRequest, Tokenizer
from exo.errors import BadRequest
from exo.nodes import Cluster, Device, Node
from exo.residency.residency import Why

# Models of a small machine, and the memory each takes; a budget of 8 holds two small ones or the big one.
SIZES = {"a": 4, "b": 4, "c": 4, "big": 8}


class SilentObserver:
    """Keeps what a residency reports."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def started(self, model: str, queued_seconds: float) -> None:
        self.events.append(("started", model))

    def loaded(self, model: str, seconds: float) -> None:
        self.events.append(("loaded", model))

    def unloaded(self, model: str, why: Why) -> None:
        self.events.append((why, model))


def card(id: str, *, memory: int = 1, format: str = "script") -> ModelCard:
    return ModelCard(id=id, format=format, context=4096, bytes=memory, memory=memory)  # type: ignore[arg-type]


class _Served:
    """A responder with what the HTTP side wants to know besides."""

    def __init__(self, responder: Responder, cards: Sequence[ModelCard]) -> None:
        self._responder = responder
        self._cards = tuple(cards)

    def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        return self._responder.respond(request)

    async def embed(self, request: EmbedRequest) -> Embeddings:
        if not isinstance(self._responder, Embedder):
            raise BadRequest("gives no embeddings", param="model")
        return await self._responder.embed(request)

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        return await self._tokenizer().tokens(request, begin=begin)

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        return await self._tokenizer().spell(request)

    def _tokenizer(self) -> Tokenizer:
        if not isinstance(self._responder, Tokenizer):
            raise BadRequest("does not tell its tokens", param="model")
        return self._responder

    async def cards(self) -> Sequence[ModelCard]:
        return self._cards

    async def card(self, model: str, via: str = "") -> ModelCard:
        return choose(model, self.cluster()).card

    def taken(self, id: str) -> str:
        return ""

    def explain(self, asked: Asked) -> Sequence[Route]:
        return explain(asked, self.cluster())

    async def load(self, model: str, client: str = "") -> None:
        raise BadRequest("is loaded")

    async def unload(self, model: str) -> None:
        raise BadRequest("stays loaded")

    def keep(self, model: str, seconds: float | None) -> None:
        raise BadRequest("stays loaded")

    async def delete(self, model: str) -> None:
        raise BadRequest("stays here")

    def create(self, model: str, recipe: Recipe) -> None:
        raise BadRequest("is not made here")

    async def pull(self, name: str) -> AsyncGenerator[Progress, None]:
        raise BadRequest("is not downloaded")
        yield

    def cluster(self) -> Cluster:
        device = Device(name="test", cores=1, memory=1)
        return Cluster(
            me=Node(id="test", url="", version="0", device=device, cards=self._cards, loaded=(), waiting=0)
        )


def served(responder: Responder, *cards: ModelCard) -> _Served:
    return _Served(responder, cards)


async def answer(responder: Responder, request: ChatRequest) -> list[Delta]:
    """All deltas of one answer."""
    async with aclosing(responder.respond(request)) as deltas:
        return [delta async for delta in deltas]


def text(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, Text))


def reasoning(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, Reasoning))


def finished(deltas: Sequence[Delta]) -> Finished:
    """The answer's end, which must come once and last."""
    ends = [delta for delta in deltas if isinstance(delta, Finished)]
    assert len(ends) == 1
    assert ends[0] is deltas[-1]
    return ends[0]
