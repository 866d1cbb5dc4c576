"""The models of another server, offered as this node's own: the NPU server's, or any OpenAI-compatible one's.

Theory of operation. What the server has is asked when somebody wants to know: at start, for a listing, for a
model nobody knows, after a request that failed. Whoever wants to know meanwhile waits for the same answer, so
many callers cost one request. A server that cannot be asked is lost: its models are offered no longer, and it
is asked again in the background, ever more rarely, until it answers; one that answers is left in peace. A
server may be replaced by another one at the same address, so each answer also says which dialect it speaks.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from types import MappingProxyType
from typing import Any

import msgspec

from exo.cards import Format, ModelCard
from exo.chat import ChatRequest, Delta, Embeddings, EmbedRequest
from exo.engine import SpellRequest
from exo.errors import (
    BadRequest,
    EngineFailed,
    ExoError,
    Forbidden,
    ModelNotFound,
    NotFound,
    NotReady,
    Timeout,
    Unauthorized,
)
from exo.http.automatic import NAMES
from exo.http.original import Original
from exo.http.remote import Remote
from exo.settings import UpstreamSettings
from exo.traces import OFF, Traces
from exo.wire import openai

log = logging.getLogger(__name__)

NPU_MODELS: Mapping[str, str] = {
    "qwen2.5-1.5b-instruct-rkllm": "Qwen2.5-1.5B-Instruct",
    "qwen2.5-1.5b-rkllm": "Qwen2.5-1.5B",
    "qwen2.5-3b-rkllm": "Qwen2.5-3B",
    "qwen2.5-7b-rkllm": "Qwen2.5-7b",
    "deepseek-r1-1.5b-rkllm": "DeepSeek-R1-1.5B",
    "phi-3-mini-rkllm": "Phi-3-mini",
}
"""The first exo-rkllama's models, and their folders on the NPU server, which are their names there."""
_OURS: Mapping[str, str] = {theirs: ours for ours, theirs in NPU_MODELS.items()}

_SLOTS = 8
"""Requests that a server of which nothing is known is taken to work on at once."""

_PATIENCE = 2.0
"""Seconds for an answer to what models there are: somebody waits for it."""


