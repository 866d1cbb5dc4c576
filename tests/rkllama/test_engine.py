"""The NPU engine on the stand-in runtime, for every release of the vendor's interface."""

import asyncio
import gc
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

import jsonschema
import msgspec
import pytest

from demo.sums import held_out_pairs
from exo.chat import EmbedRequest, Message, Sampling, Text
from exo.engines.llamacpp import LlamaCppEngine
from exo.errors import BadRequest, ContextLengthExceeded, EngineFailed, Timeout
from exo.store.catalogue import BUNDLED, Catalogue
from rkllama.engine import RkllmModel, to_begin
from tests.doubles import answer, finished, reasoning, text
from tests.rkllama.npu import GREEDY, RELEASES, Board, request

Load = Callable[..., Awaitable[RkllmModel]]


@pytest.fixture
async def load(tmp_path: Path, build: Path, file_for: Callable[..., Path]) -> AsyncIterator[Load]:
    """Loads models, and sees to it that no process is left."""
    loaded: list[RkllmModel] = []

    async def load_one(
        release: str = "1.2.3", *, standin: dict[str, str] | None = None, **keys: object
    ) -> RkllmModel:
        board = Board(tmp_path / str(len(loaded)), build, file_for, release)
        board.put(**keys)  # type: ignore[arg-type]
        engine = board.engine(**(standin or {}))
        model = await engine.load(board.models["demo"][0], board.models["demo"][1])
        assert isinstance(model, RkllmModel)
        loaded.append(model)
        return model

    yield load_one
    for model in loaded:
        await model.unload()
        with pytest.raises(ProcessLookupError):
            os.kill(model.process.pid, 0)
    gc.collect()


QUESTIONS = [f"What is {a} + {b}?" for a, b in held_out_pairs(4, 5)] + ["Count from 3 to 9.", "Who are you?"]


@pytest.mark.parametrize("release", RELEASES)
async def test_answers_are_token_for_token_those_of_the_cpu(release: str, load: Load) -> None:
    card, path = Catalogue(BUNDLED)["exo-demo"]
    cpu = await LlamaCppEngine(slots=1).load(card, path)
    npu = await load(release)
    try:
        for question in QUESTIONS:
            for thinking in (False, True):
                asked = request(question, thinking=thinking)
                here, there = await answer(npu, asked), await answer(cpu, asked)
                assert (text(here), reasoning(here)) == (text(there), reasoning(there))
                assert finished(here).reason == finished(there).reason
                mine, theirs = finished(here).usage, finished(there).usage
                assert mine.completion_tokens == theirs.completion_tokens - (finished(there).reason == "stop")
                if release not in ("1.1.4", "1.2.0"):
                    assert mine.prompt_tokens == theirs.prompt_tokens
    finally:
        await cpu.unload()


@pytest.mark.parametrize("release", RELEASES)
async def test_the_whole_conversation_is_answered(release: str, load: Load) -> None:
    model = await load(release)
    talk = (
        Message("user", "What is 20 + 4?"),
        Message("assistant", "24"),
        Message("user", "What is 31 + 8?"),
    )
    alone = text(await answer(model, request("What is 31 + 8?")))
    assert "39" in alone
    assert "39" in text(await answer(model, msgspec.structs.replace(request(), messages=talk)))


@pytest.mark.parametrize("release", RELEASES)
async def test_max_tokens_ends_the_answer_in_every_release(release: str, load: Load) -> None:
    model = await load(release)
    deltas = await answer(
        model, request("Count from 1 to 40.", sampling=Sampling(temperature=0, max_tokens=5))
    )
    assert finished(deltas).reason == "length"
    assert finished(deltas).usage.completion_tokens == 5
    assert "19" in text(await answer(model, request()))


@pytest.mark.parametrize("release", RELEASES)
async def test_a_stop_string_ends_the_answer_and_the_run(release: str, load: Load) -> None:
    model = await load(release, standin={"STANDIN_TOKEN_MS": "1"})
    whole = await answer(model, request("Count from 1 to 40."))
    deltas = await answer(model, request("Count from 1 to 40.", stop=("7",)))
    assert text(deltas) == text(whole).partition("7")[0]
    assert finished(deltas).reason == "stop"
    assert finished(deltas).usage.completion_tokens < finished(whole).usage.completion_tokens / 2
    # Whether the token that was under way at the abort is in the cache decides by a hair.
    assert abs(finished(deltas).usage.prompt_tokens - finished(whole).usage.prompt_tokens) <= 1


@pytest.mark.parametrize("release", RELEASES)
async def test_sampling_other_than_the_loaded_one(release: str, load: Load) -> None:
    model = await load(release)
    hot = request("Count from 1 to 40.", sampling=Sampling(temperature=1.9, seed=3, max_tokens=40))
    if release == "1.1.4":
        with pytest.raises(BadRequest, match="seed is more than the NPU runtime") as refused:
            await answer(model, hot)
        assert refused.value.param == "seed"
        return
    first, second = text(await answer(model, hot)), text(await answer(model, hot))
    assert first == second != text(await answer(model, request("Count from 1 to 40.")))


async def test_without_a_tokenizer_more_than_the_runtime_can_is_refused_with_the_remedy(load: Load) -> None:
    model = await load(beside=("chat_template.jinja",))
    assert "19" in text(await answer(model, request()))
    with pytest.raises(
        BadRequest, match=r"put the tokenizer\.json of 'demo' into .*or leave temperature out"
    ) as refused:
        await answer(model, request(sampling=Sampling(temperature=1.0)))
    assert refused.value.param == "temperature"
    with pytest.raises(BadRequest, match=r"tokenizer\.json") as refused:
        await answer(model, request(json_schema={"type": "object"}))
    assert refused.value.param == "response_format"


