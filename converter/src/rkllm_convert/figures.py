"""How fast models are on the boards: the vendor's benchmark, and estimates from it for others.

The benchmark is of release 1.3.0, a prompt of 128 tokens and 64 new ones, optimisation level 0, all clocks at
their maximum. Those of RK3588 w8a8_g128 are of release 1.2.0. Decode reads all weights for every token, so
the speed of a model that is not in it is scaled from the one nearest in size.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rkllm_convert.table import base_dtype, group_size


@dataclass(frozen=True)
class Figure:
    """A line of the benchmark; `billions` of parameters. MB are 10^6 bytes."""

    platform: str
    dtype: str
    model: str
    billions: float
    ttft_ms: float
    tokens_per_second: float
    memory_mb: float


FIGURES = (
    Figure("rk3588", "w8a8", "Qwen2-0.5B", 0.494, 146, 41.58, 670),
    Figure("rk3588", "w8a8", "Qwen3-0.6B", 0.596, 199, 32.91, 791),
    Figure("rk3588", "w8a8", "TinyLlama-1.1B", 1.1, 244, 24.43, 1094),
    Figure("rk3588", "w8a8", "Qwen2.5-1.5B", 1.544, 378, 16.69, 1689),
    Figure("rk3588", "w8a8", "InternLM2-1.8B", 1.889, 380, 15.45, 1776),
    Figure("rk3588", "w8a8", "Gemma2-2B", 2.614, 598, 10.37, 2779),
    Figure("rk3588", "w8a8", "Phi-3-mini", 3.821, 1017, 7.45, 3758),
    Figure("rk3588", "w8a8", "MiniCPM3-4B", 4.074, 1408, 5.94, 4384),
    Figure("rk3588", "w8a8", "ChatGLM3-6B", 6.244, 1353, 4.98, 5986),
    Figure("rk3576", "w4a16", "Qwen2-0.5B", 0.494, 342, 32.56, 443),
    Figure("rk3576", "w4a16", "Qwen3-0.6B", 0.596, 469, 24.85, 513),
    Figure("rk3576", "w4a16", "TinyLlama-1.1B", 1.1, 544, 19.71, 601),
    Figure("rk3576", "w4a16", "InternLM2-1.8B", 1.889, 766, 13.55, 975),
    Figure("rk3576", "w4a16", "Phi-3-mini", 3.821, 1829, 6.58, 1996),
    Figure("rk3576", "w4a16", "MiniCPM3-4B", 4.074, 2537, 4.87, 2380),
    Figure("rk3576", "w4a16", "ChatGLM3-6B", 6.244, 2167, 4.63, 3023),
    Figure("rk3576", "w8a8", "Qwen2-0.5B", 0.494, 344, 21.73, 678),
    Figure("rk3576", "w8a8", "Phi-3-mini", 3.821, 1616, 3.74, 3767),
    Figure("rk3562", "w8a8", "Qwen2-0.5B", 0.494, 641, 13.56, 648),
    Figure("rk3562", "w8a8", "Qwen3-0.6B", 0.596, 882, 10.94, 773),
    Figure("rv1126b", "w4a16", "Qwen2-0.5B", 0.494, 657, 20.91, 411),
    Figure("rv1126b", "w4a16", "Qwen3-0.6B", 0.596, 956, 15.04, 489),
    Figure("rv1126b", "w8a8", "Qwen2-0.5B", 0.494, 651, 13.63, 646),
    Figure("rv1126b", "w8a8", "Qwen3-0.6B", 0.596, 944, 10.22, 773),
)

# What is left of the speed with groups: Qwen2-1.5B on RK3588 (7.00 of 16.46 tokens/s), Phi-3 and InternLM2 on
# RK3576, Qwen2-0.5B on RV1126B. RK3562 has no plain w4a16 to compare with.
_GROUPED = {"rk3588": 7.00 / 16.46, "rk3576": 0.90, "rv1126b": 0.85}
# The vendor has all models converted with level 0 "to enable optimized runtime performance"; the one that was
# measured with level 1, on RK3588, was as slow as with groups.
_LEVEL_1 = 7.00 / 16.46


# Beyond these sizes nothing was measured, and smaller models are not bound by memory.
_LEAST_BILLIONS, _MOST_BILLIONS = 0.3, 12.0


@dataclass(frozen=True)
class Speed:
    """Tokens/s while answering, and where that is from."""

    tokens_per_second: float
    basis: str
    measured: bool


def speed(
    platform: str, dtype: str, name: str, billions: float, *, level: int = 0, hybrid_rate: float = 0.0
) -> Speed | None:
    """What to expect; None for a board and dtype the vendor has no figure for, and for sizes far from
    its models'."""
    rows = [each for each in FIGURES if (each.platform, each.dtype) == (platform, base_dtype(dtype))]
    if not rows or not _LEAST_BILLIONS <= billions <= _MOST_BILLIONS:
        return None
    own = next((each for each in rows if _same(each.model, name)), None)
    row = own or min(rows, key=lambda each: abs(each.billions - billions))
    rate = row.tokens_per_second * (1.0 if own else row.billions / billions)
    grouped = _GROUPED.get(platform)
    share = hybrid_rate if group_size(dtype) is None else 1.0 - hybrid_rate
    if share and grouped is None:
        return None
    # Times add up, not speeds.
    rate /= 1.0 + share * (1.0 / (grouped or 1.0) - 1.0)
    if level and group_size(dtype) is None and platform == "rk3588":
        rate = min(rate, rate * _LEVEL_1)
    measured = own is not None and not share and not level
    basis = f"vendor's figure for {row.model}" if measured else f"estimate from {row.model}"
    return Speed(round(rate, 2), basis, measured)


def memory_mb(platform: str, dtype: str, name: str) -> float | None:
    """The vendor's memory for this very model; None where it has none."""
    rows = (each for each in FIGURES if (each.platform, each.dtype) == (platform, dtype))
    return next((each.memory_mb for each in rows if _same(each.model, name)), None)


def _same(model: str, name: str) -> bool:
    """Whether a name is of that model: "Qwen2.5-1.5B-Instruct" is, a finetune by another maker is of its
    size only."""
    squashed = re.sub(r"[^a-z0-9.]", "", name.rpartition("/")[2].lower())
    return squashed.startswith(re.sub(r"[^a-z0-9.]", "", model.lower()))
