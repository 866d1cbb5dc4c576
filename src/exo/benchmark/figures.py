"""What the hardware can do: the vendor's figures, and what memory allows.

The speeds are the vendor's benchmark of release 1.3.0, for a prompt of 128 tokens and 64 new ones. Which
memory the boards had is not known.
"""

import re

import msgspec

SOURCE = "vendor's benchmark of release 1.3.0"


class Figure(msgspec.Struct, frozen=True):
    """One line of the vendor's benchmark. `ttft_ms` is for a prompt of `PROMPT_TOKENS`."""

    platform: str
    model: str
    dtype: str
    ttft_ms: int
    tokens_per_second: float
    memory_mb: int

    @property
    def prefill_tokens_per_second(self) -> float:
        return PROMPT_TOKENS / self.ttft_ms * 1000


PROMPT_TOKENS = 128
NEW_TOKENS = 64

FIGURES = (
    Figure("rk3588", "Qwen2-0.5B", "w8a8", 146, 41.58, 670),
    Figure("rk3588", "Qwen3-0.6B", "w8a8", 199, 32.91, 791),
    Figure("rk3588", "TinyLlama-1.1B", "w8a8", 244, 24.43, 1094),
    Figure("rk3588", "Qwen2.5-1.5B", "w8a8", 378, 16.69, 1689),
    Figure("rk3588", "InternLM2-1.8B", "w8a8", 380, 15.45, 1776),
    Figure("rk3588", "Gemma2-2B", "w8a8", 598, 10.37, 2779),
    Figure("rk3588", "Phi3-3.8B", "w8a8", 1017, 7.45, 3758),
    Figure("rk3588", "MiniCPM3-4B", "w8a8", 1408, 5.94, 4384),
    Figure("rk3588", "ChatGLM3-6B", "w8a8", 1353, 4.98, 5986),
    Figure("rk3588", "Qwen3-VL-2B", "w8a8", 384, 14.98, 1869),
    Figure("rk3588", "Qwen3.5-0.8B", "w8a8", 588, 27.05, 1040),
    Figure("rk3588", "Qwen3.5-2B", "w8a8", 777, 13.59, 2122),
    Figure("rk3588", "Qwen3.5-4B", "w8a8", 2069, 6.22, 4576),
    Figure("rk3576", "Qwen2-0.5B", "w4a16", 342, 32.56, 443),
    Figure("rk3576", "Qwen3-0.6B", "w4a16", 469, 24.85, 513),
    Figure("rk3576", "TinyLlama-1.1B", "w4a16", 544, 19.71, 601),
    Figure("rk3576", "InternLM2-1.8B", "w4a16", 766, 13.55, 975),
    Figure("rk3576", "Phi3-3.8B", "w4a16", 1829, 6.58, 1996),
    Figure("rk3576", "MiniCPM3-4B", "w4a16", 2537, 4.87, 2380),
    Figure("rk3576", "ChatGLM3-6B", "w4a16", 2167, 4.63, 3023),
)

# The vendor's own warning for group-quantised files and for optimization_level=1, made with this model.
_GROUPED_MODEL, _GROUPED_TOKENS_PER_SECOND = "Qwen2.5-1.5B", 7.0


class Memory(msgspec.Struct, frozen=True):
    """A kind of memory that boards with this chip have, at full speed."""

    platform: str
    kind: str
    megatransfers: int
    gb_per_second: float


MEMORIES = (
    Memory("rk3588", "LPDDR4X-4224", 4224, 33.8),
    Memory("rk3588", "LPDDR5-5500", 5500, 44.0),
)


def nearest(platform: str, model_name: str, dtype: str | None = None) -> Figure | None:
    """The figure to expect of a model on a board; None if the vendor has none that compares.

    `model_name` is a model's name or its file's. It finds the model itself, else the one nearest in size, at
    most 10 % apart, else, for a name without a size, the only one of its family. `dtype` is the file's, any
    group size aside; None is what the vendor uses on this board.
    """
    plain = dtype and base_dtype(dtype)
    figures = [each for each in FIGURES if each.platform == platform and plain in (None, each.dtype)]
    name = _squashed(model_name)
    for figure in figures:
        if _squashed(figure.model) in name:
            return figure
    size = _billions(model_name)
    if size is None:
        families = [each for each in figures if _squashed(each.model.rpartition("-")[0]) in name]
        return families[0] if len(families) == 1 else None

    def distance(figure: Figure) -> float:
        return abs((_billions(figure.model) or 0) - size) / size

    closest = min(figures, key=distance, default=None)
    return closest if closest and distance(closest) <= 0.1 else None


def base_dtype(dtype: str) -> str:
    """ "W8A8_G128" is a kind of "w8a8"."""
    return dtype.lower().partition("_g")[0]


def bandwidth_bound(bytes_read_per_token: float, gb_per_s: float) -> float:
    """Tokens/s that memory allows: decode reads all weights for every token. GB are 10^9 bytes."""
    return gb_per_s * 1e9 / bytes_read_per_token


def bandwidth(platform: str, ddr_hertz: int) -> float | None:
    """GB/s at a memory clock; None for chips whose memory is not in `MEMORIES`.

    Memory moves data twice per clock. That the kernel shows that clock, 2112 MHz for LPDDR4X-4224, was not
    tried on LPDDR5.
    """
    for memory in MEMORIES:
        if memory.platform == platform:
            return memory.gb_per_second * (2 * ddr_hertz / 1e6) / memory.megatransfers
    return None


def group_quantised(figure: Figure) -> float:
    """Tokens/s to expect of the same model when it is group-quantised, or made with optimization_level=1.

    The vendor gives 7.0 for Qwen2.5-1.5B on an RK3588; the others are estimated to be slowed down alike.
    """
    plain = next(each for each in FIGURES if each.model == _GROUPED_MODEL)
    return figure.tokens_per_second * _GROUPED_TOKENS_PER_SECOND / plain.tokens_per_second


def _squashed(name: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", name.lower())


def _billions(name: str) -> float | None:
    """Parameters, of the "1.5B" in a name; not of the chip "rv1126b", nor of "8bit"."""
    match = re.search(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])", name.lower())
    return float(match[1]) if match else None
