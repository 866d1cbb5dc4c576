"""The layers of Qwen 2, Qwen 3 and Llama in tinygrad, as `transformers` defines these models."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tinygrad.dtype import DType, dtypes
from tinygrad.function import function
from tinygrad.tensor import Tensor
from tinygrad.uop.ops import UOp

from exo.cards import Span
from exo.store.checkpoint import Config


class Layers:
    """A span's layers. Between them hidden states are float32; products of matrices are of `dtype`, added up
    in float32. `reach` is how many positions there are."""

    def __init__(
        self, config: Config, span: Span, weights: Mapping[str, Tensor], dtype: DType, reach: int
    ) -> None:
        self._config, self._span, self._weights, self._dtype = config, span, weights, dtype
        self._places = Tensor(np.arange(reach, dtype=np.int32)).realize()
        turns = np.arange(reach)[:, None] * rates(config)
        self._cos, self._sin = (
            Tensor(part.astype(np.float32)).realize() for part in (np.cos(turns), np.sin(turns))
        )

    def __call__(self, hidden: Tensor, caches: Sequence[Tensor], position: UOp) -> Tensor:
        """`hidden` of shape (tokens, width), from `position` on, through these layers.

        Each layer has a cache of shape (2, key-value heads, positions, head width): keys, values. What is
        there before `position` is attended to, and the keys and values of these tokens are put behind it.
        """
        for layer, cache in zip(range(self._span.start, self._span.end), caches, strict=True):
            # Layers that differ by their weights only are made ready and compiled once.
            run = function(partial(self._layer, layer, cache), precompile=True, allow_implicit=True)
            hidden = run(hidden, position)
        return hidden

    def _layer(self, layer: int, cache: Tensor, hidden: Tensor, position: UOp) -> Tensor:
        end = position + hidden.shape[0]
        turn = self._cos[position:end], self._sin[position:end]
        name = f"model.layers.{layer}"
        normed = self._norm(f"{name}.input_layernorm", hidden)
        hidden = (hidden + self._attend(f"{name}.self_attn", normed, cache, position, turn)).contiguous()
        normed = self._norm(f"{name}.post_attention_layernorm", hidden)
        gate = self._linear(f"{name}.mlp.gate_proj", normed).silu()
        inner = (gate * self._linear(f"{name}.mlp.up_proj", normed)).contiguous()
        return (hidden + self._linear(f"{name}.mlp.down_proj", inner)).contiguous()

    def head(self, hidden: Tensor, matrix: str) -> Tensor:
        """Logits of each row of what the last layer gave, from the output head of that name."""
        return self._product(self._norm("model.norm", hidden), matrix)

    def _norm(self, name: str, values: Tensor) -> Tensor:
        mean = values.square().mean(axis=-1, keepdim=True)
        normed = values * (mean + self._config.norm_epsilon).rsqrt() * self._weights[f"{name}.weight"]
        # What is read once for each row of a matrix is computed once before it.
        return normed.contiguous()

    def _product(self, values: Tensor, matrix: str) -> Tensor:
        weight = self._weights[matrix]
        return values.cast(self._dtype).dot(weight.cast(self._dtype).transpose(), dtype=dtypes.float32)

    def _linear(self, name: str, values: Tensor) -> Tensor:
        out = self._product(values, f"{name}.weight")
        bias = self._weights.get(f"{name}.bias")
        return out if bias is None else out + bias

    def _attend(
        self,
        name: str,
        normed: Tensor,
        cache: Tensor,
        position: UOp,
        turn: tuple[Tensor, Tensor],
    ) -> Tensor:
        config, count = self._config, normed.shape[0]
        end = position + count

        def heads(kind: str, many: int) -> Tensor:
            """Of shape (heads, tokens, head width)."""
            out = self._linear(f"{name}.{kind}_proj", normed)
            return out.reshape(count, many, config.head_width).transpose(0, 1)

        query, key, value = heads("q", config.heads), heads("k", config.kv_heads), heads("v", config.kv_heads)
        if config.qk_norm:
            query, key = self._norm(f"{name}.q_norm", query), self._norm(f"{name}.k_norm", key)
        query, key = rotated(query, turn), rotated(key, turn)
        # A graph may not change what it has read: the cache behind the store is another value than before it.
        store = cache[:, :, position:end].uop.store(Tensor.stack(key, value).cast(cache.dtype).uop)
        cache = Tensor(cache.uop.after(store))
        keys, values = cache[0, :, :end], cache[1, :, :end]
        # Neighbouring query heads share a head of keys.
        query = query.reshape(config.kv_heads, -1, count, config.head_width).cast(self._dtype)
        scores = query.dot(keys.unsqueeze(1).cast(self._dtype).transpose(-2, -1), dtype=dtypes.float32)
        scores = scores * (1 / math.sqrt(config.head_width))
        if count > 1:
            later = self._places[:end] > self._places[position:end].unsqueeze(-1)
            scores = later.where(-math.inf, scores)
        shares = scores.softmax(-1).cast(self._dtype)
        mixed = shares.dot(values.unsqueeze(1).cast(self._dtype), dtype=dtypes.float32)
        joined = (
            mixed.reshape(config.heads, count, config.head_width)
            .transpose(0, 1)
            .reshape(count, -1)
            .contiguous()
        )
        return self._linear(f"{name}.o_proj", joined)


def rotated(values: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Each number of the first half of a head turned together with its counterpart in the second."""
    cos, sin = turn
    first, second = values.chunk(2, dim=-1)
    return (first * cos - second * sin).cat(second * cos + first * sin, dim=-1)


def rates(config: Config) -> NDArray[np.float64]:
    """How fast each pair of a head's numbers turns, in radians per position; scaled as `transformers`'
    modeling_rope_utils does for "linear" and "llama3"."""
    pairs = np.arange(0, config.head_width, 2)
    plain: NDArray[np.float64] = config.rope_theta ** (-pairs / config.head_width)
    scaling: Mapping[str, Any] | None = config.rope_scaling
    if scaling is None:
        return plain
    slowed: NDArray[np.float64] = plain / scaling["factor"]
    if scaling["rope_type"] == "linear":
        return slowed
    # "llama3": what turns often within the context of its first training stays, what turns seldom is slowed.
    turns = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    share = np.clip((turns - low) / (high - low), 0, 1)
    mixed: NDArray[np.float64] = share * plain + (1 - share) * slowed
    return mixed
