"""Estimates next to the vendor's figures, which were put down here apart from the table."""

from dataclasses import replace

import pytest
from test_plan import SOURCE

from rkllm_convert import estimates, figures

# Platform, dtype, 10^9 parameters, MB at a context of about 200 tokens.
MEASURED = [
    ("rk3588", "w8a8", 0.494, 670),
    ("rk3588", "w8a8", 1.1, 1094),
    ("rk3588", "w8a8", 1.544, 1689),
    ("rk3588", "w8a8", 1.889, 1776),
    ("rk3588", "w8a8", 2.614, 2779),
    ("rk3588", "w8a8", 3.821, 3758),
    ("rk3588", "w8a8", 4.074, 4384),
    ("rk3588", "w8a8", 6.244, 5986),
    ("rk3576", "w4a16", 0.494, 443),
    ("rk3576", "w4a16", 1.1, 601),
    ("rk3576", "w4a16", 1.889, 975),
    ("rk3576", "w4a16", 3.821, 1996),
    ("rk3576", "w4a16", 4.074, 2380),
    ("rk3576", "w4a16", 6.244, 3023),
]


@pytest.mark.parametrize(("platform", "dtype", "billions", "megabytes"), MEASURED)
def test_memory_is_within_a_fifth_of_what_the_vendor_measured(
    platform: str, dtype: str, billions: float, megabytes: int
) -> None:
    source = replace(SOURCE, name="Other", parameters=int(billions * 1e9))
    found = estimates.board(source, platform, dtype, 200)
    assert found.basis == "estimate"
    assert found.memory_mb == pytest.approx(megabytes, rel=0.2)


def test_the_vendors_own_figure_is_taken_where_there_is_one() -> None:
    found = estimates.board(SOURCE, "rk3588", "w8a8", 4096)
    assert found.memory_mb == round(1689 + 28672 * 4096 / 1e6)
    assert found.speed == figures.Speed(16.69, "vendor's figure for Qwen2.5-1.5B", True)
    assert found.fits == "yes"


def test_seven_billion_fit_8_gb_in_4_bits_only() -> None:
    seven = replace(SOURCE, name="Seven", parameters=7_616_000_000)
    assert estimates.board(seven, "rk3588", "w8a8", 4096).fits == "no"
    assert estimates.board(seven, "rk3576", "w4a16", 4096).fits == "yes"


def test_groups_a_hybrid_and_level_1_cost_speed_on_an_rk3588() -> None:
    def rate(dtype: str, **more: float) -> float:
        found = figures.speed("rk3588", dtype, SOURCE.name, SOURCE.billions, **more)  # type: ignore[arg-type]
        assert found
        return found.tokens_per_second

    assert rate("w8a8_g128") == pytest.approx(7.1, abs=0.1)
    assert rate("w8a8", level=1) == pytest.approx(7.1, abs=0.1)
    assert rate("w8a8_g128") < rate("w8a8", hybrid_rate=0.5) < rate("w8a8")
    assert rate("w8a8_g128") < rate("w8a8_g128", hybrid_rate=0.5) < rate("w8a8")


def test_a_speed_that_nothing_tells_is_not_made_up() -> None:
    assert figures.speed("rk3562", "w4a16_g32", "x", 1.5) is None
    assert figures.speed("rk3588", "w8a8", "x", 0.001) is None
    assert figures.speed("rk3588", "w8a8", "x", 70.0) is None


def test_a_finetune_has_an_estimate_of_its_size() -> None:
    found = figures.speed("rk3588", "w8a8", "DeepSeek-R1-Distill-Qwen-1.5B", 1.777)
    assert found
    assert not found.measured
    assert 13 < found.tokens_per_second < 16.7


def test_more_rows_and_no_gpu_take_longer() -> None:
    def seconds(device: str, rows: int) -> float:
        made = estimates.work(SOURCE, "w8a8", load_dtype="float32", device=device, rows=rows, fetched=True)
        return made.seconds

    assert seconds("cuda", 0) < seconds("cuda", 20) < seconds("cpu", 0) < seconds("cpu", 20)
