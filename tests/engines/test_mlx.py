"""What only MLX does: quantized weights, types narrower than float32, its memory. What every engine of layers
has to do is in `test_layers`."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from exo.cards import Span
from exo.engines import mlx
from exo.errors import EngineFailed
from exo.store import checkpoint
from tests import checkpoints
from tests.engines import shards
from tests.engines.shards import DEMO, SMALL, ask, ids

opened = partial(shards.opened, mlx.open_shard)
chain = partial(shards.chain, mlx.open_shard)


def test_a_freed_slot_holds_nothing_and_gives_its_memory_back() -> None:
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


def test_a_shard_loads_neither_transformers_nor_torch() -> None:
    program = (
        "import sys; from tests.engines.test_mlx import DEMO, opened; opened(DEMO, 0, 2);"
        "print([name for name in sys.modules if name in ('transformers', 'torch', 'mlx_lm.generate')])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
