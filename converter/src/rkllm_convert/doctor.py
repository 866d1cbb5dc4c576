"""What keeps this machine from converting, with remedies. Pure: the evidence is gathered elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator

from rkllm_convert import table
from rkllm_convert.request import Machine
from rkllm_convert.table import shown
from rkllm_convert.toolkit import Installed

# For the smallest models in float32, and to keep one more.
_MEMORY, _DISK = 8 << 30, 10 << 30
_LIBRARIES = ("torch", "transformers", "datasets")


@dataclass(frozen=True)
class Finding:
    """`level` is "ok", "note" or "broken"."""

    level: str
    subject: str
    says: str
    remedy: str = ""


def examine(installed: Installed | None, machine: Machine, error: str = "") -> tuple[Finding, ...]:
    """What is to be said; `installed` is None, with an `error`, for a Python that does not run."""
    return (*_machine(machine), *_python(installed, machine, error), *_room(machine))


def _machine(machine: Machine) -> Iterator[Finding]:
    says = f"{machine.system} on {machine.machine}"
    if machine.system == "Linux" and machine.machine.lower() in ("x86_64", "amd64"):
        yield Finding("ok", "Machine", says)
    else:
        remedy = "Use the container (converter/compose.yaml), which emulates x86-64 where it has to."
        yield Finding("broken", "Machine", f"{says}: the toolkit runs on x86-64 Linux only", remedy)


def _python(installed: Installed | None, machine: Machine, error: str) -> Iterator[Finding]:
    if installed is None:
        yield Finding("broken", "Python", error)
        return
    release = table.release_of(installed.toolkit or "")
    known = table.toolkit(release) if release else None
    if installed.toolkit is None:
        yield Finding(
            "broken",
            "Toolkit",
            f"it is not installed in this Python {shown(installed.python)}",
            "Get rkllm_toolkit-*.whl from the vendor and install it with its requirements.txt, or name a "
            "Python that has it with --python.",
        )
        return
    if known is None:
        releases = ", ".join(shown(each.release) for each in table.TOOLKITS)
        yield Finding("broken", "Toolkit", f"{installed.toolkit} is not known", f"Install one of {releases}.")
    elif installed.python not in known.pythons:
        pythons = ", ".join(map(shown, known.pythons))
        says = f"{installed.toolkit} is made for Python {pythons}, and this is {shown(installed.python)}"
        yield Finding("broken", "Toolkit", says, "Name another one with --python.")
    elif installed.error:
        says = f"{installed.toolkit} cannot be imported: {installed.error}"
        yield Finding("broken", "Toolkit", says, "Install the requirements.txt that came with its wheel.")
    elif machine.lacks:
        says = f"{installed.toolkit} does not take {', '.join(machine.lacks)}"
        yield Finding("broken", "Toolkit", says, "Install a release whose parameters are as documented.")
    else:
        yield Finding("ok", "Toolkit", f"{installed.toolkit} on Python {shown(installed.python)}")
    yield from _libraries(installed)


def _libraries(installed: Installed) -> Iterator[Finding]:
    missing = [name for name in _LIBRARIES if not installed.libraries.get(name)]
    if missing:
        says = (
            f"{', '.join(missing)} are not there, which the toolkit needs"
            if len(missing) > 1
            else (f"{missing[0]} is not there, which the toolkit needs")
        )
        yield Finding("broken", "Libraries", says, "Install the requirements.txt that came with its wheel.")
    else:
        listed = ", ".join(f"{name} {installed.libraries[name]}" for name in _LIBRARIES)
        yield Finding("ok", "Libraries", listed)
    if installed.cuda:
        yield Finding("ok", "GPU", "CUDA can be used: --device cuda")
    else:
        says = "there is none that CUDA can use: converting takes longer, and there is no grq"
        yield Finding("note", "GPU", says)


def _room(machine: Machine) -> Iterator[Finding]:
    if machine.memory is not None:
        says = f"{machine.memory / 1e9:.0f} GB free, swap included"
        if machine.memory < _MEMORY:
            yield Finding("note", "Memory", says, "Few models fit: see `rkllm-convert plan`. Add swap.")
        else:
            yield Finding("ok", "Memory", says)
    if machine.disk is not None:
        says = f"{machine.disk / 1e9:.0f} GB free"
        if machine.disk < _DISK:
            yield Finding("note", "Disk", says, "Few models fit: see `rkllm-convert plan`. Make room.")
        else:
            yield Finding("ok", "Disk", says)
