"""Writes a Hugging Face folder with random weights of any size, to test and measure engines of layers with.

Weights are drawn so that hidden states stay near one and no token is foretold by itself alone, so that two
engines that compute something different say something different. About 100 million weights are `layers=12,
width=768, intermediate=3072, heads=12, kv_heads=12`.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exo.store import checkpoint
from exo.store.catalogue import BUNDLED
from exo.store.checkpoint import Architecture

_DEMO = BUNDLED / "exo-demo"
_VOCABULARY = 512
_NAMES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}
_CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def write(
    folder: Path,
    *,
    layers: int,
    width: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    seed: int = 0,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    architecture: Architecture = "qwen2",
    head_width: int | None = None,
    tied: bool = True,
    split: bool = False,
    context: int = 2048,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Makes `folder`, with the bundled model's tokenizer and chat template (512 tokens).

    The same arguments give the same bytes. With `split` each layer is in a file of its own and the rest in
    another one, with an index, as big models come. `config` has further keys of config.json, or other values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in _DEMO.iterdir():
        if file.suffix in (".json", ".jinja") and file.name != "config.json":
            shutil.copy(file, folder)
    settings = {
        "architectures": [_NAMES[architecture]],
        "model_type": architecture,
        "vocab_size": _VOCABULARY,
        "hidden_size": width,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_width or width // heads,
        "max_position_embeddings": context,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
        **(config or {}),
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2))
    tensors = dict(_tensors(settings, np.random.default_rng(seed)))
    if not split:
        save(folder / "model.safetensors", tensors, dtype)
        return
    index = {name: _file(name, layers) for name in tensors}
    for part in sorted(set(index.values())):
        save(folder / part, {name: tensors[name] for name in tensors if index[name] == part}, dtype)
    total = sum(place.bytes for place in checkpoint.tensors(folder).values())
    written = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(written))


def save(path: Path, tensors: Mapping[str, NDArray[np.float32]], dtype: str) -> None:
    """A safetensors file. Our own writer, as numpy has no bfloat16 to give to that package's."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        size = tensor.size * (4 if dtype == "float32" else 2)
        header[name] = {
            "dtype": _CODES[dtype],
            "shape": tensor.shape,
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    # Data begins at a multiple of 8, as that package's own writer has it.
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(_bytes(tensor, dtype))


def _file(name: str, layers: int) -> str:
    parts = name.split(".")
    part = int(parts[2]) + 1 if parts[1] == "layers" else 0
    return f"model-{part + 1:05}-of-{layers + 1:05}.safetensors"


def _tensors(
    settings: Mapping[str, Any], random: np.random.Generator
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    width, intermediate = settings["hidden_size"], settings["intermediate_size"]
    queries = settings["num_attention_heads"] * settings["head_dim"]
    keys = settings["num_key_value_heads"] * settings["head_dim"]
    kind = settings["model_type"]

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return random.standard_normal((rows, columns), dtype=np.float32) * np.float32(columns**-0.5)

    def vector(size: int, around: float) -> NDArray[np.float32]:
        return random.standard_normal(size, dtype=np.float32) * np.float32(0.1) + np.float32(around)

    yield "model.embed_tokens.weight", matrix(settings["vocab_size"], width)
    for layer in range(settings["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        yield f"{at}.input_layernorm.weight", vector(width, 1)
        yield f"{at}.post_attention_layernorm.weight", vector(width, 1)
        yield f"{at}.mlp.gate_proj.weight", matrix(intermediate, width)
        yield f"{at}.mlp.up_proj.weight", matrix(intermediate, width)
        yield f"{at}.mlp.down_proj.weight", matrix(width, intermediate)
        for name, size in (("q", queries), ("k", keys), ("v", keys)):
            yield f"{at}.self_attn.{name}_proj.weight", matrix(size, width)
            if kind == "qwen2":
                yield f"{at}.self_attn.{name}_proj.bias", vector(size, 0)
        yield f"{at}.self_attn.o_proj.weight", matrix(width, queries)
        if kind == "qwen3":
            yield f"{at}.self_attn.q_norm.weight", vector(settings["head_dim"], 1)
            yield f"{at}.self_attn.k_norm.weight", vector(settings["head_dim"], 1)
    yield "model.norm.weight", vector(width, 1)
    if not settings["tie_word_embeddings"]:
        yield "lm_head.weight", matrix(settings["vocab_size"], width)


def _bytes(tensor: NDArray[np.float32], dtype: str) -> bytes:
    if dtype != "bfloat16":
        return tensor.astype(np.dtype(dtype).newbyteorder("<")).tobytes()
    bits = tensor.view(np.uint32)
    # To the nearest, and of two that are equally near to the even one.
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()
