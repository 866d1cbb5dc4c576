"""Weights from safetensors files to a device, and which of them there have to be."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tinygrad.device import Buffer
from tinygrad.dtype import DType, dtypes
from tinygrad.tensor import Tensor

from exo.cards import Span
from exo.errors import EngineFailed
from exo.store import checkpoint
from exo.store.checkpoint import Config, Place

_STORED: Mapping[str, tuple[DType, type[np.generic]]] = {
    "BF16": (dtypes.bfloat16, np.uint16),
    "F16": (dtypes.float16, np.float16),
    "F32": (dtypes.float32, np.float32),
}
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def shapes(config: Config, span: Span, *, ends: bool) -> dict[str, tuple[int, ...]]:
    """The tensors a shard computes with, by name."""
    width, inner, head = config.width, config.intermediate, config.head_width
    query, key = config.heads * head, config.kv_heads * head
    found: dict[str, tuple[int, ...]] = {}
    for layer in range(span.start, span.end):
        name = f"model.layers.{layer}"
        for part, (out, into) in {
            "self_attn.q_proj": (query, width),
            "self_attn.k_proj": (key, width),
            "self_attn.v_proj": (key, width),
            "self_attn.o_proj": (width, query),
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
        }.items():
            found[f"{name}.{part}.weight"] = (out, into)
            # Qwen 2 has none at the output, and does not say so in its config.json.
            plain = config.architecture == "qwen2" and part == "self_attn.o_proj"
            if config.attention_bias and part.startswith("self_attn.") and not plain:
                found[f"{name}.{part}.bias"] = (out,)
        found |= {f"{name}.{norm}_layernorm.weight": (width,) for norm in ("input", "post_attention")}
        if config.qk_norm:
            found |= {f"{name}.self_attn.{norm}_norm.weight": (head,) for norm in "qk"}
    if ends:
        found |= {EMBEDDING: (config.vocabulary, width), "model.norm.weight": (width,)}
        if not config.tied:
            found[HEAD] = (config.vocabulary, width)
    return found


def places(folder: Path, config: Config, span: Span, *, ends: bool) -> dict[str, Place]:
    """Where those tensors are. Raises `EngineFailed` where the folder has other ones, or of other shapes."""
    here, wanted = checkpoint.tensors(folder), shapes(config, span, ends=ends)
    held = set(checkpoint.needed(here, span, ends=ends, tied=config.tied))
    if missing := sorted(wanted.keys() - held):
        more = f", nor {len(missing) - 1} more that layers {span} need" if len(missing) > 1 else ""
        raise EngineFailed(f"{folder}: no file here holds {missing[0]}{more}; download the model again")
    if unknown := sorted(held - wanted.keys()):
        raise EngineFailed(
            f"{folder / here[unknown[0]].file}: it holds {unknown[0]}, which no layer of a "
            f"{config.architecture} model computes with"
        )
    for name, shape in wanted.items():
        place = here[name]
        if place.shape != shape:
            raise EngineFailed(
                f"{folder / place.file}: {name} has the shape {place.shape}, by config.json {shape}"
            )
        if place.dtype not in _STORED:
            known = ", ".join(_STORED)
            raise EngineFailed(f"{folder / place.file}: {name} is {place.dtype}; known are {known}")
    return {name: here[name] for name in wanted}


def load(
    folder: Path,
    places: Mapping[str, Place],
    keep: Callable[[DType], DType],
    progress: Callable[[float], None],
) -> dict[str, Tensor]:
    """The tensors on tinygrad's device: matrices as the type that `keep` says for the stored one, all else,
    which is small, as float32."""
    total, done, tensors = sum(place.bytes for place in places.values()), 0, {}
    for name, place in places.items():
        stored, kind = _STORED[place.dtype]
        held = keep(stored) if len(place.shape) > 1 else dtypes.float32
        count = place.bytes // np.dtype(kind).itemsize
        try:
            array = np.fromfile(folder / place.file, kind, count, offset=place.offset)
        except OSError as error:
            raise EngineFailed(f"{folder / place.file}: cannot be read: {error.strerror}") from error
        if held == stored:
            tensors[name] = put(array, place.shape, held)
        else:
            tensor = put(wide(array), place.shape, dtypes.float32)
            tensors[name] = tensor if held == dtypes.float32 else tensor.cast(held).realize()
        done += place.bytes
        progress(done / total)
    return tensors


def put(array: NDArray[Any], shape: tuple[int, ...], dtype: DType) -> Tensor:
    """The array's bytes as a tensor on tinygrad's device."""
    tensor = room(shape, dtype)
    memory(tensor).copyin(array.view(np.uint8).data)
    return tensor


def room(shape: tuple[int, ...], dtype: DType) -> Tensor:
    """Memory on tinygrad's device, with anything in it."""
    tensor = Tensor.empty(*shape, dtype=dtype)
    memory(tensor).ensure_allocated()
    return tensor


def memory(tensor: Tensor) -> Buffer:
    """Where the tensor's numbers are, all of them and no others."""
    buffer = tensor.uop.base.buffer
    assert isinstance(buffer, Buffer), "there is one device"
    return buffer


def wide(array: NDArray[Any]) -> NDArray[np.float32]:
    """As float32; what is uint16 is bfloat16, the upper half of one."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


class Rows:
    """A matrix in a file, of which rows are read."""

    def __init__(self, folder: Path, place: Place) -> None:
        _, kind = _STORED[place.dtype]
        self._rows = np.memmap(folder / place.file, kind, "r", place.offset, place.shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        return wide(np.asarray(self._rows[indices]))
