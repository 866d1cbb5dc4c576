"""What is found out about machines: boards, PCs, Macs, containers, and those that tell nothing of use."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo import devices
from exo.devices import detect, now
from exo.nodes import Device
from tests.rkllama.board import trees

NVIDIA = "/proc/driver/nvidia/gpus"
CARDS = "/sys/class/drm"


def silent(command: Sequence[str]) -> str | None:
    """A machine without a command that would answer."""
    return None


def forbidden(command: Sequence[str]) -> str | None:
    raise AssertionError(f"{command} was run")


class Mac:
    """A Mac's `sysctl` and `vm_stat`, in the form of their documentation."""

    def __init__(self, chip: str = "Apple M2 Pro", free: int = 100) -> None:
        self.chip = chip
        self.free = free
        self.asked: list[str] = []

    def __call__(self, command: Sequence[str]) -> str | None:
        self.asked.append(" ".join(command))
        match tuple(command):
            case ("sysctl", "-n", "machdep.cpu.brand_string"):
                return f"{self.chip}\n"
            case ("sysctl", "-n", "hw.memsize"):
                return "17179869184\n"
            case ("vm_stat",):
                return (
                    "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n"
                    f"Pages free:                             {self.free:8}.\n"
                    "Pages active:                             400000.\n"
                    "Pages inactive:                             2000.\n"
                    "Pages speculative:                            30.\n"
                    "Pages wired down:                         150000.\n"
                    '"Translation faults":                  123456789.\n'
                )
        return None


@pytest.fixture(autouse=True)
def many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPUs are the system's to tell, not the trees'."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def rk3576() -> dict[str, str]:
    """One that does not let everybody see the NPU's load."""
    files = trees.rk3588() | {
        "/proc/device-tree/compatible": "armsom,sige5\0rockchip,rk3576\0",
        "/proc/device-tree/model": "ArmSoM Sige5\0",
    }
    return {path: content for path, content in files.items() if not path.startswith("/sys/kernel/debug")}


def pc() -> dict[str, str]:
    return trees.pc() | {
        "/proc/cpuinfo": "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel\t\t: 97\n"
        "model name\t: AMD Ryzen 9 7950X 16-Core Processor\ncpu MHz\t\t: 4500.0\n\nprocessor\t: 1\n",
        "/sys/class/thermal/thermal_zone1/type": "iwlwifi_1\n",
        "/sys/class/thermal/thermal_zone1/temp": "62000\n",
    }


def card(number: int, model: str, revision: str, memory: int, **more: str) -> dict[str, str]:
    """One of AMD's, as amdgpu shows it."""
    device = f"{CARDS}/card{number}/device"
    return {
        f"{device}/vendor": "0x1002\n",
        f"{device}/device": f"{model}\n",
        f"{device}/revision": f"{revision}\n",
        f"{device}/mem_info_vram_total": f"{memory}\n",
        f"{CARDS}/card{number}-DP-1/status": "connected\n",
        **{f"{device}/{name}": content for name, content in more.items()},
    }


def with_radeon() -> dict[str, str]:
    """Two big GPUs beside a processor's own."""
    return (
        pc()
        | card(0, "0x164e", "0xc9", 512 * 2**20)
        | card(1, "0x744c", "0xc8", 25_753_026_560)
        | card(2, "0x744c", "0xcc", 21_458_059_264)
        | {
            "/usr/share/libdrm/amdgpu.ids": "# List of AMDGPU IDs\n\n1.0.0\n"
            "164E,\tC9,\tAMD Radeon Graphics\n744C,\tC8,\tAMD Radeon RX 7900 XTX\n"
            "744C,\tCC,\tAMD Radeon RX 7900 XT\n",
        }
    )


def with_geforce() -> dict[str, str]:
    gpu = "Model: \t\t {}\nIRQ:   \t\t 185\nGPU UUID: \t GPU-00000000\nVideo BIOS: \t ??.??.??.??.??\n"
    return with_radeon() | {
        f"{NVIDIA}/0000:01:00.0/information": gpu.format("NVIDIA GeForce RTX 4090"),
        f"{NVIDIA}/0000:0a:00.0/information": gpu.format("NVIDIA GeForce RTX 3060"),
        "/dev/nvidiactl": "",
    }


