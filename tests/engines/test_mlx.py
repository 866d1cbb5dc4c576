"""Layers on MLX against llama.cpp, against plain numpy, and against themselves split in every way."""

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from tokenizers import Tokenizer

from exo.cards import Span
from exo.chat import ChatRequest, Message, Sampling
from exo.engines import mlx
from exo.engines.llamacpp import LlamaCppEngine
from exo.errors import EngineFailed
from exo.generation.templates import ChatTemplate
from exo.shards.shard import Hidden, Logits, Shard
from exo.store import checkpoint
from exo.store.catalogue import BUNDLED, read_card
from tests import checkpoints
from tests.doubles import text
from tests.engines import numpy_shard

DEMO = BUNDLED / "exo-demo"
TOKENIZER: Any = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
TEMPLATE = ChatTemplate((DEMO / "chat_template.jinja").read_text())
ENDS = {TOKENIZER.token_to_id(token) for token in ("<|im_end|>", "<|endoftext|>")}
QUESTIONS = ["What is 145 + 278?", "Hello", "Count from 1 to 9.", "Is 17 a prime number? Explain."]
SPLITS = [(0, 6), (0, 2, 6), (0, 1, 3, 6)]
SMALL: dict[str, Any] = {"layers": 4, "width": 64, "intermediate": 96, "heads": 4, "kv_heads": 2}


def opened(folder: Path, start: int, end: int, **options: Any) -> mlx.MlxShard:
    given: dict[str, Any] = {
        "ends": start == 0,
        "slots": 2,
        "context": 512,
        "dtype": "auto",
        "threads": None,
        "progress": lambda done: None,
        **options,
    }
    return mlx.open_shard(folder, Span(start, end), **given)


def chain(folder: Path, cuts: Sequence[int], **options: Any) -> list[mlx.MlxShard]:
    return [opened(folder, *pair, **options) for pair in itertools.pairwise(cuts)]


def through(shards: Sequence[Shard], slot: int, position: int, tokens: Sequence[int]) -> Hidden:
    hidden = shards[0].embed(tokens)
    for shard in shards:
        hidden = shard.forward(slot, position, hidden)
    return hidden


def ask(shards: Sequence[Shard], tokens: Sequence[int], slot: int = 0, position: int = 0) -> Logits:
    """The last token's logits, as a coordinator gets them: of a whole model in one, else around the star."""
    if len(shards) == 1:
        logits = shards[0].read(slot, position, tokens, wanted=True)
        assert logits is not None
        return logits
    return shards[0].logits(through(shards, slot, position, tokens))


def greedy(shards: Sequence[Shard], prompt: Sequence[int], *, slot: int = 0, most: int = 60) -> list[int]:
    """What follows the prompt, which is read in two chunks."""
    half = len(prompt) // 2
    ask(shards, prompt[:half], slot)
    logits = ask(shards, prompt[half:], slot, half)
    tokens: list[int] = []
    while (token := int(logits.argmax())) not in ENDS and len(tokens) < most:
        tokens.append(token)
        logits = ask(shards, [token], slot, len(prompt) + len(tokens) - 1)
    return tokens


def rendered(question: str) -> str:
    return TEMPLATE.render(ChatRequest(model="exo-demo", messages=(Message("user", question),)))[0]


def ids(question: str) -> list[int]:
    encoded: list[int] = TOKENIZER.encode(rendered(question), add_special_tokens=False).ids
    return encoded


@pytest.fixture(scope="module")
def whole() -> mlx.MlxShard:
    return opened(DEMO, 0, 6)


@pytest.mark.parametrize("cuts", SPLITS, ids=str)
async def test_greedy_answers_are_token_for_token_those_of_llama_cpp(cuts: Sequence[int]) -> None:
    shards = chain(DEMO, cuts)
    gguf = DEMO / "model.gguf"
    llamacpp = await LlamaCppEngine(slots=1, threads=1).load(read_card("exo-demo", gguf), gguf)
    sampling = Sampling(temperature=0, max_tokens=60)
    try:
        for question in QUESTIONS:
            asked = ChatRequest(model="exo-demo", prompt=rendered(question), sampling=sampling)
            async with aclosing(llamacpp.respond(asked)) as deltas:
                expected = text([delta async for delta in deltas])
            tokens = greedy(shards, ids(question))
            assert len(tokens) > 5
            assert TOKENIZER.decode(tokens, skip_special_tokens=False) == expected
    finally:
        await llamacpp.unload()


