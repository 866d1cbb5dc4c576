"""Findings by evidence: boards healthy and not, files fast and slow."""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from rkllama.board.doctor import examine
from rkllama.board.evidence import Evidence, Finding, FoundLibrary, ModelFile, Speed
from rkllama.board.facts import Board, DeviceNode, read_board
from rkllama.vendor.diagnosis import Facts
from tests.rkllama.board import trees

LIBRARY = FoundLibrary(path="/usr/lib/librkllmrt.so", release="1.3.0")
FACTS = Facts(
    runtime="1.3.0",
    driver="0.9.8",
    platform="RK3588",
    toolkit="1.3.0",
    target_platform="RK3588",
    model_dtype="W8A8",
    max_context_limit=4096,
    npu_core_num=3,
)
QWEN = ModelFile(
    file="Qwen2.5-1.5B-Instruct.rkllm",
    folder="Qwen2.5-1.5B-Instruct",
    bytes=1_540_000_000,
    loaded=True,
    facts=FACTS,
    release="1.3.0",
    speed=Speed(prefill_tokens=130, prefill_tokens_per_second=330.0, decode_tokens_per_second=16.5),
)


@pytest.fixture
def healthy(tmp_path: Path) -> Board:
    return read_board(trees.write(tmp_path, trees.rk3588()))


def findings(board: Board, *models: ModelFile, library: FoundLibrary = LIBRARY) -> tuple[Finding, ...]:
    return examine(Evidence(board=board, library=library, models=models))


def only(found: tuple[Finding, ...], level: str) -> Finding:
    """The one finding of this level, among others that are fine."""
    bad = [finding for finding in found if finding.level != "ok"]
    assert [finding.level for finding in bad] == [level], bad
    return bad[0]


def has(finding: Finding, subject: str, *parts: str) -> None:
    assert finding.subject == subject
    for part in parts:
        assert part in f"{finding.says} {finding.remedy}", finding


def with_facts(model: ModelFile, **changed: str) -> ModelFile:
    return msgspec.structs.replace(model, facts=msgspec.structs.replace(model.facts, **changed))


def decoding(model: ModelFile, rate: float) -> ModelFile:
    return msgspec.structs.replace(model, speed=Speed(decode_tokens_per_second=rate))


def test_a_healthy_board_with_a_fast_model_has_nothing_wrong(healthy: Board) -> None:
    found = findings(healthy, QWEN)
    assert {finding.level for finding in found} == {"ok"}
    says = {finding.subject: finding.says for finding in found}
    assert says["Board"] == "Radxa ROCK 5B (rk3588), kernel 5.10.160-rockchip"
    assert says["DDR clock"] == "2112 of 2112 MHz, governor performance"
    assert says["Library"] == "/usr/lib/librkllmrt.so, release 1.3.0"
    assert says["Decode"] == (
        "16.5 tokens/s, 99% of 16.7 for Qwen2.5-1.5B (vendor's benchmark of release 1.3.0), "
        "75% of the 21.9 that memory at 2112 MHz allows"
    )
    assert "97% of 338.6" in says["Prefill"]


# The board


def test_a_pc_has_no_npu(tmp_path: Path) -> None:
    found = findings(read_board(trees.write(tmp_path, trees.pc())), library=LIBRARY)
    broken = [finding for finding in found if finding.level == "broken"]
    has(broken[0], "Board", "no Rockchip NPU", "rk3588", "exo")
    assert len(broken) == 1
    assert {finding.subject for finding in found} == {"Board", "Memory", "Swap", "Library"}


def test_a_rockchip_without_such_an_npu(tmp_path: Path) -> None:
    files = {"/proc/device-tree/compatible": "pine64,quartz64\0rockchip,rk3566\0"}
    board = read_board(trees.write(tmp_path, files))
    has(findings(board)[0], "Board", "rk3566", "rk3588, rk3576")
    assert findings(board)[0].level == "broken"


def test_a_container_on_a_board(tmp_path: Path) -> None:
    board = read_board(trees.write(tmp_path, trees.contained()))
    by_subject = {finding.subject: finding for finding in findings(board)}
    assert {subject: finding.level for subject, finding in by_subject.items() if finding.level != "ok"} == {
        "Board": "note",
        "NPU device": "broken",
        "Not read": "note",
        "CPU limit": "slow",
        "Memory limit": "note",
        "Open files": "note",
    }
    has(by_subject["Board"], "Board", "container", "device-tree")
    has(by_subject["NPU device"], "NPU device", "--device")
    has(by_subject["CPU limit"], "CPU limit", "2.0 CPUs", "uses 4")


