"""What the kernel says of the board: clocks, temperatures, memory, limits, and its NPU.

Reads files and changes nothing. Each fact has one place under `root`, so a copy of a board's /proc and /sys
can be examined as well as the board itself. What is not there, not allowed or not understood becomes a reason
in `Board.unread`, never a failure: the boards, their kernels and the containers on them differ too much.

The places are those of the vendor's kernels (5.10 and 6.1); they could not be tried here without a board.
"""

import fnmatch
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

import msgspec

PLATFORMS = ("rk3588", "rk3576", "rk3562", "rv1126b")
"""The chips the runtime supports; their variants (rk3588s) begin with these."""


class Clock(msgspec.Struct, frozen=True, kw_only=True):
    """Something whose frequency is governed. Frequencies are in Hz; `folder` is where the kernel shows it.

    `minimum` and `maximum` are what the governor may choose from, `available` what the hardware has.
    """

    kind: Literal["cpu", "npu", "ddr"]
    name: str
    folder: str
    governor: str | None = None
    governors: tuple[str, ...] = ()
    current: int | None = None
    minimum: int | None = None
    maximum: int | None = None
    available: tuple[int, ...] = ()
    cpus: tuple[int, ...] = ()

    @property
    def governor_file(self) -> str:
        return f"{self.folder}/{'scaling_governor' if self.kind == 'cpu' else 'governor'}"

    @property
    def top(self) -> int | None:
        """The highest frequency of the hardware; without a list of them, the highest allowed."""
        return max(self.available, default=self.maximum or None)


class Zone(msgspec.Struct, frozen=True):
    """A temperature sensor."""

    name: str
    celsius: float


class DeviceNode(msgspec.Struct, frozen=True):
    """A way to the NPU, and whether this process may open it for reading and writing."""

    path: str
    usable: bool


