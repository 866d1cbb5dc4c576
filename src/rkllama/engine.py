"""`.rkllm` models on the NPU: exo's engine over a process for each model.

Theory of operation. The conversation is rendered here, through the model's chat template, and goes to the
runtime as raw text; its raw answer goes through `exo.text.channels`. What the runtime can do itself (its own
sampling, and per request from release 1.3.0) it does, at its full speed. A request that wants more - a
sampling other than the loaded one, a seed, a JSON schema, logprobs - is drawn token by token from the
runtime's logits (`stepwise`), which needs the model's tokenizer beside its file; where that cannot be, the
request is refused with the remedy (`asking`). One request runs at a time; the queue is `exo.residency`'s.

A process that dies fails the request it was answering. The model is not `alive` then, and the residency loads
it again for the next one.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path

import msgspec

from exo.cards import ModelCard
from exo.chat import ChatRequest, Delta, Embeddings, EmbedRequest, Timings, TokenLogprob, Trace, Usage
from exo.engine import LoadedModel, SpellRequest, check_tokens
from exo.errors import BadRequest, ContextLengthExceeded, EngineFailed, Timeout
from exo.generation.reading import prompt_of
from exo.generation.templates import ChatTemplate
from exo.generation.vocabulary import Vocabulary
from exo.generation.writing import Ended, Piece, Run, answer
from exo.traces import OFF, Span, Traces, Value
from rkllama.asking import Loaded, ask_for, runs_with
from rkllama.models.catalogue import Entry, Models
from rkllama.models.families import template_for
from rkllama.process.supervisor import ModelProcess
from rkllama.vendor import asks
from rkllama.vendor.asks import AnyAsk, Embed, Event, Options, Token, Vector, Waiting
from rkllama.vendor.diagnosis import ContextTooLarge

log = logging.getLogger(__name__)

# What the runtime writes for an id beyond the tokenizer's vocabulary: "[PAD151935]".
_NO_TOKEN = re.compile(rb"\[PAD\d+\]")
# How long an answer may take to begin and to go on, in seconds. A prompt of 8192 tokens has been reported to
# take 226 s on an RK3588; twice the time at that speed is allowed, and a token is taken for two bytes.
_TO_BEGIN, _TO_GO_ON = 60.0, 60.0
_SLOWEST_PREFILL = 36.0
_BYTES_PER_TOKEN = 2
# Tokens from which on a prefill says how fast the model reads.
_TELLING_PREFILL = 32


class RkllmEngine:
    formats = frozenset({"rkllm"})

    def __init__(
        self,
        models: Models,
        library: Path,
        *,
        release: str | None = None,
        cpus: int | None = None,
        environment: Mapping[str, str] | None = None,
        on_answer: Callable[[str, float], None] = lambda model, seconds: None,
        traces: Traces = OFF,
    ) -> None:
        """`library` is the vendor's, of `release` or the one it shows to be. `cpus` is a mask of the CPU
        cores that the runtime may use; `environment` is the model processes', None for this one's.
        `on_answer` is told of each answer's model and seconds on the NPU, its turn's wait not among them.
        Runs are in `traces`, with the runtime's own figures."""
        self._models = models
        self._library = library
        self._release = release
        self._cpus = cpus
        self._environment = environment
        self._on_answer = on_answer
        self._traces = traces
        self._processes: dict[str, ModelProcess] = {}

    def unavailable(self) -> str | None:
        return None

    def memory(self) -> dict[str, int]:
        """Resident bytes of each loaded model's process."""
        sizes = {model: process.memory for model, process in self._processes.items()}
        return {model: size for model, size in sizes.items() if size is not None}

    async def load(self, card: ModelCard, files: Path) -> LoadedModel:
        entry = self._models.entry(card.id)
        try:
            return await self._load(entry, entry.card.context)
        except ContextTooLarge as error:
            if entry.modelfile.context is not None or not error.limit:
                raise
            log.info("%s was made for a context of %d tokens", card.id, error.limit)
            self._models.learn(card.id, error.limit)
            return await self._load(entry, error.limit)

    async def _load(self, entry: Entry, context: int) -> LoadedModel:
        options = Options(
            model=entry.file,
            max_context_len=context,
            base_domain_id=entry.modelfile.domain,
            enabled_cpus=self._cpus,
            sampling=msgspec.structs.replace(runs_with(entry.card.sampling), max_tokens=context),
        )
        process = await ModelProcess.start(
            options, self._library, release=self._release, environment=self._environment
        )
        self._processes[entry.card.id] = process
        return RkllmModel(entry, context, process, partial(self._on_answer, entry.card.id), self._traces)