class Upstream:
    """One such server. A `node.Upstream`; call `close` at the end.

    `silence` is in seconds: other servers than exo's say nothing at all during a long prefill. Models named
    in `silence_for`, as they are called here, have other seconds in their place. `changed` is called when
    `cards` are others than before.
    """

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        silence: float,
        silence_for: Mapping[str, float] = MappingProxyType({}),
        changed: Callable[[], None] = lambda: None,
        traces: Traces = OFF,
    ) -> None:
        self._npu = settings.kind == "rkllm"
        self._name = f"the {'NPU ' if self._npu else ''}server at {settings.url}"
        self._remote = Remote(settings.url, key=settings.key, name=self._name, silence=silence, traces=traces)
        self._original = Original(settings.url, key=settings.key, silence=silence, traces=traces)
        self._speaker: Remote | Original = self._remote
        self._silence_for = silence_for
        self._changed = changed
        self._models: dict[str, str] = {}  # our names to theirs, as of its last answer
        self._cards: tuple[ModelCard, ...] = ()
        self._lost: str | None = f"{self._name} has not answered yet"
        self._told = False  # that it is lost
        self._asking: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return self._name

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        return () if self._lost else self._cards

    @property
    def slots(self) -> int:
        # The NPU does one thing at a time; of other servers nothing is known.
        return 1 if self._npu else _SLOTS

    def absent(self, model: str) -> ExoError | None:
        """Why it cannot be asked for a model that is not in `cards`, though it has it, or should or may have
        it; None for a model it does not know."""
        if self._lost is None:
            if folder := NPU_MODELS.get(model) if self._npu else None:
                return ModelNotFound(
                    f"model '{model}' is not on {self._name}: put its .rkllm file into "
                    f"~/RKLLAMA/models/{folder} on that machine",
                    param="model",
                )
            return None
        if model in self._models or (self._npu and model in NPU_MODELS):
            return NotReady(self._lost)
        if not self._models:
            return NotReady(f"model '{model[:80]}' is not here; {self._lost}")
        return None

    def why_not_ready(self) -> str | None:
        """Why no model of it can be asked now; None where one can."""
        return self._lost or (None if self._models else f"{self._name} has no model")

    async def refresh(self) -> None:
        """Asks it again which models it has, for two seconds at most, and remembers what came of it."""
        await asyncio.wait([self._ask_soon()])

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        silence = self._silence_for.get(request.model)
        request = msgspec.structs.replace(request, model=self._theirs(request.model))
        answer = self._speaker.respond(request, silence=silence)
        async with self._noticing_failure(), aclosing(answer) as deltas:
            async for delta in deltas:
                yield delta

    async def embed(self, request: EmbedRequest) -> Embeddings:
        request = msgspec.structs.replace(request, model=self._theirs(request.model))
        if not isinstance(self._speaker, Remote):
            raise BadRequest(f"{self._name} gives no embeddings; today's rkllama does", param="model")
        async with self._noticing_failure():
            return await self._speaker.embed(request)

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        request = msgspec.structs.replace(request, model=self._theirs(request.model))
        async with self._noticing_failure():
            return await self._tokenizer().tokens(request, begin=begin)

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        request = msgspec.structs.replace(request, model=self._theirs(request.model))
        async with self._noticing_failure():
            return await self._tokenizer().spell(request)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._remote.close()
        await self._original.close()

    def _tokenizer(self) -> Remote:
        if isinstance(self._speaker, Remote):
            return self._speaker
        raise BadRequest(
            f"{self._name} does not tell its models' tokens; today's rkllama does", param="model"
        )

    def _theirs(self, model: str) -> str:
        if self._lost is not None:
            raise NotReady(self._lost)
        if model not in self._models:
            raise ModelNotFound(f"model '{model}' is not on {self._name}", param="model")
        return self._models[model]

    @asynccontextmanager
    async def _noticing_failure(self) -> AsyncIterator[None]:
        """A server that failed may have gone, or have other models now: it is asked."""
        try:
            yield
        except NotReady as error:
            await self.refresh()
            if self._lost is not None:
                raise NotReady(self._lost) from error
            raise
        except (NotFound, EngineFailed, Timeout):
            self._ask_soon()
            raise

    # What it has

    def _ask_soon(self) -> asyncio.Task[None]:
        """The question under way, or a new one."""
        if self._asking is None or self._asking.done():
            self._asking = self._spawn(self._ask())
        return self._asking

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                self._speaker, cards = await self._look()
        except TimeoutError:
            self._lose(f"{self._name} did not say within {_PATIENCE:g} s which models it has")
        except ExoError as error:
            self._lose(self._reason(error))
        else:
            self._found(cards)

    async def _look(self) -> tuple[Remote | Original, tuple[ModelCard, ...]]:
        format: Format = "rkllm" if self._npu else "remote"
        try:
            return self._remote, openai.decode_models(await self._remote.get("/v1/models"), format)
        except NotFound:
            # The first NPU server knows no such route.
            names = await self._original.models()
        cards = (ModelCard(id=name, format=format, context=0, bytes=0, memory=0) for name in names)
        return self._original, tuple(cards)

    def _found(self, cards: tuple[ModelCard, ...]) -> None:
        before = self.cards
        # Another node of ours chooses there, and so does this one here.
        cards = tuple(card for card in cards if card.id not in NAMES)
        named = {(_OURS.get(card.id, card.id) if self._npu else card.id): card for card in cards}
        self._models = {ours: card.id for ours, card in named.items()}
        self._cards = tuple(msgspec.structs.replace(card, id=ours) for ours, card in named.items())
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if self._lost is not None:
            self._lost, self._told = None, False
            log.info("%s has %s", self._name, ", ".join(sorted(self._models)) or "no model")
        if self.cards != before:
            self._changed()

    def _lose(self, reason: str) -> None:
        before, self._lost = self.cards, reason
        if before:
            self._changed()
        if not self._told:
            self._told = True
            log.warning("%s; it is asked again until it answers", reason)
        if self._watching is None:
            self._watching = self._spawn(self._watch())

    async def _watch(self) -> None:
        """Asks until it is cancelled, as it is by an answer."""
        for pause in pauses():
            await asyncio.sleep(pause)
            await self.refresh()

    def _reason(self, error: ExoError) -> str:
        """The failure in words that name the server, and the remedy where there is one."""
        if self._name in error.message:  # `Remote` says so: nobody answers there
            remedy = "; start rkllama there, or set RKLLM_SERVER_HOST and RKLLM_SERVER_PORT to where it runs"
            return error.message + (remedy if self._npu else "")
        reason = f"{self._name} does not say which models it has: {error.message}"
        if isinstance(error, Unauthorized | Forbidden):
            return f"{reason}; {'EXO_API_KEY' if self._npu else 'EXO_UPSTREAM_KEY'} is the key it gets"
        return reason

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.critical("a defect in asking %s", self._name, exc_info=error)


def pauses() -> Iterator[float]:
    """Seconds between one question and the next to a server that does not answer."""
    pause = 1.0
    while True:
        yield pause
        pause = min(2 * pause, 30.0)