@pytest.mark.parametrize("cuts", SPLITS, ids=str)
def test_shards_together_give_the_whole_models_logits(whole: mlx.MlxShard, cuts: Sequence[int]) -> None:
    shards = chain(DEMO, cuts)
    for question in QUESTIONS:
        expected = ask([whole], ids(question))
        assert expected.shape == (512,)
        assert expected.dtype == np.float32
        np.testing.assert_allclose(ask(shards, ids(question)), expected, rtol=0, atol=1e-4)


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
    ],
    ids=str,
)
def test_every_architecture_is_computed_as_plain_numpy_does(tmp_path: Path, shape: dict[str, Any]) -> None:
    checkpoints.write(tmp_path, **SMALL, **shape)
    reference = numpy_shard.open_shard(
        tmp_path,
        Span(0, 4),
        ends=True,
        slots=1,
        context=512,
        dtype="auto",
        threads=None,
        progress=lambda done: None,
    )
    tokens = list(range(100, 140))
    expected = ask([reference], tokens)
    for shards in (chain(tmp_path, (0, 4)), chain(tmp_path, (0, 1, 4))):
        np.testing.assert_allclose(ask(shards, tokens), expected, rtol=0, atol=1e-4)
        ask(shards, tokens[:30])
        np.testing.assert_allclose(ask(shards, tokens[30:], position=30), expected, rtol=0, atol=1e-4)


def test_llama_3_rotary_scaling_is_that_of_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    checkpoints.write(tmp_path / "plain", **SMALL, architecture="llama")
    checkpoints.write(tmp_path / "scaled", **SMALL, architecture="llama", config={"rope_scaling": scaling})

    def rates(config: checkpoint.Config) -> Any:
        """`_compute_llama3_parameters` of transformers' modeling_rope_utils."""
        plain = config.rope_theta ** (-np.arange(0, config.head_width, 2) / config.head_width)
        waves = 2 * np.pi / plain
        smooth = (64 / waves - 1.0) / (4.0 - 1.0)
        medium = (1 - smooth) * plain / 8 + smooth * plain
        return np.where(waves > 64, plain / 8, np.where(waves < 16, plain, medium))

    monkeypatch.setattr(numpy_shard, "_rates", rates)
    options: dict[str, Any] = {"slots": 1, "context": 512, "dtype": "auto", "threads": None}
    reference = numpy_shard.open_shard(
        tmp_path / "scaled", Span(0, 4), ends=True, progress=lambda done: None, **options
    )
    tokens = list(range(200, 300))
    expected = ask([reference], tokens)
    np.testing.assert_allclose(ask([opened(tmp_path / "scaled", 0, 4)], tokens), expected, rtol=0, atol=1e-4)
    assert np.abs(ask([opened(tmp_path / "plain", 0, 4)], tokens) - expected).max() > 0.01


@pytest.mark.parametrize("cuts", SPLITS, ids=str)
def test_a_slot_goes_on_from_a_common_beginning_as_if_it_had_read_it_anew(cuts: Sequence[int]) -> None:
    shards = chain(DEMO, cuts)
    first, second = ids("What is 145 + 278?"), ids("What is 145 + 311?")
    shared = next(at for at, pair in enumerate(zip(first, second, strict=False)) if len({*pair}) > 1)
    expected = greedy(shards, second, slot=1)
    greedy(shards, first)
    logits = ask(shards, second[shared:], position=shared)
    np.testing.assert_allclose(logits, ask(shards, second, slot=1), rtol=0, atol=1e-4)
    assert greedy(shards, second) == expected != greedy(shards, first)


def test_slots_know_nothing_of_each_other(whole: mlx.MlxShard) -> None:
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


def test_a_chunk_whose_logits_are_not_wanted_is_read_all_the_same(whole: mlx.MlxShard) -> None:
    prompt = ids("What is 145 + 278?")
    expected = ask([whole], prompt)
    assert whole.read(1, 0, prompt[:-1], wanted=False) is None
    np.testing.assert_allclose(ask([whole], prompt[-1:], 1, len(prompt) - 1), expected, rtol=0, atol=1e-4)