def test_a_container_knows_its_chip_from_the_runtime(tmp_path: Path) -> None:
    board = read_board(trees.write(tmp_path, trees.contained()))
    found = findings(board, QWEN)
    assert found[0].level == "ok"
    assert "(rk3588)" in found[0].says
    assert "NPU driver" in [finding.subject for finding in found if finding.level == "ok"]


@pytest.mark.parametrize(
    ("version", "level"),
    [("v0.9.6", "broken"), ("v0.8.8", "broken"), ("v0.9.7", "note"), ("v0.9.8", "ok"), ("v0.10.0", "ok")],
)
def test_the_driver_must_be_new_enough(tmp_path: Path, version: str, level: str) -> None:
    board = read_board(trees.write(tmp_path, trees.rk3588() | {trees.DRIVER: f"RKNPU driver: {version}\n"}))
    (finding,) = (finding for finding in findings(board) if finding.subject == "NPU driver")
    assert finding.level == level
    assert version.removeprefix("v") in finding.says
    assert level == "ok" or "kernel" in str(finding.remedy)


def test_what_needs_root_is_asked_for_and_the_runtime_helps_out(healthy: Board) -> None:
    unread = ("NPU driver: /sys/kernel/debug/rknpu/version needs root",)
    board = msgspec.structs.replace(healthy, driver=None, npu_load=None, unread=unread)
    has(only(findings(board), "note"), "Not read", "version needs root", "sudo HOME=$HOME rkllama doctor")
    with_model = findings(board, with_facts(QWEN, driver="0.9.6"))
    assert any(finding.subject == "NPU driver" and finding.level == "broken" for finding in with_model)


@pytest.mark.parametrize(
    ("devices", "level", "part"),
    [
        ((), "broken", "kernel"),
        ((DeviceNode("/dev/rknpu", usable=False),), "broken", "usermod"),
        ((DeviceNode("/dev/rknpu", usable=True), DeviceNode("/dev/dri/renderD128", usable=False)), "ok", ""),
    ],
)
def test_the_npu_must_be_open_to_this_user(
    healthy: Board, devices: tuple[DeviceNode, ...], level: str, part: str
) -> None:
    board = msgspec.structs.replace(healthy, devices=devices)
    (finding,) = (finding for finding in findings(board) if finding.subject == "NPU device")
    assert finding.level == level
    assert part in str(finding.remedy)


def test_low_memory_frequency_is_slow_and_tune_helps(tmp_path: Path) -> None:
    board = read_board(trees.write(tmp_path, trees.slow_memory()))
    finding = only(findings(board), "slow")
    has(finding, "DDR clock", "528 of 2112 MHz", "dmc_ondemand")
    assert finding.remedy == "sudo rkllama tune"


@pytest.mark.parametrize(
    ("changed", "subject", "parts"),
    [
        ({f"{trees.NPU}/governor": "powersave"}, "NPU clock", ("powersave", "sudo rkllama tune")),
        ({f"{trees.NPU}/cur_freq": "600000000"}, "NPU clock", ("600 of 1000", "holds it back")),
        (
            {f"{trees.DDR}/max_freq": "1068000000", f"{trees.DDR}/cur_freq": "1068000000"},
            "DDR clock",
            ("not allowed above 1068", f"echo 2112000000 | sudo tee {trees.DDR}/max_freq"),
        ),
        (
            {f"{trees.CPUS}/policy4/scaling_max_freq": "1008000"},
            "CPU 4-5 clock",
            ("not allowed above 1008", f"echo 2400000 | sudo tee {trees.CPUS}/policy4/scaling_max_freq"),
        ),
        ({"/sys/class/thermal/thermal_zone1/temp": "85000"}, "Temperature", ("85 °C", "npu-thermal", "fan")),
        ({trees.LOAD: "NPU load:  Core0: 70%, Core1:  0%, Core2:  0%,"}, "NPU load", ("70 %", "another")),
    ],
)
def test_what_makes_a_board_slow(
    tmp_path: Path, changed: Mapping[str, str], subject: str, parts: tuple[str, ...]
) -> None:
    board = read_board(trees.write(tmp_path, {**trees.rk3588(), **changed}))
    has(only(findings(board), "slow"), subject, *parts)


def test_the_slow_cores_do_not_matter(tmp_path: Path) -> None:
    folder = f"{trees.CPUS}/policy0"
    files = trees.rk3588() | {
        f"{folder}/scaling_governor": "ondemand",
        f"{folder}/scaling_cur_freq": "408000",
    }
    found = findings(read_board(trees.write(tmp_path, files)))
    assert {finding.level for finding in found} == {"ok"}
    assert "CPU 0-3 clock" not in [finding.subject for finding in found]


