"""What every engine of layers computes, against llama.cpp, against plain numpy, and against itself split in
every way."""

import asyncio
import importlib
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pytest

from exo.cards import Span
from exo.chat import ChatRequest, Sampling
from exo.engines.llamacpp import LlamaCppEngine
from exo.errors import EngineFailed
from exo.shards.shard import Logits, Opener, Shard
from exo.store import checkpoint
from exo.store.catalogue import read_card
from tests import checkpoints
from tests.doubles import text
from tests.engines import numpy_shard
from tests.engines.shards import (
    DEMO,
    LLAMA_3_SCALING,
    QUESTIONS,
    SMALL,
    SPLITS,
    TOKENIZER,
    ask,
    chain,
    greedy,
    ids,
    in_numpy,
    opened,
    rendered,
)

ENGINES = ("mlx", "tinygrad")

Chains: TypeAlias = Mapping[tuple[int, ...], Sequence[Shard]]
"""The bundled model's shards, by where it is cut."""


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, compiled: Path) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def opener(engine: str) -> Opener:
    found: Opener = importlib.import_module(f"exo.engines.{engine}").open_shard
    return found


@pytest.fixture(scope="module")
def chains(opener: Opener) -> Chains:
    return {cuts: chain(opener, DEMO, cuts) for cuts in SPLITS}


@pytest.fixture(scope="module")
def whole(chains: Chains) -> Shard:
    return chains[0, 6][0]


@pytest.fixture(scope="module")
def of_llamacpp() -> list[str]:
    """Its greedy answers to `QUESTIONS`."""

    async def answers() -> list[str]:
        gguf = DEMO / "model.gguf"
        llamacpp = await LlamaCppEngine(slots=1, threads=1).load(read_card("exo-demo", gguf), gguf)
        sampling = Sampling(temperature=0, max_tokens=60)
        said = []
        try:
            for question in QUESTIONS:
                asked = ChatRequest(model="exo-demo", prompt=rendered(question), sampling=sampling)
                async with aclosing(llamacpp.respond(asked)) as deltas:
                    said.append(text([delta async for delta in deltas]))
        finally:
            await llamacpp.unload()
        return said

    return asyncio.run(answers())


# Numbers


@pytest.mark.parametrize("cuts", SPLITS, ids=str)
def test_greedy_answers_are_token_for_token_those_of_llama_cpp(
    chains: Chains, of_llamacpp: Sequence[str], cuts: tuple[int, ...]
) -> None:
    for question, expected in zip(QUESTIONS, of_llamacpp, strict=True):
        tokens = greedy(chains[cuts], ids(question))
        assert len(tokens) > 5
        assert TOKENIZER.decode(tokens, skip_special_tokens=False) == expected


@pytest.mark.parametrize("cuts", SPLITS[1:], ids=str)
def test_shards_together_give_the_whole_models_logits(
    chains: Chains, whole: Shard, cuts: tuple[int, ...]
) -> None:
    for question in QUESTIONS:
        expected = ask([whole], ids(question))
        assert expected.shape == (512,)
        assert expected.dtype == np.float32
        np.testing.assert_allclose(ask(chains[cuts], ids(question)), expected, rtol=0, atol=1e-4)


def test_a_model_that_is_opened_again_gives_the_same(opener: Opener, whole: Shard) -> None:
    again = opened(opener, DEMO, 0, 6)
    for question in QUESTIONS:
        np.testing.assert_allclose(
            ask([again], ids(question)), ask([whole], ids(question)), rtol=0, atol=1e-4
        )


def test_a_shard_serves_one_model_together_with_one_of_numpy(chains: Chains, whole: Shard) -> None:
    mixed = [chains[0, 2, 6][0], in_numpy(DEMO, 2, 6)]
    prompt = ids("What is 145 + 278?")
    np.testing.assert_allclose(ask(mixed, prompt), ask([whole], prompt), rtol=0, atol=1e-4)


@pytest.mark.parametrize("length", [1, 3, 17, 96, 300, 511])
def test_prompts_of_any_length_are_read_as_plain_numpy_does(whole: Shard, length: int) -> None:
    reference = in_numpy(DEMO, 0, 6)
    tokens = np.random.default_rng(0).integers(0, 500, length).tolist()
    np.testing.assert_allclose(ask([whole], tokens), ask([reference], tokens), rtol=0, atol=2e-4)
    np.testing.assert_allclose(
        ask([whole], [7], position=length), ask([reference], [7], position=length), rtol=0, atol=2e-4
    )


