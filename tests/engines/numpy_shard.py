"""Layers computed with numpy, in float32: what other engines of layers are compared with, and a test engine
that needs nothing installed. As `transformers` defines Qwen 2, Qwen 3 and Llama."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exo.cards import Dtype, Span
from exo.errors import EngineFailed
from exo.shards.shard import Hidden, Logits
from exo.store import checkpoint
from exo.store.checkpoint import Config, Place

Array = NDArray[np.float32]

# A process finds this package by it, and leaves the machine's cores to others.
ENVIRONMENT: Mapping[str, str] = {
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "OPENBLAS_NUM_THREADS": "1",
}


def unavailable() -> str | None:
    return None


class NumpyShard:
    def __init__(self, config: Config, weights: Mapping[str, Array], span: Span, slots: int, context: int):
        self.width = config.width
        self.bytes = sum(array.nbytes for array in weights.values())
        self._config, self._weights, self._span, self._context = config, weights, span, context
        self._rates = _rates(config)
        # Of each slot: keys and values, of shape (layers, 2, key-value heads, context, head width).
        self._caches: list[Array | None] = [None] * slots
        self._held = [0] * slots

    def embed(self, tokens: Sequence[int]) -> Hidden:
        rows: Hidden = self._weights["model.embed_tokens.weight"][np.array(tokens)]
        return rows

    def forward(self, slot: int, position: int, hidden: Hidden) -> Hidden:
        end = position + len(hidden)
        if position > self._held[slot] or end > self._context:
            raise EngineFailed(
                f"slot {slot} holds {self._held[slot]} of {self._context} tokens; there is no step from "
                f"{position} to {end}"
            )
        self._held[slot] = position
        config, cache = self._config, self._caches[slot]
        if cache is None:
            shape = (len(self._span), 2, config.kv_heads, self._context, config.head_width)
            cache = self._caches[slot] = np.zeros(shape, np.float32)
        turns = np.arange(position, end)[:, None] * self._rates
        cos, sin = np.cos(turns, dtype=np.float32), np.sin(turns, dtype=np.float32)
        for layer, of_layer in zip(range(self._span.start, self._span.end), cache, strict=True):
            hidden = hidden + self._attend(layer, of_layer, position, hidden, cos, sin)
            hidden = hidden + self._think(layer, hidden)
        self._held[slot] = end
        return hidden

    def logits(self, hidden: Hidden) -> Logits:
        head = "model.embed_tokens.weight" if self._config.tied else "lm_head.weight"
        return self._weights[head] @ self._norm("model.norm", hidden[-1])

    def read(self, slot: int, position: int, tokens: Sequence[int], *, wanted: bool) -> Logits | None:
        hidden = self.forward(slot, position, self.embed(tokens))
        return self.logits(hidden) if wanted else None

    def free(self, slot: int) -> None:
        self._caches[slot], self._held[slot] = None, 0

    def _attend(
        self, layer: int, cache: Array, position: int, hidden: Hidden, cos: Array, sin: Array
    ) -> Hidden:
        config, name = self._config, f"model.layers.{layer}.self_attn"
        count, end = len(hidden), position + len(hidden)
        normed = self._norm(f"model.layers.{layer}.input_layernorm", hidden)

        def heads(kind: str, many: int) -> Array:
            """Of shape (heads, tokens, head width)."""
            return self._linear(f"{name}.{kind}_proj", normed).reshape(count, many, -1).transpose(1, 0, 2)

        query, key = heads("q", config.heads), heads("k", config.kv_heads)
        if config.qk_norm:
            query, key = self._norm(f"{name}.q_norm", query), self._norm(f"{name}.k_norm", key)
        cache[0, :, position:end] = _rotated(key, cos, sin)
        cache[1, :, position:end] = heads("v", config.kv_heads)
        keys, values = cache[:, :, :end]
        # Neighbouring query heads share a head of keys.
        query = _rotated(query, cos, sin).reshape(config.kv_heads, -1, config.head_width)
        scores = query @ keys.transpose(0, 2, 1) / np.float32(config.head_width**0.5)
        if count > 1:
            later = np.arange(end) > np.arange(position, end)[:, None]
            scores += np.tile(
                np.where(later, np.float32(-np.inf), np.float32(0)), (scores.shape[1] // count, 1)
            )
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = scores / scores.sum(axis=-1, keepdims=True) @ values
        joined = mixed.reshape(config.heads, count, -1).transpose(1, 0, 2).reshape(count, -1)
        return self._linear(f"{name}.o_proj", joined)

    def _think(self, layer: int, hidden: Hidden) -> Hidden:
        name = f"model.layers.{layer}"
        normed = self._norm(f"{name}.post_attention_layernorm", hidden)
        gate = self._linear(f"{name}.mlp.gate_proj", normed)
        with np.errstate(over="ignore"):
            gate = gate / (1 + np.exp(-gate))
        return self._linear(f"{name}.mlp.down_proj", gate * self._linear(f"{name}.mlp.up_proj", normed))

    def _linear(self, name: str, values: Array) -> Array:
        out: Array = values @ self._weights[f"{name}.weight"].T
        bias = self._weights.get(f"{name}.bias")
        return out if bias is None else out + bias

    def _norm(self, name: str, values: Array) -> Array:
        mean = np.square(values).mean(axis=-1, keepdims=True)
        normed: Array = values / np.sqrt(mean + np.float32(self._config.norm_epsilon))
        return normed * self._weights[f"{name}.weight"]


def open_shard(
    folder: Path,
    span: Span,
    *,
    ends: bool,
    slots: int,
    context: int,
    dtype: Dtype,
    threads: int | None,
    progress: Callable[[float], None],
    cache: Path | None = None,
) -> NumpyShard:
    """An `exo.shards.shard.Opener`; it computes in float32 only."""
    if dtype not in ("auto", "float32"):
        raise EngineFailed(f"numpy layers compute in float32, not in {dtype}")
    config, places = checkpoint.read(folder), checkpoint.tensors(folder)
    if config.quantization is not None:
        raise EngineFailed(f"{folder}: numpy layers read no quantised weights")
    names = checkpoint.needed(places, span, ends=ends, tied=config.tied)
    weights = {}
    for done, name in enumerate(names, 1):
        weights[name] = _tensor(folder, places[name])
        progress(done / len(names))
    return NumpyShard(config, weights, span, slots, context)


def _tensor(folder: Path, place: Place) -> Array:
    kinds = {"BF16": np.uint16, "F16": np.float16, "F32": np.float32}
    if place.dtype not in kinds:
        raise EngineFailed(f"{folder / place.file}: numpy layers read no {place.dtype}")
    kind = np.dtype(kinds[place.dtype])
    count = place.bytes // kind.itemsize
    stored = np.fromfile(folder / place.file, kind, count, offset=place.offset).reshape(place.shape)
    if place.dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def _rates(config: Config) -> NDArray[np.float64]:
    """How fast each pair of a head's numbers turns, in radians per position."""
    if config.rope_scaling is not None:
        raise EngineFailed("numpy layers know no scaled rotary embeddings")
    pairs = np.arange(0, config.head_width, 2)
    rates: NDArray[np.float64] = config.rope_theta ** (-pairs / config.head_width)
    return rates


def _rotated(values: Array, cos: Array, sin: Array) -> Array:
    """Each number of the first half of a head turned together with its counterpart in the second."""
    first, second = np.split(values, 2, axis=-1)
    return np.concatenate((first * cos - second * sin, second * cos + first * sin), axis=-1)