def contained() -> dict[str, str]:
    """2 GiB, of which 1.5 are used, a quarter of that for files that nobody reads just now."""
    return trees.contained() | {
        "/sys/fs/cgroup/memory.current": "1610612736\n",
        "/sys/fs/cgroup/memory.stat": "anon 1073741824\nfile 536870912\ninactive_file 402653184\n",
    }


def without(files: Mapping[str, str], *beginnings: str) -> dict[str, str]:
    return {path: content for path, content in files.items() if not path.startswith(beginnings)}


def found(root: Path, files: Mapping[str, str | bytes], run: devices.Run = forbidden) -> Device:
    """What stays and what changes of a machine with these files."""
    trees.write(root, files)
    return now(detect(root, run), root, run)


def test_a_board_with_an_rk3588(tmp_path: Path) -> None:
    device = found(tmp_path, trees.rk3588())
    assert device == Device(
        name=device.name,
        cores=8,
        memory=8_192_000_000,
        kind="rockchip",
        chip="RK3588",
        free=7_168_000_000,
        temperature=51.769,
        npu_load=0.0,
    )
    assert device.name


def test_a_board_with_an_rk3576_and_no_way_into_debugfs(tmp_path: Path) -> None:
    device = found(tmp_path, rk3576())
    assert (device.kind, device.chip, device.npu_load) == ("rockchip", "RK3576", None)


@pytest.mark.parametrize(
    ("compatible", "kind", "chip"),
    [
        ("orangepi,5\0rockchip,rk3588s-orangepi-5\0rockchip,rk3588\0", "rockchip", "RK3588"),
        ("rockchip,rk3562-evb\0rockchip,rk3562\0", "rockchip", "RK3562"),
        ("rockchip,rv1126b\0", "rockchip", "RV1126B"),
        ("rockchip,rv1126\0", "cpu", "Radxa ROCK 5B"),
        ("pine64,quartz64\0rockchip,rk3566\0", "cpu", "Radxa ROCK 5B"),
    ],
)
def test_a_board_is_one_if_the_runtime_supports_its_chip(
    tmp_path: Path, compatible: str, kind: str, chip: str
) -> None:
    device = found(tmp_path, trees.rk3588() | {"/proc/device-tree/compatible": compatible})
    assert (device.kind, device.chip) == (kind, chip)


def test_a_board_whose_device_tree_is_hidden_is_known_by_its_npu(tmp_path: Path) -> None:
    npu = "DRIVER=RKNPU\nOF_NAME=npu\nOF_COMPATIBLE_0=rockchip,rk3588-rknpu\nOF_COMPATIBLE_N=1\n"
    device = found(tmp_path, contained() | {f"{trees.NPU}/device/uevent": npu})
    assert (device.kind, device.chip) == ("rockchip", "RK3588")


@pytest.mark.parametrize(
    ("content", "load"),
    [
        ("NPU load:  Core0: 50%, Core1:  0%, Core2: 100%,\n", 0.5),
        ("NPU load:  12%\n", 0.12),
        ("NPU load:\n", None),
        ("NPU load:  900%\n", None),
    ],
)
def test_the_load_is_the_mean_of_the_npus_cores(tmp_path: Path, content: str, load: float | None) -> None:
    assert found(tmp_path, trees.rk3588() | {trees.LOAD: content}).npu_load == load


def test_a_plain_pc_is_named_by_its_cpu(tmp_path: Path) -> None:
    device = found(tmp_path, pc())
    assert (device.kind, device.chip) == ("cpu", "AMD Ryzen 9 7950X 16-Core Processor")
    assert (device.memory, device.free) == (16_384_000_000, 9_216_000_000)


def test_a_wifi_card_is_not_asked_how_warm_it_is(tmp_path: Path) -> None:
    assert found(tmp_path, pc()).temperature == 38.0


def test_a_pc_with_amds_gpus_is_named_by_the_biggest(tmp_path: Path) -> None:
    device = found(tmp_path, with_radeon())
    assert (device.kind, device.chip, device.npu_load) == ("amd", "AMD Radeon RX 7900 XTX", None)


def test_a_gpu_that_tells_its_name_is_not_looked_up(tmp_path: Path) -> None:
    device = found(
        tmp_path, with_radeon() | card(1, "0x740f", "0x02", 2**36, product_name="Instinct MI210\n")
    )
    assert device.chip == "AMD Instinct MI210"