def test_clocks_are_judged_while_the_model_answers(tmp_path: Path, healthy: Board) -> None:
    idle = read_board(trees.write(tmp_path, trees.rk3588("ondemand")))
    assert "slow" in {finding.level for finding in findings(idle)}
    found = examine(Evidence(board=idle, library=LIBRARY, models=(QWEN,), working=healthy))
    assert {finding.level for finding in found} == {"ok"}


@pytest.mark.parametrize(("free", "level"), [(7_000_000, "note"), (500_000, "slow")])
def test_swap_in_use(tmp_path: Path, free: int, level: str) -> None:
    meminfo = f"MemTotal: 8000000 kB\nMemAvailable: {free} kB\nSwapTotal: 2000000 kB\nSwapFree: 1000000 kB\n"
    board = read_board(trees.write(tmp_path, trees.rk3588() | {"/proc/meminfo": meminfo}))
    has(only(findings(board), level), "Swap", "1.0 GB")


# The library and the model file


def test_a_library_that_is_not_found(healthy: Board) -> None:
    found = findings(healthy, library=FoundLibrary(error="The NPU runtime librkllmrt.so was not found."))
    has(only(found, "broken"), "Library", "was not found")


def test_a_model_that_does_not_load(healthy: Board) -> None:
    model = ModelFile(file="a.rkllm", folder="a", bytes=10**9, error="The model file is damaged.")
    has(only(findings(healthy, model), "broken"), "Model a.rkllm", "The model file is damaged.")


def test_a_model_for_another_chip(healthy: Board) -> None:
    found = findings(healthy, with_facts(QWEN, target_platform="RK3576"))
    has(only(found, "broken"), f"Model {QWEN.file}", "made for rk3576", "this board is an rk3588", "convert")


def test_a_name_that_speaks_of_another_chip_is_a_note_until_the_file_says_more(healthy: Board) -> None:
    unloaded = ModelFile(file="Qwen_w4a16_rk3576.rkllm", folder="Qwen", bytes=10**9)
    has(only(findings(healthy, unloaded), "note"), f"Model {unloaded.file}", "rk3576")
    loaded = msgspec.structs.replace(unloaded, loaded=True, facts=FACTS)
    assert {finding.level for finding in findings(healthy, loaded)} == {"ok"}


@pytest.mark.parametrize(
    ("name", "dtype", "why"),
    [
        ("m.rkllm", "W8A8_G128", "group-quantised (w8a8_g128)"),
        ("m.rkllm", "w4a16_g32", "group-quantised (w4a16_g32)"),
        ("m-w8a8_g256-rk3588.rkllm", None, "group-quantised (w8a8_g256)"),
        ("m-rk3588-w8a8-opt-1-hybrid-ratio-0.0.rkllm", "W8A8", "optimization_level=1"),
        ("m_w8a8_opt1.rkllm", None, "optimization_level=1"),
        ("m-optimization_level=1.rkllm", "W8A8", "optimization_level=1"),
        ("m-w8a8-opt-0-hybrid-ratio-0.5.rkllm", "W8A8", "hybrid"),
        ("m-hybrid.rkllm", None, "hybrid"),
        ("m-rk3588-w8a8-opt-0-hybrid-ratio-0.0.rkllm", "W8A8", None),
        ("m_w8a8_opt0.rkllm", "W8A8", None),
        # The log outdoes the name: earlier converters did not always do what they wrote there.
        ("m-w8a8_g256.rkllm", "W8A8", None),
        ("m-opt-15.rkllm", None, None),
    ],
)
def test_slow_ways_to_quantise(healthy: Board, name: str, dtype: str | None, why: str | None) -> None:
    model = ModelFile(file=name, folder="m", bytes=10**9, facts=Facts(model_dtype=dtype))
    found = findings(healthy, model)
    if why is None:
        assert {finding.level for finding in found} == {"ok"}
    else:
        has(only(found, "slow"), f"Model {name}", why, "optimization_level=0")


def test_how_slow_a_group_quantised_model_is_to_be(healthy: Board) -> None:
    found = findings(healthy, decoding(with_facts(QWEN, model_dtype="w8a8_g128"), 16.0))
    has(only(found, "slow"), f"Model {QWEN.file}", "about 7.0 tokens/s instead of 16.7", "vendor's benchmark")


