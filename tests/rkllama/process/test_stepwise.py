"""Answers drawn from logits, on the stand-in: the same as the runtime's own, and what that cannot do."""

import asyncio
import json
import math
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from demo.template import render
from exo.chat import ChatRequest, Sampling, Text
from exo.engines.llamacpp import LlamaCppEngine
from exo.errors import BadRequest, ContextLengthExceeded, EngineFailed
from exo.generation.constraints import grammar
from exo.generation.vocabulary import Vocabulary
from exo.store.catalogue import BUNDLED, Catalogue
from rkllama.process.stepwise import answer
from rkllama.vendor.asks import Ask, Event, Finished, Options, Prompt, Stepwise, Token, Waiting
from rkllama.vendor.library import open_library
from rkllama.vendor.runtime import Runtime

FOLDER = BUNDLED / "exo-demo"
GREEDY = Sampling(temperature=0, repeat_penalty=1.0)
CONTEXT = 1024


def chat(question: str, thinking: bool = False) -> str:
    return render([{"role": "user", "content": question}], answering=True, thinking=thinking)


SUM = chat("What is 145 + 278?")
PROMPTS = {
    "sum": SUM,
    "thought": chat("What is 145 + 278?", thinking=True),
    "count": chat("Count from 3 to 30."),
    "spelling": chat("Spell banana."),
    "hello": chat("Hello"),
    # Longer than one piece of prefill, and no chat.
    "long": "Count from 1 to 9. 1, 2, 3, 4, 5, 6, 7, 8, 9. " * 6,
}

Load = Callable[..., Runtime]
newest = pytest.mark.parametrize("release", ["1.3.0"])


