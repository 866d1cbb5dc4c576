"""What is particular to models in shards; what holds for every engine is in `tests/contract`."""

import asyncio
import gc
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from exo.cards import ModelCard, Span
from exo.chat import ChatRequest, Delta, Finished, Message, Sampling, Text, TokenLogprob, Tool, Usage
from exo.engine import Embedder, LoadedModel
from exo.engines.llamacpp import LlamaCppEngine
from exo.errors import BadRequest, ContextLengthExceeded, EngineFailed
from exo.shards.engine import LayersEngine, Plan, Split
from exo.shards.process import RunningShard
from exo.store.catalogue import BUNDLED, Catalogue
from tests.doubles import answer, finished, reasoning, text
from tests.shards.conftest import CONTEXT, FOLDER, NUMPY
from tests.shards.workers import workers

SLOTS = 2
CARD = Catalogue(BUNDLED)["exo-demo"][0]
ENDLESS = Sampling(temperature=0, logit_bias={503: -100.0, 505: -100.0})
Load = Callable[..., Awaitable[LoadedModel]]


def split_at(*cuts: int) -> Plan:
    spans = [Span(start, end) for start, end in zip(cuts, (*cuts[1:], 6), strict=True)]

    async def plan(card: ModelCard, folder: Path) -> Split:
        async def open_rest() -> Sequence[RunningShard]:
            engine = LayersEngine("numpy", NUMPY)
            return [
                await engine.open(folder, span, ends=False, slots=SLOTS, context=CONTEXT) for span in spans
            ]

        return Split(Span(0, cuts[0]), open_rest)

    return plan


@pytest.fixture
async def load() -> AsyncIterator[Load]:
    loaded: list[LoadedModel] = []

    async def load_one(folder: Path = FOLDER, *, plan: Plan | None = None, **options: Any) -> LoadedModel:
        engine = LayersEngine("numpy", NUMPY, slots=SLOTS, plan=plan, **options)
        loaded.append(await engine.load(CARD, folder))
        return loaded[-1]

    yield load_one
    for model in loaded:
        await model.unload()
    assert workers() == []
    gc.collect()  # see conftest.start


@pytest.fixture
async def model(load: Load) -> LoadedModel:
    return await load()


@pytest.fixture(params=[None, (1, 4)], ids=["whole", "split"])
async def either(load: Load, request: pytest.FixtureRequest) -> LoadedModel:
    return await load(plan=request.param and split_at(*request.param))


@pytest.fixture
async def llamacpp() -> AsyncIterator[LoadedModel]:
    model = await LlamaCppEngine(slots=SLOTS).load(CARD, FOLDER / "model.gguf")
    yield model
    await model.unload()


def ask(question: str = "Hello", **fields: Any) -> ChatRequest:
    asked = {"thinking": False, "sampling": Sampling(temperature=0, max_tokens=100), **fields}
    return ChatRequest(model="exo-demo", messages=(Message("user", question),), **asked)


def copied(folder: Path, without: Sequence[str] = (), **config: Any) -> Path:
    """The bundled model in another folder, with other settings of its tokenizer."""
    for file in FOLDER.iterdir():
        if file.name not in (*without, "model.gguf", "tokenizer_config.json"):
            shutil.copy(file, folder)
    settings = json.loads((FOLDER / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **config}))
    return folder


def logprobs(deltas: Sequence[Delta]) -> list[TokenLogprob]:
    return [entry for delta in deltas if isinstance(delta, Text) for entry in delta.logprobs]


def counts(usage: Usage) -> tuple[int, int, int]:
    return usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens


# The same as llama.cpp's

REQUESTS = {
    "sum": ask("What is 145 + 278?", thinking=True),
    "count": ask("Count from 3 to 30.", sampling=Sampling(temperature=0)),
    "spelling": ask("Spell banana."),
    "long": ask("Count from 1 to 9. " * 60),
    "cut": ask(sampling=Sampling(temperature=0, max_tokens=3)),
    "stopped": ask("Count from 3 to 30.", stop=("nothing", ", 1")),
    "raw": ChatRequest(model="", prompt="Count from", sampling=Sampling(temperature=0, max_tokens=20)),
    "penalised": ask(
        sampling=Sampling(
            temperature=0, max_tokens=60, repeat_penalty=1.8, presence_penalty=2.0, frequency_penalty=1.5
        )
    ),
}


async def test_a_greedy_answer_is_llama_cpps(either: LoadedModel, llamacpp: LoadedModel) -> None:
    for name, request in REQUESTS.items():
        ours, theirs = await answer(either, request), await answer(llamacpp, request)
        assert (text(ours), reasoning(ours)) == (text(theirs), reasoning(theirs)), name
        assert finished(ours).reason == finished(theirs).reason, name
        assert counts(finished(ours).usage) == counts(finished(theirs).usage), name


# What slots keep


