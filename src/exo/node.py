"""This machine as one thing: the models on its disk, those in its memory, and what it says of itself."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

import msgspec

from exo import routing
from exo.cards import ModelCard
from exo.chat import ChatRequest, Delta, Embeddings, EmbedRequest, Message
from exo.errors import BadRequest
from exo.nodes import Cluster, Device, Node, Residence
from exo.residency import Residency
from exo.routing import Route
from exo.settings import Defaults


class Shelf(Protocol):
    """The models on disk."""

    @property
    def cards(self) -> tuple[ModelCard, ...]: ...

    def scan(self) -> None:
        """Looks at the disk again."""
        ...


class LocalNode:
    """Answers for every model on this machine's disk. A `Responder` and an `Embedder`."""

    def __init__(
        self,
        *,
        id: str,
        url: str,
        version: str,
        device: Device,
        shelf: Shelf,
        residency: Residency,
        defaults: Defaults,
    ) -> None:
        self._id = id
        self._url = url
        self._version = version
        self._device = device
        self._shelf = shelf
        self._residency = residency
        self._defaults = defaults

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        request = complete(request, self._defaults)
        self.route(request.model)
        async with aclosing(self._residency.respond(request)) as deltas:
            async for delta in deltas:
                yield delta

    async def embed(self, request: EmbedRequest) -> Embeddings:
        self.route(request.model)
        return await self._residency.embed(request)

    def route(self, model: str) -> Route:
        """Where a request for the model goes; "" is the default one. Raises `ModelNotFound`, after a second
        look at the disk."""
        model = model or self._defaults.model or ""
        if not model:
            raise BadRequest("model is required: this node has no default model", param="model")
        if model not in {card.id for card in self._shelf.cards}:
            self._shelf.scan()
        return routing.choose(model, self.cluster())

    def cards(self) -> Sequence[ModelCard]:
        """The models that can be asked for, as the disk has them now."""
        self._shelf.scan()
        return self._shelf.cards

    def cluster(self) -> Cluster:
        """The cluster as this node sees it."""
        loaded = tuple(
            Residence(model=model, state=r.state, bytes=r.memory, slots=r.slots, running=r.running)
            for model, r in self._residency.residents.items()
        )
        return Cluster(
            me=Node(
                id=self._id,
                url=self._url,
                version=self._version,
                device=self._device,
                cards=self._shelf.cards,
                loaded=loaded,
                waiting=self._residency.waiting,
            )
        )


def complete(request: ChatRequest, defaults: Defaults) -> ChatRequest:
    """Fills in what the request leaves open, and caps its answer's length."""
    sampling = request.sampling
    if sampling.temperature is None:
        sampling = msgspec.structs.replace(sampling, temperature=defaults.temperature)
    if defaults.max_tokens is not None:
        limit = min(sampling.max_tokens or defaults.max_tokens, defaults.max_tokens)
        sampling = msgspec.structs.replace(sampling, max_tokens=limit)
    messages = request.messages
    if defaults.system_prompt and messages and messages[0].role != "system":
        messages = (Message("system", defaults.system_prompt), *messages)
    return msgspec.structs.replace(
        request, model=request.model or defaults.model or "", sampling=sampling, messages=messages
    )