@pytest.fixture(params=["1.2.0", "1.2.3", "1.3.0"])
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def load(build: Path, file_for: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    monkeypatch.setenv("STANDIN_ABORT_ON_REENTRY", "1")
    loaded: list[Runtime] = []

    def load_model(release: str, **options: Any) -> Runtime:
        library = open_library(build / release / "librkllmrt.so")
        given = {"model": file_for(release), "max_context_len": CONTEXT, "sampling": GREEDY, **options}
        loaded.append(Runtime(library, Options(**given)))
        if release != "1.1.4":
            loaded[-1].set_chat_template("", "", "")
        return loaded[-1]

    yield load_model
    for runtime in loaded:
        runtime.destroy()


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary.read(FOLDER)


@pytest.fixture(scope="module")
def cpu_answers() -> dict[str, str]:
    """What the CPU engine says to each prompt."""

    async def ask_all() -> dict[str, str]:
        model = await LlamaCppEngine().load(Catalogue(BUNDLED)["exo-demo"][0], FOLDER / "model.gguf")
        said: dict[str, str] = {}
        for name, prompt in PROMPTS.items():
            sampling = Sampling(temperature=0, max_tokens=200)
            async with aclosing(
                model.respond(ChatRequest(model="exo-demo", prompt=prompt, sampling=sampling))
            ) as deltas:
                said[name] = "".join([delta.text async for delta in deltas if isinstance(delta, Text)])
        await model.unload()
        return said

    return asyncio.run(ask_all())


def stepwise(prompt: str, sampling: Sampling = GREEDY, **rest: Any) -> Stepwise:
    return Stepwise(prompt=prompt, vocabulary=FOLDER, sampling=sampling, **rest)


def hear(runtime: Runtime, vocabulary: Vocabulary, ask: Stepwise) -> tuple[list[Token], Finished]:
    events: list[Event] = []
    finished = answer(runtime, ask, vocabulary, events.append, lambda: False)
    tokens = [event for event in events if isinstance(event, Token)]
    assert len(tokens) == len(events)
    return tokens, finished


def native(runtime: Runtime, prompt: str, **rest: Any) -> tuple[list[int], str, Finished]:
    events: list[Event] = []
    finished = runtime.run(Ask(inputs=(Prompt(prompt),), **rest), events.append)
    text = b"".join(event.text for event in events if isinstance(event, Token)).decode()
    return [event.id for event in events if isinstance(event, Token | Waiting)], text, finished


def text(tokens: list[Token]) -> str:
    return b"".join(token.text for token in tokens).decode()


def greedy(**fields: Any) -> Sampling:
    return Sampling(**{"temperature": 0, "max_tokens": 200, **fields})


# The same as the runtime's own


def test_greedy_is_what_the_runtime_and_the_cpu_engine_say(
    load: Load, release: str, vocabulary: Vocabulary, cpu_answers: dict[str, str]
) -> None:
    runtime = load(release)
    for name, prompt in PROMPTS.items():
        ids, said, _ = native(runtime, prompt, max_tokens=200)
        tokens, finished = hear(runtime, vocabulary, stepwise(prompt, greedy()))
        assert [token.id for token in tokens] == ids
        assert text(tokens) == said == cpu_answers[name]
        assert finished.perf is not None
        assert finished.perf.prefill_tokens == len(vocabulary.encode(prompt))
        assert finished.perf.generate_tokens == len(tokens)
        assert not finished.aborted
        assert finished.cut == (len(tokens) == 200)


def test_penalties_are_those_of_the_runtime(load: Load, release: str, vocabulary: Vocabulary) -> None:
    """They look at the prompt, too, as those of llama.cpp do."""
    penalties: dict[str, Any] = {"repeat_penalty": 1.8, "presence_penalty": 2.0, "frequency_penalty": 1.5}
    runtime = load(release, sampling=Sampling(temperature=0, **penalties))
    ids, _, _ = native(runtime, SUM, max_tokens=60)
    penalised, _ = hear(runtime, vocabulary, stepwise(SUM, greedy(max_tokens=60, **penalties)))
    assert [token.id for token in penalised] == ids
    assert hear(runtime, vocabulary, stepwise(SUM, greedy(max_tokens=60)))[0] != penalised


def test_nothing_of_the_run_before_is_left(load: Load, release: str, vocabulary: Vocabulary) -> None:
    runtime = load(release)
    # With the logprobs, as the model's words alone may well be the same behind another conversation.
    asked = stepwise(SUM, greedy(), logprobs=1)
    whole, finished = hear(runtime, vocabulary, asked)
    ids, _, _ = native(runtime, SUM, max_tokens=200)
    for _ in range(2):
        native(runtime, chat("Count from 3 to 9."), keep_history=True)
        assert hear(runtime, vocabulary, asked)[0] == whole
        if release != "1.2.0":
            assert runtime.kv_cache_size() == (finished.context_tokens,)
        hear(runtime, vocabulary, stepwise(chat("Hello"), greedy(max_tokens=3)))
        assert native(runtime, SUM, max_tokens=200)[0] == ids


# What the runtime cannot do

SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {
        "type": "object",
        "properties": {"sum": {"type": "integer"}, "sure": {"type": "boolean"}},
        "required": ["sum", "sure"],
        "additionalProperties": False,
    },
    "choice": {"enum": ["yes", "no", "maybe"]},
    "list": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 4},
    "texts": {"type": "array", "items": {"type": "string", "maxLength": 6}, "minItems": 2, "maxItems": 3},
}


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_schema_is_kept(
    load: Load, release: str, vocabulary: Vocabulary, schema: dict[str, Any], temperature: float
) -> None:
    form = grammar(ChatRequest(model="", prompt=SUM, json_schema=schema))
    runtime = load(release)
    for seed in range(4):
        # Without the penalty a toy may write digits until its tokens run out, as JSON Schema allows.
        sampling = Sampling(temperature=temperature, seed=seed, frequency_penalty=1.0, max_tokens=400)
        tokens, finished = hear(runtime, vocabulary, stepwise(SUM, sampling, form=form))
        assert not finished.cut
        jsonschema.validate(json.loads(text(tokens)), schema)


@newest
def test_a_grammar_of_llama_cpps_kind(load: Load, release: str, vocabulary: Vocabulary) -> None:
    form = 'root ::= "<" digit digit ">"\ndigit ::= [0-9]'
    tokens, finished = hear(load(release), vocabulary, stepwise(SUM, form=form))
    assert len(text(tokens)) == 4
    assert text(tokens)[0] + text(tokens)[3] == "<>"
    assert text(tokens)[1:3].isdigit()
    # Nothing can follow, so no end token is waited for.
    assert not finished.cut


