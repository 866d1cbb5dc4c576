"""The vendor's figures, and which of them compares to a model."""

import pytest

from exo.benchmark.figures import (
    FIGURES,
    MEMORIES,
    Figure,
    bandwidth,
    bandwidth_bound,
    group_quantised,
    nearest,
)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: f"{figure.platform} {figure.model}")
def test_each_model_is_nearest_to_itself(figure: Figure) -> None:
    assert nearest(figure.platform, figure.model, figure.dtype) is figure


@pytest.mark.parametrize(
    ("platform", "name", "dtype", "model"),
    [
        ("rk3588", "Qwen2.5-1.5B-Instruct-rk3588-w8a8-opt-1-hybrid-ratio-0.5.rkllm", "W8A8", "Qwen2.5-1.5B"),
        ("rk3588", "qwen2.5_1.5b_w8a8_g128.rkllm", "w8a8_g128", "Qwen2.5-1.5B"),
        ("rk3588", "DeepSeek-R1-Distill-Qwen-1.5B_W8A8_RK3588.rkllm", None, "Qwen2.5-1.5B"),
        ("rk3588", "Qwen2.5-0.5B-Instruct", None, "Qwen2-0.5B"),
        ("rk3588", "Qwen3-1.7B-w8a8-rk3588", "w8a8", "InternLM2-1.8B"),
        ("rk3588", "gemma-2-2b-it", None, "Gemma2-2B"),
        ("rk3588", "Phi-3-mini", None, "Phi3-3.8B"),
        ("rk3588", "tinyllama-chat", None, "TinyLlama-1.1B"),
        ("rk3576", "Qwen2.5-0.5B", "w4a16_g32", "Qwen2-0.5B"),
        # Nothing near enough, another dtype, another chip, no size at all.
        ("rk3588", "Qwen2.5-3B", None, None),
        ("rk3588", "Qwen2.5-7B", None, None),
        ("rk3576", "Qwen2-0.5B", "w8a8", None),
        ("rk3562", "Qwen2-0.5B", None, None),
        ("rk3588", "exo-demo", None, None),
        ("rk3588", "mystery-rv1126b-8bit", None, None),
        ("rk3588", "qwen3.5", None, None),
    ],
)
def test_which_figure_compares(platform: str, name: str, dtype: str | None, model: str | None) -> None:
    found = nearest(platform, name, dtype)
    assert (found and found.model) == model
    assert found is None or found.platform == platform


def test_what_memory_allows() -> None:
    slow, fast = MEMORIES
    assert bandwidth_bound(1.54e9, slow.gb_per_second) == pytest.approx(21.9, abs=0.05)
    assert bandwidth_bound(1.54e9, fast.gb_per_second) == pytest.approx(28.5, abs=0.1)


def test_memory_is_as_fast_as_its_clock() -> None:
    assert bandwidth("rk3588", 2_112_000_000) == pytest.approx(33.8)
    assert bandwidth("rk3588", 2_750_000_000) == pytest.approx(44.0, abs=0.1)
    assert bandwidth("rk3588", 528_000_000) == pytest.approx(33.8 / 4)
    assert bandwidth("rk3576", 2_112_000_000) is None


def test_group_quantised_models_are_less_than_half_as_fast() -> None:
    plain = nearest("rk3588", "Qwen2.5-1.5B", "w8a8_g128")
    assert plain is not None
    assert group_quantised(plain) == pytest.approx(7.0)
