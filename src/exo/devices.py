"""What machine this is: the facts that stay as they are, found once, and those that change.

Linux shows them as files, which are read under `root`, so that a copy of a machine's /proc and /sys can be
looked at as well; the name, and the CPUs this process may run on, are asked of the system itself. Where
there is no /proc, `sysctl` and `vm_stat` are asked, as macOS has them. A fact that is not there, is closed to
this process or is not understood stays unknown: machines, kernels and containers differ too much for
a start to depend on any of it.

A GPU counts if its driver shows it and its device files are there: a container sees the machine's /proc and
/sys even if it may not use the GPU. No command is run that would wake a sleeping GPU; what is read, the
drivers keep in memory, as far as their documentation tells. Not seen are GPUs under WSL, which has no such
files, and NVIDIA's before their device files exist, which a machine without a display may make at their first
use only.

Tried on trees made by hand, with a Mac's commands played, and on a virtual machine without a GPU; no board,
no GPU and no Mac was at hand.
"""

import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TypeAlias, TypeVar

import msgspec

from exo.nodes import Device, Kind

Run: TypeAlias = Callable[[Sequence[str]], str | None]
"""Runs a command: what it printed, or None."""

T = TypeVar("T")

CGROUPS = "sys/fs/cgroup"
AMD_NAMES = "usr/share/libdrm/amdgpu.ids"
"""libdrm's list of AMD's GPUs: device, revision and name, of which the kernel knows the first two."""


def ask(command: Sequence[str]) -> str | None:
    """What a command prints; None if there is no such command, it fails, or it takes more than a second."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=1, check=True, text=True
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout


def detect(root: Path = Path("/"), run: Run = ask) -> Device:
    """The machine, with its changing facts left open. Never raises.

    Limits of control groups (v2) count: the memory and the cores are those this process can have. Memory that
    nothing tells is 0.
    """
    kind, chip = _what_computes(root, run)
    return Device(
        name=platform.node() or platform.machine(),
        cores=_cores(root),
        memory=min([_memory(root, run), *(limit for _, limit in _memory_limits(root))]),
        kind=kind,
        chip=chip,
    )


def now(device: Device, root: Path = Path("/"), run: Run = ask) -> Device:
    """The same machine with what changes as it is now. Never raises, and is made to be called each second.

    `free` is what Linux calls available, and no more than the control groups leave; 0 is not known.
    `temperature` is the hottest sensor's. `npu_load` is the mean of the NPU's cores, and root's to read.
    On macOS it waits for a command once in five seconds. Elsewhere it only reads files: in 0.3 ms for a
    board with seven sensors, without the time that real sensors take to answer.
    """
    return msgspec.structs.replace(
        device,
        free=_free(root, run),
        temperature=_hottest(root),
        npu_load=_read(root, "sys/kernel/debug/rknpu/load", _load),
    )


def npu_frequency(root: Path = Path("/")) -> int | None:
    """The NPU's present frequency in Hz. Never raises."""
    return next((_read(root, f"{npu}/cur_freq", _integer) for npu in _npus(root)), None)


def _what_computes(root: Path, run: Run) -> tuple[Kind, str]:
    if (chip := _rockchip(root)) is not None:
        return "rockchip", chip
    if (chip := _nvidia(root)) is not None:
        return "nvidia", chip
    if (chip := _amd(root)) is not None:
        return "amd", chip
    if not _has_proc(root):
        chip = _parsed(run(("sysctl", "-n", "machdep.cpu.brand_string")), _line) or ""
        return ("apple" if chip.startswith("Apple ") else "cpu"), chip
    # Arm's kernels do not name the CPU; their device tree names the machine.
    chip = _read(root, "proc/cpuinfo", _cpu_model) or _read(root, "proc/device-tree/model", _line)
    return "cpu", chip or ""


def _rockchip(root: Path) -> str | None:
    """The chip of a board whose NPU the runtime supports."""
    # Docker hides the device tree; the NPU's device repeats what it said of the NPU.
    for path in ("proc/device-tree/compatible", *(f"{npu}/device/uevent" for npu in _npus(root))):
        if chip := _read(root, path, _platform):
            return chip
    return None


def _npus(root: Path) -> list[str]:
    return _names(root, "sys/class/devfreq", r".*npu.*")