class RkllmModel:
    """A model on the NPU, in a process of its own."""

    slots = 1

    def __init__(
        self,
        entry: Entry,
        context: int,
        process: ModelProcess,
        on_answer: Callable[[float], None],
        traces: Traces,
    ) -> None:
        self._entry = entry
        self._context = context
        self._process = process
        self._on_answer = on_answer
        self._traces = traces
        self._loaded = Loaded(
            model=entry.card.id,
            release=process.release,
            samples_per_run=process.samples_per_run,
            sampling=runs_with(entry.card.sampling),
            folder=entry.beside,
        )
        self._template: ChatTemplate | None = None
        self._vocabulary: Vocabulary | None = None
        self._prefill_speed = _SLOWEST_PREFILL  # tokens per second, the slowest seen

    def __repr__(self) -> str:
        return f"<RkllmModel {self._entry.card.id} {self._process!r}>"

    @property
    def process(self) -> ModelProcess:
        """Where it runs."""
        return self._process

    @property
    def alive(self) -> bool:
        return self._process.alive

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        template = self._chat_template() if request.prompt is None else None
        # Drawn from logits, a call would have the whole prompt read again.
        async with aclosing(answer(request, template, self._generate, holds_calls=False)) as deltas:
            async for delta in deltas:
                yield delta

    async def _generate(
        self, request: ChatRequest, run: Run, enough: Callable[[], bool]
    ) -> AsyncGenerator[Piece | Ended, None]:
        clock, heard = _Clock(), False
        async with aclosing(
            self._events(ask_for(request, run, self._loaded), run.prompt, request.trace)
        ) as events:
            async for event in events:
                match event:
                    case Token() | Waiting() if heard:
                        clock.unwanted += 1  # made before the runtime heeded the abort
                    case Waiting():
                        clock.token()
                        yield Piece(b"")
                    case Token():
                        clock.token()
                        self._check(event)
                        yield Piece(event.text, logprobs=_logprobs(event))
                        if heard := enough():
                            self._process.abort()
                    case asks.Finished():
                        self._on_answer(clock.seconds())
                        yield self._ended(event, clock, cut=event.cut and not heard)
                    case _:
                        raise EngineFailed(f"the runtime answered a chat with {type(event).__name__}")

    async def embed(self, request: EmbedRequest) -> Embeddings:
        vectors, tokens = [], 0
        for text in request.texts:
            async with aclosing(self._events(Embed(text), text, request.trace)) as events:
                async for event in events:
                    if isinstance(event, Vector):
                        vectors.append(event.values)
                        tokens += event.tokens
        return Embeddings(tuple(vectors), tokens)

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        """As the tokenizer.json beside the model has them, which begins no text by itself.

        Whether the runtime puts a token of its own before a text could not be verified without the hardware;
        the chat templates write theirs.
        """
        template = self._chat_template() if request.prompt is None else None
        return (await self._read_vocabulary()).encode(await prompt_of(request, template))

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        vocabulary = await self._read_vocabulary()
        check_tokens(request, vocabulary.size)
        return tuple(map(vocabulary.spelled, request.tokens))

    async def unload(self) -> None:
        await self._process.stop()

    async def _read_vocabulary(self) -> Vocabulary:
        """Read here when it is first wanted, as the model's process can say nothing while it answers."""
        if self._vocabulary is None:
            folder = self._entry.beside
            if not (folder / "tokenizer.json").is_file():
                raise BadRequest(
                    f"the NPU runtime does not tell its tokens: put the tokenizer.json of "
                    f"'{self._entry.card.id}' into {folder}",
                    param="model",
                )
            self._vocabulary = await asyncio.to_thread(Vocabulary.read, folder)
        return self._vocabulary

    def _chat_template(self) -> ChatTemplate:
        if self._template is None:
            entry = self._entry
            found = template_for(
                entry.beside, entry.modelfile.template, entry.card.id, entry.modelfile.hub, entry.file.name
            )
            self._template = ChatTemplate(found.source, bos=found.bos, eos=found.eos)
        return self._template

    async def _events(
        self, ask: AnyAsk, prompt: str, trace: Trace
    ) -> AsyncGenerator[Event | asks.Finished, None]:
        """What the process says, each in its time. Closing it leaves the runtime idle.

        Raises `Timeout` naming the override; a prompt that does not fit is the prompt's fault.
        """
        override = self._entry.modelfile.timeout
        patience = override or to_begin(len(prompt.encode()), self._prefill_speed)
        with self._span(ask, trace) as span:
            async with aclosing(self._process.run(ask)) as events:
                while True:
                    try:
                        async with asyncio.timeout(patience):
                            event = await anext(events, None)
                    except TimeoutError:
                        raise Timeout(
                            f"'{self._entry.card.id}' was silent for {patience:.3g} s on the NPU and was "
                            f"stopped; TIMEOUT=seconds in {self._entry.folder / 'Modelfile'} allows more"
                        ) from None
                    except ContextLengthExceeded as error:
                        param = "input" if isinstance(ask, Embed) else "messages"
                        raise ContextLengthExceeded(error.message, param=param) from error
                    if event is None:
                        return
                    if isinstance(event, asks.Finished):
                        span.note(_figures(event))
                        span.end()
                    patience = override or _TO_GO_ON
                    yield event

    def _span(self, ask: AnyAsk, trace: Trace) -> Span:
        """A run in the model's process, as it is seen from here."""
        about = {"exo.npu.ask": type(ask).__name__.lower(), "exo.npu.release": self._process.release}
        return self._traces.begin("npu run", "internal", trace, {**about, "process.pid": self._process.pid})

    def _check(self, token: Token) -> None:
        if _NO_TOKEN.fullmatch(token.text):
            raise EngineFailed(
                f"'{self._entry.card.id}' writes {token.text.decode()}, an id that is no token: its output "
                "is corrupt. Usual causes: the file was made by a toolkit of another release than the "
                f"runtime ({self._process.release}), or numbers overflow on this chip, which release 1.3.0 "
                "mends for some models"
            )

    def _ended(self, end: asks.Finished, clock: "_Clock", *, cut: bool) -> Ended:
        evaluated = end.perf.prefill_tokens if end.perf else 0
        # At the end the cache holds every token of prompt and answer, but for the last of an answer broken
        # off, perhaps; of the prompt's, `evaluated` were new.
        prompt = max(evaluated, (end.context_tokens or 0) - clock.tokens - clock.unwanted)
        usage = Usage(prompt, clock.tokens, cached_tokens=prompt - evaluated if evaluated else 0)
        if end.perf is None or not end.perf.prefill_seconds:
            return Ended(cut, usage, clock.timings())
        if evaluated >= _TELLING_PREFILL:
            self._prefill_speed = min(self._prefill_speed, evaluated / end.perf.prefill_seconds)
        return Ended(cut, usage, Timings(end.perf.prefill_seconds, end.perf.generate_seconds))


class _Clock:
    """Counts an answer's tokens and times them, for releases that do not."""

    def __init__(self) -> None:
        self.tokens = self.unwanted = 0
        self._began = time.perf_counter()
        self._first: float | None = None

    def token(self) -> None:
        self.tokens += 1
        if self._first is None:
            self._first = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def timings(self) -> Timings:
        now = time.perf_counter()
        first = self._first or now
        return Timings(first - self._began, now - first)


def _figures(end: asks.Finished) -> dict[str, Value]:
    """What the runtime says of a run, for a trace: seconds, tokens and megabytes, where it tells."""
    known: dict[str, Value] = {"exo.npu.aborted": end.aborted}
    if end.perf:
        known |= {f"exo.npu.{name}": value for name, value in msgspec.structs.asdict(end.perf).items()}
    return known


def _logprobs(token: Token) -> tuple[TokenLogprob, ...]:
    return (token.logprobs,) if token.logprobs else ()


def to_begin(prompt_bytes: int, prefill_speed: float) -> float:
    """Seconds that an answer may take to begin: they grow with the prompt, and as the model's prefill (tokens
    per second) is slower."""
    return _TO_BEGIN + 2 * prompt_bytes / _BYTES_PER_TOKEN / prefill_speed
