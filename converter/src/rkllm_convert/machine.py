"""Facts of the machine that converts."""

from __future__ import annotations

import platform
import re
import shutil
from pathlib import Path

from rkllm_convert.request import Machine
from rkllm_convert.toolkit import Installed, differences


def machine(installed: Installed, out: Path) -> Machine:
    """This machine, with what the toolkit's Python has and what is free where `out` is."""
    place = next(each for each in (out.absolute(), *out.absolute().parents) if each.exists())
    return Machine(
        python=installed.python,
        toolkit=installed.toolkit,
        system=platform.system(),
        machine=platform.machine(),
        cuda=installed.cuda,
        memory=_free_memory(Path("/proc/meminfo")),
        broken=installed.error,
        lacks=tuple(differences(installed)),
        disk=shutil.disk_usage(str(place)).free,
    )


def _free_memory(path: Path) -> int | None:
    """Bytes that can be had, swap included: a conversion may use it, slowly."""
    if not path.is_file():
        return None
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", path.read_text(encoding="ascii"), re.MULTILINE))
    if "MemAvailable" not in found:
        return None
    return (int(found["MemAvailable"]) + int(found.get("SwapFree", 0))) << 10
