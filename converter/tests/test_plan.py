"""What can be done, and the nearest thing to what cannot, for every combination there is."""

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rkllm_convert import names, table
from rkllm_convert.errors import Refused
from rkllm_convert.plan import Plan, check
from rkllm_convert.request import Machine, Request
from rkllm_convert.source import Source

SOURCE = Source(
    kind="huggingface",
    path=Path("Qwen2.5-1.5B-Instruct"),
    name="Qwen2.5-1.5B-Instruct",
    repository="Qwen/Qwen2.5-1.5B-Instruct",
    architecture="qwen2",
    parameters=1_544_000_000,
    bytes=3_100_000_000,
    layers=28,
    kv_bytes=28 * 2 * 2 * 128 * 2,
    context=32768,
    template="{{ messages }}",
)
MACHINE = Machine(python=(3, 10), toolkit="1.2.3", cuda=True)

# By hand, from the vendor's documents, apart from the table under test.
GROUPS4, GROUPS8 = ["w4a16_g32", "w4a16_g64", "w4a16_g128"], ["w8a8_g128", "w8a8_g256", "w8a8_g512"]
HAS = {
    "rk3588": ["w8a8", *GROUPS8],
    "rk3576": ["w4a16", *GROUPS4, "w8a8"],
    "rk3562": ["w8a8", *GROUPS4, "w4a8_g32"],
    "rv1126b": ["w4a16", *GROUPS4, "w8a8"],
}
SINCE = {"rk3588": "1.1.0", "rk3576": "1.1.0", "rk3562": "1.2.0", "rv1126b": "1.2.1"}
RELEASES = ["1.1.0", "1.1.4", "1.2.0", "1.2.1", "1.2.3", "1.3.0"]
DTYPES = sorted({dtype for listed in HAS.values() for dtype in listed})


def numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def planned(request: Request, machine: Machine = MACHINE, source: Source = SOURCE) -> Plan:
    return check(request, source, machine)


def refusal(machine: Machine = MACHINE, source: Source = SOURCE, **asked: Any) -> str:
    with pytest.raises(Refused) as caught:
        check(Request(**{"platform": "rk3588", **asked}), source, machine)
    return caught.value.message


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("platform", HAS)
def test_every_combination_is_planned_or_refused_as_documented(platform: str, release: str) -> None:
    machine = replace(MACHINE, toolkit=release)
    for dtype, algorithm in itertools.product(DTYPES, ["normal", "gdq", "grq"]):
        can = dtype in HAS[platform] and numbers(release) >= numbers(SINCE[platform])
        if algorithm != "normal":
            can = can and dtype.startswith("w4")
        if algorithm == "gdq":
            can = can and numbers(release) < [1, 3]
        if algorithm == "grq":
            can = can and numbers(release) >= [1, 2]
        request = Request(platform=platform, dtype=dtype, algorithm=algorithm, device="cuda")
        if can:
            assert planned(request, machine).build["quantized_dtype"] == dtype
        else:
            with pytest.raises(Refused):
                planned(request, machine)


@pytest.mark.parametrize("platform", HAS)
def test_the_nearest_dtype_can_be_planned(platform: str) -> None:
    for dtype in {*DTYPES, "w4a16_g256", "w2a16", "fp16"} - set(HAS[platform]):
        near = re.findall(r"Nearest: -q (\S+)\.", refusal(platform=platform, dtype=dtype))
        assert planned(Request(platform=platform, dtype=near[0])).build["quantized_dtype"] == near[0]


@pytest.mark.parametrize(
    ("platform", "dtype", "near"),
    [
        ("rk3588", "w4a16", "w8a8"),
        ("rk3588", "w8a8_g1024", "w8a8_g512"),
        ("rk3576", "w8a8_g128", "w8a8"),
        ("rk3576", "w4a8_g32", "w4a16_g32"),
        ("rk3562", "w4a16", "w4a16_g32"),
        ("rv1126b", "w4a16_g256", "w4a16_g128"),
    ],
)
def test_the_nearest_dtype_is_the_one_most_alike(platform: str, dtype: str, near: str) -> None:
    assert f"Nearest: -q {near}." in refusal(platform=platform, dtype=dtype)


