"""Reads a Hugging Face folder: what `config.json` says, which tensors are there, which of them a span needs.

One reader for every engine of layers, so that rotary settings, tied embeddings and sliding windows are told
apart in one place. Keys and defaults of config.json are those of transformers' configuration classes, as of
releases 4 and 5; tensors are in safetensors files (layout: u64 header length, a header in JSON, then the
data; github.com/huggingface/safetensors). Our own reader of headers, as that package brings numpy and cards
are made at start, on a small board.
"""

import math
import re
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec

from exo.cards import Span
from exo.errors import EngineFailed

Architecture: TypeAlias = Literal["qwen2", "qwen3", "llama"]

# By `model_type`: the architecture whose layout of layers it has.
_ARCHITECTURES: Mapping[str, Architecture] = {
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "llama": "llama",
    "mistral": "llama",
}
# By rope type: what it cannot be computed without.
_ROPE_SCALINGS: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
# As safetensors names them: what an engine widens to compute with.
_FLOATS = frozenset({"BF16", "F16", "F32"})
_INDEX = "model.safetensors.index.json"
# The limit of safetensors itself, in bytes.
_LONGEST_HEADER = 100_000_000
_LAYER = re.compile(r"model\.layers\.(\d+)\.")
_ENDS = ("model.embed_tokens.", "model.norm.")
_HEAD = "lm_head."
# Rotary frequencies, which some old files hold and every engine computes.
_COMPUTED = ".rotary_emb.inv_freq"


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A model's shape and settings. Widths are in numbers, `context` in tokens.

    `attention_bias` is of the projections to queries, keys and values, and in all but qwen2 of the output's
    too. `rope_scaling` is None or has "rope_type", "linear" or "llama3", and what this one needs. `dtype` is
    as the file names it ("bfloat16"), "" where it does not. `quantization` is mlx-lm's: "bits",
    "group_size", and possibly exceptions by the module's path. `raw` is all of config.json, with rope_theta,
    rope_scaling, head_dim, num_key_value_heads and tie_word_embeddings as they are here.
    """

    architecture: Architecture
    layers: int
    width: int
    intermediate: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    context: int
    rope_theta: float
    rope_scaling: Mapping[str, Any] | None
    norm_epsilon: float
    tied: bool
    attention_bias: bool
    qk_norm: bool
    dtype: str
    quantization: Mapping[str, Any] | None
    raw: Mapping[str, Any]


class Place(msgspec.Struct, frozen=True):
    """Where a tensor is: `bytes` of them at `offset` from the start of `file`, a name in the folder. `dtype`
    is as safetensors names it ("BF16")."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int


_Positive: TypeAlias = Annotated[int, msgspec.Meta(gt=0)]


class _Written(msgspec.Struct, kw_only=True):
    """config.json as transformers writes it, with the defaults of its classes."""

    hidden_size: _Positive
    intermediate_size: _Positive
    num_hidden_layers: _Positive
    num_attention_heads: _Positive
    num_key_value_heads: _Positive | None = None
    head_dim: _Positive | None = None
    vocab_size: _Positive
    max_position_embeddings: _Positive
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    partial_rotary_factor: float = 1.0
    rms_norm_eps: float = 1e-6
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    use_sliding_window: bool | None = None
    sliding_window: int | None = None
    max_window_layers: int = 0
    layer_types: list[str] | None = None
    dtype: str | None = None
    torch_dtype: str | None = None
    quantization: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None


