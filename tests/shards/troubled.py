"""A shard of no model, which adds one to every number and gets into trouble on request: at loading by its
folder's name, in a step by its position."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from exo.cards import Dtype, Span
from exo.errors import ContextLengthExceeded, EngineFailed
from exo.shards.shard import Hidden, Logits

ENVIRONMENT: Mapping[str, str] = {"PYTHONPATH": str(Path(__file__).parents[2]), "TROUBLED": "a little"}
WIDTH = 4
RAISES, REFUSES, HANGS, CRASHES, PRINTS = 101, 102, 103, 104, 105


def unavailable() -> str | None:
    return "it is always in trouble"


class Troubled:
    width = WIDTH
    bytes = 7

    def embed(self, tokens: Sequence[int]) -> Hidden:
        return np.repeat(np.array(tokens, np.float32)[:, None], WIDTH, axis=1)

    def forward(self, slot: int, position: int, hidden: Hidden) -> Hidden:
        if position == RAISES:
            raise ValueError("no such luck")
        if position == REFUSES:
            raise ContextLengthExceeded("it is too long", param="prompt")
        if position == HANGS:
            threading.Event().wait()
        if position == CRASHES:
            sys.stdout.write("about to crash")
            os.kill(os.getpid(), signal.SIGSEGV)
        if position == PRINTS:
            sys.stdout.write("100 %\r" * 100_000)
        return hidden + 1

    def logits(self, hidden: Hidden) -> Logits:
        row: Logits = hidden[-1]
        return row

    def read(self, slot: int, position: int, tokens: Sequence[int], *, wanted: bool) -> Logits | None:
        hidden = self.forward(slot, position, self.embed(tokens))
        return self.logits(hidden) if wanted else None

    def free(self, slot: int) -> None:
        if slot:
            raise KeyError(slot)


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
) -> Troubled:
    progress(0.5)
    if folder.name == "refused":
        raise EngineFailed(f"{folder}: is refused")
    if folder.name == "hangs":
        threading.Event().wait()
    if folder.name == "exits":
        sys.exit("exited for no reason")
    assert os.environ["TROUBLED"] == "a little"
    progress(1.0)
    return Troubled()
