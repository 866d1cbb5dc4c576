import contextlib
import itertools
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from exo.cards import Span
from exo.errors import EngineFailed
from exo.store import checkpoint
from exo.store.catalogue import BUNDLED
from tests import checkpoints

DEMO = BUNDLED / "exo-demo"
SMALL: dict[str, Any] = {"layers": 3, "width": 16, "intermediate": 24, "heads": 2, "kv_heads": 1}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
LLAMA3 = {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0}
WHOLE_LLAMA3 = {**LLAMA3, "original_max_position_embeddings": 8192}


def config(folder: Path, **fields: Any) -> checkpoint.Config:
    (folder / "config.json").write_text(json.dumps({**LLAMA, **fields}))
    return checkpoint.read(folder)


def test_reads_what_the_bundled_model_is() -> None:
    read = checkpoint.read(DEMO)
    assert (read.architecture, read.layers, read.vocabulary, read.context) == ("qwen2", 6, 512, 2048)
    assert (read.width, read.intermediate, read.heads, read.kv_heads) == (128, 384, 4, 2)
    assert (read.head_width, read.rope_theta, read.rope_scaling) == (32, 10000.0, None)
    assert (read.norm_epsilon, read.tied, read.dtype) == (1e-6, True, "bfloat16")
    assert (read.attention_bias, read.qk_norm, read.quantization) == (True, False, None)


def test_a_token_takes_keys_and_values_of_every_head(tmp_path: Path) -> None:
    assert checkpoint.kv_bytes(checkpoint.read(DEMO), 2) == 2 * 2 * 32 * 2
    assert checkpoint.kv_bytes(config(tmp_path, num_key_value_heads=8), 4) == 2 * 8 * 64 * 4


def test_what_of_a_part_is_missing(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, **SMALL, split=True)
    assert checkpoint.whole(tmp_path)
    assert checkpoint.total_bytes(tmp_path) == sum(
        place.bytes for place in checkpoint.tensors(tmp_path).values()
    )
    ends, *layers = sorted(tmp_path.glob("*.safetensors"))
    layers[2].unlink()
    assert not checkpoint.whole(tmp_path)
    assert not checkpoint.lacks(tmp_path, Span(0, 2), ends=True)
    assert checkpoint.lacks(tmp_path, Span(1, 3))
    ends.unlink()
    assert not checkpoint.lacks(tmp_path, Span(0, 2))
    assert checkpoint.lacks(tmp_path, Span(0, 2), ends=True)
    assert checkpoint.whole(DEMO)
    assert checkpoint.total_bytes(DEMO) is None


