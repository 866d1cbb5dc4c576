"""Which models are in memory, and whose turn it is.

Theory of operation. Every request for this node stands in one queue (`waiting`), which says whose turn it
is, and `schedule.plan` looks at the queue and at what is in memory and says what may happen now: which
requests start, which models are loaded, which are evicted. `Residency` carries that out and asks again
whenever something changed (a request came or left, a load or an unload ended). A model that has died is
taken out, and loaded again for whoever asks next. Nothing polls, and nothing is awaited while state is half
changed: every change happens between two awaits on one event loop, so there is no lock.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from exo.cards import ModelCard
from exo.chat import ChatRequest, Delta, Embeddings, EmbedRequest, Trace
from exo.engine import Embedder, Engine, LoadedModel, SpellRequest, Tokenizer
from exo.errors import (
    BadRequest,
    EngineFailed,
    ExoError,
    ModelNotFound,
    NotReady,
    Overloaded,
)
from exo.residency import loading
from exo.residency.places import Loading, Place
from exo.residency.schedule import Resident, plan
from exo.residency.silence import unless_silent
from exo.residency.waiting import Queue, Ticket
from exo.traces import OFF, Traces
from exo.traces.phases import phases

log = logging.getLogger(__name__)

_NOWHERE = Trace()

Why: TypeAlias = Literal["evicted", "idle", "asked", "died"]


class Limits(msgspec.Struct, frozen=True):
    """`memory` in bytes for all models together; `waiting` requests at most in the queue, and one more for
    each client that has none there; a model nobody used for `idle_seconds` is unloaded (None: never); an
    answer of which nothing comes for `silence` seconds, once its turn has come, has failed (None: never).
    Models named in `silence_for` have other seconds in their place, be it more or less.
    """

    memory: int
    waiting: int = 64
    idle_seconds: float | None = 300.0
    silence: float | None = None
    silence_for: Mapping[str, float] = {}

    def patience(self, model: str) -> float | None:
        """For how many seconds the model may say nothing (None: for ever)."""
        return self.silence_for.get(model, self.silence)


class Observer(Protocol):
    """Is told what happened, as it happens. Must not raise and must not block."""

    def started(self, model: str, queued_seconds: float) -> None: ...
    def loaded(self, model: str, seconds: float) -> None: ...
    def unloaded(self, model: str, why: Why) -> None: ...


class Residency:
    """This machine as a `Responder`: loads what is asked for, evicts what is not, keeps the queue.

    `shelf` maps model ids to their card and files; it is looked up at each request, so it may grow. `changed`
    is called when the queue or what is in memory is another one than before. It must not raise or block, and
    may look only later: a change may be under way. What answers wait for, and take, is in `traces`.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        shelf: Mapping[str, tuple[ModelCard, Path]],
        limits: Limits,
        observer: Observer,
        changed: Callable[[], None] = lambda: None,
        traces: Traces = OFF,
    ) -> None:
        self._engines = engines
        self._shelf = shelf
        self._limits = limits
        self._observer = observer
        self._changed = changed
        self._traces = traces
        self._places: dict[str, Place] = {}
        self._queue = Queue(limits.waiting)
        self._tasks: set[asyncio.Task[None]] = set()
        self._uses = 0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        models = ", ".join(
            f"{model} {place.state} {place.running}/{place.slots}" for model, place in self._places.items()
        )
        return f"<Residency [{models}] waiting {len(self._queue)}>"

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def queues(self) -> Mapping[str, int]:
        """How many requests wait for each model that is waited for."""
        return self._queue.models

    @property
    def limits(self) -> Limits:
        return self._limits

    @property
    def residents(self) -> Mapping[str, Resident]:
        return {model: place.snapshot() for model, place in self._places.items()}

    @property
    def formats(self) -> tuple[str, ...]:
        """What the engines that run on this machine load."""
        return loading.formats(self._engines)

    def loads(self, card: ModelCard) -> bool:
        """Whether one of the engines is for this model's format."""
        return loading.loads(card, self._engines)

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        silence = self._limits.patience(request.model)
        async with self._turn(request.model, request.client, request.trace) as model:
            answer = phases(self._traces, request, unless_silent(model, request, silence))
            async with aclosing(answer) as deltas:
                async for delta in deltas:
                    yield delta

    async def embed(self, request: EmbedRequest) -> Embeddings:
        async with self._turn(request.model, request.client, request.trace) as model:
            if not isinstance(model, Embedder):
                raise BadRequest(f"model '{request.model}' gives no embeddings", param="model")
            with self._traces.begin("embed", "internal", request.trace):
                return await model.embed(request)

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        async with self._tokenizer(request.model, request.client) as tokenizer:
            return await tokenizer.tokens(request, begin=begin)

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        async with self._tokenizer(request.model, request.client) as tokenizer:
            return await tokenizer.spell(request)

    async def load(self, model: str, client: str = "") -> None:
        """Brings a model into memory, as a request for it would, and returns when it is there."""
        async with self._turn(model, client):
            pass

    def keep(self, model: str, seconds: float | None) -> None:
        """From now on the model, if it is in memory, stays for so long after each use (None: for ever)."""
        if place := self._places.get(model):
            place.idle_seconds = seconds
            self._watch_idle()

    async def unload(self, model: str) -> None:
        """Takes an idle model out of memory. Raises `NotReady` while requests run on it."""
        place = self._places.get(model)
        if place is None or place.state == "leaving":
            return
        if place.state == "loading" or place.running:
            raise NotReady(f"model '{model}' is {'loading' if place.model is None else 'answering'}")
        await asyncio.wait([self._unload(model, "asked")])

    @asynccontextmanager
    async def hold(self, name: str, memory: int) -> AsyncIterator[None]:
        """Keeps bytes for the body, for what is no model of the shelf: a part of one, for another node.

        `name` stands among the residents, in use. Idle models are evicted for it as for a model, but it waits
        for no busy one: raises `NotReady` where those leave no room.
        """
        if self._closed or name in self._places:
            raise NotReady("this node is shutting down" if self._closed else f"{name} is in memory already")
        # Taken first, so that nobody else gets what is made free for it.
        place = self._places[name] = Place(memory, None)
        place.running = 1
        try:
            while True:
                others = {model: each for model, each in self._places.items() if model != name}
                there = {model: each.snapshot() for model, each in others.items()}
                todo = plan([name], there, {name: memory}, self._limits.memory)
                if todo.load:
                    break
                for model in todo.evict:
                    self._unload(model, "evicted")
                leaving = [each.gone.wait() for each in others.values() if each.state == "leaving"]
                if not leaving:
                    taken = sum(each.memory for each in others.values())
                    raise NotReady(
                        f"{name} takes about {memory / 1e6:,.0f} MB; this node may use "
                        f"{self._limits.memory / 1e6:,.0f} MB, and {taken / 1e6:,.0f} MB of it are in use"
                    )
                await asyncio.gather(*leaving)
            place.state = "ready"
            self._changed()
            yield
        finally:
            del self._places[name]
            self._advance()

    async def close(self) -> None:
        """Refuses whoever waits, and unloads everything. The caller has no request running."""
        self._closed = True
        if self._idle_timer:
            self._idle_timer.cancel()
        self._queue.refuse(NotReady("this node is shutting down"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        ready = [model for model, place in self._places.items() if place.model and place.state == "ready"]
        await asyncio.gather(*(self._unload(model, "asked") for model in ready), return_exceptions=True)

    @asynccontextmanager
    async def _turn(self, model: str, client: str, trace: Trace = _NOWHERE) -> AsyncIterator[LoadedModel]:
        """Waits in the queue and holds one of the model's slots for the body."""
        self._admit(model)
        room, ticket = self._queue.room(client), self._queue.join(model, client)
        self._do_what_may_happen()
        if not ticket.turn.done() and len(self._queue) > room:
            self._queue.leave(ticket)
            slots = sum(place.slots for place in self._places.values())
            raise Overloaded(
                f"{self._limits.waiting} requests are waiting already",
                retry_after=self._queue.expected_wait(slots),
            )
        self._changed()
        queued = time.time_ns()
        try:
            with self._traces.begin("queue", "internal", trace, began=queued) as wait:
                loaded = await ticket.turn
        except asyncio.CancelledError:
            # Both may have happened in one turn of the loop: our turn came, and our caller left.
            if ticket.turn.done() and not ticket.turn.cancelled() and not ticket.turn.exception():
                self._release(ticket)
            elif self._queue.leave(ticket):
                self._advance()
            raise
        loop = asyncio.get_running_loop()
        started = loop.time()
        self._observer.started(model, started - ticket.since)
        try:
            self._places[model].record_loading(self._traces, wait.trace, queued)
            yield loaded
        finally:
            self._queue.answered(loop.time() - started)
            self._release(ticket)

    @asynccontextmanager
    async def _tokenizer(self, model: str, client: str) -> AsyncIterator[Tokenizer]:
        """The model, to look something up in it: at once where it is in memory, as that holds up nobody, else
        in its turn."""
        place = self._places.get(model)
        async with AsyncExitStack() as stack:
            if place and place.state == "ready" and place.model and place.model.alive:
                stack.enter_context(place.reading())
                loaded = place.model
            else:
                loaded = await stack.enter_async_context(self._turn(model, client))
            if not isinstance(loaded, Tokenizer):
                raise BadRequest(f"model '{model}' does not tell its tokens", param="model")
            yield loaded

    def _admit(self, model: str) -> None:
        """Raises for a request that could never start."""
        if self._closed:
            raise NotReady("this node is shutting down")
        if model not in self._shelf:
            raise ModelNotFound(f"model '{model}' is not on this node", param="model")
        card, _ = self._shelf[model]
        if card.memory > self._limits.memory:
            raise NotReady(
                f"model '{model}' takes about {card.memory / 1e6:,.0f} MB and this node may use "
                f"{self._limits.memory / 1e6:,.0f} MB; choose a smaller model, fewer --slots or "
                "less --context, or raise --memory",
                param="model",
            )

    def _advance(self) -> None:
        """Something changed: does all that may happen now."""
        self._do_what_may_happen()
        self._changed()

    def _do_what_may_happen(self) -> None:
        if self._closed:
            return
        due = self._queue.due()
        for model, place in self._places.items():
            if place.idle and place.model and not place.model.alive:
                self._unload(model, "died")
        queue = [ticket.model for ticket in due]
        sizes = {model: self._shelf[model][0].memory for model in queue}
        todo = plan(queue, self.residents, sizes, self._limits.memory)
        for position in todo.start:
            self._start(due[position])
        for model in todo.evict:
            self._unload(model, "evicted")
        for model in todo.load:
            self._places[model] = Place(self._shelf[model][0].memory, self._limits.idle_seconds)
            self._spawn(self._load(model))
        self._watch_idle()

    def _start(self, ticket: Ticket) -> None:
        place = self._places[ticket.model]
        assert place.model is not None, "plan starts requests on ready models only"
        self._uses += 1
        place.used = self._uses
        place.running += 1
        self._queue.start(ticket, place.model)

    def _release(self, ticket: Ticket) -> None:
        place = self._places[ticket.model]
        place.running -= 1
        place.idle_since = asyncio.get_running_loop().time()
        self._advance()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.critical("a defect in the residency", exc_info=error)

    async def _load(self, model: str) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        place = self._places[model]
        try:
            card, files = self._shelf[model]
            since = time.time_ns()
            place.model = await loading.engine_for(card, self._engines).load(card, files)
            place.loading = Loading(card, since, time.time_ns())
        except BaseException as error:
            del self._places[model]
            # Everyone who waits for it fails with it; the next request tries anew.
            self._queue.refuse(_as_exo_error(model, error), model)
            self._advance()
            if not isinstance(error, Exception):
                raise
            return
        place.state = "ready"
        place.idle_since = loop.time()
        self._observer.loaded(model, loop.time() - began)
        self._advance()

    def _unload(self, model: str, why: Why) -> asyncio.Task[None]:
        self._places[model].state = "leaving"
        self._changed()
        return self._spawn(self._take_out(model, why))

    async def _take_out(self, model: str, why: Why) -> None:
        place = self._places[model]
        assert place.model is not None, "only a ready model is unloaded"
        try:
            await place.unread()
            await place.model.unload()
        except Exception:
            log.exception("unloading %s failed; its memory may be lost until a restart", model)
        finally:
            del self._places[model]
            place.gone.set()
            self._observer.unloaded(model, why)
            self._advance()

    def _watch_idle(self) -> None:
        """Arms one timer for the model that will have been idle too long first; none while all are busy."""
        if self._idle_timer:
            self._idle_timer.cancel()
            self._idle_timer = None
        if ends := [end for place in self._places.values() if (end := place.leaves_at()) is not None]:
            self._idle_timer = asyncio.get_running_loop().call_at(min(ends), self._unload_idle)

    def _unload_idle(self) -> None:
        # A millisecond of grace: timers may fire that much early.
        latest = asyncio.get_running_loop().time() + 0.001
        for model, place in self._places.items():
            if (end := place.leaves_at()) is not None and end <= latest:
                self._unload(model, "idle")
        self._watch_idle()


def _as_exo_error(model: str, error: BaseException) -> ExoError:
    if isinstance(error, ExoError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return NotReady("this node is shutting down")
    log.error("loading %s failed", model, exc_info=error)
    return EngineFailed(f"loading model '{model}' failed: {type(error).__name__}: {error}")
