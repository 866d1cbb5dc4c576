"""GGUF models on llama.cpp, in this process, through xllamacpp.

Theory of operation. xllamacpp runs llama.cpp's own server in threads of its own: continuous batching over
slots, prefix cache, samplers. We hand it a finished prompt and take raw text back, because templates,
reasoning, tool calls and stop strings are the same for every engine here (`templates`, `channels`).
`handle_completions` blocks a thread for each request and calls back once a token; the callback only
appends to a queue and wakes the loop, at most once until the loop has looked. A callback that returns true
makes llama.cpp free the slot. For long prompts it asks to be called back during prefill, too, which is the
only place where that can be cancelled.

What is known of xllamacpp 2026.10 and guarded against here: it always opens an HTTP port on 127.0.0.1
(locked with a random key), a bad file gives a RuntimeError without a reason (the header is checked first),
embeddings need a second server, tokens are told at that port only (`llamacpp_tokens`), constraints it
cannot compile are dropped (see `constraints` and `_kept`), biases of tokens beyond the vocabulary are, too,
and a server destroyed as soon as it is made waits for itself for ever.
"""

import asyncio
import contextlib
import ctypes
import importlib.util
import secrets
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from exo.cards import ModelCard
from exo.chat import (
    Alternative,
    ChatRequest,
    Delta,
    Embeddings,
    EmbedRequest,
    Sampling,
    Timings,
    TokenLogprob,
    Usage,
)
from exo.engine import LoadedModel, SpellRequest, check_tokens
from exo.engines import llamacpp_tokens
from exo.errors import BadRequest, ContextLengthExceeded, EngineFailed, ExoError
from exo.generation.reading import prompt_of
from exo.generation.templates import ChatTemplate
from exo.generation.writing import Ended, Piece, Run, answer
from exo.store import gguf

if TYPE_CHECKING:
    from exo.generation.form import Kept

# Below this size a second thread costs more in hand-overs than it computes.
_ONE_THREAD_BYTES = 64 << 20
# Tokens of prefill between two chances to cancel, or for another slot to decode.
_PREFILL_STEP = 128
# Characters; a prompt that is no longer is certainly read in one step.
_LONG_PROMPT = _PREFILL_STEP


class LlamaCppEngine:
    formats = frozenset({"gguf"})

    def __init__(self, *, slots: int = 4, context: int | None = None, threads: int | None = None) -> None:
        self._slots = slots
        self._context = context
        self._threads = threads

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("xllamacpp") is None:
            return "the package xllamacpp is not installed; pip install xllamacpp"
        if sys.platform == "linux":
            try:
                ctypes.CDLL("libgomp.so.1")
            except OSError:
                return "the system's libgomp.so.1 is missing; apt install libgomp1"
        return None

    async def load(self, card: ModelCard, files: Path) -> LoadedModel:
        facts = gguf.read(files)
        marks = _marks(files, facts)
        context = min(card.context, self._context or card.context)
        threads = self._threads or default_threads(card)
        key = secrets.token_urlsafe()
        start = partial(start_server, files, slots=self._slots, context=context, threads=threads, key=key)
        model = LlamaCppModel(card, facts, marks, start, key, slots=self._slots, context=context)
        await model.start()
        return model