@pytest.mark.parametrize("metadata", [{}, None, {"total_size": "large"}])
def test_an_index_need_not_say_how_large_all_is(tmp_path: Path, metadata: Any) -> None:
    written = {"metadata": metadata, "weight_map": {"x": "a.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(written))
    assert checkpoint.total_bytes(tmp_path) is None
    written["metadata"] = {"total_size": 16060522496.0}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(written))
    assert checkpoint.total_bytes(tmp_path) == 16060522496


def test_only_floats_are_widened_and_nothing_of_a_quantized_model(tmp_path: Path) -> None:
    places = [
        checkpoint.Place("", "BF16", (3, 4), 0, 24),
        checkpoint.Place("", "F32", (5,), 0, 20),
        checkpoint.Place("", "U32", (2, 2), 0, 16),
    ]
    plain = config(tmp_path)
    packed = config(tmp_path, quantization={"bits": 4, "group_size": 64})
    for width, bytes in ((None, 60), (2, 50), (4, 84)):
        assert checkpoint.weight_bytes(plain, places, width) == bytes
        assert checkpoint.weight_bytes(packed, places, width) == 60


def test_what_is_left_open_is_what_transformers_takes_for_it(tmp_path: Path) -> None:
    read = config(tmp_path)
    assert (read.kv_heads, read.head_width, read.rope_theta, read.norm_epsilon) == (32, 64, 10000.0, 1e-6)
    assert (read.tied, read.attention_bias, read.dtype) == (False, False, "")
    assert config(tmp_path, model_type="qwen3").head_width == 128
    assert config(tmp_path, model_type="qwen3").qk_norm
    assert config(tmp_path, model_type="qwen2").attention_bias
    assert config(tmp_path, model_type="mistral").architecture == "llama"
    assert config(tmp_path, torch_dtype="bfloat16").dtype == config(tmp_path, dtype="bfloat16").dtype
    assert config(tmp_path, torch_dtype="torch.float16").dtype == "float16"


@pytest.mark.parametrize(
    ("written", "theta", "scaling"),
    [
        ({}, 10000.0, None),
        ({"rope_theta": 500000}, 500000.0, None),
        ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "default"}}, 5e5, None),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, 5e5, None),
        (
            {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
            5e5,
            {"rope_type": "linear", "factor": 2.0},
        ),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **WHOLE_LLAMA3}},
            5e5,
            {"rope_type": "llama3", **WHOLE_LLAMA3},
        ),
        (
            {"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", **WHOLE_LLAMA3}},
            5e5,
            {"rope_type": "llama3", **WHOLE_LLAMA3},
        ),
    ],
    ids=str,
)
def test_rotary_settings_are_the_same_however_they_are_written(
    tmp_path: Path, written: dict[str, Any], theta: float, scaling: dict[str, Any] | None
) -> None:
    read = config(tmp_path, **written)
    assert (read.rope_theta, read.rope_scaling) == (theta, scaling)
    assert (read.raw["rope_theta"], read.raw["rope_scaling"]) == (theta, scaling)
    assert "rope_parameters" not in read.raw


def test_what_engines_read_of_the_raw_config_is_normalised(tmp_path: Path) -> None:
    raw = config(tmp_path, model_type="mistral", sliding_window=None, custom=[1]).raw
    assert raw["custom"] == [1]
    assert (raw["model_type"], raw["tie_word_embeddings"], raw["num_key_value_heads"]) == ("llama", False, 32)
    assert (raw["head_dim"], raw["rms_norm_eps"]) == (64, 1e-6)


def test_the_quantization_of_mlx_lm_is_kept_with_its_exceptions(tmp_path: Path) -> None:
    settings = {"bits": 4, "group_size": 64, "lm_head": {"bits": 6, "group_size": 64}}
    read = config(tmp_path, quantization=settings, quantization_config=settings)
    assert read.quantization == read.raw["quantization"] == settings


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ({"model_type": "gemma3"}, "architecture is 'gemma3'; known are llama, mistral, qwen2, qwen3"),
        ({"model_type": None}, "architecture is 'None'"),
        ({"hidden_act": "gelu"}, "activation is 'gelu'"),
        ({"mlp_bias": True}, "feed-forward layers have biases"),
        ({"partial_rotary_factor": 0.5}, "only a part of each head"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "only a part of each head"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            "rope type is 'yarn'; known are default, lin",
        ),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope type is 'dynamic'"),
        ({"rope_scaling": {"type": "linear"}}, "'linear' needs factor"),
        (
            {"rope_scaling": {"rope_type": "llama3", **LLAMA3}},
            "'llama3' needs original_max_position_embeddings",
        ),
        ({"rope_parameters": {"rope_theta": "x"}}, "Expected `float`, got `str`"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantized by awq"),
        ({"quantization": {"bits": 4}}, "quantization names no group_size"),
        ({"num_attention_heads": 0}, "Expected `int` >= 1"),
        ({"num_key_value_heads": 5}, "32 heads, 5 for keys"),
        ({"hidden_size": "wide"}, r"Expected `int`, got `str` - at `\$\.hidden_size`"),
        ({"model_type": "mistral", "sliding_window": 4096}, "slides over a window of 4096 tokens"),
        (
            {"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True},
            "slides over a window of 4096 tokens",
        ),
        (
            {"sliding_window": 4096, "layer_types": ["full_attention", "sliding_attention"]},
            "slides over a window of 4096 tokens",
        ),
    ],
    ids=str,
)
def test_what_no_engine_computes_is_refused_by_name(
    tmp_path: Path, written: dict[str, Any], reason: str
) -> None:
    with pytest.raises(EngineFailed, match=reason) as raised:
        config(tmp_path, **written)
    assert raised.value.message.startswith(f"{tmp_path / 'config.json'}: ")