def _nvidia(root: Path) -> str | None:
    """The first GPU's name, "" if it is not told. The place is that of NVIDIA's README of the driver."""
    gpus = _names(root, "proc/driver/nvidia/gpus", r".*")
    if not gpus or not os.path.lexists(os.path.join(root, "dev/nvidiactl")):
        return None
    return _read(root, f"{gpus[0]}/information", _nvidia_model) or ""


def _amd(root: Path) -> str | None:
    """The name of the GPU with the most memory of its own.

    Places as the kernel's documentation of amdgpu has them; without that driver, there is no computing on
    the GPU either. With less than 3 GiB it is the display's part of a processor.
    """
    if not any(os.path.lexists(os.path.join(root, way)) for way in ("dev/kfd", "dev/dri")):
        return None
    gpus = {}
    for card in _names(root, "sys/class/drm", r"card\d+"):
        memory = _read(root, f"{card}/device/mem_info_vram_total", _integer)
        if memory and memory >= 3 * 2**30 and _read(root, f"{card}/device/vendor", _pci_id) == "1002":
            gpus[f"{card}/device"] = memory
    if not gpus:
        return None
    gpu = max(gpus, key=gpus.__getitem__)
    name = _read(root, f"{gpu}/product_name", _line) or _listed(root, gpu)
    return name if name.startswith("AMD ") else f"AMD {name}"


def _listed(root: Path, gpu: str) -> str:
    """The name libdrm has for an AMD GPU; without one, its PCI device id: "GPU 744C"."""
    model = _read(root, f"{gpu}/device", _pci_id)
    revision = _read(root, f"{gpu}/revision", _pci_id)
    if model and revision:
        entry = rf"^{model},\s*{revision},\s*(.+)$"
        if name := _read(root, AMD_NAMES, lambda content: _line(_found(entry, content))):
            return name
    return f"GPU {model}" if model else "GPU"


def _cores(root: Path) -> int:
    """The CPUs this process may run on; no more than the CPU time it gets, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = (_read(root, f"{group}/cpu.max", _cpu_limit) for group in _groups(root))
    return max(1, min([allowed, *(limit for limit in limits if limit is not None)]))


def _memory(root: Path, run: Run) -> int:
    """The machine's memory in bytes."""
    if total := _read(root, "proc/meminfo", lambda content: _kilobytes("MemTotal", content)):
        return total
    if not _has_proc(root) and (total := _parsed(run(("sysctl", "-n", "hw.memsize")), _integer)):
        return total
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0


def _free(root: Path, run: Run) -> int:
    if _has_proc(root):
        free = _read(root, "proc/meminfo", lambda content: _kilobytes("MemAvailable", content))
    else:
        free = _vm_stat(run, int(time.monotonic() / 5))
    if free is None:
        return 0
    left = (limit - _held(root, group) for group, limit in _memory_limits(root))
    return max(0, min([free, *left]))


def _held(root: Path, group: str) -> int:
    """Bytes of a control group that it could not give back at once: the working set, as Kubernetes has it."""
    used = _read(root, f"{group}/memory.current", _integer) or 0
    cache = _read(
        root, f"{group}/memory.stat", lambda content: int(_found(r"^inactive_file ([0-9]{1,15})$", content))
    )
    return max(0, used - (cache or 0))


@lru_cache(maxsize=1)
def _vm_stat(run: Run, period: int) -> int | None:
    """Free bytes of a Mac. Starting a command each second would cost more than the figure is worth: `period`
    is all that makes the command run again."""
    return _parsed(run(("vm_stat",)), _vm_pages)


def _hottest(root: Path) -> float | None:
    zones = _names(root, "sys/class/thermal", r"thermal_zone\d+")
    # A Wi-Fi card's is asked of its firmware, which may take its time, and does not matter here.
    types = {zone: _read(root, f"{zone}/type", _line) or "" for zone in zones}
    found = (_read(root, f"{zone}/temp", _celsius) for zone in zones if not types[zone].startswith("iwlwifi"))
    return max((each for each in found if each is not None), default=None)


def _groups(root: Path) -> list[str]:
    """The folders of this process' control group (v2) and of all groups around it, outermost last."""
    own = _read(root, "proc/self/cgroup", lambda content: PurePosixPath(_found(r"^0::(/.*)$", content)))
    if own is None:
        return []
    if ".." in own.parts:  # the process was put into a group outside of what its container sees
        own = PurePosixPath("/")
    return [f"{CGROUPS}{group}".rstrip("/") for group in (own, *own.parents)]