def test_a_step_that_fails_in_the_middle_leaves_what_was_before_it(
    whole: mlx.MlxShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_lm.models import qwen2

    prompt = ids("What is 145 + 278?")
    expected = greedy([whole], prompt, slot=1)
    ask([whole], prompt[:20])
    layers = 0
    computed = qwen2.MLP.__call__

    def broken(module: Any, states: Any) -> Any:
        nonlocal layers
        layers += 1
        if layers == 3:
            raise RuntimeError("out of memory")
        return computed(module, states)

    with monkeypatch.context() as patched:
        patched.setattr(qwen2.MLP, "__call__", broken)
        with pytest.raises(
            EngineFailed, match="MLX failed to compute a step of 5 tokens at 15: out of memory"
        ):
            whole.read(0, 15, [7, 7, 7, 7, 7], wanted=True)
    with pytest.raises(EngineFailed, match="a step at token 16 of a slot that holds 15"):
        whole.read(0, 16, prompt[16:], wanted=True)
    np.testing.assert_allclose(
        ask([whole], prompt[15:], position=15), ask([whole], prompt, 1), rtol=0, atol=1e-4
    )
    assert greedy([whole], prompt) == expected


def test_a_freed_slot_holds_nothing_and_gives_its_memory_back(tmp_path: Path) -> None:
    shard = opened(DEMO, 0, 6)
    before = mx.get_active_memory()
    ask([shard], [5] * 300, slot=0)
    kept = ask([shard], [5, 6, 7], slot=1)
    config = checkpoint.read(DEMO)
    cache = config.layers * 300 * checkpoint.kv_bytes(config, 4)
    assert mx.get_active_memory() > before + cache
    shard.free(0)
    assert mx.get_active_memory() < before + cache
    assert mx.get_cache_memory() == 0
    with pytest.raises(EngineFailed, match="a step at token 1 of a slot that holds 0"):
        shard.read(0, 1, [6], wanted=True)
    np.testing.assert_array_equal(ask([shard], [7], slot=1, position=2), kept)


def test_what_a_shard_returns_is_the_callers(whole: mlx.MlxShard) -> None:
    expected = ask([whole], [5, 6, 7]).copy()
    embedded = whole.embed([5, 6, 7])
    hidden = whole.forward(0, 0, embedded)
    assert hidden.dtype == np.float32
    assert hidden.shape == (3, whole.width) == (3, 128)
    embedded[:] = 0
    received = np.frombuffer(hidden.tobytes(), np.float32).reshape(hidden.shape)
    hidden[:] = 0
    np.testing.assert_allclose(whole.logits(received), expected, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(ask([whole], [7], position=2), expected)


def test_another_thread_may_compute_than_the_one_that_loaded(tmp_path: Path) -> None:
    checkpoints.write(
        tmp_path,
        **SMALL,
        architecture="llama",
        config={
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 2.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    )
    shard = opened(tmp_path, 0, 4)
    found: list[Logits] = []
    thread = threading.Thread(target=lambda: found.append(ask([shard], [1, 2, 3])))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found, [ask([opened(tmp_path, 0, 4)], [1, 2, 3])])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_narrower_type_is_computed_in_and_lost_nothing_of_between_shards(dtype: str) -> None:
    prompt = ids("What is 145 + 278?")
    exact = ask([opened(DEMO, 0, 6)], prompt)
    narrow = opened(DEMO, 0, 6, dtype=dtype)
    logits = ask([narrow], prompt)
    np.testing.assert_allclose(logits, exact, rtol=0, atol=0.5)
    assert np.abs(logits - exact).max() > 1e-3, "it computes in float32 all the same"
    assert narrow.bytes == sum(place.bytes for place in checkpoint.tensors(DEMO).values())
    np.testing.assert_array_equal(ask(chain(DEMO, (0, 2, 6), dtype=dtype), prompt), logits)


def quantized(source: Path, folder: Path) -> Path:
    """A 4-bit model as mlx-lm writes it: one module in 8 bits, one not at all; and, in `folder / "wide"`, a
    plain one of the same values."""
    tensors: dict[str, mx.array] = mx.load(str(source / "model.safetensors"))  # type: ignore[assignment]
    packed, wide = {}, {}
    settings: dict[str, Any] = {"group_size": 32, "bits": 4, "mode": "affine"}
    settings["model.layers.1.mlp.down_proj"] = {"group_size": 64, "bits": 8, "mode": "affine"}
    settings["model.layers.3.mlp.up_proj"] = False
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        how = settings.get(module, settings)
        if tensor.ndim == 1 or not how:
            packed[name] = wide[name] = tensor
            continue
        weights, scales, biases = mx.quantize(tensor, group_size=how["group_size"], bits=how["bits"])
        packed |= {name: weights, f"{module}.scales": scales, f"{module}.biases": biases}
        wide[name] = mx.dequantize(weights, scales, biases, group_size=how["group_size"], bits=how["bits"])
    config = json.loads((source / "config.json").read_text())
    (folder / "wide").mkdir(parents=True)
    (folder / "wide" / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "wide" / "model.safetensors"), wide)
    both = {"quantization": settings, "quantization_config": settings}
    (folder / "config.json").write_text(json.dumps({**config, **both}))
    mx.save_safetensors(str(folder / "model.safetensors"), packed)
    return folder


@pytest.mark.parametrize("tied", [True, False])
def test_a_quantized_model_is_computed_as_its_weights_say_split_as_well(tmp_path: Path, tied: bool) -> None:
    checkpoints.write(tmp_path / "plain", **{**SMALL, "intermediate": 128}, tied=tied)
    folder = quantized(tmp_path / "plain", tmp_path / "packed")
    tokens = list(range(100, 130))
    expected = ask([opened(folder / "wide", 0, 4)], tokens)
    packed = opened(folder, 0, 4)
    assert packed.bytes < opened(folder / "wide", 0, 4).bytes / 3
    np.testing.assert_allclose(ask([packed], tokens), expected, rtol=0, atol=1e-3)
    for cuts in ((0, 2, 4), (0, 1, 3, 4)):
        np.testing.assert_allclose(ask(chain(folder, cuts), tokens), ask([packed], tokens), rtol=0, atol=1e-4)


def test_only_the_tensors_of_a_span_are_read(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, **SMALL, split=True)
    tokens = list(range(100, 130))
    expected = ask(chain(tmp_path, (0, 4)), tokens)
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
        halves.append(opened(part, start, end))
    np.testing.assert_allclose(ask(halves, tokens), expected, rtol=0, atol=1e-4)
    with pytest.raises(
        EngineFailed, match=r"no file here holds model\.layers\.1\.input_layernorm\.weight, nor"
    ):
        opened(tmp_path / "2", 1, 4)
    with pytest.raises(EngineFailed, match=r"no file here holds model\.embed_tokens\.weight, nor 1 more"):
        opened(tmp_path / "2", 2, 4, ends=True)


def test_a_part_of_one_big_file_takes_no_more_memory_than_that_part(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, **{**SMALL, "layers": 16})
    places = checkpoint.tensors(tmp_path)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    shard = opened(tmp_path, 3, 5)
    assert shard.bytes == sum(
        places[name].bytes for name in checkpoint.needed(places, Span(3, 5), ends=False, tied=True)
    )
    assert mx.get_active_memory() - before < 1.1 * shard.bytes
    assert mx.get_peak_memory() - before < 2 * shard.bytes


def test_loading_is_told_from_nothing_to_all() -> None:
    told: list[float] = []
    opened(DEMO, 0, 6, progress=told.append)
    assert told == sorted(told)
    assert 0 < told[0] < 0.1
    assert told[-1] == 1
    assert len(told) > 20


@pytest.mark.parametrize(
    ("position", "tokens", "reason"),
    [
        (0, [5] * 513, "a step to token 513 of a context of 512"),
        (600, [5], "a step at token 600 of a slot that holds"),
        (-1, [5], "a step at token -1 of a slot that holds"),
        (0, [5, 512], "token 512 is not in the vocabulary of 512"),
        (0, [-1, 5], "token -1 is not in the vocabulary of 512"),
    ],
)
def test_a_step_that_cannot_be_is_refused(
    whole: mlx.MlxShard, position: int, tokens: list[int], reason: str
) -> None:
    with pytest.raises(EngineFailed, match=reason):
        whole.read(0, position, tokens, wanted=True)


@pytest.mark.parametrize("span", [(0, 7), (3, 3), (5, 4), (-1, 2)])
def test_layers_that_the_model_has_not_are_refused(span: tuple[int, int]) -> None:
    with pytest.raises(EngineFailed, match=r"it has layers 0-5, and .* are wanted"):
        opened(DEMO, *span, ends=False)


def test_weights_of_another_shape_than_config_says_are_refused(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, **SMALL)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 95}))
    with pytest.raises(
        EngineFailed, match=r"model\.safetensors: model\.layers\.0\..* by config\.json \(95, 64\)"
    ):
        opened(tmp_path, 0, 4)


