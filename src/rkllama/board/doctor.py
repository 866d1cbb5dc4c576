"""Why a board does not answer, or answers slowly: evidence in, findings with remedies out.

Nothing is read here; `rkllama.cli.doctor` gathers the evidence. This file is about the board and the library,
`model_doctor` about model files. The thresholds are our choice, and could not be tried on a board.
"""

from collections.abc import Iterator

from rkllama.board import model_doctor
from rkllama.board.evidence import Evidence, Finding, gb, mhz, parts
from rkllama.board.facts import PLATFORMS, Board, Clock
from rkllama.board.tune import GOVERNOR

# A clock is at its maximum within the rounding of clocks.
_AT_TOP = 0.98
_POWER_SAVING = frozenset({"powersave", "conservative"})
_HOT_CELSIUS = 85
_BUSY_PERCENT = 20
# The runtime's default is to use four CPUs.
_CPUS = 4
_OPEN_FILES = 1024
_SWAP_BYTES = 64 * 2**20
_TUNE = "sudo rkllama tune"


def examine(evidence: Evidence) -> tuple[Finding, ...]:
    """What is to be said of the evidence: the board, the library, the models, and last how fast they are."""
    findings = [*_board(evidence), *_library(evidence)]
    for model in evidence.models:
        of_file = list(model_doctor.examine(model, evidence))
        causes = [finding for finding in (*findings, *of_file) if finding.level == "slow"]
        findings += [*of_file, *model_doctor.speed(model, evidence, causes)]
    return tuple(findings)


# The board


def _board(evidence: Evidence) -> Iterator[Finding]:
    board, working = evidence.board, evidence.working or evidence.board
    chip = _chip(evidence)
    yield chip
    if chip.level != "broken":
        yield from _driver(evidence)
        yield from _devices(board)
        yield from _clocks(working)
        yield from _load(board)
        yield from _heat(working)
        yield from _unread(board)
    yield from _memory(board)
    yield from _limits(board)


def _chip(evidence: Evidence) -> Finding:
    board, platform = evidence.board, evidence.platform
    runs_on = f"The NPU runtime runs on {', '.join(PLATFORMS)}"
    elsewhere = "On this machine use exo: it serves GGUF models on the CPU."
    if platform:
        system = f", kernel {board.kernel}" if board.kernel else ""
        return Finding("ok", "Board", f"{board.model or 'model unknown'} ({platform}){system}")
    if board.compatible:
        name = board.model or "This board"
        return Finding(
            "broken",
            "Board",
            f"{name} is a {board.compatible[-1]}, which has no NPU for this",
            f"{runs_on}. {elsewhere}",
        )
    nodes = {node.path for node in board.devices}
    if board.driver or "/dev/rknpu" in nodes or any(clock.kind == "npu" for clock in board.clocks):
        return Finding(
            "note",
            "Board",
            "there is an NPU, but which chip this is cannot be told without /proc/device-tree/compatible",
            "A container hides it: run rkllama doctor on the board itself.",
        )
    return Finding(
        "broken",
        "Board",
        "this machine has no Rockchip NPU: no device tree, no NPU driver, no NPU clock",
        f"{runs_on}. {elsewhere} In a container on a board, run rkllama doctor outside of it.",
    )


def _driver(evidence: Evidence) -> Iterator[Finding]:
    said = [model.facts.driver for model in evidence.models if model.facts.driver]
    version = evidence.board.driver or (said[0] if said else None)
    if version is None:
        return  # `unread` says why
    numbers = parts(version)
    remedy = "Update the board's kernel to one with RKNPU driver 0.9.8 or later."
    if numbers < (0, 9, 7):
        yield Finding("broken", "NPU driver", f"{version} is too old: the runtime needs 0.9.7", remedy)
    elif numbers < (0, 9, 8):
        yield Finding("note", "NPU driver", f"{version} works, but 0.9.8 is recommended", remedy)
    else:
        yield Finding("ok", "NPU driver", version)


def _devices(board: Board) -> Iterator[Finding]:
    usable = [node.path for node in board.devices if node.usable]
    closed = ", ".join(node.path for node in board.devices if not node.usable)
    if usable:
        also = f"; not {closed}" if closed else ""
        yield Finding("ok", "NPU device", f"{', '.join(usable)} can be opened{also}")
    elif closed:
        yield Finding(
            "broken",
            "NPU device",
            f"this user may not open {closed}",
            "sudo usermod -aG render,video $USER, then log in again; in a container, pass --device /dev/dri.",
        )
    else:
        yield Finding(
            "broken",
            "NPU device",
            "neither /dev/dri/renderD* nor /dev/rknpu is there",
            "Use the vendor's kernel, which has the rknpu driver; in a container, pass --device /dev/dri.",
        )


