"""Which device tinygrad computes on here, and in which types."""

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tinygrad import helpers
from tinygrad.device import Device
from tinygrad.dtype import DType, dtypes
from tinygrad.helpers import DEV
from tinygrad.tensor import Tensor

from exo.cards import Dtype
from exo.engines.tinygrad import compiler
from exo.errors import EngineFailed

log = logging.getLogger(__name__)

# By `sys.platform`: tinygrad's names of the GPUs to be tried, and what is there where the system has one.
_GPUS: Mapping[str, Mapping[str, str]] = {
    "darwin": {"METAL": "/System/Library/Frameworks/Metal.framework"},
    "linux": {"CUDA": "/dev/nvidiactl", "AMD": "/dev/kfd"},
}
_CPU = "CPU"


def use(threads: int | None, cache: Path | None) -> str:
    """Has this process compute on the device that tinygrad's variable DEV names, or else on a GPU that works,
    or else on the CPU, there with so many `threads`, and keep what is compiled in the folder `cache`. Returns
    the device's name.

    Raises `EngineFailed` where the one that DEV names does not work.
    """
    # It would keep the memory of slots that were freed.
    helpers.LRU.value = 0
    if cache is not None:
        # Read when its database is opened first.
        helpers.CACHEDB = str(cache / "tinygrad.db")
    if DEV.device not in ("", _CPU):
        if reason := _broken(DEV.device):
            raise EngineFailed(f"DEV={DEV}: tinygrad cannot use it: {reason}")
    elif not DEV.device:
        for name, sign in _GPUS.get(sys.platform, {}).items():
            if not Path(sign).exists():
                continue
            if reason := _broken(name):
                log.warning("tinygrad cannot use the GPU as %s and leaves it alone: %s", name, reason)
                continue
            DEV.value = name
            break
    if DEV.device in ("", _CPU) and DEV.renderer in ("", compiler.RENDERER):
        compiler.use_llvmlite(threads)
    return Device.DEFAULT


def types(device: str, wanted: Dtype, stored: str) -> tuple[Callable[[DType], DType], DType]:
    """What a matrix stored as some type is kept as, and what products of matrices are computed in.

    `stored` is what config.json says the weights are. Raises `EngineFailed` for what the device cannot do.
    """
    if device == _CPU:
        if wanted not in ("auto", "float32"):
            raise EngineFailed(f"on a CPU tinygrad computes in float32, not in {wanted}; leave it at auto")
        # Half precision is emulated by tinygrad there.
        return lambda dtype: dtype if dtype == dtypes.bfloat16 else dtypes.float32, dtypes.float32
    known = {"float32": dtypes.float32, "float16": dtypes.float16, "bfloat16": dtypes.bfloat16}
    computed = known.get(stored if wanted == "auto" else wanted, dtypes.float32)
    if computed not in Device[device].renderer.supported_dtypes():
        if wanted != "auto":
            raise EngineFailed(f"tinygrad computes no {wanted} on {device}; leave it at auto")
        computed = dtypes.float32
    return lambda dtype: computed, computed


def _broken(device: str) -> str | None:
    """Why nothing can be computed there: no driver, no compiler, no permission. Whatever tinygrad raises."""
    try:
        (Tensor([1.0], device=device) + 1).tolist()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