def test_weights_that_no_layer_computes_with_are_refused(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, **SMALL)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(EngineFailed, match=r"model\.safetensors: it holds model\.layers\.0\..*\.bias, which"):
        opened(tmp_path, 0, 4)


@pytest.mark.parametrize(("module", "package"), [("mlx", "mlx"), ("mlx_lm", "mlx-lm")])
def test_a_missing_package_is_named_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, module: str, package: str
) -> None:
    assert mlx.unavailable() is None
    monkeypatch.setitem(sys.modules, module, None)
    reason = f"the package {package} is not installed; pip install 'exo-rkllama[mlx]'"
    assert mlx.unavailable() == reason
    with pytest.raises(EngineFailed) as raised:
        opened(DEMO, 0, 6)
    assert reason in raised.value.message


def test_asking_whether_mlx_is_there_loads_nothing_of_it() -> None:
    program = (
        "import sys; from exo.engines import mlx; assert mlx.unavailable() is None;"
        "print([name for name in sys.modules if name.split('.')[0] in ('mlx', 'mlx_lm', 'numpy')])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_a_shard_loads_neither_transformers_nor_torch() -> None:
    program = (
        "import sys; from tests.engines.test_mlx import *; opened(DEMO, 0, 2);"
        "print([name for name in sys.modules if name in ('transformers', 'torch', 'mlx_lm.generate')])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
