"""Boards as trees of files: what their kernels show under /proc, /sys and /dev.

Made by hand from the documented places and forms; no board was at hand to copy from.
"""

from collections.abc import Mapping
from pathlib import Path

CPUS = "/sys/devices/system/cpu/cpufreq"
NPU = "/sys/class/devfreq/fdab0000.npu"
DDR = "/sys/class/devfreq/dmc"
GOVERNORS = "conservative ondemand userspace powersave performance schedutil"

DRIVER = "/sys/kernel/debug/rknpu/version"
LOAD = "/sys/kernel/debug/rknpu/load"


def _policy(number: int, cpus: str, top: int, governor: str) -> dict[str, str]:
    """cpufreq counts in kHz."""
    return {
        f"{CPUS}/policy{number}/related_cpus": cpus,
        f"{CPUS}/policy{number}/scaling_governor": governor,
        f"{CPUS}/policy{number}/scaling_available_governors": GOVERNORS,
        f"{CPUS}/policy{number}/scaling_cur_freq": str(top if governor == "performance" else 408000),
        f"{CPUS}/policy{number}/scaling_min_freq": "408000",
        f"{CPUS}/policy{number}/scaling_max_freq": str(top),
        f"{CPUS}/policy{number}/cpuinfo_max_freq": str(top),
        f"{CPUS}/policy{number}/scaling_available_frequencies": f"408000 1008000 {top} ",
    }


def _device(folder: str, frequencies: str, governor: str, own: str) -> dict[str, str]:
    """devfreq counts in Hz."""
    lowest, *_, highest = frequencies.split()
    return {
        f"{folder}/governor": governor,
        f"{folder}/available_governors": f"{own} userspace powersave performance simple_ondemand",
        f"{folder}/cur_freq": highest if governor == "performance" else lowest,
        f"{folder}/min_freq": lowest,
        f"{folder}/max_freq": highest,
        f"{folder}/available_frequencies": frequencies,
    }


def _meminfo(total: int, available: int, swap: int = 0, swap_free: int = 0) -> str:
    """Sizes in kB."""
    return (
        f"MemTotal:       {total} kB\nMemFree:        {available // 2} kB\nMemAvailable:   {available} kB\n"
        f"SwapTotal:      {swap} kB\nSwapFree:       {swap_free} kB\nHugePages_Total:       0\n"
    )


def _limits(open_files: str) -> str:
    return (
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max cpu time              unlimited            unlimited            seconds   \n"
        f"Max open files            {open_files}                 1048576              files     \n"
    )


def rk3588(governor: str = "performance") -> dict[str, str]:
    """A healthy 8 GB board; with another governor than `performance`, idle at its lowest clocks."""
    return {
        "/proc/device-tree/compatible": "radxa,rock-5b\0rockchip,rk3588\0",
        "/proc/device-tree/model": "Radxa ROCK 5B\0",
        "/proc/sys/kernel/osrelease": "5.10.160-rockchip\n",
        "/proc/meminfo": _meminfo(8_000_000, 7_000_000),
        "/proc/self/cgroup": "0::/user.slice/user-1000.slice\n",
        "/proc/self/limits": _limits("65536"),
        "/sys/fs/cgroup/cgroup.controllers": "cpu memory pids\n",
        "/sys/fs/cgroup/user.slice/memory.max": "max\n",
        "/sys/fs/cgroup/user.slice/cpu.max": "max 100000\n",
        DRIVER: "RKNPU driver: v0.9.8\n",
        LOAD: "NPU load:  Core0:  0%, Core1:  0%, Core2:  0%,\n",
        **_policy(0, "0 1 2 3", 1800000, governor),
        **_policy(4, "4 5", 2400000, governor),
        **_policy(6, "6 7", 2352000, governor),
        **_device(NPU, "300000000 600000000 1000000000", governor, "rknpu_ondemand"),
        **_device(DDR, "528000000 1068000000 1560000000 2112000000", governor, "dmc_ondemand"),
        "/sys/class/devfreq/fb000000.gpu/governor": "simple_ondemand",
        "/sys/class/thermal/thermal_zone0/type": "soc-thermal\n",
        "/sys/class/thermal/thermal_zone0/temp": "45307\n",
        "/sys/class/thermal/thermal_zone1/type": "npu-thermal\n",
        "/sys/class/thermal/thermal_zone1/temp": "51769\n",
        "/sys/class/thermal/cooling_device0/type": "thermal-cpufreq-0\n",
        "/dev/dri/card0": "",
        "/dev/dri/renderD128": "",
        "/dev/dri/renderD129": "",
    }


def slow_memory() -> dict[str, str]:
    """One whose memory stays at its lowest clock."""
    return rk3588() | {f"{DDR}/governor": "dmc_ondemand", f"{DDR}/cur_freq": "528000000"}


def contained() -> dict[str, str]:
    """A container on a board: no device tree and no debugfs, two CPUs, 2 GB, and few files."""
    hidden = ("/proc/device-tree", "/sys/kernel/debug", "/dev/", "/proc/self/cgroup", "/sys/fs/cgroup")
    seen = {path: content for path, content in rk3588().items() if not path.startswith(hidden)}
    return seen | {
        "/proc/self/cgroup": "0::/\n",
        "/sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
        "/sys/fs/cgroup/memory.max": "2147483648\n",
        "/sys/fs/cgroup/cpu.max": "200000 100000\n",
        "/proc/self/limits": _limits("256"),
    }


def pc() -> dict[str, str]:
    """No Rockchip at all."""
    return {
        "/proc/sys/kernel/osrelease": "6.1.0-28-amd64\n",
        "/proc/meminfo": _meminfo(16_000_000, 9_000_000, 1_000_000, 900_000),
        "/proc/self/cgroup": "0::/\n",
        "/proc/self/limits": _limits("unlimited"),
        "/sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
        "/sys/class/thermal/thermal_zone0/type": "x86_pkg_temp",
        "/sys/class/thermal/thermal_zone0/temp": "38000",
        "/dev/dri/renderD128": "",
    }


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """The files under `root`, which is returned."""
    for path, content in files.items():
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root