def test_a_gpu_that_no_list_names_has_its_number(tmp_path: Path) -> None:
    device = found(tmp_path, without(with_radeon(), "/usr"))
    assert (device.kind, device.chip) == ("amd", "AMD GPU 744C")


def test_the_display_part_of_a_processor_is_no_gpu_to_compute_on(tmp_path: Path) -> None:
    device = found(tmp_path, without(with_radeon(), f"{CARDS}/card1", f"{CARDS}/card2"))
    assert (device.kind, device.chip) == ("cpu", "AMD Ryzen 9 7950X 16-Core Processor")


def test_a_pc_with_nvidias_gpus_is_named_by_the_first(tmp_path: Path) -> None:
    device = found(tmp_path, with_geforce())
    assert (device.kind, device.chip) == ("nvidia", "NVIDIA GeForce RTX 4090")


def test_a_gpu_that_this_container_was_not_given_does_not_count(tmp_path: Path) -> None:
    device = found(tmp_path, without(with_geforce(), "/dev"))
    assert (device.kind, device.chip) == ("cpu", "AMD Ryzen 9 7950X 16-Core Processor")


def test_the_limits_of_a_container_count(tmp_path: Path) -> None:
    device = found(tmp_path, contained())
    assert (device.memory, device.cores) == (2**31, 2)
    assert device.free == 2**31 - (1_610_612_736 - 402_653_184)


def test_the_tightest_of_nested_limits_counts(tmp_path: Path) -> None:
    unit = "/sys/fs/cgroup/system.slice/exo.service"
    files = trees.rk3588() | {
        "/proc/self/cgroup": "12:cpuset:/old\n0::/system.slice/exo.service\n",
        "/sys/fs/cgroup/system.slice/memory.max": "4000000000\n",
        "/sys/fs/cgroup/system.slice/memory.current": "3900000000\n",
        "/sys/fs/cgroup/system.slice/cpu.max": "400000 100000\n",
        f"{unit}/memory.max": "3000000000\n",
        f"{unit}/memory.current": "1000000000\n",
        f"{unit}/cpu.max": "150000 100000\n",
    }
    device = found(tmp_path, files)
    assert (device.memory, device.free, device.cores) == (3_000_000_000, 100_000_000, 2)


def test_more_than_the_machine_has_is_no_limit(tmp_path: Path) -> None:
    files = {"/sys/fs/cgroup/memory.max": str(2**40), "/sys/fs/cgroup/cpu.max": "6400000 100000\n"}
    device = found(tmp_path, contained() | files)
    assert (device.memory, device.cores) == (8_192_000_000, 8)
    assert device.free == 7_168_000_000


def test_a_container_that_uses_more_than_its_limit_has_nothing_free(tmp_path: Path) -> None:
    assert found(tmp_path, contained() | {"/sys/fs/cgroup/memory.current": "9000000000"}).free == 0