@pytest.mark.parametrize(
    ("toolkit", "runtime", "noted"),
    [
        ("1.1.4", "1.2.3", True),
        ("1.2.0", "1.3.0", True),
        ("1.2.1", "1.2.3", False),
        ("1.3.0", "1.3.0", False),
    ],
)
def test_toolkit_and_runtime_of_different_releases(
    healthy: Board, toolkit: str, runtime: str, noted: bool
) -> None:
    model = msgspec.structs.replace(with_facts(QWEN, toolkit=toolkit, runtime=runtime), release=None)
    found = findings(healthy, model)
    if noted:
        has(only(found, "note"), f"Model {QWEN.file}", f"toolkit {toolkit}", f"runtime {runtime}")
    else:
        assert {finding.level for finding in found} == {"ok"}


def test_a_library_taken_for_another_release(healthy: Board) -> None:
    model = with_facts(QWEN, runtime="1.2.3", toolkit="1.2.3")
    has(only(findings(healthy, model), "broken"), "Library", "1.2.3", "1.3.0", "RKLLM_RELEASE")


def test_corrupt_answers(healthy: Board) -> None:
    found = findings(healthy, msgspec.structs.replace(QWEN, corrupt=True))
    has(only(found, "broken"), f"Model {QWEN.file}", "corrupt", "1.3.0")


def test_a_model_larger_than_memory(healthy: Board) -> None:
    big = ModelFile(file="big.rkllm", folder="big", bytes=9 * 10**9)
    has(only(findings(healthy, big), "broken"), "Model big.rkllm", "9.0 GB", "8.2 GB")
    tight = ModelFile(file="big.rkllm", folder="big", bytes=7_500_000_000)
    has(only(findings(healthy, tight), "note"), "Model big.rkllm", "7.5 GB", "7.2 GB are free")
    limited = msgspec.structs.replace(healthy, cgroup_memory=2 * 10**9)
    levels = [(each.subject, each.level) for each in findings(limited, tight) if each.level != "ok"]
    assert levels == [("Memory limit", "note"), ("Model big.rkllm", "broken")]
    loaded = msgspec.structs.replace(tight, loaded=True)
    assert "broken" not in {finding.level for finding in findings(limited, loaded)}


# Speed


def test_slow_decode_names_the_likeliest_causes(tmp_path: Path) -> None:
    board = read_board(trees.write(tmp_path, trees.slow_memory()))
    grouped = with_facts(QWEN, model_dtype="w8a8_g128")
    *_, decode = findings(board, decoding(grouped, 4.0))
    assert decode.level == "slow"
    has(decode, "Decode", "24% of 16.7", "73% of the 5.5 that memory at 528 MHz allows")
    has(decode, "Decode", "Likeliest", "DDR clock: 528 of 2112 MHz", "group-quantised")


def test_slow_decode_without_a_cause_says_so(healthy: Board) -> None:
    finding = only(findings(healthy, decoding(QWEN, 7.76)), "slow")
    has(finding, "Decode", "46% of 16.7", "35% of the 21.9", "None of the usual causes")


@pytest.mark.parametrize(("share", "level"), [(0.61, "ok"), (0.59, "slow")])
def test_where_slow_begins(healthy: Board, share: float, level: str) -> None:
    assert findings(healthy, decoding(QWEN, share * 16.69))[-1].level == level
    # Without a figure of the vendor's, three quarters of what memory allows is usual.
    other = msgspec.structs.replace(QWEN, file="Mystery.rkllm", folder="x", bytes=3 * 10**9)
    usual = 0.75 * 33.8 / 3
    assert findings(healthy, decoding(other, share * usual))[-1].level == level


def test_without_anything_to_compare_speed_is_a_note(healthy: Board) -> None:
    small = msgspec.structs.replace(QWEN, file="exo-demo.rkllm", folder="x", bytes=2_500_000)
    has(only(findings(healthy, decoding(small, 90.0)), "note"), "Decode", "90.0 tokens/s", "no figure")


def test_an_answer_too_short_to_be_timed_is_a_note(healthy: Board) -> None:
    model = msgspec.structs.replace(QWEN, speed=Speed(prefill_tokens=130, prefill_tokens_per_second=330.0))
    has(only(findings(healthy, model), "note"), "Decode", "too soon")


def test_slow_prefill_is_told_apart(healthy: Board) -> None:
    model = msgspec.structs.replace(
        QWEN, speed=Speed(prefill_tokens_per_second=150.0, decode_tokens_per_second=16.0)
    )
    has(only(findings(healthy, model), "slow"), "Prefill", "44% of 338.6")


def test_the_folder_names_a_model_whose_file_does_not(healthy: Board) -> None:
    model = decoding(msgspec.structs.replace(QWEN, file="model.rkllm"), 16.0)
    assert "96% of 16.7 for Qwen2.5-1.5B" in findings(healthy, model)[-1].says