class _Entry(msgspec.Struct):
    """A tensor in a safetensors header; its offsets are from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]
    metadata: dict[str, Any] | None = None


def read(folder: Path) -> Config:
    """What the folder's config.json says.

    Raises `EngineFailed` naming the file where it is missing or malformed, or says what no engine here
    computes: another architecture, sliding windows in use, another rope type, another activation, a
    quantization that is not mlx-lm's.
    """
    path = folder / "config.json"
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        kind = str(raw.get("model_type"))
        if kind not in _ARCHITECTURES:
            known = ", ".join(sorted(_ARCHITECTURES))
            raise ValueError(f"its architecture is '{kind}'; known are {known}")
        return _config(_ARCHITECTURES[kind], kind, msgspec.convert(raw, _Written), raw)
    except OSError as error:
        raise EngineFailed(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise EngineFailed(f"{path}: {error}") from error


def index(folder: Path) -> dict[str, str]:
    """Which file each tensor is in, by the folder's index; {} where it has none, being of one file.

    Raises `EngineFailed` where the index is malformed, or names a file outside the folder.
    """
    return _index(folder).weight_map


def total_bytes(folder: Path) -> int | None:
    """Those of all the model's tensors, by the folder's index; None where it does not say. Raises as `index`
    does."""
    total = (_index(folder).metadata or {}).get("total_size")
    return int(total) if isinstance(total, int | float) else None


def whole(folder: Path) -> bool:
    """Whether all files that the index names are here. Raises as `index` does."""
    return all((folder / name).is_file() for name in set(index(folder).values()))


def tensors(folder: Path) -> dict[str, Place]:
    """The tensors of the folder's safetensors files that are there, by name.

    With an index only the files that it names count, and a tensor counts where the index puts it. Raises
    `EngineFailed` where there is no such file, one is malformed or cut short, or two hold the same tensor.
    """
    by_index = index(folder)
    names = sorted(set(by_index.values())) or sorted(path.name for path in folder.glob("*.safetensors"))
    here = [name for name in names if (folder / name).is_file()]
    if not here:
        raise EngineFailed(f"{folder}: it has no .safetensors file; download the model's weights into it")
    found: dict[str, Place] = {}
    for file in here:
        for name, place in _header(folder / file).items():
            if by_index.get(name, file) != file:
                continue
            if name in found:
                raise EngineFailed(f"{folder}: both {found[name].file} and {file} hold the tensor {name}")
            found[name] = place
    return found


def needed(names: Iterable[str], span: Span, *, ends: bool, tied: bool) -> list[str]:
    """Those of a model's tensors that a shard computes with, in the given order.

    That is the layers in `span`, and with `ends` the embedding, the last norm and the output head, which is
    a tensor of its own unless it is `tied` to the embedding.
    """
    around = (*_ENDS, *(() if tied else (_HEAD,))) if ends else ()
    chosen = []
    for name in names:
        layer = _LAYER.match(name)
        inside = span.start <= int(layer[1]) < span.end if layer else name.startswith(around)
        if inside and not name.endswith(_COMPUTED):
            chosen.append(name)
    return chosen


def files(folder_index: Mapping[str, str], span: Span, *, ends: bool, tied: bool) -> list[str]:
    """Which files a shard needs, of `index`, sorted."""
    return sorted({folder_index[name] for name in needed(folder_index, span, ends=ends, tied=tied)})


def lacks(folder: Path, span: Span, *, ends: bool = False) -> bool:
    """Whether files with tensors of these layers are missing, or with `ends` of what is around all layers.
    Raises `EngineFailed` for a malformed index."""
    names = files(index(folder), span, ends=ends, tied=False)
    return not all((folder / name).is_file() for name in names)


def weight_bytes(config: Config, places: Iterable[Place], width: int | None) -> int:
    """What these tensors take in memory, computed with in floats of `width` bytes; None is as stored. A
    quantized model stays as it is."""
    if width is None or config.quantization:
        return sum(place.bytes for place in places)
    return sum(math.prod(place.shape) * width if place.dtype in _FLOATS else place.bytes for place in places)


def kv_bytes(config: Config, width_bytes: int) -> int:
    """What a token takes in one layer's KV cache, of numbers of `width_bytes` bytes each."""
    return 2 * config.kv_heads * config.head_width * width_bytes


def _index(folder: Path) -> _Index:
    path = folder / _INDEX
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Index)
    except FileNotFoundError:
        return _Index({})
    except (OSError, ValueError, RecursionError) as error:
        raise EngineFailed(f"{path}: not an index of tensors: {error}") from error
    for name in set(found.weight_map.values()):
        if name != Path(name).name or not name.endswith(".safetensors"):
            raise EngineFailed(f"{path}: it names '{name}', which is not a safetensors file of this folder")
    return found


