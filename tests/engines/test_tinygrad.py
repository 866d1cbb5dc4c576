"""What only tinygrad does: it compiles, for any machine, in steps of fixed sizes. What every engine of layers
has to do is in `test_layers`."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tinygrad import helpers

from exo.engines import tinygrad
from exo.engines.tinygrad import compiler, layers
from exo.engines.tinygrad import shard as shards_of_tinygrad
from exo.errors import EngineFailed
from exo.shards.shard import Shard
from exo.store import checkpoint
from tests import checkpoints
from tests.engines import shards
from tests.engines.shards import DEMO, LLAMA_3_SCALING, SMALL, ask

opened = partial(shards.opened, tinygrad.open_shard)

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def whole(compiled: Path) -> Shard:
    return opened(DEMO, 0, 6)


def test_rotary_scaling_is_that_of_transformers(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "plain", **SMALL)
    plain = layers.rates(checkpoint.read(tmp_path / "plain"))
    checkpoints.write(tmp_path / "scaled", **SMALL, config={"rope_scaling": LLAMA_3_SCALING})
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


def test_bfloat16_weights_take_half_the_memory_of_what_they_are_computed_in(whole: Shard) -> None:
    places = checkpoint.tensors(DEMO)
    vectors = sum(place.bytes for place in places.values() if len(place.shape) == 1)
    assert whole.bytes == sum(place.bytes for place in places.values()) + vectors


@pytest.mark.usefixtures("few_steps")
def test_a_shard_without_the_ends_neither_embeds_nor_gives_logits(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, **SMALL)
    told: list[float] = []
    shard = opened(tmp_path, 1, 2, progress=told.append)
    with pytest.raises(EngineFailed, match="neither embedding nor output head"):
        shard.embed([1])
    with pytest.raises(EngineFailed, match="neither embedding nor output head"):
        shard.logits(np.zeros((1, SMALL["width"]), np.float32))
    assert told == sorted(told)
    assert 0 < told[0] < 0.2
    assert told[-1] == 1
    assert len(told) > 10


def test_weights_that_are_quantized_for_mlx_are_refused(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, **SMALL)
    config = json.loads((tmp_path / "config.json").read_text())
    quantized = {"quantization": {"bits": 4, "group_size": 64}}
    (tmp_path / "config.json").write_text(json.dumps({**config, **quantized}))
    with pytest.raises(EngineFailed, match=r"quantized for MLX, .* use the mlx engine") as raised:
        opened(tmp_path, 0, 4)
    assert str(tmp_path) in raised.value.message


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ([], "a step from token 0 to 0"),
        ([5, 512], "token 512 is not in the vocabulary of 512"),
        ([-1, 5], "token -1 is not in the vocabulary of 512"),
    ],
)
def test_a_step_that_is_refused_at_once_leaves_all_that_its_slot_holds(
    whole: Shard, tokens: list[int], reason: str
) -> None:
    kept = ask([whole], [5, 6, 7])
    with pytest.raises(EngineFailed, match=reason):
        whole.read(0, 0, tokens, wanted=True)
    np.testing.assert_array_equal(ask([whole], [7], position=2), kept)


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


def test_another_release_and_another_machine_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("importlib.metadata.version", lambda package: "0.14.0")
        assert "tinygrad 0.14.0 is installed, and this engine is written for 0.13" in (
            tinygrad.unavailable() or ""
        )
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert "this machine is a riscv64" in (tinygrad.unavailable() or "")


def test_what_was_compiled_is_kept_in_the_folder_that_is_told(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from tests.engines.test_tinygrad import opened, shards_of_tinygrad;"
        f"shards_of_tinygrad._STEPS = ((1, 1),); opened(Path({str(tmp_path)!r}), 0, 1, ends=False, "
        f"cache=Path({str(tmp_path)!r}) / 'cache')"
    )
    checkpoints.write(tmp_path, **{**SMALL, "layers": 1})
    subprocess.run([sys.executable, "-c", program], check=True)
    assert (tmp_path / "cache" / "tinygrad.db").stat().st_size > 0