class LlamaCppModel:
    """A GGUF model in memory, and a second copy of it for embeddings once they are asked for (both map
    the same file, so the weights are in memory once)."""

    def __init__(
        self,
        card: ModelCard,
        facts: Mapping[str, gguf.Value],
        marks: "_Marks",
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
        self._threads = ThreadPoolExecutor(slots + 1, thread_name_prefix=f"llamacpp-{card.id}")
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
        self._server = await self._in_thread(self._start)

    def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        return answer(request, self._template, self._generate)

    async def _generate(
        self, request: ChatRequest, run: Run, enough: Callable[[], bool]
    ) -> AsyncGenerator[Piece | Ended, None]:
        # llama.cpp puts this token first by itself; twice would be out of the model's experience.
        prompt = run.prompt if request.prompt is not None else run.prompt.removeprefix(self._marks.added)
        body: dict[str, Any] = {
            "prompt": prompt,
            "stream": True,
            # Worth its price where a prefill may have to be cancelled, and where an answer may be broken off
            # before llama.cpp says how long its prompt was.
            "return_progress": run.open_end or len(prompt) > _LONG_PROMPT,
            "preserved_tokens": run.tags,
            **self._sampling(request.sampling),
        }
        if run.limit is not None:
            body["n_predict"] = run.limit
        if run.form:
            body["grammar"] = run.form
        if request.logprobs is not None:
            # llama.cpp reports no chosen token without at least one alternative.
            body["logprobs"] = max(1, request.logprobs)
        kept = _kept(run.form)
        tokens = prompt_tokens = cached = 0
        began = first = time.perf_counter()

        async with contextlib.aclosing(self._run(body)) as chunks:
            async for chunk in chunks:
                if "error" in chunk:
                    raise self._error(chunk["error"], "messages" if request.messages else "prompt")
                if progress := chunk.get("prompt_progress"):
                    prompt_tokens, cached = progress["total"], progress["cache"]
                    continue
                choice = chunk["choices"][0]
                if choice["finish_reason"] is not None:
                    ended = _ended(chunk)
                    if kept and not (ended.cut or kept.complete):
                        raise _not_kept(request)
                    yield ended
                    return
                if kept and not kept.takes(choice["text"]):
                    raise _not_kept(request)
                tokens += 1
                first = time.perf_counter() if tokens == 1 else first
                yield Piece(choice["text"], logprobs=_logprobs(choice, request.logprobs))
                if enough():
                    break
        timings = Timings(first - began, time.perf_counter() - first)
        yield Ended(cut=False, usage=Usage(prompt_tokens, tokens, cached_tokens=cached), timings=timings)

    async def embed(self, request: EmbedRequest) -> Embeddings:
        if self._embedder is None:
            self._embedder = asyncio.ensure_future(self._in_thread(partial(self._start, embeddings=True)))
        server = await asyncio.shield(self._embedder)
        answer = await self._in_thread(partial(server.handle_embeddings, {"input": list(request.texts)}))
        if "error" in answer:
            raise self._error(answer["error"], param="input")
        vectors = tuple(tuple(row["embedding"]) for row in answer["data"])
        return Embeddings(vectors, answer["usage"]["prompt_tokens"])

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        text = await prompt_of(request, self._template)
        if request.prompt is None:
            text, begin = text.removeprefix(self._marks.added), True
        tokens = partial(llamacpp_tokens.tokens, self._server, self._key, text, begin=begin)
        return cast(tuple[int, ...], await self._in_thread(tokens))

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        check_tokens(request, self._vocabulary)
        pieces = partial(llamacpp_tokens.pieces, self._server, self._key, request.tokens)
        return cast(tuple[bytes, ...], await self._in_thread(pieces))

    async def unload(self) -> None:
        if self._embedder:
            await asyncio.wait([self._embedder])
        servers = [self._server, self._embedder]
        self._server = self._embedder = None
        if any(servers):
            # In a thread, because their destructors wait for llama.cpp's own threads.
            await self._in_thread(servers.clear)
        self._threads.shutdown(wait=False)

    def _sampling(self, sampling: Sampling) -> dict[str, Any]:
        for token in sampling.logit_bias:
            if not 0 <= token < self._vocabulary:
                raise BadRequest(
                    f"token {token} is not in the vocabulary of '{self._card.id}', which has "
                    f"{self._vocabulary}",
                    param="logit_bias",
                )
        wanted = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
            "repeat_penalty": sampling.repeat_penalty,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "seed": None if sampling.seed is None else sampling.seed % (1 << 32),
            "logit_bias": [[token, bias] for token, bias in sampling.logit_bias.items()] or None,
        }
        return {name: value for name, value in wanted.items() if value is not None}

    async def _run(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Chunks of one completion as llama.cpp makes them. Closing it returns when the slot is free."""
        loop = asyncio.get_running_loop()
        chunks: deque[dict[str, Any]] = deque()
        news = asyncio.Event()
        left = awake = False

        def wake() -> None:
            nonlocal awake
            awake = False
            news.set()

        def on_chunk(chunk: dict[str, Any]) -> bool:
            nonlocal awake
            chunks.append(chunk)
            if not awake:
                awake = True
                loop.call_soon_threadsafe(wake)
            return left

        done = loop.run_in_executor(self._threads, self._server.handle_completions, body, on_chunk)
        done.add_done_callback(lambda _: news.set())
        try:
            while not done.done() or chunks:
                await news.wait()
                news.clear()
                while chunks:
                    yield chunks.popleft()
            _result(done)
        finally:
            left = True
            await asyncio.wait([done])

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        """Runs it in one of our threads; cancelled, still waits for the end, since a thread has no other."""
        done = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError:
            await asyncio.wait([done])
            raise
        return _result(done)

    def _error(self, error: Mapping[str, Any], param: str) -> ExoError:
        """llama.cpp's error object as ours."""
        message = str(error.get("message", error))
        if error.get("type") == "exceed_context_size_error" or "too large to process" in message:
            return ContextLengthExceeded(
                f"the prompt is {error.get('n_prompt_tokens', 'too many')} tokens long and the context of "
                f"'{self._card.id}' holds {self._context}",
                param=param,
            )
        if "grammar" in message:
            return BadRequest(f"the grammar does not parse: {message}", param="grammar")
        if error.get("code") == 400:
            return BadRequest(message)
        return EngineFailed(f"llama.cpp: {message}")


def default_threads(card: ModelCard) -> int | None:
    """CPU threads for a model when its owner sets none; None is llama.cpp's own choice."""
    return 1 if card.bytes < _ONE_THREAD_BYTES else None


def start_server(
    path: Path,
    *,
    slots: int,
    context: int,
    threads: int | None,
    embeddings: bool = False,
    key: str | None = None,
) -> Any:
    """Starts one of llama.cpp's servers in this process. Blocks while the weights are read. Its port on
    127.0.0.1 wants to see `key`, or else one that nobody has."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.api_keys = [key or secrets.token_urlsafe()]
    params.verbosity = -1
    params.warmup = False
    params.n_parallel = slots
    params.n_ctx = slots * context
    params.n_batch = params.n_ubatch = _PREFILL_STEP
    if threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    if embeddings:
        params.embedding = True
        params.n_parallel, params.n_ctx = 1, context
        # Texts are read whole, in one step.
        params.n_batch = params.n_ubatch = context
        if not _says_how_to_pool(path):
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise EngineFailed(
            f"{path}: llama.cpp cannot load it ({error}); the file may be cut short, of an architecture "
            "this release does not know, or too large for the free memory"
        ) from error
    # Its loop starts some time after the constructor returns, and never ends if the destructor comes before.
    server.handle_completions({"prompt": "", "n_predict": 0, "stream": False})
    return server


def _kept(form: str | None) -> "Kept | None":
    """llama.cpp brings an llguidance of its own, which may know less than the one that was asked before, and
    says nothing then (a string in the format "uri", as of xllamacpp 2026.10)."""
    if form is None or not form.startswith("%llguidance"):
        return None
    from exo.generation.form import Kept

    return Kept(form)


def _not_kept(request: ChatRequest) -> BadRequest:
    what, param = ("schema", "response_format") if request.json_schema else ("tools", "tools")
    return BadRequest(
        f"llama.cpp does not enforce the {what} of this request: it uses something that the release "
        'installed does not know, the format "uri" for one; leave that out',
        param=param,
    )


def _says_how_to_pool(path: Path) -> bool:
    """Whether the file is of a model made for embeddings, which has a way of its own."""
    return any(key.endswith(".pooling_type") for key in gguf.read(path, before="tokenizer."))


def _result(done: "asyncio.Future[Any]") -> Any:
    try:
        return done.result()
    except RuntimeError as error:
        raise EngineFailed(f"llama.cpp: {error}") from error


class _Marks(NamedTuple):
    """The tokens that begin and end a text, as text; `added` is the one llama.cpp begins with by itself."""

    bos: str
    eos: str
    added: str


def _marks(path: Path, facts: Mapping[str, gguf.Value]) -> _Marks:
    bos_id, eos_id = (int(facts.get(f"tokenizer.ggml.{name}_token_id", -1)) for name in ("bos", "eos"))
    texts = gguf.tokens(path, {bos_id, eos_id})
    bos = texts.get(bos_id, "")
    # Where the file does not say, llama.cpp adds it for SentencePiece vocabularies and not for BPE ones.
    adds = facts.get("tokenizer.ggml.add_bos_token", facts.get("tokenizer.ggml.model") == "llama")
    return _Marks(bos, texts.get(eos_id, ""), bos if adds else "")


def _ended(chunk: Mapping[str, Any]) -> Ended:
    usage, timings = chunk["usage"], chunk.get("timings", {})
    return Ended(
        cut=chunk["choices"][0]["finish_reason"] == "length",
        usage=Usage(
            usage["prompt_tokens"],
            usage["completion_tokens"],
            cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
        ),
        timings=Timings(timings.get("prompt_ms", 0.0) / 1e3, timings.get("predicted_ms", 0.0) / 1e3),
    )


def _logprobs(choice: Mapping[str, Any], top: int | None) -> Sequence[TokenLogprob]:
    if top is None or not choice["logprobs"]:
        return ()
    return [
        TokenLogprob(_alternative(entry), tuple(map(_alternative, entry["top_logprobs"][:top])))
        for entry in choice["logprobs"]["content"]
    ]


def _alternative(entry: Mapping[str, Any]) -> Alternative:
    return Alternative(entry["token"], entry["logprob"], tuple(entry["bytes"]))
