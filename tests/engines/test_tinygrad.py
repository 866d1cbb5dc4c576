"""Layers on tinygrad against llama.cpp, against plain numpy, and against themselves split in every way."""

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tinygrad import helpers
from tokenizers import Tokenizer

from exo.cards import Span
from exo.chat import ChatRequest, Message, Sampling
from exo.engines import tinygrad
from exo.engines.llamacpp import LlamaCppEngine
from exo.engines.tinygrad import compiler, layers
from exo.engines.tinygrad import shard as shards_of_tinygrad
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
SMALL: dict[str, Any] = {"layers": 2, "width": 32, "intermediate": 48, "heads": 4, "kv_heads": 2}
# Fewer and smaller than those that ship, as each is compiled.
FEW_STEPS = ((8, 3), (1, 1))


def opened(folder: Path, start: int, end: int, **options: Any) -> Shard:
    given: dict[str, Any] = {
        "ends": start == 0,
        "slots": 2,
        "context": 512,
        "dtype": "auto",
        "threads": 1,
        "progress": lambda done: None,
        **options,
    }
    return tinygrad.open_shard(folder, Span(start, end), **given)


def chain(folder: Path, cuts: Sequence[int], **options: Any) -> list[Shard]:
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


def in_numpy(folder: Path, start: int = 0, end: int = 2) -> Shard:
    return numpy_shard.open_shard(
        folder,
        Span(start, end),
        ends=start == 0,
        slots=1,
        context=512,
        dtype="auto",
        threads=None,
        progress=lambda done: None,
    )