def _config(architecture: Architecture, kind: str, written: _Written, raw: dict[str, Any]) -> Config:
    _refuse_what_no_engine_computes(kind, written)
    heads = written.num_attention_heads
    kv_heads = written.num_key_value_heads or heads
    head_width = written.head_dim or (128 if architecture == "qwen3" else written.hidden_size // heads)
    if heads % kv_heads or not head_width or head_width % 2:
        raise ValueError(f"{heads} heads, {kv_heads} for keys, of width {head_width} do not go together")
    theta, scaling = _rope(written)
    normalised: dict[str, Any] = {
        **{key: value for key, value in raw.items() if key not in ("rope_parameters", "quantization_config")},
        "model_type": architecture,
        "num_key_value_heads": kv_heads,
        "head_dim": head_width,
        "rope_theta": theta,
        "rope_scaling": scaling,
        "rms_norm_eps": written.rms_norm_eps,
        "tie_word_embeddings": written.tie_word_embeddings,
    }
    return Config(
        architecture=architecture,
        layers=written.num_hidden_layers,
        width=written.hidden_size,
        intermediate=written.intermediate_size,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        vocabulary=written.vocab_size,
        context=written.max_position_embeddings,
        rope_theta=theta,
        rope_scaling=scaling,
        norm_epsilon=written.rms_norm_eps,
        tied=written.tie_word_embeddings,
        attention_bias=architecture == "qwen2" or written.attention_bias,
        qk_norm=architecture == "qwen3",
        dtype=(written.dtype or written.torch_dtype or "").removeprefix("torch."),
        quantization=_quantization(written),
        raw=normalised,
    )


def _refuse_what_no_engine_computes(kind: str, written: _Written) -> None:
    if written.hidden_act != "silu":
        raise ValueError(f"its activation is '{written.hidden_act}'; 'silu' is known")
    if written.mlp_bias:
        raise ValueError("its feed-forward layers have biases, which no engine here computes")
    rotary = (written.rope_parameters or {}).get("partial_rotary_factor", written.partial_rotary_factor)
    if rotary != 1:
        raise ValueError(
            "its rotary embedding covers only a part of each head, which no engine here computes"
        )
    if window := _window(kind, written):
        raise ValueError(
            f"its attention slides over a window of {window} tokens, which no engine here computes; "
            f"use its GGUF file with llama.cpp"
        )


def _window(kind: str, written: _Written) -> int | None:
    """The width of a sliding window in use: one that is narrower than the context, in any layer."""
    if written.sliding_window is None or written.sliding_window >= written.max_position_embeddings:
        return None
    if written.layer_types is not None:
        used = "sliding_attention" in written.layer_types
    elif kind == "mistral":
        used = True
    else:
        used = bool(written.use_sliding_window) and written.max_window_layers < written.num_hidden_layers
    return written.sliding_window if used else None


def _rope(written: _Written) -> tuple[float, dict[str, Any] | None]:
    """Theta and scaling, the latter None or with "rope_type". transformers 5 writes both, and a type that
    may be "default", as `rope_parameters`; before it, the type's key was first "type"."""
    given = dict(written.rope_parameters or written.rope_scaling or {})
    theta = msgspec.convert(given.pop("rope_theta", written.rope_theta), float)
    kind = given.pop("rope_type", None) or given.get("type") or "default"
    given.pop("type", None)
    if kind == "default":
        return theta, None
    if kind not in _ROPE_SCALINGS:
        known = ", ".join(_ROPE_SCALINGS)
        raise ValueError(f"its rope type is '{kind}'; known are default, {known}")
    if missing := [key for key in _ROPE_SCALINGS[kind] if not isinstance(given.get(key), int | float)]:
        raise ValueError(f"its rope type '{kind}' needs {', '.join(missing)}, which is missing")
    return theta, {"rope_type": kind, **given}


def _quantization(written: _Written) -> dict[str, Any] | None:
    """mlx-lm writes the same twice; others write only `quantization_config`, and other tensors."""
    if written.quantization is None and written.quantization_config is not None:
        method = written.quantization_config.get("quant_method", "an unnamed method")
        raise ValueError(
            f"its weights are quantized by {method}, which no engine here reads; "
            f"use the unquantized model, or one quantized by mlx-lm"
        )
    for key in ("bits", "group_size"):
        if written.quantization is not None and not isinstance(written.quantization.get(key), int):
            raise ValueError(f"its quantization names no {key}")
    return written.quantization


def _header(path: Path) -> dict[str, Place]:
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(_LONGEST_HEADER, size - 8):
                raise ValueError(f"its header would be {length} bytes long")
            entries = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
        entries.pop("__metadata__", None)
        return {name: _place(path.name, 8 + length, size, entry) for name, entry in entries.items()}
    except (OSError, ValueError, struct.error, RecursionError) as error:
        raise EngineFailed(f"{path}: not a complete safetensors file: {error}") from error


def _place(file: str, data: int, size: int, entry: msgspec.Raw) -> Place:
    tensor = msgspec.json.decode(entry, type=_Entry)
    begin, end = tensor.data_offsets
    if not 0 <= begin <= end <= size - data:
        raise ValueError(f"it has {size} bytes, and a tensor at {data + begin} to {data + end}")
    return Place(file, tensor.dtype, tensor.shape, data + begin, end - begin)
