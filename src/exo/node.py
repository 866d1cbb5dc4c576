"""This machine as one thing: the models on its disk, those in its memory, and what it says of itself."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Protocol

import msgspec

from exo import devices, limits, routing
from exo.cards import ModelCard, Progress, Recipe
from exo.chat import ChatRequest, Delta, Embeddings, EmbedRequest, Finished, Message, filled
from exo.engine import Embedder, Responder, SpellRequest, Tokenizer
from exo.errors import BadRequest, ExoError, ModelNotFound, NotReady
from exo.nodes import Cluster, Device, Node, Residence
from exo.residency import Residency
from exo.routing import Asked, Route
from exo.settings import Defaults
from exo.speeds import Speeds

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


class LocalNode:
    """Answers for every model on this machine's disk that one of its engines loads, and for those of its
    upstreams. A `Responder`, an `Embedder` and a `Tokenizer`.

    `changed` is called when a request for an upstream's model comes or goes, when there are other models on
    the disk, and when the node leaves. What `residency` and the upstreams know is theirs to tell. `remedy`
    says what whoever asks for a model that is not here could do.
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
        self._upstreams = upstreams
        self._speeds = speeds or Speeds()
        self._addresses = addresses
        self._changed = changed
        self._remedy = remedy
        self._sensed_at = -1.0
        self._passed_on: Counter[str] = Counter()
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
        behind = self._behind(card.id)
        with self._counted(card.id, behind):
            async with aclosing(behind.respond(request)) as deltas:
                async for delta in deltas:
                    if isinstance(delta, Finished):
                        self._measure(request, delta)
                    yield delta

    async def embed(self, request: EmbedRequest) -> Embeddings:
        card = await self.card(request.model)
        behind = self._behind(card.id)
        with self._counted(card.id, behind):
            return await behind.embed(msgspec.structs.replace(request, model=card.id))

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        card = await self.card(request.model)
        request = complete(request, card, self._defaults)
        behind = self._behind(card.id)
        with self._counted(card.id, behind):
            return await behind.tokens(request, begin=begin)

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        card = await self.card(request.model)
        behind = self._behind(card.id)
        with self._counted(card.id, behind):
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
        for upstream in self._upstreams:
            if absent := upstream.absent(model):
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
        await asyncio.gather(*(upstream.refresh() for upstream in self._upstreams))
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
        cards = {card.id: card for upstream in reversed(self._upstreams) for card in upstream.cards}
        return tuple((cards | self._loadable()).values())

    def _loadable(self) -> dict[str, ModelCard]:
        """What is on the disk for an engine of this node. The rest is for other programs, or other nodes that
        share the folder."""
        return {card.id: card for card in self._shelf.cards if self._residency.loads(card)}

    def _behind(self, model: str) -> Residency | Upstream:
        """What answers for a model of `_known`."""
        if model not in self._loadable():
            for upstream in self._upstreams:
                if model in {card.id for card in upstream.cards}:
                    return upstream
        return self._residency

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
            loaded=(*loaded, *self._elsewhere()),
            waiting=self._residency.waiting,
            queue=self._residency.limits.waiting,
            budget=self._residency.limits.memory,
            speeds=self._speeds.values(),
            prefixes=self._speeds.prefixes(),
            leaving=self._leaving,
            addresses=self._addresses(),
            formats=self.formats,
        )

    def _sensed(self) -> Device:
        """The machine, with what changes on it as of a second ago at most."""
        now = time.monotonic()
        if now - self._sensed_at >= 1.0:
            self._device, self._sensed_at = devices.now(self._device), now
        return self._device

    def _elsewhere(self) -> Iterator[Residence]:
        """The upstreams' models, which are theirs to load; requests for them are counted here."""
        here = self._loadable()
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

    @contextmanager
    def _counted(self, model: str, behind: "Residency | Upstream") -> Iterator[None]:
        """Counts a request that is passed on for as long as it is."""
        if isinstance(behind, Residency):
            yield
            return
        self._passed_on[model] += 1
        self._changed()
        try:
            yield
        finally:
            self._passed_on[model] -= 1
            self._changed()

    def _measure(self, request: ChatRequest, end: Finished) -> None:
        self._speeds.answered(request.model, end, end.usage.prompt_tokens - end.usage.cached_tokens)
        self._speeds.remember(request.model, routing.prefixes(request))


def complete(request: ChatRequest, card: ModelCard, defaults: Defaults) -> ChatRequest:
    """Fills in what the request leaves open, from the model's card and then the node's defaults, and caps its
    answer's length."""
    ours = msgspec.structs.replace(
        card.sampling,
        temperature=defaults.temperature if card.sampling.temperature is None else card.sampling.temperature,
    )
    sampling = filled(request.sampling, ours)
    if (most := defaults.most_tokens(card.id)) is not None:
        sampling = msgspec.structs.replace(sampling, max_tokens=min(sampling.max_tokens or most, most))
    messages, thinking = request.messages, request.thinking
    system = card.system or defaults.system_prompt
    if system and messages and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    if thinking is None and messages and not (request.json_schema or request.grammar):
        thinking = card.thinking
    return msgspec.structs.replace(
        request, model=card.id, sampling=sampling, messages=messages, thinking=thinking
    )
