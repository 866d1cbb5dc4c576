"""What the toolkit can do: one table of platforms, dtypes, algorithms, releases and Pythons.

Sources: the vendor's changelog and READMEs for releases, platforms, models and Pythons; its example scripts
for parameters. `max_context` and `dtype` first appear in the script of 1.2.0. The toolkit itself is not on
the package registry and could not be run here, so `doctor` compares the parameters with those of the
installed one. Pythons of 1.2.1 and 1.2.2 are taken to be those of 1.2.3.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Mapping, Sequence, Tuple

Release = Tuple[int, int, int]
Python = Tuple[int, int]

_W4_GROUPS = ("w4a16_g32", "w4a16_g64", "w4a16_g128")
_W8_GROUPS = ("w8a8_g128", "w8a8_g256", "w8a8_g512")


@dataclass(frozen=True)
class Platform:
    """A chip. `dtypes` begins with the fast one; `since` is the first toolkit for it."""

    name: str
    cores: int
    dtypes: tuple[str, ...]
    since: Release


@dataclass(frozen=True)
class Toolkit:
    """A release. `load` and `build` are the parameters of `load_huggingface` and `build`."""

    release: Release
    pythons: tuple[Python, ...]
    algorithms: tuple[str, ...]
    load: frozenset[str]
    build: frozenset[str]


PLATFORMS: Mapping[str, Platform] = {
    each.name: each
    for each in (
        Platform("rk3588", 3, ("w8a8", *_W8_GROUPS), (1, 1, 0)),
        Platform("rk3576", 2, ("w4a16", *_W4_GROUPS, "w8a8"), (1, 1, 0)),
        Platform("rk3562", 1, ("w8a8", *_W4_GROUPS, "w4a8_g32"), (1, 2, 0)),
        Platform("rv1126b", 1, ("w4a16", *_W4_GROUPS, "w8a8"), (1, 2, 1)),
    )
}

ALGORITHMS = ("normal", "gdq", "grq")
# Which compute for hours without a GPU, and are for 4-bit weights alone.
NEEDS_GPU = frozenset({"gdq", "grq"})
LOAD_DTYPES = ("float32", "float16", "bfloat16")
LOAD_BYTES: Mapping[str, int] = {"float32": 4, "float16": 2, "bfloat16": 2}
DEFAULT_CONTEXT = 4096
MOST_CONTEXT = 16384
CONTEXT_STEP = 32

_LOAD_1_1 = frozenset({"model", "model_lora", "device"})
_LOAD_1_2 = _LOAD_1_1 | {"dtype", "custom_config", "load_weight"}
_BUILD_1_1 = frozenset(
    {
        "do_quantization",
        "optimization_level",
        "quantized_dtype",
        "quantized_algorithm",
        "num_npu_core",
        "extra_qparams",
        "dataset",
        "hybrid_rate",
        "target_platform",
    }
)
_BUILD_1_2 = _BUILD_1_1 | {"max_context"}
_OLD = ((3, 8), (3, 10))
_NEW = ((3, 9), (3, 10), (3, 11), (3, 12))

TOOLKITS: tuple[Toolkit, ...] = (
    *(Toolkit((1, 1, patch), _OLD, ("normal", "gdq"), _LOAD_1_1, _BUILD_1_1) for patch in range(5)),
    Toolkit((1, 2, 0), ((3, 8), *_NEW), ALGORITHMS, _LOAD_1_2, _BUILD_1_2),
    *(Toolkit((1, 2, patch), _NEW, ALGORITHMS, _LOAD_1_2, _BUILD_1_2) for patch in (1, 2, 3)),
    Toolkit((1, 3, 0), _NEW, ("normal", "grq"), _LOAD_1_2, _BUILD_1_2),
)

ARCHITECTURES: Mapping[str, Release] = {
    "llama": (1, 0, 0),
    "qwen": (1, 0, 0),
    "qwen2": (1, 0, 0),
    "phi": (1, 0, 0),
    "phi3": (1, 0, 1),
    "gemma": (1, 0, 1),
    "chatglm": (1, 0, 1),
    "internlm2": (1, 0, 1),
    "minicpm": (1, 0, 1),
    "gemma2": (1, 1, 0),
    "minicpm3": (1, 1, 0),
    "gemma3": (1, 2, 0),
    "gemma3_text": (1, 2, 0),
    "qwen3": (1, 2, 1),
    "smollm3": (1, 3, 0),
    "qwen3_5": (1, 3, 0),
    "qwen3_5_text": (1, 3, 0),
    "gemma4": (1, 3, 0),
    "gemma4_text": (1, 3, 0),
}
"""The first toolkit for a `model_type` of config.json, by the vendor's changelog."""

GGUF_TYPES: Mapping[int, str] = {1: "fp16", 2: "q4_0"}
"""`general.file_type` of the GGUF files that `load_gguf` takes."""

GPTQ_SINCE: Release = (1, 2, 0)
"""The first toolkit for weights that are quantised already: GPTQ in 8 bits, and no others."""


def release_of(text: str) -> Release | None:
    """(1, 2, 1) of "1.2.1b1"; None for what is no version."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def toolkit(release: Release) -> Toolkit | None:
    return next((each for each in TOOLKITS if each.release == release), None)


def shown(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def base_dtype(dtype: str) -> str:
    """ "w8a8" of "w8a8_g128"."""
    return dtype.partition("_g")[0]


def group_size(dtype: str) -> int | None:
    """How many weights share a scale; None where a whole channel does."""
    group = dtype.partition("_g")[2]
    return int(group) if group else None


def nearest_dtype(platform: Platform, dtype: str) -> str:
    """What the platform has that is most like `dtype`: the same base and the nearest group, else weights of
    as many bits, else its fast one."""
    group = group_size(dtype) or 0
    alike = [each for each in platform.dtypes if base_dtype(each) == base_dtype(dtype)]
    bits = [each for each in platform.dtypes if each[:2] == dtype[:2]]
    found = alike or bits
    if not found:
        return platform.dtypes[0]
    return min(found, key=lambda each: abs((group_size(each) or 0) - group))


def mixes_with(platform: Platform, dtype: str) -> str | None:
    """What `hybrid_rate` mixes into `dtype`: groups into a plain one, the plain one into groups. None where
    the platform has no other half."""
    if group_size(dtype) is not None:
        return base_dtype(dtype) if base_dtype(dtype) in platform.dtypes else None
    return next((each for each in platform.dtypes if each.startswith(f"{dtype}_g")), None)


def closest(name: str, known: Sequence[str]) -> str:
    """The known name that was most likely meant."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return near[0]
