"""This machine as one thing: the models on its disk, those in its memory, and what it says of itself."""

import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from contextlib import aclosing, contextmanager, nullcontext
from typing import Protocol

import msgspec

from exo import devices
from exo.cards import ModelCard, Progress, Recipe
from exo.chat import ChatRequest, Delta, Embeddings, EmbedRequest, Finished
from exo.choice import routing
from exo.choice.routing import Asked, Route
from exo.choice.speeds import Speeds
from exo.engine import SpellRequest
from exo.errors import BadRequest, ModelNotFound, NotReady
from exo.node import limits
from exo.node.defaults import complete
from exo.node.upstreams import Upstream, Upstreams
from exo.nodes import Cluster, Device, Node, Residence
from exo.residency.residency import Residency
from exo.settings import Defaults

log = logging.getLogger(__name__)


class Shelf(Protocol):
    """The models on disk, by id."""

    @property
    def cards(self) -> tuple[ModelCard, ...]: ...

    def scan(self) -> None:
        """Looks at the disk again."""
        ...

    def delete(self, model: str) -> None:
        """Takes the model's files off the disk. Raises `ModelNotFound`, and `Forbidden` for a model that
        is not this node's to delete."""
        ...

    def create(self, model: str, recipe: Recipe) -> None:
        """Makes a model out of one that is there. Raises `BadRequest` for a name that cannot be, and where
        models cannot be made."""
        ...

    def pull(self, name: str) -> AsyncGenerator[Progress, None]:
        """Downloads a model, as the dialects spell it: "user/repository/file". Raises `BadRequest` where
        nothing can be downloaded, and what the download fails with; nothing half-done is left as a model."""
        ...