PYTHONS = {
    "1.1.4": ["3.8", "3.10"],
    "1.2.0": ["3.8", "3.9", "3.10", "3.11", "3.12"],
    "1.2.3": ["3.9", "3.10", "3.11", "3.12"],
    "1.3.0": ["3.9", "3.10", "3.11", "3.12"],
}


@pytest.mark.parametrize(("release", "pythons"), PYTHONS.items())
def test_a_toolkit_is_used_with_the_pythons_it_is_made_for(release: str, pythons: list[str]) -> None:
    for python in ("3.7", "3.8", "3.9", "3.10", "3.11", "3.12", "3.13"):
        major, minor = map(int, python.split("."))
        machine = replace(MACHINE, toolkit=release, python=(major, minor))
        if python in pythons:
            planned(Request("rk3588"), machine)
        else:
            assert f"is made for Python {', '.join(pythons)}, not {python}" in refusal(machine)


REFUSALS: list[tuple[dict[str, Any], str]] = [
    ({"platform": "rk3568"}, "Nearest: -p rk35"),
    ({"algorithm": "gptq"}, "Nearest: normal"),
    ({"algorithm": "grq", "device": "cuda"}, "w8a8 has 8. Nearest: --algorithm normal"),
    ({"hybrid_rate": 1.0}, "not within [0, 1)"),
    ({"hybrid_rate": -0.1}, "not within [0, 1)"),
    ({"platform": "rk3562", "dtype": "w8a8", "hybrid_rate": 0.5}, "nothing to mix into w8a8"),
    ({"npu_cores": 4}, "has 3 NPU cores, not 4. Nearest: 3"),
    ({"npu_cores": 0}, "Nearest: 1"),
    ({"platform": "rv1126b", "npu_cores": 2}, "Nearest: 1"),
    ({"optimization_level": 2}, "neither 0 nor 1"),
    ({"max_context": 4090}, "Nearest: 4064"),
    ({"max_context": 32768}, "Nearest: 16384"),
    ({"max_context": 0}, "Nearest: 32"),
    ({"dataset": "a.json", "calibrate": 20}, "give one of them"),
    ({"lora": "adapter", "calibrate": 20}, "without the LoRA"),
]


@pytest.mark.parametrize(("asked", "says"), REFUSALS)
def test_a_refusal_names_what_can_be_done(asked: dict[str, Any], says: str) -> None:
    assert says in refusal(**asked)


def test_an_algorithm_is_exchanged_for_the_one_that_the_release_has() -> None:
    asked: dict[str, Any] = {"platform": "rk3576", "device": "cuda"}
    assert "Nearest: --algorithm gdq" in refusal(replace(MACHINE, toolkit="1.1.4"), algorithm="grq", **asked)
    assert "Nearest: --algorithm grq" in refusal(replace(MACHINE, toolkit="1.3.0"), algorithm="gdq", **asked)


def test_what_needs_a_gpu_is_refused_without_one() -> None:
    asked: dict[str, Any] = {"platform": "rk3576", "algorithm": "grq"}
    assert "none was asked for" in refusal(device="cpu", **asked)
    assert "there is none here" in refusal(replace(MACHINE, cuda=False), device="cuda", **asked)


def test_all_reasons_are_given_at_once() -> None:
    lines = refusal(platform="rk3588", dtype="w4a16", npu_cores=9, max_context=100).splitlines()
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (replace(MACHINE, machine="aarch64"), "x86-64 Linux"),
        (replace(MACHINE, system="Darwin"), "container"),
        (replace(MACHINE, toolkit=None), "--python"),
        (replace(MACHINE, toolkit="1.4.0"), "Nearest: 1.3.0"),
        (replace(MACHINE, toolkit="1.0.1"), "is not known here"),
        (replace(MACHINE, broken="ImportError: libGL.so.1"), "libGL.so.1. Install the requirements.txt"),
        (replace(MACHINE, lacks=("build(max_context)",)), "does not take build(max_context)"),
        (replace(MACHINE, disk=10**9), "Make room, or name another disk with -o"),
    ],
)
def test_a_machine_that_cannot_is_told_before_hours_are_spent(machine: Machine, says: str) -> None:
    assert says in refusal(machine)