async def test_follow_up_turns_reuse_the_prefix(either: LoadedModel, llamacpp: LoadedModel) -> None:
    first = ask("Count from 1 to 9.")
    said = text(await answer(either, first))
    turns = (*first.messages, Message("assistant", said), Message("user", "Count from 3 to 30."))
    request = msgspec.structs.replace(first, messages=turns)
    deltas = await answer(either, request)
    usage = finished(deltas).usage
    assert 8 < usage.cached_tokens < usage.prompt_tokens
    assert text(deltas) == text(await answer(llamacpp, request))


async def test_a_reused_prefix_gives_what_a_fresh_one_does(either: LoadedModel) -> None:
    request = ask("Count from 3 to 30.", logprobs=2)
    fresh = await answer(either, request)
    assert finished(fresh).usage.cached_tokens == 0
    again = await answer(either, request)
    assert finished(again).usage.cached_tokens == finished(again).usage.prompt_tokens - 1
    assert text(again) == text(fresh)
    for one, other in zip(logprobs(fresh), logprobs(again), strict=True):
        assert one.chosen.logprob == pytest.approx(other.chosen.logprob, abs=1e-4)


async def test_a_slot_whose_answer_was_left_is_empty(either: LoadedModel) -> None:
    async with aclosing(either.respond(ask("Count from 3 to 30."))) as deltas:
        await anext(deltas)
    assert f"<Slots {SLOTS} of {SLOTS} free, holding [0, 0]>" in repr(either)
    end = finished(await answer(either, ask("Count from 3 to 30.")))
    assert end.usage.cached_tokens == 0


async def test_a_stopped_answer_leaves_its_slot_as_it_is(either: LoadedModel, llamacpp: LoadedModel) -> None:
    """Though a step behind the stop string was under way."""
    await answer(either, ask("Count from 3 to 30.", stop=(", 9",)))
    request = ask("Count from 3 to 30.")
    deltas = await answer(either, request)
    assert finished(deltas).usage.cached_tokens > 0
    assert text(deltas) == text(await answer(llamacpp, request))


async def test_who_leaves_behind_the_end_leaves_the_slot_as_it_is(either: LoadedModel) -> None:
    for stop in ((), (", 9",)):
        request = ask("Count from 3 to 30.", stop=stop)
        async with aclosing(either.respond(request)) as deltas:
            async for delta in deltas:
                if isinstance(delta, Finished):
                    break
        usage = finished(await answer(either, request)).usage
        assert usage.cached_tokens == usage.prompt_tokens - 1


async def test_what_is_refused_leaves_the_slot_as_it_is(model: LoadedModel) -> None:
    request = ask("Count from 3 to 30.")
    await answer(model, request)
    with pytest.raises(BadRequest):
        await answer(model, ask("Count from 3 to 30.", grammar="root ::= ("))
    # The prompt of a grammar's answer is the same as that of one without thinking.
    assert finished(await answer(model, request)).usage.cached_tokens > 10