class LocalNode:
    """Answers for every model on this machine's disk that one of its engines loads, and for those of its
    upstreams. A `Responder`, an `Embedder` and a `Tokenizer`.

    `changed` is called when a request for an upstream's model comes or goes, when there are other models on
    the disk, and when the node leaves. What `residency` and the upstreams know is theirs to tell. `remedy`
    says what whoever asks for a model that is not here could do. `sense` gives the machine as it is now.
    """

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
        upstreams: Sequence[Upstream] = (),
        speeds: Speeds | None = None,
        addresses: Callable[[], tuple[str, ...]] = tuple,
        changed: Callable[[], None] = lambda: None,
        remedy: Callable[[str], str] = lambda model: "",
        sense: Callable[[Device], Device] = devices.now,
        npu_servers: tuple[str, ...] = (),
        api: str = "",
    ) -> None:
        self._id = id
        self._url = url
        self._version = version
        self._device = device
        self._shelf = shelf
        self._residency = residency
        self.formats = residency.formats
        """What its engines load on this machine."""
        self._defaults = defaults
        self._upstreams = Upstreams(upstreams, changed)
        self._speeds = speeds or Speeds()
        self._addresses = addresses
        self._changed = changed
        self._remedy = remedy
        self._sense = sense
        self._npu_servers = npu_servers
        self._api = api
        self._sensed_at = -1.0
        self._heeded: set[str] = set()
        self._leaving = False

    @property
    def id(self) -> str:
        return self._id

    def addresses(self) -> tuple[str, ...]:
        """Those of this machine that other nodes may reach."""
        return self._addresses()

    def leave(self) -> None:
        """Says from now on that it is shutting down, and is to be sent nothing new."""
        self._leaving = True
        self._changed()

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        card = await self.card(request.model)
        request = self.defaults_for(request, card)
        with self._working(card.id) as behind:
            async with aclosing(behind.respond(request)) as deltas:
                async for delta in deltas:
                    if isinstance(delta, Finished):
                        self._measure(request, delta)
                    yield delta

    async def embed(self, request: EmbedRequest) -> Embeddings:
        card = await self.card(request.model)
        with self._working(card.id) as behind:
            return await behind.embed(msgspec.structs.replace(request, model=card.id))

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        card = await self.card(request.model)
        request = complete(request, card, self._defaults)
        with self._working(card.id) as behind:
            return await behind.tokens(request, begin=begin)

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        card = await self.card(request.model)
        with self._working(card.id) as behind:
            return await behind.spell(msgspec.structs.replace(request, model=card.id))

    def has(self, model: str) -> bool:
        """Whether the model is known here, without a look at the disk."""
        return any(card.id == model for card in self._known())

    async def card(self, model: str, via: str = "") -> ModelCard:
        """The model that a request means; "" is the default one. Raises `ModelNotFound`, after a second
        look at what there is, `NotReady` for a model on the disk that no engine loads, and what an upstream
        says of one that it keeps from us."""
        model = model or self._defaults.model or ""
        if not model:
            raise BadRequest("model is required: this node has no default model", param="model")
        if model not in {card.id for card in self._known()}:
            await self.cards()
        cards = {card.id: card for card in self._known()}
        if model in cards:
            return cards[model]
        if absent := self._upstreams.absent(model):
            raise absent
        for card in self._shelf.cards:
            if card.id == model:
                raise NotReady(
                    f"model '{model}' is {card.format}, which no engine enabled on this node loads",
                    param="model",
                )
        raise self.absent(model, cards)

    def absent(self, model: str, known: Collection[str]) -> ModelNotFound:
        """What to tell whoever asks for a model that is not among the `known` ones."""
        return ModelNotFound(routing.missing(model, sorted(known)) + self._remedy(model), param="model")

    def defaults_for(self, request: ChatRequest, card: ModelCard) -> ChatRequest:
        """The request with what it leaves open filled in, wherever it is answered."""
        self._heed(card)
        return complete(request, card, self._defaults)

    def check_limits(self) -> None:
        """Warns of limits that are for no model of this node, and of those too tight for one to think."""
        known = self._known()
        given = {
            limits.MAX_TOKENS_FOR: self._defaults.max_tokens_for,
            limits.SILENCE_FOR: self._residency.limits.silence_for,
        }
        for text in limits.without_effect(given, [card.id for card in known]):
            log.warning("%s", text)
        for card in known:
            self._heed(card)

    def _heed(self, card: ModelCard) -> None:
        """Warns once of a model that the node's cap leaves no room to think."""
        if card.id not in self._heeded:
            self._heeded.add(card.id)
            if text := limits.too_tight(card, self._defaults):
                log.warning("%s", text)

    def taken(self, id: str) -> str:
        """Which node answers request `id`, and why: nothing to say where there is one."""
        return ""

    def explain(self, asked: Asked) -> Sequence[Route]:
        """Where such a request could go, with the reasons."""
        return routing.explain(asked, self.cluster())

    async def cards(self) -> Sequence[ModelCard]:
        """The models that can be asked for, as they are now."""
        self._scan()
        await self._upstreams.refresh()
        return self._known()

    async def load(self, model: str, client: str = "") -> None:
        """Brings the model into memory."""
        await self._here((await self.card(model)).id).load(model, client)

    async def unload(self, model: str) -> None:
        """Takes the model out of memory. Raises `NotReady` while requests run on it."""
        await self._here((await self.card(model)).id).unload(model)

    def keep(self, model: str, seconds: float | None) -> None:
        """From now on the model, if it is in memory here, stays for so long after each use (None: ever)."""
        self._residency.keep(model, seconds)

    async def delete(self, model: str) -> None:
        """Takes the model out of memory and off the disk, whether an engine loads it or not. Raises
        `NotReady` while requests run on it."""
        self._scan()
        if model in {card.id for card in self._shelf.cards}:
            await self._residency.unload(model)
        else:
            # Whose it is, or that there is none, is said there.
            await self.unload(model)
        self._shelf.delete(model)
        self._changed()

    def create(self, model: str, recipe: Recipe) -> None:
        """Makes a model out of one that is on the disk."""
        self._shelf.create(model, recipe)
        self._changed()

    async def pull(self, name: str) -> AsyncGenerator[Progress, None]:
        """Downloads a model, saying how far it is."""
        async with aclosing(self._shelf.pull(name)) as steps:
            async for progress in steps:
                yield progress
        self._scan()

    def _scan(self) -> None:
        """Looks at the disk again."""
        before = self._shelf.cards
        self._shelf.scan()
        if self._shelf.cards != before:
            self._changed()

    def _known(self) -> tuple[ModelCard, ...]:
        """What is answered for here, and the upstreams' models that are not."""
        return tuple((self._upstreams.cards | self._loadable()).values())

    def _loadable(self) -> dict[str, ModelCard]:
        """What is on the disk for an engine of this node. The rest is for other programs, or other nodes that
        share the folder."""
        return {card.id: card for card in self._shelf.cards if self._residency.loads(card)}

    def _behind(self, model: str) -> Residency | Upstream:
        """What answers for a model of `_known`."""
        elsewhere = None if model in self._loadable() else self._upstreams.behind(model)
        return self._residency if elsewhere is None else elsewhere

    def _here(self, model: str) -> Residency:
        behind = self._behind(model)
        if not isinstance(behind, Residency):
            raise BadRequest(f"model '{model}' is kept by {behind!r}; do that there", param="model")
        return behind

    def cluster(self) -> Cluster:
        """A cluster of this node alone."""
        return Cluster(me=self.state())

    def state(self) -> Node:
        """What this node says of itself now."""
        residents, queues = self._residency.residents, self._residency.queues
        loaded = [
            Residence(
                model=model,
                state=r.state,
                bytes=r.memory,
                slots=r.slots,
                running=r.running,
                waiting=queues.get(model, 0),
                used=r.used,
                idle=r.idle,
                expires_in=r.expires_in,
            )
            for model, r in residents.items()
        ]
        return Node(
            id=self._id,
            url=self._url,
            version=self._version,
            device=self._sensed(),
            cards=self._known(),
            loaded=(*loaded, *self._upstreams.residences(self._loadable())),
            waiting=self._residency.waiting,
            queue=self._residency.limits.waiting,
            budget=self._residency.limits.memory,
            speeds=self._speeds.values(),
            prefixes=self._speeds.prefixes(),
            leaving=self._leaving,
            addresses=self._addresses(),
            formats=self.formats,
            npu_servers=self._npu_servers,
            api=self._api,
        )

    def _sensed(self) -> Device:
        """The machine, with what changes on it as of a second ago at most."""
        now = time.monotonic()
        if now - self._sensed_at >= 1.0:
            self._device, self._sensed_at = self._sense(self._device), now
        return self._device

    @contextmanager
    def _working(self, model: str) -> Iterator[Residency | Upstream]:
        """What answers for the model; a request that is passed on is counted for as long as it is."""
        behind = self._behind(model)
        with nullcontext() if isinstance(behind, Residency) else self._upstreams.counted(model):
            yield behind

    def _measure(self, request: ChatRequest, end: Finished) -> None:
        self._speeds.answered(request.model, end, end.usage.prompt_tokens - end.usage.cached_tokens)
        self._speeds.remember(request.model, routing.prefixes(request))