def _clocks(board: Board) -> Iterator[Finding]:
    fastest = max((clock.top or 0 for clock in board.clocks if clock.kind == "cpu"), default=0)
    for clock in board.clocks:
        slow_core = clock.kind == "cpu" and (clock.top or 0) < 0.9 * fastest
        if not slow_core:  # the runtime leaves those alone
            yield from _clock(clock)


def _clock(clock: Clock) -> Iterator[Finding]:
    top, now, subject = clock.top, clock.current, f"{clock.name} clock"
    if not top or now is None:
        return  # `unread` says why
    at = f"{mhz(now)} of {mhz(top)} MHz, governor {clock.governor or 'unknown'}"
    if clock.maximum and clock.maximum < _AT_TOP * top:
        limit = "scaling_max_freq" if clock.kind == "cpu" else "max_freq"
        value = top // 1000 if clock.kind == "cpu" else top
        yield Finding(
            "slow",
            subject,
            f"{at}; it is not allowed above {mhz(clock.maximum)} MHz",
            f"echo {value} | sudo tee {clock.folder}/{limit}, unless heat is the reason.",
        )
    elif clock.governor in _POWER_SAVING or (now < _AT_TOP * top and clock.governor != GOVERNOR):
        yield Finding("slow", subject, at, _TUNE)
    elif now < _AT_TOP * top:
        yield Finding("slow", subject, at, "Something holds it back: look at temperature and power supply.")
    else:
        yield Finding("ok", subject, at)


def _load(board: Board) -> Iterator[Finding]:
    if board.npu_load and max(board.npu_load) >= _BUSY_PERCENT:
        cores = ", ".join(f"{load} %" for load in board.npu_load)
        yield Finding(
            "slow", "NPU load", f"another program is using the NPU ({cores})", "Stop it, or share the speed."
        )


def _heat(board: Board) -> Iterator[Finding]:
    hottest = max(board.zones, key=lambda zone: zone.celsius, default=None)
    if hottest is None:
        return  # `unread` says why
    says = f"{hottest.celsius:.0f} °C ({hottest.name})"
    if hottest.celsius >= _HOT_CELSIUS:
        remedy = "Give the board a heatsink or a fan."
        yield Finding("slow", "Temperature", f"{says}: the kernel lowers the clocks of hot chips", remedy)
    else:
        yield Finding("ok", "Temperature", says)


def _memory(board: Board) -> Iterator[Finding]:
    total, free = board.memory_total, board.memory_available
    if total is None or free is None:
        return  # `unread` says why
    yield Finding("ok", "Memory", f"{gb(total)}, {gb(free)} of it free")
    swapped = (board.swap_total or 0) - (board.swap_free or 0)
    if swapped > _SWAP_BYTES:
        says = f"{gb(swapped)} are swapped out: memory is or was short"
        yield Finding(
            "slow" if free < total / 10 else "note", "Swap", says, "Unload models or stop other programs."
        )


def _limits(board: Board) -> Iterator[Finding]:
    if board.cgroup_cpus is not None and board.cgroup_cpus < _CPUS:
        says = f"this process gets the time of {board.cgroup_cpus:.1f} CPUs; the runtime uses {_CPUS}"
        yield Finding("slow", "CPU limit", says, "Raise it: docker --cpus, or systemd's CPUQuota.")
    if board.cgroup_memory is not None:
        yield Finding("note", "Memory limit", f"this process may use {gb(board.cgroup_memory)}")
    if board.open_files is not None and board.open_files < _OPEN_FILES:
        says = f"{board.open_files} are few for a server: each client needs one"
        yield Finding("note", "Open files", says, "ulimit -n 4096, or systemd's LimitNOFILE=4096.")


def _unread(board: Board) -> Iterator[Finding]:
    if board.unread:
        root = any(reason.endswith("needs root") for reason in board.unread)
        says = "; ".join(board.unread)
        yield Finding(
            "note", "Not read", says, "Root may read it: sudo HOME=$HOME rkllama doctor." if root else None
        )


def _library(evidence: Evidence) -> Iterator[Finding]:
    library = evidence.library
    if library.error is not None:
        yield Finding("broken", "Library", library.error)
    else:
        yield Finding("ok", "Library", f"{library.path}, release {library.release}")