@pytest.mark.parametrize(
    "shape",
    [
        {"architecture": "qwen2"},
        {"architecture": "qwen3", "head_width": 32},
        {"architecture": "llama", "tied": False},
        {"architecture": "llama", "config": {"model_type": "mistral", "rope_theta": 1e6}},
        {"architecture": "qwen2", "config": {"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}},
        {"architecture": "qwen2", "dtype": "bfloat16", "config": {"rope_theta": 300.0}},
        {"architecture": "llama", "dtype": "float16"},
        {"architecture": "llama", "tied": False, "dtype": "float16", "split": True},
    ],
    ids=str,
)
@pytest.mark.usefixtures("few_steps")
def test_every_architecture_is_computed_as_plain_numpy_does(
    opener: Opener, tmp_path: Path, shape: dict[str, Any]
) -> None:
    checkpoints.write(tmp_path, **SMALL, **shape)
    tokens = list(range(100, 140))
    expected = ask([in_numpy(tmp_path)], tokens)
    for shards in (chain(opener, tmp_path, (0, 4)), chain(opener, tmp_path, (0, 1, 4))):
        np.testing.assert_allclose(ask(shards, tokens), expected, rtol=0, atol=1e-4)
        ask(shards, tokens[:30])
        np.testing.assert_allclose(ask(shards, tokens[30:], position=30), expected, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("few_steps")
def test_biases_of_every_projection_are_added(opener: Opener, tmp_path: Path) -> None:
    checkpoints.write(tmp_path, **SMALL, architecture="llama", config={"attention_bias": True})
    file = tmp_path / "model.safetensors"
    tensors = {name: numpy_shard._tensor(tmp_path, at) for name, at in checkpoint.tensors(tmp_path).items()}
    for name in [name for name in tensors if "self_attn" in name]:
        bias = np.random.default_rng(len(name)).standard_normal(len(tensors[name]), np.float32)
        tensors[name.replace("weight", "bias")] = bias
    checkpoints.save(file, tensors, "float32")
    tokens = list(range(100, 110))
    np.testing.assert_allclose(
        ask([opened(opener, tmp_path, 0, 4)], tokens), ask([in_numpy(tmp_path)], tokens), rtol=0, atol=1e-4
    )


@pytest.mark.usefixtures("few_steps")
def test_llama_3_rotary_scaling_is_that_of_transformers(
    opener: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaled, plain = tmp_path / "scaled", tmp_path / "plain"
    checkpoints.write(plain, **SMALL, architecture="llama")
    checkpoints.write(scaled, **SMALL, architecture="llama", config={"rope_scaling": LLAMA_3_SCALING})

    def rates(config: checkpoint.Config) -> Any:
        """`_compute_llama3_parameters` of transformers' modeling_rope_utils."""
        plain = config.rope_theta ** (-np.arange(0, config.head_width, 2) / config.head_width)
        waves = 2 * np.pi / plain
        smooth = (64 / waves - 1.0) / (4.0 - 1.0)
        medium = (1 - smooth) * plain / 8 + smooth * plain
        return np.where(waves > 64, plain / 8, np.where(waves < 16, plain, medium))

    monkeypatch.setattr(numpy_shard, "_rates", rates)
    tokens = list(range(200, 300))
    expected = ask([in_numpy(scaled)], tokens)
    np.testing.assert_allclose(ask([opened(opener, scaled, 0, 4)], tokens), expected, rtol=0, atol=1e-4)
    assert np.abs(ask([opened(opener, plain, 0, 4)], tokens) - expected).max() > 0.01


# Slots


@pytest.mark.parametrize("cuts", SPLITS, ids=str)
def test_a_slot_goes_on_from_a_common_beginning_as_if_it_had_read_it_anew(
    chains: Chains, cuts: tuple[int, ...]
) -> None:
    shards = chains[cuts]
    first, second = ids("What is 145 + 278?"), ids("What is 145 + 311?")
    shared = next(at for at, pair in enumerate(zip(first, second, strict=False)) if len({*pair}) > 1)
    expected = greedy(shards, second, slot=1)
    greedy(shards, first)
    logits = ask(shards, second[shared:], position=shared)
    np.testing.assert_allclose(logits, ask(shards, second, slot=1), rtol=0, atol=1e-4)
    assert greedy(shards, second) == expected != greedy(shards, first)


def test_slots_know_nothing_of_each_other(whole: Shard) -> None:
    prompts = [ids("What is 145 + 278?"), ids("Count from 1 to 9.")]
    expected = [greedy([whole], prompt) for prompt in prompts]
    logits = [ask([whole], prompt, slot) for slot, prompt in enumerate(prompts)]
    answers: list[list[int]] = [[], []]
    for step in range(12):
        for slot, prompt in enumerate(prompts):
            token = int(logits[slot].argmax())
            answers[slot].append(token)
            logits[slot] = ask([whole], [token], slot, len(prompt) + step)
    assert answers == [tokens[:12] for tokens in expected]


def test_a_chunk_whose_logits_are_not_wanted_is_read_all_the_same(whole: Shard) -> None:
    prompt = ids("What is 145 + 278?")
    expected = ask([whole], prompt)
    assert whole.read(1, 0, prompt[:-1], wanted=False) is None
    np.testing.assert_allclose(ask([whole], prompt[-1:], 1, len(prompt) - 1), expected, rtol=0, atol=1e-4)


def test_what_a_shard_returns_is_the_callers(whole: Shard) -> None:
    expected = ask([whole], [5, 6, 7]).copy()
    embedded = whole.embed([5, 6, 7])
    hidden = whole.forward(0, 0, embedded)
    assert hidden.dtype == np.float32
    assert hidden.shape == (3, whole.width) == (3, 128)
    embedded[:] = 0
    received = np.frombuffer(hidden.tobytes(), np.float32).reshape(hidden.shape)
    hidden[:] = 0
    logits = whole.logits(received)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ask([whole], [7], position=2), expected, rtol=0, atol=1e-4)
    kept = logits.copy()
    assert np.abs(ask([whole], [9, 9]) - kept).max() > 1
    np.testing.assert_array_equal(logits, kept)


@pytest.mark.usefixtures("few_steps")
def test_another_thread_may_compute_than_the_one_that_loaded(opener: Opener, tmp_path: Path) -> None:
    scaling = {**LLAMA_3_SCALING, "factor": 2.0}
    checkpoints.write(tmp_path, **SMALL, architecture="llama", config={"rope_scaling": scaling})
    shard = opened(opener, tmp_path, 0, 4)
    found: list[Logits] = []
    thread = threading.Thread(target=lambda: found.append(ask([shard], [1, 2, 3])))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found, [ask([opened(opener, tmp_path, 0, 4)], [1, 2, 3])])


class Trouble(NamedTuple):
    """How an engine is made to fail in the middle of a step, and what it says: of that, and of a step that
    begins behind what the slot holds since."""

    begin: Callable[[pytest.MonkeyPatch], None]
    raises: type[Exception]
    words: str | None
    behind: str


def in_mlx(patched: pytest.MonkeyPatch) -> None:
    from mlx_lm.models import qwen2

    computed, layers = qwen2.MLP.__call__, itertools.count(1)

    def broken(module: Any, states: Any) -> Any:
        if next(layers) == 3:
            raise RuntimeError("out of memory")
        return computed(module, states)

    patched.setattr(qwen2.MLP, "__call__", broken)


def in_tinygrad(patched: pytest.MonkeyPatch) -> None:
    from exo.engines.tinygrad import shard

    computed, runs = shard._Program.run, itertools.count(1)

    def broken(program: Any, *given: Any) -> None:
        computed(program, *given)
        if next(runs) == 2:
            raise MemoryError

    patched.setattr(shard._Program, "run", broken)


TROUBLES = {
    "mlx": Trouble(
        in_mlx,
        EngineFailed,
        "MLX failed to compute a step of 18 tokens at 15: out of memory",
        "a step at token 16 of a slot that holds 15",
    ),
    "tinygrad": Trouble(in_tinygrad, MemoryError, None, "from token 16 to .* of slot 0, which holds 15"),
}


def test_a_step_that_fails_in_the_middle_leaves_what_was_before_it(
    engine: str, whole: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = TROUBLES[engine]
    prompt = ids("What is 145 + 278?")
    expected = greedy([whole], prompt, slot=1)
    ask([whole], prompt[:20])
    with monkeypatch.context() as patched:
        trouble.begin(patched)
        with pytest.raises(trouble.raises, match=trouble.words):
            whole.read(0, 15, [7] * 18, wanted=True)
    with pytest.raises(EngineFailed, match=trouble.behind):
        whole.read(0, 16, prompt[16:], wanted=True)
    np.testing.assert_allclose(
        ask([whole], prompt[15:], position=15), ask([whole], prompt, 1), rtol=0, atol=1e-4
    )
    assert greedy([whole], prompt) == expected


BEYOND = {
    "mlx": "a step to token 513 of a context of 512",
    "tinygrad": "a step from token 0 to 513 of slot 0, which holds .* of at most 512",
}
ELSEWHERE = {
    "mlx": "a step at token {} of a slot that holds",
    "tinygrad": "a step from token {} to",
}
UNKNOWN = dict.fromkeys(ENGINES, "token {} is not in the vocabulary of 512")


@pytest.mark.parametrize(
    ("position", "tokens", "reasons", "culprit"),
    [
        (0, [5] * 513, BEYOND, 513),
        (600, [5], ELSEWHERE, 600),
        (-1, [5], ELSEWHERE, -1),
        (2, [5, 512], UNKNOWN, 512),
        (2, [-1, 5], UNKNOWN, -1),
    ],
    ids=["beyond the context", "behind", "before", "unknown", "negative"],
)
def test_a_step_that_cannot_be_is_refused(
    engine: str, whole: Shard, position: int, tokens: list[int], reasons: Mapping[str, str], culprit: int
) -> None:
    kept = ask([whole], [5, 6, 7])
    with pytest.raises(EngineFailed, match=reasons[engine].format(culprit)):
        whole.read(0, position, tokens, wanted=True)
    np.testing.assert_allclose(ask([whole], [7], position=2), kept, rtol=0, atol=1e-4)


# Opening


def test_loading_is_told_from_nothing_to_all(opener: Opener) -> None:
    told: list[float] = []
    opened(opener, DEMO, 0, 6, progress=told.append)
    assert told == sorted(told)
    assert 0 < told[0] < 0.1
    assert told[-1] == 1
    assert len(told) > 20


@pytest.mark.usefixtures("few_steps")
def test_only_the_tensors_of_a_span_are_read(opener: Opener, tmp_path: Path) -> None:
    checkpoints.write(tmp_path, **SMALL, split=True)
    tokens = list(range(100, 130))
    expected = ask([in_numpy(tmp_path)], tokens)
    config, index = checkpoint.read(tmp_path), checkpoint.index(tmp_path)
    halves = []
    for start, end in ((0, 2), (2, 4)):
        part = tmp_path / f"{start}"
        part.mkdir()
        for file in ("config.json", "model.safetensors.index.json"):
            (part / file).hardlink_to(tmp_path / file)
        for file in checkpoint.files(index, Span(start, end), ends=start == 0, tied=config.tied):
            (part / file).hardlink_to(tmp_path / file)
        assert len(list(part.glob("*.safetensors"))) == 3 - start // 2
        halves.append(opened(opener, part, start, end))
    np.testing.assert_allclose(ask(halves, tokens), expected, rtol=0, atol=1e-4)
    with pytest.raises(
        EngineFailed, match=r"no file here holds model\.layers\.1\.input_layernorm\.weight, nor 11 more"
    ):
        opened(opener, tmp_path / "2", 1, 4)
    with pytest.raises(EngineFailed, match=r"no file here holds model\.embed_tokens\.weight, nor 1 more"):
        opened(opener, tmp_path / "2", 2, 4, ends=True)


@pytest.mark.parametrize("span", [(0, 7), (3, 3), (5, 4), (-1, 2)])
def test_layers_that_the_model_has_not_are_refused(opener: Opener, span: tuple[int, int]) -> None:
    with pytest.raises(EngineFailed, match=r"it has layers 0-5, and .* are wanted"):
        opened(opener, DEMO, *span, ends=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"intermediate_size": 95}, r"model\.safetensors: model\.layers\.0\..* by config\.json \(95, 64\)"),
        ({"model_type": "llama"}, r"model\.safetensors: it holds model\.layers\.0\..*\.bias, which"),
        ({"model_type": "qwen3"}, r"no file here holds model\.layers\.0\.self_attn\..*_norm\.weight"),
        ({"model_type": "gpt2"}, "its architecture is 'gpt2'"),
    ],
)
def test_a_folder_that_is_not_what_its_config_says_is_refused(
    opener: Opener, tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    checkpoints.write(tmp_path, **SMALL)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(EngineFailed, match=reason) as raised:
        opened(opener, tmp_path, 0, 4)
    assert str(tmp_path) in raised.value.message


# What has to be installed


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("mlx", "mlx", "mlx"),
        ("mlx", "mlx_lm", "mlx-lm"),
        ("tinygrad", "tinygrad", "tinygrad"),
        ("tinygrad", "llvmlite", "llvmlite"),
    ],
)
def test_a_missing_package_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, package: str
) -> None:
    engine = importlib.import_module(f"exo.engines.{name}")
    assert engine.unavailable() is None
    monkeypatch.setitem(sys.modules, module, None)
    reason = f"the package {package} is not installed; pip install 'exo-rkllama[{name}]'"
    assert engine.unavailable() == reason
    with pytest.raises(EngineFailed) as raised:
        opened(engine.open_shard, DEMO, 0, 6)
    assert reason in raised.value.message


@pytest.mark.parametrize(
    ("name", "packages"),
    [("mlx", ("mlx", "mlx_lm", "numpy")), ("tinygrad", ("tinygrad", "llvmlite", "numpy"))],
)
def test_asking_whether_an_engine_is_there_loads_nothing_of_it(name: str, packages: tuple[str, ...]) -> None:
    program = (
        f"import sys; from exo.engines import {name} as engine; assert engine.unavailable() is None;"
        f"print([name for name in sys.modules if name.split('.')[0] in {packages}])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
