"""What is particular to llama.cpp; what holds for every engine is in `tests/contract`."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from exo.chat import ChatRequest, EmbedRequest, Message, Sampling, Text, Tool
from exo.engine import Embedder, LoadedModel
from exo.engines.llamacpp import LlamaCppEngine
from exo.errors import BadRequest, ContextLengthExceeded, EngineFailed
from exo.store import gguf
from exo.store.catalogue import BUNDLED, Catalogue, read_card
from tests.doubles import answer, card, finished, reasoning, text

DEMO = BUNDLED / "exo-demo" / "model.gguf"
SLOTS = 2
# The demo's tokens that end a text; forbidden, its answers go on until the context is full.
ENDS = gguf.tokens(DEMO, range(512)).items()
ENDLESS = Sampling(
    temperature=0, logit_bias={id: -100.0 for id, text in ENDS if text in ("<|im_end|>", "<|endoftext|>")}
)


@pytest.fixture
async def model() -> AsyncIterator[LoadedModel]:
    model = await LlamaCppEngine(slots=SLOTS).load(Catalogue(BUNDLED)["exo-demo"][0], DEMO)
    yield model
    await model.unload()


def ask(question: str = "Hello", **fields: Any) -> ChatRequest:
    asked = {"thinking": False, "sampling": Sampling(temperature=0, max_tokens=100), **fields}
    return ChatRequest(model="exo-demo", messages=(Message("user", question),), **asked)


async def test_a_cancelled_answer_frees_its_slot_within_100_ms(model: LoadedModel) -> None:
    endless = ask(sampling=ENDLESS)
    loop = asyncio.get_running_loop()
    holders = [model.respond(endless) for _ in range(SLOTS)]
    for holder in holders:
        await anext(holder)
    began = loop.time()
    for holder in holders:
        await holder.aclose()
    # Both slots were taken: had closing not freed one, this would wait for the longest of answers.
    async with aclosing(model.respond(ask())) as next_one:
        assert isinstance(await anext(next_one), Text)
    assert loop.time() - began < 0.1 + 0.1, "closing, and the next one's first token"


async def test_a_long_prefill_is_cancelled_between_steps(model: LoadedModel) -> None:
    long = model.respond(ask("Count from 1 to 9. " * 150))
    reading = asyncio.ensure_future(anext(long))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert finished(await answer(model, ask()))


async def test_follow_up_turns_reuse_the_prefix(model: LoadedModel) -> None:
    first = ask("Count from 1 to 9.")
    said = text(await answer(model, first))
    turns = (*first.messages, Message("assistant", said), Message("user", "Hello"))
    usage = finished(await answer(model, msgspec.structs.replace(first, messages=turns))).usage
    assert usage.cached_tokens > 8
    assert usage.cached_tokens < usage.prompt_tokens


async def test_logprobs_are_of_the_tokens_said(model: LoadedModel) -> None:
    deltas = await answer(model, ask("Hello", logprobs=3))
    logprobs = [entry for delta in deltas if isinstance(delta, Text) for entry in delta.logprobs]
    assert b"".join(bytes(entry.chosen.bytes) for entry in logprobs).decode() == text(deltas)
    for entry in logprobs:
        assert len(entry.top) == 3
        assert entry.chosen.logprob <= 0
        assert entry.top[0].logprob >= entry.top[1].logprob >= entry.top[2].logprob
        # Greedy: what was drawn is the likeliest.
        assert math.isclose(entry.chosen.logprob, entry.top[0].logprob, abs_tol=1e-4)


async def test_logprobs_of_the_chosen_token_alone(model: LoadedModel) -> None:
    deltas = await answer(model, ask("Hello", logprobs=0))
    entries = [entry for delta in deltas if isinstance(delta, Text) for entry in delta.logprobs]
    assert entries
    assert all(entry.top == () for entry in entries)


async def test_no_logprobs_unasked(model: LoadedModel) -> None:
    deltas = await answer(model, ask("Hello"))
    assert not any(delta.logprobs for delta in deltas if isinstance(delta, Text))


async def test_a_bias_forces_a_token(model: LoadedModel) -> None:
    forced = await answer(model, ask(sampling=Sampling(logit_bias={40: 100.0}, max_tokens=5)))
    said = text(forced)
    assert len(said) == 5
    assert len(set(said)) == 1
    assert finished(forced).reason == "length"


async def test_a_bias_beyond_the_vocabulary_is_refused(model: LoadedModel) -> None:
    with pytest.raises(BadRequest, match="512") as refused:
        await answer(model, ask(sampling=Sampling(logit_bias={512: 1.0})))
    assert refused.value.param == "logit_bias"


SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {
        "type": "object",
        "properties": {"sum": {"type": "integer"}, "sure": {"type": "boolean"}},
        "required": ["sum", "sure"],
        "additionalProperties": False,
    },
    "choice": {"enum": ["yes", "no", "maybe"]},
    "list": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 4},
    "nested": {
        "type": "object",
        "properties": {
            "a": {
                "type": "object",
                "properties": {"b": {"const": "c"}},
                "required": ["b"],
                "additionalProperties": False,
            }
        },
        "required": ["a"],
        "additionalProperties": False,
    },
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
@pytest.mark.parametrize("temperature", [0.0, 1.5])
async def test_a_schema_is_kept(model: LoadedModel, schema: dict[str, Any], temperature: float) -> None:
    # Without the penalty a toy may write digits until its tokens run out, as JSON Schema allows.
    sampling = Sampling(temperature=temperature, seed=3, max_tokens=400, frequency_penalty=1.0)
    deltas = await answer(model, ask("What is 2 + 2?", json_schema=schema, thinking=None, sampling=sampling))
    assert finished(deltas).reason == "stop"
    jsonschema.validate(json.loads(text(deltas)), schema)
    assert not reasoning(deltas)


@pytest.mark.parametrize(
    "schema", [{"type": "strange"}, {"type": "array", "uniqueItems": True}, {"$ref": "#/nowhere"}]
)
async def test_a_schema_that_cannot_be_kept_is_refused(model: LoadedModel, schema: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="cannot be enforced") as refused:
        await answer(model, ask(json_schema=schema, thinking=None))
    assert refused.value.param == "response_format"
    assert "\n" not in refused.value.message


async def test_a_grammar_is_kept(model: LoadedModel) -> None:
    deltas = await answer(model, ask(grammar='root ::= "left" | "right"', thinking=None))
    assert text(deltas) in ("left", "right")


async def test_a_grammar_that_does_not_parse_is_refused(model: LoadedModel) -> None:
    with pytest.raises(BadRequest) as refused:
        await answer(model, ask(grammar="root ::= (", thinking=None))
    assert refused.value.param == "grammar"


async def test_a_form_that_llama_cpp_drops_is_refused_and_not_left_out(model: LoadedModel) -> None:
    schema = {
        "type": "object",
        "properties": {"v": {"type": "string", "format": "uri"}},
        "required": ["v"],
        "additionalProperties": False,
    }
    with pytest.raises(BadRequest, match="does not enforce the JSON schema") as refused:
        await answer(model, ask(json_schema=schema))
    assert refused.value.param == "response_format"
    assert text(await answer(model, ask()))


async def test_an_answer_in_several_runs_reads_its_prompt_once(model: LoadedModel) -> None:
    tool = Tool("now", "The time.", {"properties": {"zone": {"enum": ["CET"]}}, "required": ["zone"]})
    asked = ask("What is 145 + 278?", tools=(tool,), must_call=("now",), thinking=True)
    alone = finished(await answer(model, ask("What is 145 + 278?", tools=(tool,), thinking=True)))
    called = finished(await answer(model, asked))
    assert called.usage.prompt_tokens == alone.usage.prompt_tokens
    assert called.usage.reasoning_tokens == alone.usage.reasoning_tokens
    assert called.usage.completion_tokens > called.usage.reasoning_tokens
    assert called.timings.decode > 0


async def test_a_prompt_is_continued_without_a_template(model: LoadedModel) -> None:
    raw = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    request = ChatRequest(model="exo-demo", prompt=raw, sampling=Sampling(temperature=0, max_tokens=60))
    assert text(await answer(model, request)) == text(await answer(model, ask("Hello")))


async def test_tools_reach_the_template(model: LoadedModel) -> None:
    tool = Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
    without = finished(await answer(model, ask("Hello"))).usage.prompt_tokens
    offered = finished(await answer(model, ask("Hello", tools=(tool,)))).usage.prompt_tokens
    assert offered > without + 20


async def test_embeddings_are_normalised_and_tell_texts_apart(model: LoadedModel) -> None:
    assert isinstance(model, Embedder)
    request = EmbedRequest(
        model="exo-demo", texts=("What is 2 + 2?", "What is 2 + 3?", "Spell the word cat.")
    )
    sums, other, spell = (await model.embed(request)).vectors
    assert math.isclose(sum(x * x for x in sums), 1.0, rel_tol=1e-4)
    assert _dot(sums, other) > _dot(sums, spell)
    again = await model.embed(EmbedRequest(model="exo-demo", texts=("What is 2 + 2?",)))
    assert math.isclose(_dot(again.vectors[0], sums), 1.0, rel_tol=1e-4)
    assert again.prompt_tokens > 0


def _dot(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


async def test_a_text_too_long_to_embed_is_refused(model: LoadedModel) -> None:
    assert isinstance(model, Embedder)
    with pytest.raises(ContextLengthExceeded) as refused:
        await model.embed(EmbedRequest(model="exo-demo", texts=("word " * 3000,)))
    assert refused.value.param == "input"


async def test_a_smaller_context_is_kept(tmp_path: Path) -> None:
    small = read_card("exo-demo", DEMO, most=256)
    model = await LlamaCppEngine(slots=2, context=256).load(small, DEMO)
    with pytest.raises(ContextLengthExceeded, match="holds 256"):
        await answer(model, ask("Hello " * 200))
    end = finished(await answer(model, ask("Count from 1 to 60.", sampling=ENDLESS)))
    assert end.reason == "length"
    assert end.usage.prompt_tokens + end.usage.completion_tokens <= 257
    await model.unload()


async def test_unloading_at_once_ends_and_twice_does_nothing() -> None:
    """llama.cpp's server, destroyed before its loop runs, waits for itself: one time in three, or more."""
    for _ in range(20):
        model = await LlamaCppEngine(slots=1).load(Catalogue(BUNDLED)["exo-demo"][0], DEMO)
        await model.unload()
        await model.unload()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a complete GGUF file"),
        (b"PK\x03\x04 this is a zip file, is it not?", "begins with b'PK"),
        (DEMO.read_bytes()[:1000], "not a complete GGUF file"),
        (DEMO.read_bytes()[:1_000_000], "cut short"),
    ],
    ids=["empty", "zip", "cut in the header", "cut in the weights"],
)
async def test_a_file_that_is_no_model_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(EngineFailed, match=reason) as failed:
        await LlamaCppEngine().load(card("broken", format="gguf"), path)
    assert str(path) in failed.value.message


async def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=r"gone\.gguf"):
        await LlamaCppEngine().load(card("gone", format="gguf"), tmp_path / "gone.gguf")