def _memory_limits(root: Path) -> list[tuple[str, int]]:
    """The groups that limit memory, and to how many bytes."""
    limits = ((group, _read(root, f"{group}/memory.max", _integer)) for group in _groups(root))
    return [(group, limit) for group, limit in limits if limit is not None]


def _has_proc(root: Path) -> bool:
    return os.path.isdir(os.path.join(root, "proc"))


def _names(root: Path, folder: str, pattern: str) -> list[str]:
    """Paths of what matches in a folder, in order."""
    try:
        names = os.listdir(os.path.join(root, folder))
    except OSError:
        return []
    return sorted(f"{folder}/{name}" for name in names if re.fullmatch(pattern, name))


def _read(root: Path, path: str, parse: Callable[[str], T]) -> T | None:
    """A file's content, parsed; None if it cannot be read or is not understood."""
    try:
        with open(os.path.join(root, path), "rb") as file:
            content = file.read().decode()
    except (OSError, ValueError):  # ValueError: not UTF-8, or a NUL in a path that another file named
        return None
    return _parsed(content, parse)


def _parsed(content: str | None, parse: Callable[[str], T]) -> T | None:
    try:
        return None if content is None else parse(content)
    except ValueError:
        return None


# What files and commands hold. Each raises ValueError for what it does not understand.


def _line(content: str) -> str:
    """One line of reasonable length; the device tree ends it with a NUL."""
    line = " ".join(content.strip("\0\n ").split())
    if not line.isprintable() or not 0 < len(line) <= 100:
        raise ValueError(content)
    return line


def _found(pattern: str, content: str) -> str:
    """What the pattern's group matches first, on a line of many."""
    if not (match := re.search(pattern, content, re.MULTILINE)):
        raise ValueError(content)
    return match[1]


def _integer(content: str) -> int:
    """Bytes, or anything else that is at least 0 and no number of more than 64 bits."""
    if not re.fullmatch(r"[0-9]{1,18}", number := content.strip()):
        raise ValueError(content)
    return int(number)


def _kilobytes(name: str, content: str) -> int:
    return int(_found(rf"^{name}: +([0-9]{{1,15}}) kB$", content)) * 1024


def _pci_id(content: str) -> str:
    """ "0x744c" as "744C" """
    return _found(r"\A0x([0-9a-f]{2,4})\s*\Z", content).upper()


def _cpu_model(content: str) -> str:
    return _line(_found(r"^model name\s*:(.*)$", content))


def _nvidia_model(content: str) -> str:
    return _line(_found(r"^Model:(.*)$", content))


def _platform(content: str) -> str:
    """The chips the runtime supports; their variants (rk3588s) begin with these."""
    return _found(r"rockchip,(rk3588|rk3576|rk3562|rv1126b)", content).upper()


def _cpu_limit(content: str) -> int | None:
    """ "150000 100000", microseconds of CPU time in so many of time, as 2 CPUs"""
    quota, period = content.split()
    if quota == "max":
        return None
    if not _integer(period):
        raise ValueError(content)
    return -(-_integer(quota) // _integer(period))


def _celsius(content: str) -> float:
    """From thousandths. Sensors that are off say what nothing here could be."""
    if not re.fullmatch(r"-?[0-9]{1,6}", number := content.strip()):
        raise ValueError(content)
    celsius = int(number) / 1000
    if not -50 <= celsius <= 150:
        raise ValueError(content)
    return celsius


def _load(content: str) -> float:
    """ "NPU load:  Core0: 50%, Core1:  0%, Core2:  0%,", or with one core "NPU load:  12%" """
    loads = [int(load) for load in re.findall(r"([0-9]{1,3})%", content)]
    if not loads or max(loads) > 100:
        raise ValueError(content)
    return sum(loads) / len(loads) / 100


def _vm_pages(content: str) -> int:
    """What macOS could hand out: free pages, and those it keeps only in case they are used again."""
    size = int(_found(r"page size of ([0-9]{1,9}) bytes", content))
    kinds = ("free", "inactive", "speculative")
    return size * sum(int(_found(rf"^Pages {kind}: +([0-9]{{1,15}})\.$", content)) for kind in kinds)
