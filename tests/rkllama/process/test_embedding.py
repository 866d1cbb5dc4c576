"""Vectors from the runtime's hidden states, on the stand-in, against those of the CPU engine."""

import asyncio
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exo.chat import EmbedRequest, Sampling
from exo.engine import Embedder
from exo.engines.llamacpp import LlamaCppEngine
from exo.errors import BadRequest, ContextLengthExceeded, EngineFailed
from exo.generation.vocabulary import Vocabulary
from exo.store.catalogue import BUNDLED, Catalogue
from rkllama.process.embedding import embed
from rkllama.vendor.asks import Ask, Embed, Event, Options, Prompt, Vector
from rkllama.vendor.library import open_library
from rkllama.vendor.runtime import Runtime

DEMO = BUNDLED / "exo-demo"
TEXTS = ("What is 2 + 2?", "What is 2 + 3?", "Spell banana.", "é", "Count from 1 to 9. " * 20)

Load = Callable[..., Runtime]


@pytest.fixture(params=["1.1.4", "1.2.0", "1.2.3", "1.3.0"])
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def load(build: Path, file_for: Callable[..., Path]) -> Iterator[Load]:
    loaded: list[Runtime] = []

    def load_model(release: str, **options: Any) -> Runtime:
        library = open_library(build / release / "librkllmrt.so")
        given = {"model": file_for(release), "max_context_len": 512, **options}
        loaded.append(Runtime(library, Options(**given, sampling=Sampling(temperature=0))))
        if release != "1.1.4":
            loaded[-1].set_chat_template("", "", "")
        return loaded[-1]

    yield load_model
    for runtime in loaded:
        runtime.destroy()


@pytest.fixture(scope="module")
def cpu_vectors() -> tuple[tuple[float, ...], ...]:
    async def ask() -> tuple[tuple[float, ...], ...]:
        model = await LlamaCppEngine().load(Catalogue(BUNDLED)["exo-demo"][0], DEMO / "model.gguf")
        assert isinstance(model, Embedder)
        vectors = (await model.embed(EmbedRequest(model="exo-demo", texts=TEXTS))).vectors
        await model.unload()
        return vectors

    return asyncio.run(ask())


def vector(runtime: Runtime, text: str) -> Vector:
    events: list[Event] = []
    assert not embed(runtime, Embed(text), events.append).aborted
    (said,) = events
    assert isinstance(said, Vector)
    return said


def cosine(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_vectors_are_those_of_the_cpu_engine(
    load: Load, release: str, cpu_vectors: tuple[tuple[float, ...], ...]
) -> None:
    runtime, vocabulary = load(release), Vocabulary.read(DEMO)
    for text, expected in zip(TEXTS, cpu_vectors, strict=True):
        said = vector(runtime, text)
        assert said.tokens == len(vocabulary.encode(text))
        assert len(said.values) == 128
        assert math.isclose(math.hypot(*said.values), 1)
        assert cosine(said.values, expected) > 0.999
    others = [cosine(vector(runtime, TEXTS[0]).values, other) for other in cpu_vectors[1:]]
    assert max(others) < 0.999


def test_a_vector_does_not_depend_on_what_was_read_before(load: Load, release: str) -> None:
    """The runtime's cache holds the beginning of the second text, whose states it would not give again."""
    runtime = load(release)
    first = vector(runtime, "Count from 1 to 9.")
    vector(runtime, "Count from 1 to 7, then stop.")
    runtime.run(Ask(inputs=(Prompt("Count from 1 to"),), max_tokens=3), lambda event: None)
    assert vector(runtime, "Count from 1 to 9.") == first


def test_a_text_too_long_is_refused(load: Load, release: str) -> None:
    runtime = load(release, max_context_len=64)
    assert vector(runtime, "1" * 63).tokens == 63
    with pytest.raises(ContextLengthExceeded, match=r"holds 64 tokens.*may have been cut off") as refused:
        vector(runtime, "1" * 64)
    assert refused.value.param == "input"
    with pytest.raises(ContextLengthExceeded, match=r"holds 64 tokens.*65 characters is most likely longer"):
        vector(runtime, "1" * 65)
    assert vector(runtime, "1" * 63).tokens == 63


def test_an_empty_text_is_refused(load: Load, release: str) -> None:
    with pytest.raises(BadRequest, match="no text"):
        vector(load(release), "")


def test_a_failure_of_a_short_text_is_the_runtimes(
    load: Load, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = load(release)

    def fail(ask: Ask, on_event: Callable[[Event], None]) -> None:
        raise EngineFailed("rkllm_run reported an error")

    monkeypatch.setattr(runtime, "run", fail)
    with pytest.raises(EngineFailed, match="reported an error"):
        vector(runtime, "short")
