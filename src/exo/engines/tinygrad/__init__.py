"""Layers of safetensors models on tinygrad: any CPU, and GPUs that MLX does not know.

Theory of operation. tinygrad compiles what it is shown, for fixed shapes, and replays it. So a few lengths of
steps are compiled when a shard is opened, one token among them, with the position left open, and a prompt is
taken apart into steps of these lengths. All layers differ by their weights only and share one program. On a
CPU, tinygrad's LLVM code goes through llvmlite (`compiler`), as boards have neither clang nor libLLVM.

Where numbers are: on a CPU everything is computed in float32, and bfloat16 weights stay as they are stored,
since widening them is a shift; so they take half the memory and give the same numbers. The embedding is read
from the file, row by row, and is in the device's memory only where it serves as output head, too.

Written for tinygrad 0.13: its compiled programs are called and its compilers replaced by inner interfaces of
that release. tinygrad reads the variable DEV ("CUDA", "METAL", "CPU"); without it, a GPU is taken where
there is one, and the CPU otherwise. Not verified, for want of the hardware: any GPU, and macOS.
"""

import importlib.metadata
import importlib.util
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from exo.cards import Dtype, Span
from exo.errors import EngineFailed
from exo.store import checkpoint

if TYPE_CHECKING:
    from exo.shards.shard import Shard

MACHINES: Mapping[str, str] = {
    "x86_64": "x86_64",
    "amd64": "x86_64",
    "aarch64": "aarch64",
    "arm64": "aarch64",
}
"""By `platform.machine()`, in lower case: LLVM's name for it."""
ENVIRONMENT: Mapping[str, str] = {}
"""What tinygrad has to be told is told in its process."""

# Below this size a second thread costs more in hand-overs than it computes.
_ONE_THREAD_BYTES = 64 << 20
_RELEASE = "0.13."
_INSTALL = "pip install 'exo-rkllama[tinygrad]'"


def unavailable() -> str | None:
    for package in ("tinygrad", "llvmlite", "numpy"):
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed; {_INSTALL}"
    release = importlib.metadata.version("tinygrad")
    if not release.startswith(_RELEASE):
        return f"tinygrad {release} is installed, and this engine is written for {_RELEASE}x; {_INSTALL}"
    if platform.machine().lower() not in MACHINES:
        known = ", ".join(MACHINES)
        return f"this machine is a {platform.machine()}, and tinygrad's layers are compiled for {known}"
    return None


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
) -> "Shard":
    """An `exo.shards.shard.Opener`. `cache` is the folder for what tinygrad compiled, by default its own.

    Raises `EngineFailed` also for weights quantized for MLX, and for a `dtype` that the device does not
    compute in: on a CPU that is float32.
    """
    config = checkpoint.read(folder)
    if not 0 <= span.start < span.end <= config.layers:
        raise EngineFailed(f"{folder}: it has layers 0-{config.layers - 1}, and {span} are wanted")
    if config.quantization is not None:
        raise EngineFailed(
            f"{folder}: its weights are quantized for MLX, which tinygrad does not read; "
            f"use the mlx engine, or the model's folder that is not quantized"
        )
    if reason := unavailable():
        raise EngineFailed(f"tinygrad cannot run here: {reason}")
    from exo.engines.tinygrad import devices, weights
    from exo.engines.tinygrad.shard import TinygradShard

    places = weights.places(folder, config, span, ends=ends)
    if threads is None and sum(place.bytes for place in places.values()) < _ONE_THREAD_BYTES:
        threads = 1
    device = devices.use(threads, cache)
    kept, computed = devices.types(device, dtype, config.dtype)
    # Where the head is a matrix of its own, the embedding need not be on the device.
    loaded = {name: place for name, place in places.items() if name != weights.EMBEDDING or config.tied}
    tensors = weights.load(folder, loaded, kept, lambda done: progress(done / 2))
    return TinygradShard(
        config,
        span,
        tensors,
        weights.Rows(folder, places[weights.EMBEDDING]) if ends else None,
        dtype=computed,
        slots=slots,
        context=context,
        progress=lambda done: progress((1 + done) / 2),
    )