async def test_who_leaves_while_waiting_for_a_slot_takes_none_along(model: LoadedModel) -> None:
    holders = [model.respond(ask(sampling=ENDLESS)) for _ in range(SLOTS)]
    for holder in holders:
        await anext(holder)
    waiting = asyncio.create_task(answer(model, ask()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    for holder in holders:
        await holder.aclose()
    assert all(map(finished, await asyncio.gather(*(answer(model, ask()) for _ in range(SLOTS)))))


async def test_who_leaves_twice_still_gives_the_slot_back(either: LoadedModel) -> None:
    for turns in range(12):
        leaving = asyncio.create_task(answer(either, ask("Count from 1 to 9. " * 60)))
        for _ in range(turns):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    answers = await asyncio.gather(*(answer(either, ask("Spell banana.")) for _ in range(SLOTS)))
    assert {text(deltas) for deltas in answers} == {"b-a-n-a-n-a"}


# What is asked for


async def test_logprobs_are_of_the_tokens_said(either: LoadedModel) -> None:
    deltas = await answer(either, ask("Hello", logprobs=3))
    entries = logprobs(deltas)
    assert b"".join(bytes(entry.chosen.bytes) for entry in entries).decode() == text(deltas)
    for entry in entries:
        assert len(entry.top) == 3
        assert entry.chosen == entry.top[0]
        assert 0 >= entry.top[0].logprob >= entry.top[1].logprob >= entry.top[2].logprob
    assert all(entry.top == () for entry in logprobs(await answer(either, ask("Hello", logprobs=0))))
    assert logprobs(await answer(either, ask("Hello"))) == []


async def test_a_bias_forces_a_token(model: LoadedModel) -> None:
    forced = await answer(model, ask(sampling=Sampling(logit_bias={40: 100.0}, max_tokens=5)))
    assert len(set(text(forced))) == 1
    assert finished(forced).usage.completion_tokens == 5
    with pytest.raises(BadRequest, match="512") as refused:
        await answer(model, ask(sampling=Sampling(logit_bias={512: 1.0})))
    assert refused.value.param == "logit_bias"


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}, "sure": {"type": "boolean"}},
    "required": ["sum", "sure"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("temperature", [0.0, 1.5])
async def test_a_schema_is_kept(either: LoadedModel, temperature: float) -> None:
    # Without the penalty a toy may write digits until its tokens run out, as JSON Schema allows.
    sampling = Sampling(temperature=temperature, seed=3, max_tokens=400, frequency_penalty=1.0)
    request = ask("What is 2 + 2?", json_schema=SCHEMA, thinking=None, sampling=sampling)
    deltas = await answer(either, request)
    assert finished(deltas).reason == "stop"
    jsonschema.validate(json.loads(text(deltas)), SCHEMA)
    assert not reasoning(deltas)


async def test_forms_of_answers_at_once_are_kept_apart(model: LoadedModel) -> None:
    grammars = ['root ::= "left" | "right"', 'root ::= "up" | "down"']
    answers = await asyncio.gather(*(answer(model, ask(grammar=each, thinking=None)) for each in grammars))
    assert text(answers[0]) in ("left", "right")
    assert text(answers[1]) in ("up", "down")


async def test_a_form_holds_for_one_answer_only(model: LoadedModel) -> None:
    free = text(await answer(model, ask()))
    await answer(model, ask(grammar='root ::= "left"', thinking=None))
    assert text(await answer(model, ask())) == free


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"json_schema": {"type": "strange"}, "thinking": None}, "response_format"),
        ({"grammar": "root ::= (", "thinking": None}, "grammar"),
    ],
)
async def test_a_form_that_cannot_be_kept_is_refused(
    model: LoadedModel, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        await answer(model, ask(**fields))
    assert refused.value.param == param
    assert finished(await answer(model, ask()))


async def test_tools_reach_the_template(model: LoadedModel) -> None:
    tool = Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
    without = finished(await answer(model, ask("Hello"))).usage.prompt_tokens
    offered = finished(await answer(model, ask("Hello", tools=(tool,)))).usage.prompt_tokens
    assert offered > without + 20


def test_vectors_are_not_offered(model: LoadedModel) -> None:
    assert not isinstance(model, Embedder)


# The prompt


async def test_a_prompt_begins_as_the_tokenizer_says(load: Load, tmp_path: Path) -> None:
    begins = "<|endoftext|>"
    plain, begun = await load(), await load(copied(tmp_path, bos_token=begins, add_bos_token=True))
    for given, added in (("Count from", 1), (f"{begins}Count from", 0)):
        request = ChatRequest(model="", prompt=given, sampling=Sampling(temperature=0, max_tokens=1))
        without = finished(await answer(plain, request)).usage.prompt_tokens
        assert finished(await answer(begun, request)).usage.prompt_tokens == without + added


async def test_a_model_without_a_template_continues_prompts_only(load: Load, tmp_path: Path) -> None:
    bare = await load(copied(tmp_path, ["chat_template.jinja"], chat_template=None))
    with pytest.raises(BadRequest, match="has no chat template; use /v1/completions") as refused:
        await answer(bare, ask())
    assert refused.value.param == "messages"
    assert finished(await answer(bare, REQUESTS["raw"]))


async def test_an_empty_prompt_is_refused(model: LoadedModel) -> None:
    with pytest.raises(BadRequest, match="the prompt is empty") as refused:
        await answer(model, ChatRequest(model="", prompt=""))
    assert refused.value.param == "prompt"


async def test_a_smaller_context_is_kept(load: Load) -> None:
    small = await load(context=64, plan=split_at(3))
    with pytest.raises(
        ContextLengthExceeded, match=r"is \d+ tokens long and the context of 'exo-demo' holds 64"
    ):
        await answer(small, ask("Hello " * 200))
    deltas = await answer(small, ask(sampling=ENDLESS))
    end = finished(deltas)
    assert end.reason == "length"
    assert end.usage.prompt_tokens + end.usage.completion_tokens == 64
    brim = ChatRequest(model="", prompt="1" * 63, sampling=ENDLESS)
    assert finished(await answer(small, brim)).usage.completion_tokens == 1
    with pytest.raises(ContextLengthExceeded, match="is 64 tokens long") as refused:
        await answer(small, ChatRequest(model="", prompt="1" * 64))
    assert refused.value.param == "prompt"


# Shards that die


async def test_a_shard_that_dies_fails_its_answers_and_the_model(load: Load) -> None:
    model = await load(plan=split_at(2, 4))
    assert model.alive
    async with aclosing(model.respond(ask(sampling=ENDLESS))) as deltas:
        await anext(deltas)
        *_, last = workers()
        os.kill(last.pid, signal.SIGKILL)
        with pytest.raises(EngineFailed, match=r"with layers \d-\d of exo-demo was killed by SIGKILL"):
            assert [delta async for delta in deltas]
    assert not model.alive
    with pytest.raises(EngineFailed, match="SIGKILL"):
        await answer(model, ask())
    await model.unload()
    await model.unload()


async def test_its_repr_is_a_status_line(load: Load) -> None:
    model = await load(plan=split_at(2))
    async with aclosing(model.respond(ask(sampling=ENDLESS))) as deltas:
        await anext(deltas)
        assert re.fullmatch(
            r"<LayeredModel exo-demo <Chain 0-1 2-5> <Slots 1 of 2 free, holding \[0, 0\]>>", repr(model)
        )
