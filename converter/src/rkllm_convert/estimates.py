"""What a conversion and its outcome take: memory, time and disk. All are estimates.

On the board: fitted to the vendor's figures (release 1.3.0), which they meet within a tenth or so, with a KV
cache of 16 bits for the context. On the machine that converts: from reports of others (45 s a layer of a
1.5B model on a CPU, about 1 s on a GPU; 72 minutes for 7B; more than 32 GB for 7B in float32). They may be
wrong by a factor of three, and could not be tried here.
"""

from __future__ import annotations

from dataclasses import dataclass

from rkllm_convert import figures
from rkllm_convert.source import Source
from rkllm_convert.table import LOAD_BYTES, base_dtype, group_size

# Bytes of a weight by its bits; what shares of a scale add with groups of 32 to 512.
_WEIGHT = {"w8": 1.0, "w4": 0.5}
_SCALE_BYTES = 4
# The runtime's buffers and the embeddings, which stay in 16 bits: 0.12 GB and a tenth of the weights.
_RUNTIME_BYTES = 120e6
_RUNTIME_SHARE = 0.05
# Of the load: the layer that is worked on, activations, Python and its libraries.
_LOAD_FACTOR, _LOAD_FIXED = 1.4, 3e9
_CPU_SECONDS, _GPU_SECONDS = 800.0, 30.0  # per 10^9 parameters
_ANSWER_SECONDS = 18.0  # of a calibration answer per 10^9 parameters on a CPU; a tenth of it on a GPU

BOARD_8_GB_MB = 6000
"""What models may take on a board with 8 GB where its owner says nothing: rkllama's three quarters."""
TIGHT_8_GB_MB = 7200
"""What fits with `rkllama --memory` set higher and nothing else running."""


@dataclass(frozen=True)
class Board:
    """On the board. `fits` is "yes", "tight" or "no", on one with 8 GB."""

    file_mb: int
    memory_mb: int
    basis: str
    speed: figures.Speed | None

    @property
    def fits(self) -> str:
        if self.memory_mb <= BOARD_8_GB_MB:
            return "yes"
        return "tight" if self.memory_mb <= TIGHT_8_GB_MB else "no"


@dataclass(frozen=True)
class Work:
    """On the machine that converts. Bytes and seconds."""

    memory: int
    disk: int
    seconds: float


def file_bytes(parameters: int, dtype: str) -> int:
    """The .rkllm file's size."""
    group = group_size(dtype)
    weight = _WEIGHT[dtype[:2]] + (_SCALE_BYTES / group if group else 0.0)
    return int(parameters * weight * (1 + _RUNTIME_SHARE))


def board(
    source: Source, platform: str, dtype: str, context: int, *, level: int = 0, hybrid_rate: float = 0.0
) -> Board:
    size = file_bytes(source.parameters, dtype)
    cache = source.kv_bytes * context
    own = figures.memory_mb(platform, base_dtype(dtype), source.name) if group_size(dtype) is None else None
    if own is not None:
        memory, basis = own + cache / 1e6, "vendor's figure, and a KV cache for the context"
    else:
        memory, basis = (size + _RUNTIME_BYTES + cache) / 1e6, "estimate"
    speed = figures.speed(platform, dtype, source.name, source.billions, level=level, hybrid_rate=hybrid_rate)
    return Board(round(size / 1e6), round(memory), basis, speed)


def work(source: Source, dtype: str, *, load_dtype: str, device: str, rows: int, fetched: bool) -> Work:
    """`rows` of calibration data are to be generated; unless `fetched`, the model is to be downloaded."""
    size = file_bytes(source.parameters, dtype)
    loaded = source.parameters * LOAD_BYTES[load_dtype]
    share = 0.1 if device == "cuda" else 1.0
    layer_seconds = _GPU_SECONDS if device == "cuda" else _CPU_SECONDS
    return Work(
        memory=int(loaded * _LOAD_FACTOR + size + _LOAD_FIXED),
        disk=size + (0 if fetched else source.bytes),
        seconds=source.billions * (layer_seconds + rows * _ANSWER_SECONDS * share),
    )
