"""What an engine of layers provides: a contiguous range of a model's layers, in memory, in this process.

A module of `exo.engines` for such an engine has `open_shard`, an `Opener`; `unavailable()`, why it cannot
run on this machine, or None; and `ENVIRONMENT`, variables that its process is started with.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from exo.cards import Dtype, Span

Hidden: TypeAlias = NDArray[np.float32]
"""Hidden states between two layers, of shape (tokens, width)."""
Logits: TypeAlias = NDArray[np.float32]
"""Of one token, of shape (vocabulary,)."""


class Shard(Protocol):
    """The layers of a span, with a KV cache for each of some slots. Used by one thread.

    With `ends` it has also what surrounds all layers: the embedding before the first one, and the norm and
    the output head behind the last. A step begins at `position` in its slot, which is at most what the slot
    holds; whatever the slot held from there on is forgotten. A step that raises leaves what was before it.
    """

    width: int
    bytes: int
    """Its weights in memory."""

    def embed(self, tokens: Sequence[int]) -> Hidden:
        """What the first layer reads. Only with `ends`."""
        ...

    def forward(self, slot: int, position: int, hidden: Hidden) -> Hidden:
        """Hidden states through these layers. The result is the caller's."""
        ...

    def logits(self, hidden: Hidden) -> Logits:
        """Of the last token of what the model's last layer gave. Only with `ends`."""
        ...

    def read(self, slot: int, position: int, tokens: Sequence[int], *, wanted: bool) -> Logits | None:
        """All three in one, where the span is the whole model: nothing need leave the device in between.
        The last token's logits, or None where they are not wanted."""
        ...

    def free(self, slot: int) -> None:
        """Lets go of what the slot holds, and of its memory as far as the library can."""
        ...


class Opener(Protocol):
    """`open_shard`. Loads the weights of `span` from `folder`, and of nothing else.

    `context` is in tokens, for each slot. `threads` is of the CPU, None for the library's choice. `cache` is
    a folder for what the library compiles, None for its own; it need not be there yet. `progress` is told
    from 0 to 1 how far loading and compiling have come. Raises `EngineFailed` naming file and reason.
    """

    def __call__(
        self,
        folder: Path,
        span: Span,
        *,
        ends: bool,
        slots: int,
        context: int,
        dtype: Dtype,
        threads: int | None,
        cache: Path | None,
        progress: Callable[[float], None],
    ) -> Shard: ...
