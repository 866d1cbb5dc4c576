"""A span of layers on tinygrad: its slots, its compiled steps, and how prompts are taken apart into them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tinygrad.dtype import DType, dtypes
from tinygrad.engine.jit import TinyJit
from tinygrad.tensor import Tensor
from tinygrad.uop.ops import UOp

from exo.cards import Span
from exo.engines.tinygrad import weights
from exo.engines.tinygrad.layers import Layers
from exo.errors import EngineFailed
from exo.shards.shard import Hidden, Logits
from exo.store.checkpoint import Config

# Tokens of a step, and from how many on it is taken, padded: below that, shorter steps are quicker.
_STEPS = ((128, 96), (16, 4), (1, 1))


_NO_ENDS = "this shard has neither embedding nor output head, as it was opened without the model's ends"


class Piece(NamedTuple):
    """So many `tokens` from `start` on, in a step of `size`."""

    start: int
    size: int
    tokens: int


def pieces(tokens: int, steps: Sequence[tuple[int, int]]) -> Iterator[Piece]:
    """Takes so many tokens apart into `steps`, each a size and from how many tokens on it is taken."""
    start = 0
    while start < tokens:
        left = tokens - start
        size = next(size for size, least in steps if left >= least)
        yield Piece(start, size, min(size, left))
        start += size


class _Program:
    """A function of rows of hidden states, and of what else it takes, compiled for `size` rows.

    Running it goes past TinyJit's own look at the arguments, which takes as long as a small model's step.
    """

    def __init__(
        self, width: int, size: int, function: Callable[..., Tensor], *others: Tensor | Sequence[Tensor] | UOp
    ) -> None:
        self._host = np.zeros((size, width), np.float32)
        self.rows = weights.put(self._host, (size, width), dtypes.float32)
        jit: TinyJit[Tensor] = TinyJit(function)
        # It would first run uncompiled to have all that it reads in memory, as all of it is here.
        jit.cnt = 1
        self.out = jit(self.rows, *others)
        assert jit.captured is not None
        self._captured = jit.captured

    def run(self, arguments: Sequence[UOp], values: Mapping[str, int]) -> None:
        """The arguments are buffers, the rows' first, of the shapes that it was compiled for."""
        self._captured(list(arguments), dict(values))

    def fill(self, hidden: Hidden) -> None:
        """Puts these rows into its own, and zeros behind them."""
        self._host[: len(hidden)] = hidden
        self._host[len(hidden) :] = 0
        weights.memory(self.rows).copyin(self._host.view(np.uint8).data)

    def result(self) -> NDArray[np.float32]:
        """What the last run gave, a row for each of the input's; a copy."""
        out = np.frombuffer(weights.memory(self.out).as_memoryview(), np.float32)
        return out.reshape(len(self._host), -1)

    def last(self) -> NDArray[np.float32]:
        """The last row of that."""
        row: NDArray[np.float32] = self.result()[-1]
        return row


class TinygradShard:
    """An `exo.shards.shard.Shard`. Making one compiles it."""

    def __init__(
        self,
        config: Config,
        span: Span,
        tensors: Mapping[str, Tensor],
        embedding: weights.Rows | None,
        *,
        dtype: DType,
        slots: int,
        context: int,
        progress: Callable[[float], None],
    ) -> None:
        self.width = config.width
        self.bytes = sum(int(tensor.nbytes()) for tensor in tensors.values())
        self._embedding, self._dtype, self._context = embedding, dtype, context
        # A step may be padded beyond the last token.
        reach = context + _STEPS[0][0]
        self._layers = Layers(config, span, tensors, dtype, reach)
        self._cache_shape = (len(span), 2, config.kv_heads, reach, config.head_width)
        # The compiled steps hold on to the first slot's caches, so these are never let go of.
        self._caches: dict[int, list[Tensor]] = {0: self._new_caches()}
        self._held = [0] * slots
        position = UOp.variable("position", 0, context - 1).bind(0)
        self._steps: dict[int, _Program] = {}
        for done, (size, _) in enumerate(_STEPS):
            self._steps[size] = _Program(self.width, size, self._advance, self._caches[0], position)
            progress((done + 1) / (len(_STEPS) + 1))
        self._head: _Program | None = None
        if embedding is not None:
            matrix = weights.EMBEDDING if config.tied else weights.HEAD
            self._head = _Program(self.width, 1, partial(self._read_out, matrix))
        progress(1.0)

    def embed(self, tokens: Sequence[int]) -> Hidden:
        if self._embedding is None:
            raise EngineFailed(_NO_ENDS)
        indices = np.array(tokens, np.int64)
        if unknown := indices[(indices < 0) | (indices >= len(self._embedding))].tolist():
            raise EngineFailed(f"token {unknown[0]} is not in the vocabulary of {len(self._embedding)}")
        return self._embedding[indices]

    def forward(self, slot: int, position: int, hidden: Hidden) -> Hidden:
        return np.concatenate([step.result()[:count] for step, count in self._run(slot, position, hidden)])

    def logits(self, hidden: Hidden) -> Logits:
        head = self._needed_head()
        head.fill(hidden[-1:])
        head.run([head.rows.uop.base], {})
        return head.last()

    def read(self, slot: int, position: int, tokens: Sequence[int], *, wanted: bool) -> Logits | None:
        *_, (step, count) = self._run(slot, position, self.embed(tokens))
        if not wanted:
            return None
        if count > 1:
            return self.logits(step.result()[:count])
        # A step of one token leaves its result where the head can read it.
        head = self._needed_head()
        head.run([step.out.uop.base], {})
        return head.last()

    def free(self, slot: int) -> None:
        self._held[slot] = 0
        if slot:
            self._caches.pop(slot, None)

    def _run(self, slot: int, position: int, hidden: Hidden) -> Iterator[tuple[_Program, int]]:
        """Yields after each step its program, which holds the result, and the tokens that were in it."""
        end = position + len(hidden)
        if not 0 <= position <= self._held[slot] or end > self._context or position == end:
            raise EngineFailed(
                f"a step from token {position} to {end} of slot {slot}, which holds {self._held[slot]} "
                f"of at most {self._context}"
            )
        if slot not in self._caches:
            self._caches[slot] = self._new_caches()
        caches = [cache.uop.base for cache in self._caches[slot]]
        self._held[slot] = position
        for start, size, count in pieces(len(hidden), _STEPS):
            step = self._steps[size]
            step.fill(hidden[start : start + count])
            step.run([step.rows.uop.base, *caches], {"position": position + start})
            yield step, count
        self._held[slot] = end

    def _needed_head(self) -> _Program:
        if self._head is None:
            raise EngineFailed(_NO_ENDS)
        return self._head

    def _read_out(self, matrix: str, rows: Tensor) -> Tensor:
        return self._layers.head(rows, matrix).realize()

    def _advance(self, rows: Tensor, caches: Sequence[Tensor], position: UOp) -> Tensor:
        # What comes from a tinygrad function has no buffer to be read until it is made contiguous.
        return self._layers(rows, caches, position).contiguous().realize()

    def _new_caches(self) -> list[Tensor]:
        layers, *shape = self._cache_shape
        return [weights.room(tuple(shape), self._dtype) for _ in range(layers)]