async def test_with_1_3_0_sampling_is_the_runs_own_and_needs_no_tokenizer(load: Load) -> None:
    model = await load("1.3.0", beside=("chat_template.jinja",), modelfile="TEMPERATURE=1.9\n")
    assert "19" in text(await answer(model, request(sampling=GREEDY)))


SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}, "even": {"type": "boolean"}},
    "required": ["sum", "even"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("release", RELEASES[1:])
async def test_an_answer_keeps_to_its_schema(release: str, load: Load) -> None:
    model = await load(release)
    for question in QUESTIONS[:3]:
        sampling = Sampling(temperature=1.0, seed=1, max_tokens=120)
        said = text(await answer(model, request(question, json_schema=SCHEMA, sampling=sampling)))
        jsonschema.validate(json.loads(said), SCHEMA)


async def test_logprobs_are_given(load: Load) -> None:
    model = await load()
    deltas = await answer(model, request(logprobs=2))
    logprobs = [each for delta in deltas if isinstance(delta, Text) for each in delta.logprobs]
    assert logprobs
    assert all(each.chosen.logprob <= 0 and len(each.top) == 2 for each in logprobs)
    assert "".join(each.chosen.token for each in logprobs) == text(deltas)


@pytest.mark.parametrize("release", RELEASES)
async def test_embeddings_are_the_cpu_engines(release: str, load: Load) -> None:
    card, path = Catalogue(BUNDLED)["exo-demo"]
    cpu = await LlamaCppEngine(slots=1).load(card, path)
    npu = await load(release)
    texts = ("What is 12 + 7?", "Count from 1 to 5.")
    try:
        here = await npu.embed(EmbedRequest(model="demo", texts=texts))
        there = await cpu.embed(EmbedRequest(model="demo", texts=texts))  # type: ignore[attr-defined]
    finally:
        await cpu.unload()
    assert here.prompt_tokens == there.prompt_tokens
    for mine, theirs in zip(here.vectors, there.vectors, strict=True):
        assert sum(a * b for a, b in zip(mine, theirs, strict=True)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("release", RELEASES)
async def test_leaving_early_stops_the_runtime_and_harms_no_later_answer(release: str, load: Load) -> None:
    model = await load(release, standin={"STANDIN_TOKEN_MS": "2"})
    for _ in range(3):
        async with aclosing(model.respond(request("Count from 1 to 40."))) as deltas:
            assert isinstance(await anext(deltas), Text)
    assert "19" in text(await answer(model, request()))


@pytest.mark.parametrize("release", RELEASES)
async def test_corrupt_output_is_named_and_never_passed_on(release: str, load: Load) -> None:
    model = await load(release, standin={"STANDIN_FAULT": "corrupt-ids:3"})
    with pytest.raises(EngineFailed, match=r"'demo' writes \[PAD151935\].*corrupt"):
        await answer(model, request("Count from 1 to 40."))
    assert model.alive


@pytest.mark.parametrize("fault", ["crash-prefill", "crash-decode:3"])
async def test_a_crash_fails_the_answer_and_the_model_is_dead(fault: str, load: Load) -> None:
    model = await load(standin={"STANDIN_FAULT": fault})
    with pytest.raises(EngineFailed, match="SIGSEGV"):
        await answer(model, request("Count from 1 to 40."))
    assert not model.alive


async def test_a_model_killed_from_outside_is_dead_at_once(load: Load) -> None:
    model = await load()
    os.kill(model.process.pid, signal.SIGKILL)
    with pytest.raises(EngineFailed, match="SIGKILL"):
        await answer(model, request())
    assert not model.alive


async def test_a_prompt_that_does_not_fit_is_the_prompts_fault(load: Load) -> None:
    model = await load(modelfile="TEMPERATURE=0\nNUM_CTX=128\n")
    with pytest.raises(ContextLengthExceeded, match=r"\d+ tokens long and the context holds 128") as refused:
        await answer(model, request("word " * 300))
    assert refused.value.param == "messages"
    assert "19" in text(await answer(model, request()))


async def test_a_hanging_runtime_is_a_timeout_that_names_its_override(load: Load) -> None:
    model = await load(modelfile="TIMEOUT=0.3\n", standin={"STANDIN_FAULT": "hang-prefill"})
    model.process._abort_seconds = 0.2
    with pytest.raises(Timeout, match=r"'demo' was silent for 0.3 s on the NPU .* TIMEOUT=seconds in"):
        await answer(model, request(sampling=Sampling()))
    assert not model.alive


async def test_the_files_own_limit_of_context_is_learnt(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    model = await load(context=512)
    assert "19" in text(await answer(model, request()))
    assert model._entry.card.context == 4096
    assert model._context == 512


async def test_a_context_beyond_the_files_limit_that_its_owner_set_is_reported(load: Load) -> None:
    with pytest.raises(BadRequest, match="at most 512") as refused:
        await load(context=512, modelfile="NUM_CTX=1024\n")
    assert refused.value.param == "num_ctx"


def test_patience_grows_with_the_prompt_and_with_slowness() -> None:
    assert to_begin(0, 36) == 60
    assert to_begin(16384, 36) > 2 * 226
    assert to_begin(1000, 10) > to_begin(1000, 36) > to_begin(100, 36)


async def test_two_models_answer_at_once(load: Load) -> None:
    one, two = await load(), await load("1.3.0")
    answers = await asyncio.gather(answer(one, request()), answer(two, request("What is 31 + 8?")))
    assert ["19" in text(answers[0]), "39" in text(answers[1])] == [True, True]