@newest
@pytest.mark.parametrize(
    "form", ["root ::= (", "root ::= missing", "hello", "", "%llguidance {}\nstart: no\n"]
)
def test_a_grammar_that_is_none_is_refused(
    load: Load, release: str, vocabulary: Vocabulary, form: str
) -> None:
    with pytest.raises(BadRequest, match="the grammar") as refused:
        hear(load(release), vocabulary, stepwise(SUM, form=form))
    assert refused.value.param == "grammar"


@newest
def test_a_seed_repeats_an_answer(load: Load, release: str, vocabulary: Vocabulary) -> None:
    runtime = load(release)

    def drawn(seed: int | None) -> str:
        sampling = Sampling(temperature=2, top_k=0, top_p=1, min_p=0, seed=seed, max_tokens=20)
        return b"".join(
            token.text for token in hear(runtime, vocabulary, stepwise("The", sampling))[0]
        ).decode(errors="replace")

    assert drawn(7) == drawn(7)
    assert len({drawn(seed) for seed in (-1, 0, 1, 2**63)}) == 4
    assert drawn(None) != drawn(None)


@newest
def test_logprobs_are_of_the_tokens_said(load: Load, release: str, vocabulary: Vocabulary) -> None:
    tokens, _ = hear(load(release), vocabulary, stepwise(SUM, greedy(), logprobs=3))
    assert tokens
    for token in tokens:
        assert token.logprobs is not None
        chosen, top = token.logprobs.chosen, token.logprobs.top
        assert bytes(chosen.bytes) == token.text
        assert chosen.token == token.text.decode()
        assert chosen == top[0]
        assert 0 >= top[0].logprob >= top[1].logprob >= top[2].logprob
        assert sum(math.exp(each.logprob) for each in top) <= 1 + 1e-9
    alone, _ = hear(load(release), vocabulary, stepwise(SUM, greedy(), logprobs=0))
    assert all(token.logprobs is not None and token.logprobs.top == () for token in alone)
    assert alone[0].logprobs is not None
    assert alone[0].logprobs.chosen == tokens[0].logprobs.chosen  # type: ignore[union-attr]
    unasked, _ = hear(load(release), vocabulary, stepwise(SUM, greedy()))
    assert all(token.logprobs is None for token in unasked)


@newest
def test_a_bias_bans_or_forces_a_token(load: Load, release: str, vocabulary: Vocabulary) -> None:
    runtime = load(release)
    tokens, _ = hear(runtime, vocabulary, stepwise(SUM, greedy()))
    banned = tokens[0].id
    others, _ = hear(runtime, vocabulary, stepwise(SUM, greedy(logit_bias={banned: -100.0})))
    assert banned not in {token.id for token in others}
    forced, finished = hear(runtime, vocabulary, stepwise(SUM, greedy(logit_bias={40: 100.0}, max_tokens=5)))
    assert [token.id for token in forced] == [40] * 5
    assert finished.cut
    with pytest.raises(BadRequest, match="512") as refused:
        hear(runtime, vocabulary, stepwise(SUM, greedy(logit_bias={512: 1.0})))
    assert refused.value.param == "logit_bias"


@newest
def test_a_min_p_of_one_is_greedy_at_any_temperature(
    load: Load, release: str, vocabulary: Vocabulary
) -> None:
    runtime = load(release)
    likeliest, _ = hear(runtime, vocabulary, stepwise(SUM, greedy()))
    hot = Sampling(temperature=2, top_k=0, top_p=1, min_p=1, seed=1, max_tokens=200)
    assert hear(runtime, vocabulary, stepwise(SUM, hot))[0] == likeliest


def test_bytes_of_half_a_character_are_handed_on(load: Load, release: str, vocabulary: Vocabulary) -> None:
    form = '%llguidance {}\nstart: "é€"\n'
    tokens, _ = hear(load(release), vocabulary, stepwise(SUM, form=form))
    assert len(tokens) == 5
    assert text(tokens) == "é€"


# Where it ends


def test_max_tokens_are_exactly_that(load: Load, release: str, vocabulary: Vocabulary) -> None:
    runtime = load(release)
    for limit in (1, 2, 7):
        tokens, finished = hear(runtime, vocabulary, stepwise(SUM, greedy(max_tokens=limit)))
        assert len(tokens) == limit
        assert finished.cut
    with pytest.raises(BadRequest) as refused:
        hear(runtime, vocabulary, stepwise(SUM, greedy(max_tokens=0)))
    assert refused.value.param == "max_tokens"