def test_a_group_outside_of_what_the_container_sees_leaves_the_containers_own(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/memory.max").write_text("1")
    device = found(tmp_path, contained() | {"/proc/self/cgroup": "0::/../../../x\n"})
    assert device.memory == 2**31


def test_a_mac(tmp_path: Path) -> None:
    device = found(tmp_path, {}, Mac())
    assert (device.kind, device.chip, device.memory) == ("apple", "Apple M2 Pro", 2**34)
    assert device.free == (100 + 2000 + 30) * 16384
    assert (device.temperature, device.npu_load) == (None, None)


def test_a_mac_without_apples_chip(tmp_path: Path) -> None:
    device = found(tmp_path, {}, Mac("Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz"))
    assert (device.kind, device.chip) == ("cpu", "Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz")


def test_a_mac_is_asked_once_in_five_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mac = Mac()
    device = detect(tmp_path, mac)
    mac.asked.clear()
    figures = []
    for second in range(11):
        monkeypatch.setattr(time, "monotonic", lambda second=second: 1000.0 + second)
        mac.free = second
        figures.append(now(device, tmp_path, mac).free // 16384 - 2030)
    assert figures == [0, 0, 0, 0, 0, 5, 5, 5, 5, 5, 10]
    assert mac.asked == ["vm_stat"] * 3


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    device = found(tmp_path, {}, silent)
    assert device == Device(name=device.name, cores=8, memory=device.memory)
    assert device.memory == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_command_that_fails_or_hangs_or_is_not_there_answers_nothing() -> None:
    assert devices.ask((sys.executable, "-c", "print('an answer')")) == "an answer\n"
    assert devices.ask((sys.executable, "-c", "raise SystemExit(1)")) is None
    assert devices.ask((sys.executable, "-c", "import os; os.write(1, b'\\xff')")) is None
    assert devices.ask(("no-such-command",)) is None
    started = time.monotonic()
    assert devices.ask(("sleep", "60")) is None
    assert time.monotonic() - started < 10


def test_this_machine_can_be_looked_at() -> None:
    device = now(detect())
    assert 0 < device.free <= device.memory
    assert msgspec.json.decode(msgspec.json.encode(device), type=Device) == device


MACHINES: dict[str, Callable[[], dict[str, str]]] = {
    "rk3588": trees.rk3588,
    "rk3576": rk3576,
    "geforce": with_geforce,
    "radeon": with_radeon,
    "pc": pc,
    "container": contained,
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\0",
        b"\xff\xfe\n",
        b"\x07max",
        b"\x1b-1",
        b"9" * 400,
        b"9" * 5000,
        b"Model: \t\t \x07\n",
        b"%" * 999,
    ],
)
def test_garbage_in_every_file_leaves_the_facts_unknown(tmp_path: Path, machine: str, garbage: bytes) -> None:
    device = found(tmp_path, dict.fromkeys(MACHINES[machine](), garbage))
    assert (device.chip, device.free, device.temperature, device.npu_load) == ("", 0, None, None)
    assert device.kind == ("nvidia" if machine == "geforce" else "cpu")
    assert device.memory == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert device.cores == 8


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may read what is closed; this is somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, unlike tmp_path."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("machine", MACHINES)
def test_files_that_are_closed_leave_the_facts_unknown(open_folder: Path, machine: str) -> None:
    files = trees.write(open_folder, MACHINES[machine]())
    for file in files.rglob("*"):
        if file.is_file():
            file.chmod(0)
    with unprivileged():
        device = found(files, {})
    assert (device.chip, device.free, device.temperature, device.npu_load) == ("", 0, None, None)


def test_folders_that_are_closed_leave_the_facts_unknown(open_folder: Path) -> None:
    root = trees.write(open_folder, trees.rk3588())
    closed = [root / "proc", root / "sys"]
    for folder in closed:
        folder.chmod(0)
    try:
        with unprivileged():
            device = found(root, {})
    finally:
        for folder in closed:
            folder.chmod(0o755)
    assert (device.kind, device.chip, device.free, device.temperature) == ("cpu", "", 0, None)


EVERYTHING: dict[str, str] = {path: text for make in MACHINES.values() for path, text in make().items()}
PARTS = st.sampled_from(sorted({b"0::/../../x\n", b"0::/\0\n", "٣٤%".encode()} | {
    part.encode() for text in EVERYTHING.values() for part in (text, text[: len(text) // 2], text + text)
}))  # fmt: skip
ODD = st.binary(max_size=60) | PARTS | st.builds(bytes.__add__, PARTS, st.binary(max_size=10))


@given(
    machine=st.sampled_from(sorted(MACHINES)),
    odd=st.dictionaries(st.sampled_from(sorted(EVERYTHING)), ODD, min_size=1),
    printed=st.none() | st.text(max_size=60) | PARTS.map(lambda part: part.decode(errors="replace")),
)
def test_odd_files_and_odd_commands_never_raise(
    machine: str, odd: dict[str, bytes], printed: str | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        device = found(Path(folder), {**MACHINES[machine](), **odd}, lambda command: printed)
        bare = found(Path(folder) / "bare", {}, lambda command: printed)
    for each in (device, bare):
        assert msgspec.json.decode(msgspec.json.encode(each), type=Device) == each
        assert each.cores >= 1
        assert each.memory >= 0
        assert each.free >= 0
        assert each.chip.isprintable()


@pytest.mark.parametrize("path", sorted(EVERYTHING))
def test_a_folder_in_place_of_a_file_and_the_reverse(tmp_path: Path, path: str) -> None:
    files = dict(EVERYTHING)
    del files[path]
    (trees.write(tmp_path, files) / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    found(tmp_path, {}, silent)
    folder = (tmp_path / path.lstrip("/")).parent
    shutil.rmtree(folder)
    folder.write_text("no folder")
    found(tmp_path, {}, silent)