@pytest.fixture(scope="module", autouse=True)
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tinygrad keeps what these tests have compiled."""
    folder = tmp_path_factory.mktemp("compiled")
    helpers.CACHEDB = str(folder / "tinygrad.db")
    return folder


@pytest.fixture(scope="module")
def chains() -> dict[tuple[int, ...], list[Shard]]:
    return {cuts: chain(DEMO, cuts) for cuts in SPLITS}


@pytest.fixture
def whole(chains: dict[tuple[int, ...], list[Shard]]) -> Shard:
    return chains[0, 6][0]


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_of_tinygrad, "_STEPS", FEW_STEPS)


async def test_greedy_answers_are_token_for_token_those_of_llama_cpp(
    chains: dict[tuple[int, ...], list[Shard]],
) -> None:
    gguf = DEMO / "model.gguf"
    llamacpp = await LlamaCppEngine(slots=1, threads=1).load(read_card("exo-demo", gguf), gguf)
    sampling = Sampling(temperature=0, max_tokens=60)
    try:
        for question in QUESTIONS:
            asked = ChatRequest(model="exo-demo", prompt=rendered(question), sampling=sampling)
            async with aclosing(llamacpp.respond(asked)) as deltas:
                expected = text([delta async for delta in deltas])
            for cuts, shards in chains.items():
                tokens = greedy(shards, ids(question))
                assert len(tokens) > 5
                assert TOKENIZER.decode(tokens, skip_special_tokens=False) == expected, cuts
    finally:
        await llamacpp.unload()


@pytest.mark.parametrize("cuts", SPLITS[1:], ids=str)
def test_shards_together_give_the_whole_models_logits(
    chains: dict[tuple[int, ...], list[Shard]], whole: Shard, cuts: tuple[int, ...]
) -> None:
    for question in QUESTIONS:
        expected = ask([whole], ids(question))
        assert expected.shape == (512,)
        assert expected.dtype == np.float32
        np.testing.assert_allclose(ask(chains[cuts], ids(question)), expected, rtol=0, atol=1e-4)


def test_a_shard_of_tinygrad_and_one_of_numpy_serve_one_model_together(
    chains: dict[tuple[int, ...], list[Shard]],
) -> None:
    mixed = [chains[0, 2, 6][0], in_numpy(DEMO, 2, 6)]
    prompt = ids("What is 145 + 278?")
    np.testing.assert_allclose(ask(mixed, prompt), ask(chains[0, 6], prompt), rtol=0, atol=1e-4)


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
        {"architecture": "qwen2", "dtype": "bfloat16", "config": {"rope_theta": 300.0}},
        {"architecture": "qwen3", "head_width": 16},
        {"architecture": "llama", "tied": False, "dtype": "float16", "split": True},
    ],
    ids=str,
)
@pytest.mark.usefixtures("few_steps")
def test_every_architecture_is_computed_as_plain_numpy_does(tmp_path: Path, shape: dict[str, Any]) -> None:
    checkpoints.write(tmp_path, **SMALL, **shape)
    tokens = list(range(100, 130))
    expected = ask([in_numpy(tmp_path)], tokens)
    for shards in (chain(tmp_path, (0, 2)), chain(tmp_path, (0, 1, 2))):
        np.testing.assert_allclose(ask(shards, tokens), expected, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("few_steps")
def test_biases_of_every_projection_are_added(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, **SMALL, architecture="llama", config={"attention_bias": True})
    file = tmp_path / "model.safetensors"
    tensors = {name: numpy_shard._tensor(tmp_path, at) for name, at in checkpoint.tensors(tmp_path).items()}
    for name in [name for name in tensors if "self_attn" in name]:
        bias = np.random.default_rng(len(name)).standard_normal(len(tensors[name]), np.float32)
        tensors[name.replace("weight", "bias")] = bias
    checkpoints.save(file, tensors, "float32")
    tokens = list(range(100, 110))
    np.testing.assert_allclose(
        ask([opened(tmp_path, 0, 2)], tokens), ask([in_numpy(tmp_path)], tokens), rtol=0, atol=1e-4
    )


def test_rotary_scaling_is_that_of_transformers(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    checkpoints.write(tmp_path / "plain", **SMALL)
    plain = layers.rates(checkpoint.read(tmp_path / "plain"))
    checkpoints.write(tmp_path / "scaled", **SMALL, config={"rope_scaling": scaling})
    # `_compute_llama3_parameters` of transformers' modeling_rope_utils.
    waves = 2 * np.pi / plain
    smooth = (64 / waves - 1.0) / (4.0 - 1.0)
    medium = (1 - smooth) * plain / 8 + smooth * plain
    expected = np.where(waves > 64, plain / 8, np.where(waves < 16, plain, medium))
    assert {*(waves > 64), *(waves < 16)} == {True, False}
    np.testing.assert_allclose(layers.rates(checkpoint.read(tmp_path / "scaled")), expected)
    linear = {"rope_type": "linear", "factor": 4.0}
    checkpoints.write(tmp_path / "linear", **SMALL, config={"rope_scaling": linear})
    np.testing.assert_allclose(layers.rates(checkpoint.read(tmp_path / "linear")), plain / 4)


@pytest.mark.parametrize("cuts", SPLITS, ids=str)
def test_a_slot_goes_on_from_a_common_beginning_as_if_it_had_read_it_anew(
    chains: dict[tuple[int, ...], list[Shard]], cuts: tuple[int, ...]
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


def test_a_step_that_fails_in_the_middle_leaves_what_was_before_it(
    whole: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = ids("What is 145 + 278?")
    expected = greedy([whole], prompt, slot=1)
    ask([whole], prompt[:20])
    computed, runs = shards_of_tinygrad._Program.run, itertools.count()

    def broken(program: Any, *given: Any) -> None:
        computed(program, *given)
        if next(runs) == 1:
            raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(shards_of_tinygrad._Program, "run", broken)
        with pytest.raises(MemoryError):
            whole.read(0, 15, [7] * 18, wanted=True)
    with pytest.raises(EngineFailed, match=r"from token 16 to .* of slot 0, which holds 15"):
        whole.read(0, 16, prompt[16:], wanted=True)
    np.testing.assert_allclose(
        ask([whole], prompt[15:], position=15), ask([whole], prompt, 1), rtol=0, atol=1e-4
    )
    assert greedy([whole], prompt) == expected


def test_a_freed_slot_holds_nothing_and_gives_its_memory_back(whole: Shard) -> None:
    whole.free(1)
    before = helpers.GlobalCounters.mem_used
    kept = ask([whole], [5, 6, 7], slot=0)
    assert helpers.GlobalCounters.mem_used == before
    ask([whole], [5] * 300, slot=1)
    config = checkpoint.read(DEMO)
    cache = config.layers * 512 * checkpoint.kv_bytes(config, 4)
    assert helpers.GlobalCounters.mem_used >= before + cache
    whole.free(1)
    assert helpers.GlobalCounters.mem_used == before
    for slot in (0, 1):
        with pytest.raises(EngineFailed, match=f"of slot {slot}, which holds {3 - 3 * slot} "):
            whole.read(slot, 4 - slot, [6], wanted=True)
    np.testing.assert_array_equal(ask([whole], [7], slot=0, position=2), kept)
    whole.free(0)
    with pytest.raises(EngineFailed, match="of slot 0, which holds 0 "):
        whole.read(0, 1, [6], wanted=True)


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
    kept = logits.copy()
    assert np.abs(ask([whole], [9, 9]) - kept).max() > 1
    np.testing.assert_array_equal(logits, kept)


def test_bfloat16_weights_take_half_the_memory_of_what_they_are_computed_in(whole: Shard) -> None:
    places = checkpoint.tensors(DEMO)
    vectors = sum(place.bytes for place in places.values() if len(place.shape) == 1)
    assert whole.bytes == sum(place.bytes for place in places.values()) + vectors


@pytest.mark.usefixtures("few_steps")
def test_only_the_tensors_of_a_span_are_read(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, **SMALL, split=True)
    tokens = list(range(100, 130))
    expected = ask([in_numpy(tmp_path)], tokens)
    config, index = checkpoint.read(tmp_path), checkpoint.index(tmp_path)
    halves = []
    for start, end in ((0, 1), (1, 2)):
        part = tmp_path / f"{start}"
        part.mkdir()
        for file in ("config.json", "model.safetensors.index.json"):
            (part / file).hardlink_to(tmp_path / file)
        for file in checkpoint.files(index, Span(start, end), ends=start == 0, tied=config.tied):
            (part / file).hardlink_to(tmp_path / file)
        assert len(list(part.glob("*.safetensors"))) == 2 - start
        halves.append(opened(part, start, end))
    np.testing.assert_allclose(ask(halves, tokens), expected, rtol=0, atol=1e-4)
    with pytest.raises(EngineFailed, match=r"no file here holds model\.layers\.0\..*, nor 11 more"):
        opened(tmp_path / "1", 0, 2, ends=False)


@pytest.mark.usefixtures("few_steps")
def test_a_shard_without_the_ends_neither_embeds_nor_gives_logits(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, **SMALL)
    told: list[float] = []
    shard = opened(tmp_path, 1, 2, progress=told.append)
    with pytest.raises(EngineFailed, match="neither embedding nor output head"):
        shard.embed([1])
    with pytest.raises(EngineFailed, match="neither embedding nor output head"):
        shard.logits(np.zeros((1, 32), np.float32))
    assert told == sorted(told)
    assert 0 < told[0] < 0.2
    assert told[-1] == 1
    assert len(told) > 10


@pytest.mark.parametrize(
    ("position", "tokens", "reason"),
    [
        (0, [5] * 513, "a step from token 0 to 513 of slot 0, which holds .* of at most 512"),
        (600, [5], "a step from token 600 to"),
        (-1, [5], "a step from token -1 to"),
        (0, [], "a step from token 0 to 0"),
        (0, [5, 512], "token 512 is not in the vocabulary of 512"),
        (0, [-1, 5], "token -1 is not in the vocabulary of 512"),
    ],
)
def test_a_step_that_cannot_be_is_refused(
    whole: Shard, position: int, tokens: list[int], reason: str
) -> None:
    kept = ask([whole], [5, 6, 7])
    with pytest.raises(EngineFailed, match=reason):
        whole.read(0, position, tokens, wanted=True)
    np.testing.assert_array_equal(ask([whole], [7], position=2), kept)


@pytest.mark.parametrize("span", [(0, 7), (3, 3), (5, 4), (-1, 2)])
def test_layers_that_the_model_has_not_are_refused(span: tuple[int, int]) -> None:
    with pytest.raises(EngineFailed, match=r"it has layers 0-5, and .* are wanted"):
        opened(DEMO, *span, ends=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"intermediate_size": 47}, r"model\.safetensors: model\.layers\.0\..* by config\.json \(47, 32\)"),
        ({"model_type": "llama"}, r"model\.safetensors: it holds model\.layers\.0\..*\.bias, which"),
        ({"model_type": "qwen3"}, r"no file here holds model\.layers\.0\.self_attn\..*_norm\.weight"),
        ({"quantization": {"bits": 4, "group_size": 64}}, "quantized for MLX, .* use the mlx engine"),
        ({"model_type": "gpt2"}, "its architecture is 'gpt2'"),
    ],
)
def test_a_folder_that_is_not_what_its_config_says_is_refused(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    checkpoints.write(tmp_path, **SMALL)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(EngineFailed, match=reason) as raised:
        opened(tmp_path, 0, 2)
    assert str(tmp_path) in raised.value.message


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_refused_on_a_cpu(dtype: str) -> None:
    with pytest.raises(EngineFailed, match=f"on a CPU tinygrad computes in float32, not in {dtype}"):
        opened(DEMO, 0, 6, dtype=dtype)


def test_a_prompt_is_taken_apart_into_steps_that_hold_all_of_it() -> None:
    for tokens in range(1, 600):
        pieces = list(shards_of_tinygrad.pieces(tokens, shards_of_tinygrad._STEPS))
        read = 0
        for piece in pieces:
            assert piece.start == read
            assert 0 < piece.tokens <= piece.size
            read += piece.tokens
        assert read == tokens
        assert all(piece.tokens == piece.size for piece in pieces[:-1]), "padding would be attended to"


@pytest.mark.parametrize(("machine", "processor"), [("x86_64", "haswell"), ("aarch64", "cortex-a76")])
def test_machine_code_is_made_for_boards_too(machine: str, processor: str) -> None:
    program = """
    define void @add(float* noalias align 32 %out, float* noalias align 32 %in) #0 {
      %value = load float, float* %in
      %sum = fadd nsz arcp contract afn float %value, 0x3FF3333340000000
      store float %sum, float* %out
      ret void
    }
    attributes #0 = { alwaysinline nounwind "no-builtins" "no-trapping-math"="true" }
    """
    code = compiler.LlvmliteCompiler(machine, processor, "").compile(program)
    ret = {"x86_64": b"\xc3", "aarch64": b"\xc0\x03\x5f\xd6"}[machine]
    assert ret in code


@pytest.mark.parametrize("package", ["tinygrad", "llvmlite"])
def test_a_missing_package_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    assert tinygrad.unavailable() is None
    monkeypatch.setitem(sys.modules, package, None)
    reason = f"the package {package} is not installed; pip install 'exo-rkllama[tinygrad]'"
    assert tinygrad.unavailable() == reason
    with pytest.raises(EngineFailed) as raised:
        opened(DEMO, 0, 6)
    assert reason in raised.value.message


def test_another_release_and_another_machine_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("importlib.metadata.version", lambda package: "0.14.0")
        assert "tinygrad 0.14.0 is installed, and this engine is written for 0.13" in (
            tinygrad.unavailable() or ""
        )
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert "this machine is a riscv64" in (tinygrad.unavailable() or "")


def test_asking_whether_tinygrad_is_there_loads_nothing_of_it() -> None:
    program = (
        "import sys; from exo.engines import tinygrad; assert tinygrad.unavailable() is None;"
        "print([name for name in sys.modules if name.split('.')[0] in ('tinygrad', 'llvmlite', 'numpy')])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_what_was_compiled_is_kept_in_the_folder_that_is_told(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.engines.test_tinygrad import *;"
        f"shards_of_tinygrad._STEPS = ((1, 1),); opened(Path({str(tmp_path)!r}), 0, 1, ends=False, "
        f"cache=Path({str(tmp_path)!r}) / 'cache')"
    )
    checkpoints.write(tmp_path, **{**SMALL, "layers": 1})
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (tmp_path / "cache" / "tinygrad.db").stat().st_size > 0