def test_a_full_context_cuts_the_answer(load: Load, release: str, vocabulary: Vocabulary) -> None:
    runtime = load(release, max_context_len=64)
    endless = Sampling(temperature=0, logit_bias=dict.fromkeys(vocabulary.ends, -100.0))
    prompt = "Count from 1 to 9."
    tokens, finished = hear(runtime, vocabulary, stepwise(prompt, endless))
    assert finished.cut
    assert finished.context_tokens == 63
    assert len(tokens) == 64 - len(vocabulary.encode(prompt))
    if release != "1.2.0":
        assert runtime.kv_cache_size() == (63,)
    brim = "1" * 63
    assert len(hear(runtime, vocabulary, stepwise(brim, endless))[0]) == 1
    with pytest.raises(
        ContextLengthExceeded, match="the prompt is 64 tokens long and the context of the model holds 64"
    ):
        hear(runtime, vocabulary, stepwise("1" * 64, endless))


def test_an_empty_prompt_is_refused(load: Load, release: str, vocabulary: Vocabulary) -> None:
    with pytest.raises(BadRequest, match="empty"):
        hear(load(release), vocabulary, stepwise(""))


def test_a_release_without_logits_is_named(load: Load, vocabulary: Vocabulary) -> None:
    with pytest.raises(BadRequest, match=r"1\.1\.4\) has no logits mode.*it came with 1\.2\.0"):
        hear(load("1.1.4"), vocabulary, stepwise(SUM))


@newest
def test_output_beyond_the_vocabulary_is_corrupt(load: Load, release: str, tmp_path: Path) -> None:
    """The tokenizer loses its tags, of which the model says one."""
    known = json.loads((FOLDER / "tokenizer.json").read_text())
    known["added_tokens"] = [token for token in known["added_tokens"] if token["special"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(known))
    small = Vocabulary.read(tmp_path)
    assert small.size == 506
    thinking = chat("What is 145 + 278?", thinking=True)
    with pytest.raises(EngineFailed, match=r"token 506.* has only 506.*corrupt"):
        hear(load(release), small, stepwise(thinking, greedy()))
    # Where it says none, what is beyond is never drawn, however hot.
    hot = Sampling(temperature=2, top_k=0, top_p=1, min_p=0, seed=5, max_tokens=50)
    tokens, _ = hear(load(release), small, stepwise(SUM, hot))
    assert all(token.id < 506 for token in tokens)


# Left early


def test_an_abort_between_steps_ends_it(load: Load, release: str, vocabulary: Vocabulary) -> None:
    runtime = load(release)
    ids, _, _ = native(runtime, SUM, max_tokens=200)
    events: list[Event] = []
    ask = stepwise(chat("Count from 3 to 30."), greedy())
    finished = answer(runtime, ask, vocabulary, events.append, lambda: len(events) == 4)
    assert finished.aborted
    assert not finished.cut
    assert len(events) == 4
    assert native(runtime, SUM, max_tokens=200)[0] == ids
    assert answer(runtime, ask, vocabulary, events.append, lambda: True).aborted
    assert len(events) == 4


def test_an_abort_within_a_step_ends_it(
    load: Load, release: str, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each token takes a minute on this board, so only an abort of the run itself can end it in time."""
    monkeypatch.setenv("STANDIN_TOKEN_MS", "60000")
    runtime = load(release)
    running = asyncio.run(_abort_soon(runtime, vocabulary))
    assert running.aborted


async def _abort_soon(runtime: Runtime, vocabulary: Vocabulary) -> Finished:
    loop = asyncio.get_running_loop()
    run = loop.run_in_executor(
        None, lambda: answer(runtime, stepwise(SUM), vocabulary, lambda event: None, lambda: False)
    )
    async with asyncio.timeout(20):
        while not runtime.abort():
            await asyncio.sleep(0)
        return await run


def test_an_exception_of_the_listener_comes_out(load: Load, release: str, vocabulary: Vocabulary) -> None:
    def fail(event: Event) -> None:
        raise LookupError("mine")

    runtime = load(release)
    with pytest.raises(LookupError, match="mine"):
        answer(runtime, stepwise(SUM), vocabulary, fail, lambda: False)
    assert hear(runtime, vocabulary, stepwise(SUM, greedy()))[0]