class Board(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of this machine. Sizes are in bytes.

    A fact is None where it could not be read, and then `unread` says why. A limit of None of which `unread`
    says nothing does not exist: the kernel sets none. `npu_load` has a percentage per core. `cgroup_cpus` is
    how many CPUs' time this process gets. `compatible` is the device tree's, without the makers' names.
    """

    platform: str | None = None
    model: str | None = None
    compatible: tuple[str, ...] = ()
    kernel: str | None = None
    driver: str | None = None
    npu_load: tuple[int, ...] | None = None
    clocks: tuple[Clock, ...] = ()
    zones: tuple[Zone, ...] = ()
    memory_total: int | None = None
    memory_available: int | None = None
    swap_total: int | None = None
    swap_free: int | None = None
    cgroup_memory: int | None = None
    cgroup_cpus: float | None = None
    open_files: int | None = None
    devices: tuple[DeviceNode, ...] = ()
    unread: tuple[str, ...] = ()


def read_board(root: Path = Path("/")) -> Board:
    """The board as it is now, or the copy of one whose files are under `root`. Never raises."""
    files = _Files(root)
    compatible = files.read("Platform", "/proc/device-tree/compatible", _compatible) or ()
    memory = files.read("Memory", "/proc/meminfo", _meminfo) or {}
    groups = _groups(files)
    board = Board(
        platform=platform_of(compatible),
        model=files.read("Board model", "/proc/device-tree/model", _text),
        compatible=compatible,
        kernel=files.read("Kernel", "/proc/sys/kernel/osrelease", _text),
        driver=files.read("NPU driver", "/sys/kernel/debug/rknpu/version", _version),
        npu_load=files.read("NPU load", "/sys/kernel/debug/rknpu/load", _load),
        clocks=(*_cpu_clocks(files), *_device_clocks(files)),
        zones=tuple(_zones(files)),
        memory_total=memory.get("MemTotal"),
        memory_available=memory.get("MemAvailable"),
        swap_total=memory.get("SwapTotal"),
        swap_free=memory.get("SwapFree"),
        cgroup_memory=_tightest(files, "Memory limit", [f"{group}/memory.max" for group in groups], _limit),
        cgroup_cpus=_tightest(files, "CPU limit", [f"{group}/cpu.max" for group in groups], _cpu_limit),
        open_files=files.read("Open-files limit", "/proc/self/limits", _open_files),
        devices=tuple(_devices(files)),
    )
    return msgspec.structs.replace(board, unread=tuple(files.unread))


def platform_of(compatible: tuple[str, ...]) -> str | None:
    """Which of the supported chips a device tree's names are of."""
    for platform in PLATFORMS:
        if any(name.startswith(platform) for name in compatible):
            return platform
    return None


T = TypeVar("T")
N = TypeVar("N", int, float)


class _Files:
    """Reads files under a root and gathers why some could not be."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.unread: list[str] = []

    def at(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def read(self, what: str, path: str, parse: Callable[[str], T]) -> T | None:
        """The parsed content; None and a reason if there is none that `parse` takes (ValueError)."""
        text = self._content(what, path)
        if text is None:
            return None
        try:
            return parse(text)
        except ValueError:
            self.unread.append(f"{what}: {path} says {text.strip()[:60]!r}, which is not understood")
            return None

    def optional(self, what: str, path: str, parse: Callable[[str], T]) -> T | None:
        """The same for a file that many kernels do without."""
        return self.read(what, path, parse) if os.path.lexists(self.at(path)) else None

    def names(self, what: str, folder: str, *patterns: str) -> list[str]:
        """Full paths of what matches in a folder, "policy10" behind "policy9"."""
        try:
            entries = os.listdir(self.at(folder))
        except (OSError, ValueError) as error:
            self.unread.append(f"{what}: {folder} {_why(error)}")
            return []
        found = [name for name in entries if any(fnmatch.fnmatchcase(name, each) for each in patterns)]
        if not found:
            self.unread.append(f"{what}: there is no {' or '.join(patterns)} in {folder}")
        return [f"{folder}/{name}" for name in sorted(found, key=lambda name: (len(name), name))]

    def _content(self, what: str, path: str) -> str | None:
        try:
            return self.at(path).read_bytes().decode(errors="replace")
        except (OSError, ValueError) as error:  # ValueError: a NUL in a path that another file named
            self.unread.append(f"{what}: {path} {_why(error)}")
            return None


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, PermissionError):
        return "needs root" if os.geteuid() != 0 else "is closed even to root"
    if isinstance(error, FileNotFoundError):
        return "is not there"
    return f"cannot be read: {(isinstance(error, OSError) and error.strerror) or error}"


def _cpu_clocks(files: _Files) -> Iterator[Clock]:
    for folder in files.names("CPU clocks", "/sys/devices/system/cpu/cpufreq", "policy*"):
        what = f"CPU clock {PurePosixPath(folder).name}"
        cpus = files.read(what, f"{folder}/related_cpus", _numbers) or ()
        hardware = files.optional(what, f"{folder}/cpuinfo_max_freq", _hertz)
        listed = files.optional(what, f"{folder}/scaling_available_frequencies", _hertzes)
        yield Clock(
            kind="cpu",
            name=f"CPU {_ranges(cpus)}" if cpus else f"CPU ({PurePosixPath(folder).name})",
            folder=folder,
            governor=files.read(what, f"{folder}/scaling_governor", _text),
            governors=files.read(what, f"{folder}/scaling_available_governors", _words) or (),
            current=files.read(what, f"{folder}/scaling_cur_freq", _hertz),
            minimum=files.read(what, f"{folder}/scaling_min_freq", _hertz),
            maximum=files.read(what, f"{folder}/scaling_max_freq", _hertz),
            available=listed or ((hardware,) if hardware else ()),
            cpus=cpus,
        )


def _device_clocks(files: _Files) -> Iterator[Clock]:
    kinds: tuple[tuple[Literal["npu", "ddr"], str, str], ...] = (
        ("npu", "NPU", "*npu*"),
        ("ddr", "DDR", "dmc"),
    )
    for kind, name, pattern in kinds:
        what = f"{name} clock"
        for folder in files.names(what, "/sys/class/devfreq", pattern):
            yield Clock(
                kind=kind,
                name=name,
                folder=folder,
                governor=files.read(what, f"{folder}/governor", _text),
                governors=files.read(what, f"{folder}/available_governors", _words) or (),
                current=files.read(what, f"{folder}/cur_freq", _integer),
                minimum=files.read(what, f"{folder}/min_freq", _integer),
                maximum=files.read(what, f"{folder}/max_freq", _integer),
                available=files.optional(what, f"{folder}/available_frequencies", _numbers) or (),
            )


def _zones(files: _Files) -> Iterator[Zone]:
    for folder in files.names("Temperature", "/sys/class/thermal", "thermal_zone*"):
        name = files.read("Temperature", f"{folder}/type", _text)
        celsius = files.read("Temperature", f"{folder}/temp", _thousandths)
        if celsius is not None:
            yield Zone(name or PurePosixPath(folder).name, celsius)


def _devices(files: _Files) -> Iterator[DeviceNode]:
    found = files.names("NPU devices", "/dev/dri", "renderD*")
    if os.path.lexists(files.at("/dev/rknpu")):
        found.append("/dev/rknpu")
    for path in found:
        # Only opening tells: a container may forbid what the file's mode allows.
        try:
            os.close(os.open(files.at(path), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            yield DeviceNode(path, usable=False)
        else:
            yield DeviceNode(path, usable=True)


def _groups(files: _Files) -> list[str]:
    """The folders of this process' control group (v2) and of all groups around it, outermost last."""
    mount = "/sys/fs/cgroup"
    if files.read("Limits of control groups", f"{mount}/cgroup.controllers", _words) is None:
        return []
    own = files.read("Limits of control groups", "/proc/self/cgroup", _own_group)
    return [f"{mount}{group}".rstrip("/") for group in (own, *own.parents)] if own else []


def _tightest(files: _Files, what: str, paths: Sequence[str], parse: Callable[[str], N | None]) -> N | None:
    """The least limit that any of the groups sets."""
    # The root of all groups has no limits, and a controller may be off in any group.
    limits = [files.optional(what, path, parse) for path in paths]
    return min((limit for limit in limits if limit is not None), default=None)


# What the files hold. Each raises ValueError for what it does not understand.


def _text(content: str) -> str:
    """One line; the device tree ends it with a NUL."""
    text = content.strip("\0\n ")
    if not text or not text.isprintable():
        raise ValueError(content)
    return text


def _words(content: str) -> tuple[str, ...]:
    return tuple(content.split())


def _integer(content: str) -> int:
    number = int(content)
    if abs(number) >= 2**63:
        raise ValueError(content)
    return number


def _numbers(content: str) -> tuple[int, ...]:
    return tuple(map(_integer, content.split()))


def _hertz(content: str) -> int:
    """cpufreq counts in kHz, devfreq in Hz."""
    return _integer(content) * 1000


def _hertzes(content: str) -> tuple[int, ...]:
    return tuple(map(_hertz, content.split()))


def _thousandths(content: str) -> float:
    return _integer(content) / 1000


def _compatible(content: str) -> tuple[str, ...]:
    return tuple(name.partition(",")[2] or name for name in content.split("\0") if name.strip())


def _version(content: str) -> str:
    """ "RKNPU driver: v0.9.8" """
    if not (match := re.search(r"\d+(?:\.\d+)+", content)):
        raise ValueError(content)
    return match[0]


def _load(content: str) -> tuple[int, ...]:
    """ "NPU load:  Core0:  0%, Core1:  0%, Core2:  0%,", or with one core "NPU load:  12%" """
    if not (loads := re.findall(r"(\d{1,3})%", content)):
        raise ValueError(content)
    return tuple(map(int, loads))


def _meminfo(content: str) -> dict[str, int]:
    """Bytes by name. The lines that are needed must be there."""
    lines = re.findall(r"^(\w+): +(\d{1,15}) kB$", content, re.MULTILINE)
    sizes = {name: int(kilobytes) * 1024 for name, kilobytes in lines}
    if not {"MemTotal", "MemAvailable", "SwapTotal", "SwapFree"} <= sizes.keys():
        raise ValueError(content)
    return sizes


def _own_group(content: str) -> PurePosixPath:
    if not (match := re.search(r"^0::(/.*)$", content, re.MULTILINE)):
        raise ValueError(content)
    return PurePosixPath(match[1])


def _limit(content: str) -> int | None:
    return None if content.strip() == "max" else _integer(content)


def _cpu_limit(content: str) -> float | None:
    """ "200000 100000": microseconds of CPU time in so many of time"""
    quota, period = content.split()
    if quota == "max":
        return None
    if _integer(period) <= 0:
        raise ValueError(content)
    return _integer(quota) / _integer(period)


def _open_files(content: str) -> int | None:
    if not (match := re.search(r"^Max open files +(\d{1,18}|unlimited)", content, re.MULTILINE)):
        raise ValueError(content)
    return None if match[1] == "unlimited" else int(match[1])


def _ranges(cpus: Sequence[int]) -> str:
    """(4, 5, 6, 7) as "4-7"."""
    return f"{cpus[0]}-{cpus[-1]}" if len(cpus) > 1 else str(cpus[0])