@pytest.mark.parametrize(
    "written",
    [
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "mistral", "sliding_window": 131072},
        {"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False},
        {
            "model_type": "qwen2",
            "sliding_window": 4096,
            "use_sliding_window": True,
            "max_window_layers": 16,
        },
        {"model_type": "qwen3", "sliding_window": 4096, "layer_types": ["full_attention"] * 16},
    ],
    ids=str,
)
def test_a_sliding_window_that_is_not_in_use_is_no_obstacle(tmp_path: Path, written: dict[str, Any]) -> None:
    assert config(tmp_path, **written).context == 131072


@pytest.mark.parametrize(
    "text", [None, b"", b"[]", b"{", b'{"model_type": "llama"}', b"\xff", b'{"a":' * 99_999]
)
def test_a_missing_or_broken_config_is_named(tmp_path: Path, text: bytes | None) -> None:
    if text is not None:
        (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(EngineFailed, match=r"config\.json: "):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_are_where_the_makers_of_the_format_find_them(tmp_path: Path, dtype: Any) -> None:
    checkpoints.write(tmp_path, **SMALL, dtype=dtype)
    found = checkpoint.tensors(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    with safe_open(tmp_path / "model.safetensors", framework="np") as file:
        assert set(found) == set(file.keys())
        for name, place in found.items():
            assert list(place.shape) == file.get_slice(name).get_shape()
            assert place.dtype == file.get_slice(name).get_dtype()
            assert place.file == "model.safetensors"
            if dtype == "float32":
                stored = np.frombuffer(data, "<f4", place.bytes // 4, place.offset).reshape(place.shape)
                np.testing.assert_array_equal(stored, file.get_tensor(name))


def test_only_the_files_that_are_there_count(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "whole", **SMALL)
    checkpoints.write(tmp_path / "split", **SMALL, split=True)
    everything = checkpoint.tensors(tmp_path / "whole")
    index = checkpoint.index(tmp_path / "split")
    assert checkpoint.index(tmp_path / "whole") == {}
    assert set(index) == set(checkpoint.tensors(tmp_path / "split")) == set(everything)
    gone = index["model.layers.1.mlp.up_proj.weight"]
    (tmp_path / "split" / gone).unlink()
    assert set(checkpoint.tensors(tmp_path / "split")) == {
        name for name in everything if not name.startswith("model.layers.1.")
    }


def test_files_that_the_index_does_not_name_do_not_count(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, **SMALL, split=True)
    checkpoints.save(
        tmp_path / "consolidated.safetensors", {"norm.weight": np.zeros(4, np.float32)}, "float32"
    )
    assert "norm.weight" not in checkpoint.tensors(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert "norm.weight" in checkpoint.tensors(tmp_path)
    checkpoints.save(tmp_path / "other.safetensors", {"norm.weight": np.zeros(4, np.float32)}, "float32")
    with pytest.raises(EngineFailed, match=r"both consolidated\.safetensors and other\.safetensors hold"):
        checkpoint.tensors(tmp_path)


@pytest.mark.parametrize(
    "file", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "weights.bin", ""]
)
def test_an_index_leads_nowhere_else(tmp_path: Path, file: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"model.norm.weight": file}}))
    with pytest.raises(EngineFailed, match=r"index\.json: it names "):
        checkpoint.tensors(tmp_path)
    path.write_text(json.dumps({"weights": {}}))
    with pytest.raises(EngineFailed, match=r"index\.json: not an index of tensors"):
        checkpoint.index(tmp_path)


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=r"it has no \.safetensors file"):
        checkpoint.tensors(tmp_path)


