"""The engine in this process, without a node around it: what a node's figures are compared with."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvloop

from bench.client import Stream
from exo.chat import ChatRequest, Finished, Message, Sampling
from exo.engine import LoadedModel
from exo.engines.llamacpp import LlamaCppEngine, default_threads, start_server
from exo.generation.templates import ChatTemplate
from exo.store import gguf
from exo.store.catalogue import BUNDLED, read_card

DEMO = BUNDLED / "exo-demo" / "model.gguf"

# What `exo serve` has by default.
SLOTS, CONTEXT = 4, 8192


class DirectEngine:
    """One model twice, mapping one file: as the node's engine has it, and bare, as xllamacpp gives it.

    Only one of the two computes at a time, as its caller sees to.
    """

    def __init__(self, path: Path, model: str, *, threads: int | None = None) -> None:
        """`threads` as `exo serve` takes it."""
        self._path = path
        self._threads = threads
        self._model = model
        # The loop `exo serve` runs on.
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    def __enter__(self) -> Self:
        card = read_card(self._model, self._path, CONTEXT, SLOTS)
        engine = LlamaCppEngine(slots=SLOTS, context=CONTEXT, threads=self._threads)
        self._loaded: LoadedModel = self._runner.run(engine.load(card, self._path))
        # The very options the engine gives it, so that only our own code is the difference.
        threads = self._threads or default_threads(card)
        self._bare = start_server(self._path, slots=SLOTS, context=card.context, threads=threads)
        facts = gguf.read(self._path)
        self._template = ChatTemplate(str(facts["tokenizer.chat_template"]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bare = None
        self._runner.run(self._loaded.unload())
        self._runner.close()

    def request(self, content: str, sampling: Sampling) -> ChatRequest:
        return ChatRequest(model=self._model, messages=(Message("user", content),), sampling=sampling)

    def respond(self, request: ChatRequest) -> float:
        """Seconds that the node's engine takes for a whole answer."""
        return self._runner.run(self._consume(request))

    async def _consume(self, request: ChatRequest) -> float:
        began = time.perf_counter()
        finished = False
        async with aclosing(self._loaded.respond(request)) as deltas:
            async for delta in deltas:
                finished = isinstance(delta, Finished)
        assert finished, "an answer ends with Finished"
        return time.perf_counter() - began

    def body(self, request: ChatRequest, *, stream: bool) -> dict[str, Any]:
        """The request as the engine puts it to llama.cpp, the template applied already."""
        sampling = request.sampling
        prompt = self._template.render(request).prompt
        body: dict[str, Any] = {
            "prompt": prompt,
            "stream": stream,
            "temperature": sampling.temperature,
            "n_predict": sampling.max_tokens,
        }
        if sampling.logit_bias:
            body["logit_bias"] = [[token, bias] for token, bias in sampling.logit_bias.items()]
        return body

    def complete(self, body: Mapping[str, Any]) -> tuple[float, dict[str, Any]]:
        """Seconds that bare xllamacpp takes for a whole answer, and llama.cpp's own timings of it."""
        began = time.perf_counter()
        last: dict[str, Any] = {}

        def keep(chunk: dict[str, Any]) -> bool:
            nonlocal last
            last = chunk
            return False

        self._bare.handle_completions(body, keep)
        seconds = time.perf_counter() - began
        if "timings" not in last:
            raise RuntimeError(f"llama.cpp: {last}")
        return seconds, last["timings"]

    def stream(self, body: Mapping[str, Any]) -> tuple[Stream, dict[str, Any]]:
        """The tokens of a streamed answer of bare xllamacpp, as they come."""
        stream = Stream()
        last: dict[str, Any] = {}

        def count(chunk: dict[str, Any]) -> bool:
            nonlocal last
            last = chunk
            if "choices" in chunk and chunk["choices"][0]["finish_reason"] is None:
                stream.last = time.perf_counter()
                if not stream.marks:
                    stream.first, stream.together = stream.last, 1
                stream.marks += 1
            return False

        self._bare.handle_completions(body, count)
        return stream, last["timings"]

    def streams(self, body: Mapping[str, Any], count: int) -> list[Stream]:
        """`count` streamed answers of bare xllamacpp at once, a thread each, as its API demands."""
        streams: list[Stream] = []
        threads = [threading.Thread(target=_append(streams, self.stream, body)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return streams


def _append(
    streams: list[Stream], stream: Callable[[Mapping[str, Any]], tuple[Stream, Any]], body: Mapping[str, Any]
) -> Callable[[], None]:
    return lambda: streams.append(stream(body)[0])
