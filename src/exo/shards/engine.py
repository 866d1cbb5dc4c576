"""`LayersEngine`: exo's engine for safetensors, over any engine of layers, whole here or split over nodes."""

import asyncio
import importlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec

from exo.cards import Dtype, ModelCard, Span
from exo.engine import LoadedModel
from exo.shards.chain import Chain
from exo.shards.frames import Open
from exo.shards.opening import all_or_none
from exo.shards.process import RunningShard, ShardProcess
from exo.store import checkpoint

log = logging.getLogger(__name__)

# Seconds between two lines of log about a load that takes long.
_TELLING = 2.0


class Split(msgspec.Struct, frozen=True):
    """A model that does not stay whole: `span` is this node's part, which begins with layer 0, and
    `open_rest` has the other nodes load theirs. What it raises fails the load; cancelled or failed, it leaves
    nothing."""

    span: Span
    open_rest: Callable[[], Awaitable[Sequence[RunningShard]]]


Plan: TypeAlias = Callable[[ModelCard, Path], Awaitable[Split | None]]
"""How a model is to be split, from its card and folder; None for whole, here. What is to be loaded here is in
the folder then."""


class LayersEngine:
    formats = frozenset({"safetensors"})

    def __init__(
        self,
        name: str,
        module: str,
        *,
        slots: int = 4,
        context: int | None = None,
        threads: int | None = None,
        dtype: Dtype = "auto",
        cache: Path | None = None,
        plan: Plan | None = None,
    ) -> None:
        """`module` is where `name`'s `open_shard` is; the others are as in `engines.EngineOptions`."""
        self.name = name
        self.module = module
        self._slots, self._context, self._threads, self._dtype = slots, context, threads, dtype
        self._cache = cache
        self._plan = plan

    def __repr__(self) -> str:
        return f"<LayersEngine {self.name}>"

    def unavailable(self) -> str | None:
        why: str | None = importlib.import_module(self.module).unavailable()
        return why

    async def load(self, card: ModelCard, files: Path) -> LoadedModel:
        # Templates and grammars take time to import, and this object is made at start.
        from exo.generation.folder import texts
        from exo.generation.vocabulary import Vocabulary
        from exo.shards.model import LayeredModel

        # First of all, as it may have the rest of the files come.
        split = await self._plan(card, files) if self._plan else None
        config = checkpoint.read(files)
        context = min(card.context, self._context or card.context)
        around, vocabulary = await asyncio.to_thread(lambda: (texts(files), Vocabulary.read(files)))
        span = split.span if split else Span(0, config.layers)
        opening = self.open(
            files, span, ends=True, context=context, slots=self._slots, vocabulary=vocabulary.size
        )
        chain = Chain(*await all_or_none(opening, split.open_rest() if split else _nothing()))
        try:
            await chain.link()
            return LayeredModel(card, around, vocabulary, chain, slots=self._slots, context=context)
        except BaseException:
            await chain.stop()
            raise

    async def open(
        self,
        folder: Path,
        span: Span,
        *,
        ends: bool,
        slots: int,
        context: int,
        dtype: Dtype | None = None,
        vocabulary: int = 0,
        progress: Callable[[float], None] | None = None,
    ) -> ShardProcess:
        """A span of a model in a process of its own, computed as the owner of this node has set. `vocabulary`
        is needed where tokens are drawn. `progress` is told from 0 to 1 how far loading has come; without
        it, that is logged. Raises and cancels as `ShardProcess.start`."""
        open = Open(
            engine=self.module,
            folder=folder,
            span=span,
            ends=ends,
            slots=slots,
            context=context,
            dtype=dtype or self._dtype,
            threads=self._threads,
            cache=self._cache,
            vocabulary=vocabulary,
        )
        return await ShardProcess.start(open, progress=progress or _logger(f"layers {span} of {folder.name}"))


async def _nothing() -> Sequence[RunningShard]:
    return ()


def _logger(what: str) -> Callable[[float], None]:
    told = time.monotonic()

    def tell(done: float) -> None:
        nonlocal told
        if (now := time.monotonic()) >= told + _TELLING:
            told = now
            log.info("%s: %.0f %% loaded", what, 100 * done)

    return tell
