"""A GGUF model in memory."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from exo.cards import ModelCard
from exo.chat import ChatRequest, Delta, Embeddings, EmbedRequest, Timings, Usage
from exo.engine import SpellRequest, check_tokens
from exo.engines.llamacpp import dialect, tokenizer
from exo.engines.llamacpp.marks import Marks
from exo.engines.llamacpp.server import give_back
from exo.engines.llamacpp.threads import Threads
from exo.errors import BadRequest, ExoError
from exo.generation.reading import prompt_of
from exo.generation.templates import ChatTemplate
from exo.generation.writing import Ended, Piece, Run, answer
from exo.store import gguf

if TYPE_CHECKING:
    from exo.generation.form import Kept


class LlamaCppModel:
    """A GGUF model in memory, and a second copy of it for embeddings once they are asked for (both map
    the same file, so the weights are in memory once)."""

    def __init__(
        self,
        card: ModelCard,
        facts: Mapping[str, gguf.Value],
        marks: Marks,
        start: Callable[..., Any],
        key: str,
        *,
        slots: int,
        context: int,
    ) -> None:
        self._card = card
        self._start = start
        self._key = key
        self._vocabulary = int(facts.get("tokenizer.ggml.tokens", 0))
        self._slots = slots
        self._context = context
        self._marks = marks
        source = str(facts.get("tokenizer.chat_template", ""))
        self._template = ChatTemplate(source, bos=marks.bos, eos=marks.eos) if source else None
        # One more than there are answers, for what takes no slot.
        self._threads = Threads(slots + 1, f"llamacpp-{card.id}")
        self._server: Any = None
        self._embedder: asyncio.Task[Any] | None = None

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def alive(self) -> bool:
        # It shares this process: what kills llama.cpp kills the node.
        return True

    async def start(self) -> None:
        """Loads the weights. Raises `EngineFailed`; cancelled, it waits and lets go of what was loaded."""
        self._server = await self._threads.run(self._start)

    def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        return answer(request, self._template, self._generate)

    async def _generate(
        self, request: ChatRequest, run: Run, enough: Callable[[], bool]
    ) -> AsyncGenerator[Piece | Ended, None]:
        body = dialect.body(
            request, run, added=self._marks.added, model=self._card.id, vocabulary=self._vocabulary
        )
        kept = _kept(run.form)
        tokens = prompt_tokens = cached = 0
        began = first = time.perf_counter()

        said = self._threads.chunks(lambda on_chunk: self._server.handle_completions(body, on_chunk))
        async with aclosing(said) as chunks:
            async for chunk in chunks:
                if "error" in chunk:
                    raise self._failure(chunk["error"], "messages" if request.messages else "prompt")
                if progress := chunk.get("prompt_progress"):
                    prompt_tokens, cached = progress["total"], progress["cache"]
                    continue
                choice = chunk["choices"][0]
                if choice["finish_reason"] is not None:
                    ended = dialect.ended(chunk)
                    if kept and not (ended.cut or kept.complete):
                        raise _not_kept(request)
                    yield ended
                    return
                if kept and not kept.takes(choice["text"]):
                    raise _not_kept(request)
                tokens += 1
                first = time.perf_counter() if tokens == 1 else first
                yield Piece(choice["text"], logprobs=dialect.logprobs(choice, request.logprobs))
                if enough():
                    break
        timings = Timings(first - began, time.perf_counter() - first)
        yield Ended(cut=False, usage=Usage(prompt_tokens, tokens, cached_tokens=cached), timings=timings)

    async def embed(self, request: EmbedRequest) -> Embeddings:
        if self._embedder is None:
            self._embedder = asyncio.ensure_future(self._threads.run(partial(self._start, embeddings=True)))
        server = await asyncio.shield(self._embedder)
        answer = await self._threads.run(partial(server.handle_embeddings, {"input": list(request.texts)}))
        if "error" in answer:
            raise self._failure(answer["error"], "input")
        vectors = tuple(tuple(row["embedding"]) for row in answer["data"])
        return Embeddings(vectors, answer["usage"]["prompt_tokens"])

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        text = await prompt_of(request, self._template)
        if request.prompt is None:
            text, begin = text.removeprefix(self._marks.added), True
        return await self._threads.run(partial(tokenizer.tokens, self._server, self._key, text, begin=begin))

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        check_tokens(request, self._vocabulary)
        return await self._threads.run(partial(tokenizer.pieces, self._server, self._key, request.tokens))

    async def unload(self) -> None:
        if self._embedder:
            await asyncio.wait([self._embedder])
        servers = [self._server, self._embedder]
        self._server = self._embedder = None
        if any(servers):
            # In a thread, because their destructors wait for llama.cpp's own threads.
            await self._threads.run(servers.clear)
            await self._threads.run(give_back)
        self._threads.close()

    def _failure(self, error: Mapping[str, Any], param: str) -> ExoError:
        return dialect.failure(error, model=self._card.id, context=self._context, param=param)


def _kept(form: str | None) -> "Kept | None":
    """llama.cpp brings an llguidance of its own, which may know less than the one that was asked before, and
    says nothing then (a string in the format "uri", as of xllamacpp 2026.10)."""
    if form is None or not form.startswith("%llguidance"):
        return None
    from exo.generation.form import Kept

    return Kept(form)


def _not_kept(request: ChatRequest) -> BadRequest:
    what, param = "grammar", "grammar"
    if request.json_schema is not None:
        what, param = "JSON schema", "response_format"
    elif request.grammar is None:
        what, param = "schema of a tool", "tools"
    return BadRequest(
        f"llama.cpp does not enforce the {what} of this request: it is too large (several hundred optional "
        'properties), or has something that the release installed does not know (the format "uri")',
        param=param,
    )