def test_betas_of_a_release_are_that_release() -> None:
    assert planned(Request("rk3588"), replace(MACHINE, toolkit="1.2.1b1")).release == "1.2.1"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (replace(SOURCE, architecture="qwen3_5"), "known from toolkit 1.3.0 on"),
        (replace(SOURCE, quantized="awq in 4 bits"), "unquantised weights"),
        (replace(SOURCE, quantized="gptq in 4 bits"), "GPTQ in 8 bits only"),
        (replace(SOURCE, kind="gguf", quantized="type 15"), "fp16 or q4_0 only"),
    ],
)
def test_a_model_that_the_toolkit_does_not_take_is_refused(source: Source, says: str) -> None:
    assert says in refusal(source=source)


def test_weights_in_8_bits_of_gptq_are_taken_from_1_2_0_on() -> None:
    source = replace(SOURCE, quantized="gptq in 8 bits")
    planned(Request("rk3588"), source=source)
    assert "GPTQ" in refusal(replace(MACHINE, toolkit="1.1.4"), source)


def test_a_gguf_file_has_neither_lora_nor_calibration_of_its_own() -> None:
    source = replace(SOURCE, kind="gguf", quantized="type 2")
    assert planned(Request("rk3588"), source=source).load == {}
    assert "Hugging Face model only" in refusal(source=source, lora="adapter")
    assert "--dataset FILE" in refusal(source=source, calibrate=20)


def test_1_1_4_takes_no_context() -> None:
    machine = replace(MACHINE, toolkit="1.1.4")
    plan = planned(Request("rk3588"), machine)
    assert (plan.context, "max_context" in plan.build, plan.load) == (None, False, {"device": "cpu"})
    assert "NUM_CTX" in refusal(machine, max_context=2048)


def test_a_dtype_to_load_in_is_refused_where_it_would_have_no_effect() -> None:
    assert planned(Request("rk3588", load_dtype="bfloat16")).load["dtype"] == "bfloat16"
    old = replace(MACHINE, toolkit="1.1.4")
    assert "With toolkit 1.1.4 it is loaded as it is" in refusal(old, load_dtype="bfloat16")
    source = replace(SOURCE, kind="gguf", quantized="type 2")
    assert "A GGUF file is loaded as it is" in refusal(source=source, load_dtype="float16")


def test_a_context_is_the_models_where_that_is_less() -> None:
    assert planned(Request("rk3588")).context == 4096
    assert planned(Request("rk3588"), source=replace(SOURCE, context=2000)).context == 1984
    assert "the model for up to 2000" in refusal(source=replace(SOURCE, context=2000), max_context=2048)


SLOW: list[tuple[dict[str, Any], str]] = [
    ({"dtype": "w8a8_g128"}, "slower: each group has a scale of its own"),
    ({"hybrid_rate": 0.4}, "groups into 40% of w8a8"),
    ({"optimization_level": 1}, "--optimization-level 1 is slow"),
    ({"platform": "rk3576"}, "grq keeps more"),
    ({}, "--calibrate 20"),
]


@pytest.mark.parametrize(("asked", "says"), SLOW)
def test_what_is_possible_but_not_the_best_is_noted(asked: dict[str, Any], says: str) -> None:
    notes = planned(Request(**{"platform": "rk3588", **asked})).notes
    assert any(says in note for note in notes), notes


def test_the_fast_way_has_nothing_to_note() -> None:
    assert planned(Request("rk3588", calibrate=20)).notes == ()


def test_too_little_memory_is_noted_with_the_remedy() -> None:
    machine = replace(MACHINE, memory=4 * 10**9)
    notes = planned(Request("rk3588", calibrate=20), machine).notes
    assert any("--load-dtype bfloat16" in note for note in notes)


def test_a_files_name_says_what_build_was_given() -> None:
    for platform, dtypes in HAS.items():
        for dtype in dtypes:
            rate = 0.5 if table.mixes_with(table.PLATFORMS[platform], dtype) else 0.0
            plan = planned(Request(platform, dtype, hybrid_rate=rate, npu_cores=1, optimization_level=1))
            name = names.file_name(plan.name, plan.build, plan.release)
            for said in (
                platform,
                dtype,
                "normal",
                "opt-1",
                f"hybrid-{rate:g}",
                "npu1",
                "ctx4096",
                "tk1.2.3",
            ):
                assert f"-{said}" in name