@pytest.mark.parametrize("cut", [0, 7, 8, 100, 5000, -1])
def test_a_cut_file_is_a_named_failure(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes((DEMO / "model.safetensors").read_bytes()[:cut])
    with pytest.raises(EngineFailed, match=r"model\.safetensors: not a complete safetensors file"):
        checkpoint.tensors(tmp_path)


def test_a_header_nested_without_end_is_a_named_failure(tmp_path: Path) -> None:
    data = b'{"a":' * 99_999
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(data)) + data)
    with pytest.raises(EngineFailed, match=r"model\.safetensors: not a complete safetensors file"):
        checkpoint.tensors(tmp_path)


@given(st.binary(max_size=80), st.integers(0, 2**64 - 1) | st.integers(0, 80))
def test_any_bytes_are_tensors_or_a_named_failure(data: bytes, length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.safetensors").write_bytes(struct.pack("<Q", length) + data)
        with contextlib.suppress(EngineFailed):
            checkpoint.tensors(Path(folder))


NAMES = [
    "lm_head.weight",
    "model.embed_tokens.weight",
    *(f"model.layers.{layer}.{part}" for layer in (0, 1, 2, 10, 11) for part in ("mlp.up.weight", "q.bias")),
    "model.layers.1.self_attn.rotary_emb.inv_freq",
    "model.norm.weight",
    "vision.layers.1.weight",
]


@pytest.mark.parametrize(
    ("span", "ends", "tied", "wanted"),
    [
        (Span(1, 2), False, False, ["model.layers.1.mlp.up.weight", "model.layers.1.q.bias"]),
        (Span(10, 11), False, True, ["model.layers.10.mlp.up.weight", "model.layers.10.q.bias"]),
        (Span(5, 6), True, True, ["model.embed_tokens.weight", "model.norm.weight"]),
        (Span(5, 6), True, False, ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"]),
    ],
    ids=str,
)
def test_a_shard_needs_its_layers_and_the_first_one_what_surrounds_all(
    span: Span, ends: bool, tied: bool, wanted: list[str]
) -> None:
    assert checkpoint.needed(NAMES, span, ends=ends, tied=tied) == wanted


@given(st.lists(st.integers(1, 11), unique=True), st.booleans())
def test_shards_that_cover_a_model_need_every_tensor_once(cuts: list[int], tied: bool) -> None:
    ends = [0, *sorted(cuts), 12]
    spans = [Span(*pair) for pair in itertools.pairwise(ends)]
    found = [
        name for span in spans for name in checkpoint.needed(NAMES, span, ends=span.start == 0, tied=tied)
    ]
    unneeded = {name for name in NAMES if "vision" in name or "inv_freq" in name or (tied and "head" in name)}
    assert sorted(found) == sorted(set(NAMES) - unneeded)


def test_a_shard_needs_the_files_that_hold_its_tensors(tmp_path: Path) -> None:
    checkpoints.write(tmp_path, **SMALL, split=True)
    index = checkpoint.index(tmp_path)
    assert checkpoint.files(index, Span(1, 3), ends=False, tied=True) == [
        "model-00003-of-00004.safetensors",
        "model-00004-of-00004.safetensors",
    ]
    assert checkpoint.files(index, Span(0, 1), ends=True, tied=True) == [
        "model-00001-of-00004.safetensors",
        "model-00002-of-00004.safetensors",
    ]


def test_written_checkpoints_are_the_same_every_time(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        checkpoints.write(tmp_path / name, **SMALL, seed=seed)
    first, same, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert first == same != other
