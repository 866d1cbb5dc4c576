"""`LayeredModel`: exo's loaded model over the shards of one.

Theory of operation. The conversation is rendered and turned into tokens here; shards take tokens to the next
one; its raw text goes through `channels`, as with every engine. The step after a token is under way while
that token's text is on its way out, so shards do not wait for this process. Each request has a slot, whose
caches keep what they hold when it has ended well, for a request that begins with the same tokens. One that
was left or failed gives its slot back when every shard has let go of it, which is after all its steps.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager

from exo.cards import ModelCard
from exo.chat import ChatRequest, Delta, Timings, TokenLogprob, Usage
from exo.engine import SpellRequest, check_tokens
from exo.errors import BadRequest, ContextLengthExceeded, ExoError
from exo.generation.folder import Texts
from exo.generation.reading import prompt_of
from exo.generation.templates import ChatTemplate
from exo.generation.vocabulary import Vocabulary
from exo.generation.writing import Ended, Piece, Run, answer
from exo.shards.chain import Chain
from exo.shards.frames import Drawn, Odds
from exo.shards.slots import Slots

log = logging.getLogger(__name__)


class LayeredModel:
    """A model whose layers are in the shards of `chain`, which keep `slots` caches of `context` tokens
    each."""

    def __init__(
        self, card: ModelCard, texts: Texts, vocabulary: Vocabulary, chain: Chain, *, slots: int, context: int
    ) -> None:
        self._card, self._begins = card, texts.begins
        self._template = (
            ChatTemplate(texts.template, bos=texts.bos, eos=texts.eos) if texts.template else None
        )
        self._vocabulary = vocabulary
        self._chain = chain
        self._context = context
        self.slots = slots
        # The residency in front lets in no more requests than that; others wait here.
        self._turns = asyncio.Semaphore(slots)
        self._slots = Slots(slots)
        self._ending: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<LayeredModel {self._card.id} {self._chain!r} {self._slots!r}>"

    @property
    def alive(self) -> bool:
        return self._chain.alive

    def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        return answer(request, self._template, self._generate)

    async def _generate(
        self, request: ChatRequest, run: Run, enough: Callable[[], bool]
    ) -> AsyncGenerator[Piece | Ended, None]:
        shown = self._vocabulary.shown(run.tags)
        async with self._answer(request, run, self._tokens(run.prompt, request)) as steps:
            while (drawn := await steps.next()) is not None:
                yield Piece(self._vocabulary.bytes_of(drawn.token, shown), logprobs=self._logprobs(drawn))
                if enough():
                    break
            yield steps.ended()

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        text = await prompt_of(request, self._template)
        return self._vocabulary.encode(self._begun(text) if begin or request.prompt is None else text)

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        check_tokens(request, self._vocabulary.size)
        return tuple(map(self._vocabulary.spelled, request.tokens))

    async def unload(self) -> None:
        await self._chain.stop()

    def _tokens(self, prompt: str, request: ChatRequest) -> tuple[int, ...]:
        param = "messages" if request.messages else "prompt"
        tokens = self._vocabulary.encode(self._begun(prompt))
        if not tokens:
            raise BadRequest("the prompt is empty", param=param)
        if len(tokens) >= self._context:
            raise ContextLengthExceeded(
                f"the prompt is {len(tokens)} tokens long and the context of '{self._card.id}' holds "
                f"{self._context}",
                param=param,
            )
        return tokens

    def _begun(self, prompt: str) -> str:
        # Most templates write it themselves.
        return prompt if prompt.startswith(self._begins) else self._begins + prompt

    @asynccontextmanager
    async def _answer(
        self, request: ChatRequest, run: Run, prompt: tuple[int, ...]
    ) -> AsyncIterator["_Answer"]:
        """An answer in a slot of its own; afterwards nothing of it is under way in any shard."""
        await self._turns.acquire()
        slot, cached = self._slots.take(prompt)
        steps = _Answer(self._chain, slot, prompt, cached, self._vocabulary.ends)
        room = self._context - len(prompt)
        try:
            sampling, logprobs = request.sampling, request.logprobs
            await self._chain.begin(slot, sampling, form=run.form, logprobs=logprobs, prompt=prompt)
            steps.start(room if run.limit is None else min(room, run.limit))
            yield steps
        finally:
            ending = asyncio.create_task(self._end(slot, steps))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
            # Whoever cancels this, too, does not wait for it, but the slot is for others only then.
            await asyncio.shield(ending)

    async def _end(self, slot: int, answer: "_Answer") -> None:
        held: Sequence[int] = answer.held
        if not await answer.settled():
            held = ()
            try:
                await self._chain.free(slot)
            except ExoError as error:  # a shard has died, as whoever comes next is told
                log.warning("slot %d of %s was not freed: %s", slot, self._card.id, error.message)
        self._slots.give_back(slot, held)
        self._turns.release()

    def _logprobs(self, drawn: Drawn) -> tuple[TokenLogprob, ...]:
        if drawn.odds is None:
            return ()
        return (self._logprob(drawn.token, drawn.odds),)

    def _logprob(self, token: int, odds: Odds) -> TokenLogprob:
        alternative = self._vocabulary.alternative
        return TokenLogprob(alternative(token, odds.chosen), tuple(alternative(*each) for each in odds.top))


class _Answer:
    """The steps of one answer: one is under way from `start` on, whenever another token is wanted."""

    def __init__(
        self, chain: Chain, slot: int, prompt: tuple[int, ...], cached: int, ends: Collection[int]
    ) -> None:
        self.held = list(prompt[:cached])
        """The tokens that the slot's caches hold."""
        self._chain, self._slot, self._prompt, self._cached, self._ends = chain, slot, prompt, cached, ends
        self._step: asyncio.Task[Drawn] | None = None
        self._drawn = 0
        self._cut = self._over = False
        self._began = self._first = time.perf_counter()

    def start(self, limit: int) -> None:
        """Reads the prompt. The answer ends after `limit` tokens, if not by itself."""
        self._limit = limit
        self._go(self._prompt[self._cached :])

    async def next(self) -> Drawn | None:
        """The next token, None behind the last one; the step behind it is under way already."""
        if self._step is None:
            return None
        drawn = await self._step
        self._step = None
        if not self._drawn:
            self._first = time.perf_counter()
        self._drawn += 1  # the token that ends an answer is counted, as llama.cpp does
        if drawn.token in self._ends:
            return None
        self._cut = self._drawn == self._limit and not drawn.complete
        if not (self._cut or drawn.complete):
            self._go((drawn.token,))
        return drawn

    def ended(self) -> Ended:
        """The run has ended well, be it with a step under way that has become useless."""
        self._over = True
        usage = Usage(len(self._prompt), self._drawn, cached_tokens=self._cached)
        timings = Timings(self._first - self._began, time.perf_counter() - self._first)
        return Ended(self._cut, usage, timings)

    async def settled(self) -> bool:
        """Lets go of the step under way, if there is one. Whether the slot's caches hold what `held` says."""
        step = self._step
        if step is None:
            return True
        if not self._over:
            step.cancel()
        await asyncio.wait([step])
        error = None if step.cancelled() else step.exception()
        if self._over and error:
            log.warning("a step behind the end of an answer failed: %s", error)
        return self._over and error is None

    def _go(self, tokens: tuple[int, ...]) -> None:
        self._step = asyncio.create_task(self._chain.next(self._slot, len(self.held), tokens))
        self.held += tokens
