"""What is read of boards, and of machines that are none."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rkllama.board.facts import Board, Clock, DeviceNode, Zone, platform_of, read_board
from tests.rkllama.board import trees


def clock(board: Board, name: str) -> Clock:
    (found,) = (each for each in board.clocks if each.name == name)
    return found


def test_a_healthy_board_is_read_whole(tmp_path: Path) -> None:
    board = read_board(trees.write(tmp_path, trees.rk3588()))
    assert board.unread == ()
    assert (board.platform, board.model) == ("rk3588", "Radxa ROCK 5B")
    assert board.compatible == ("rock-5b", "rk3588")
    assert (board.kernel, board.driver) == ("5.10.160-rockchip", "0.9.8")
    assert board.npu_load == (0, 0, 0)
    assert [each.name for each in board.clocks] == ["CPU 0-3", "CPU 4-5", "CPU 6-7", "NPU", "DDR"]
    assert board.zones == (Zone("soc-thermal", 45.307), Zone("npu-thermal", 51.769))
    assert (board.memory_total, board.memory_available) == (8_192_000_000, 7_168_000_000)
    assert (board.swap_total, board.swap_free) == (0, 0)
    assert (board.cgroup_memory, board.cgroup_cpus) == (None, None)
    assert board.open_files == 65536
    assert board.devices == (
        DeviceNode("/dev/dri/renderD128", usable=True),
        DeviceNode("/dev/dri/renderD129", usable=True),
    )


def test_frequencies_are_in_hertz(tmp_path: Path) -> None:
    board = read_board(trees.write(tmp_path, trees.rk3588("ondemand")))
    assert clock(board, "CPU 4-5") == Clock(
        kind="cpu",
        name="CPU 4-5",
        folder="/sys/devices/system/cpu/cpufreq/policy4",
        governor="ondemand",
        governors=tuple(trees.GOVERNORS.split()),
        current=408_000_000,
        minimum=408_000_000,
        maximum=2_400_000_000,
        available=(408_000_000, 1_008_000_000, 2_400_000_000),
        cpus=(4, 5),
    )
    memory = clock(board, "DDR")
    assert (memory.current, memory.maximum, memory.top) == (528_000_000, 2_112_000_000, 2_112_000_000)


def test_the_hardware_says_what_its_top_is_even_if_less_is_allowed(tmp_path: Path) -> None:
    board = read_board(trees.write(tmp_path, trees.rk3588() | {f"{trees.DDR}/max_freq": "1068000000"}))
    assert (clock(board, "DDR").maximum, clock(board, "DDR").top) == (1_068_000_000, 2_112_000_000)


@pytest.mark.parametrize(
    ("compatible", "platform"),
    [
        ("radxa,rock-5b\0rockchip,rk3588\0", "rk3588"),
        ("orangepi,5\0rockchip,rk3588s\0rockchip,rk3588\0", "rk3588"),
        ("rockchip,rk3588s\0", "rk3588"),
        ("armsom,sige5\0rockchip,rk3576\0", "rk3576"),
        ("rockchip,rk3562-evb\0rockchip,rk3562\0", "rk3562"),
        ("rockchip,rv1126b\0", "rv1126b"),
        ("rockchip,rv1126\0", None),
        ("pine64,quartz64\0rockchip,rk3566\0", None),
        ("raspberrypi,5-model-b\0brcm,bcm2712\0", None),
        ("", None),
    ],
)
def test_the_chip_is_told_by_the_device_tree(tmp_path: Path, compatible: str, platform: str | None) -> None:
    board = read_board(trees.write(tmp_path, {"/proc/device-tree/compatible": compatible}))
    assert board.platform == platform == platform_of(board.compatible)


@pytest.mark.parametrize(
    ("content", "load"),
    [
        ("NPU load:  Core0: 12%, Core1:  0%, Core2: 100%,\n", (12, 0, 100)),
        ("NPU load:  12%\n", (12,)),
        ("NPU load:\n", None),
    ],
)
def test_load_of_one_core_and_of_several(tmp_path: Path, content: str, load: tuple[int, ...] | None) -> None:
    board = read_board(trees.write(tmp_path, trees.rk3588() | {trees.LOAD: content}))
    assert board.npu_load == load
    assert (load is None) == any("NPU load" in reason for reason in board.unread)


def test_limits_of_a_container(tmp_path: Path) -> None:
    board = read_board(trees.write(tmp_path, trees.contained()))
    assert (board.cgroup_memory, board.cgroup_cpus, board.open_files) == (2_147_483_648, 2.0, 256)
    assert board.platform is None
    assert "Platform: /proc/device-tree/compatible is not there" in board.unread


def test_the_tightest_of_nested_limits_counts(tmp_path: Path) -> None:
    files = trees.rk3588() | {
        "/proc/self/cgroup": "12:cpuset:/old\n0::/system.slice/rkllama.service\n",
        "/sys/fs/cgroup/system.slice/memory.max": "3000000000",
        "/sys/fs/cgroup/system.slice/rkllama.service/memory.max": "max",
        "/sys/fs/cgroup/system.slice/cpu.max": "400000 100000",
        "/sys/fs/cgroup/system.slice/rkllama.service/cpu.max": "50000 100000",
    }
    board = read_board(trees.write(tmp_path, files))
    assert (board.cgroup_memory, board.cgroup_cpus) == (3_000_000_000, 0.5)


def test_the_older_kind_of_control_groups_is_named_as_not_read(tmp_path: Path) -> None:
    files = {path: text for path, text in trees.rk3588().items() if not path.startswith("/sys/fs/cgroup")}
    board = read_board(trees.write(tmp_path, files | {"/proc/self/cgroup": "4:memory:/user\n"}))
    assert board.unread == ("Limits of control groups: /sys/fs/cgroup/cgroup.controllers is not there",)


def test_no_limit_is_no_reason(tmp_path: Path) -> None:
    board = read_board(trees.write(tmp_path, trees.pc()))
    assert board.open_files is None
    assert not any("Open-files" in reason for reason in board.unread)


def test_policies_come_in_order_of_their_numbers(tmp_path: Path) -> None:
    folder = "/sys/devices/system/cpu/cpufreq"
    files = {f"{folder}/policy{number}/related_cpus": str(number) for number in (10, 9, 0)}
    board = read_board(trees.write(tmp_path, files))
    assert [each.cpus for each in board.clocks] == [(0,), (9,), (10,)]


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


def test_what_is_roots_is_named_as_such(open_folder: Path) -> None:
    root = trees.write(open_folder, trees.rk3588())
    debugfs = root / "sys/kernel/debug"
    (root / "dev/dri/renderD128").chmod(0)
    (root / "dev/dri/renderD129").chmod(0o666)
    debugfs.chmod(0)
    try:
        with unprivileged():
            board = read_board(root)
    finally:
        debugfs.chmod(0o700)
    assert (board.driver, board.npu_load) == (None, None)
    assert board.unread == (
        "NPU driver: /sys/kernel/debug/rknpu/version needs root",
        "NPU load: /sys/kernel/debug/rknpu/load needs root",
    )
    assert [node.usable for node in board.devices] == [False, True]
    assert board.platform == "rk3588"


def test_a_machine_with_nothing_to_read(tmp_path: Path) -> None:
    board = read_board(tmp_path)
    assert msgspec.structs.replace(board, unread=()) == Board()
    for what in ("Platform", "Board model", "Kernel", "NPU driver", "NPU load", "CPU clocks", "NPU clock",
                 "DDR clock", "Temperature", "Memory", "Limits of control groups", "Open-files limit",
                 "NPU devices"):  # fmt: skip
        assert any(reason.startswith(f"{what}:") for reason in board.unread), what


def test_this_machine_can_be_read() -> None:
    board = read_board()
    assert board.memory_total
    assert board.kernel == os.uname().release


FILES = sorted(trees.rk3588())
ODD = st.binary(max_size=40) | st.sampled_from(
    [
        *(
            b"",
            b"\n",
            b"\0",
            b"max",
            b"max max",
            b"1 0",
            b"-1",
            b"9" * 400,
            b"9" * 5000,
            b"1_000",
            b"nan",
            b"inf",
        ),
        *(b"0::/\0\n", b"0::/../../x\n", "٣٤".encode()),
    ]
)


@given(odd=st.dictionaries(st.sampled_from(FILES), ODD, min_size=1, max_size=len(FILES)))
def test_odd_files_are_reasons_and_never_failures(odd: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        board = read_board(trees.write(Path(folder), {**trees.rk3588(), **odd}))
    msgspec.json.encode(board)


@pytest.mark.parametrize("path", FILES)
def test_a_folder_in_place_of_a_file_and_the_reverse(tmp_path: Path, path: str) -> None:
    files = trees.rk3588()
    del files[path]
    (trees.write(tmp_path, files) / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
    read_board(tmp_path)
    folder = (tmp_path / path.lstrip("/")).parent
    shutil.rmtree(folder)
    folder.write_text("no folder")
    read_board(tmp_path)


def test_numbers_beyond_any_use_are_not_understood(tmp_path: Path) -> None:
    board = read_board(trees.write(tmp_path, dict.fromkeys(FILES, "9" * 400)))
    msgspec.json.encode(board)
    assert not board.zones
    assert not any(each.current or each.maximum or each.available for each in board.clocks)
    assert "Temperature: /sys/class/thermal/thermal_zone0/temp says " in "\n".join(board.unread)
