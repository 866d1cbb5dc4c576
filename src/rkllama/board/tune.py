"""Full speed for inference: every governor of CPU, NPU and memory set to `performance`, and set back again.

What each governor was before is kept in a file in /run, which like the governors does not outlive a restart.
It is written before anything is changed, so that whatever happens then can be undone.
"""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from exo.errors import Forbidden, NotFound, NotReady
from rkllama.board.facts import Board

GOVERNOR = "performance"
STATE = "/run/rkllama/tune.json"

# Root writes where the state file says. Should somebody else get to write that file, it is only governors.
_GOVERNOR_FILE = re.compile(
    r"/sys/class/devfreq/[^/]+/governor|/sys/devices/system/cpu/cpufreq/policy\d+/scaling_governor"
)
_GOVERNOR_NAME = re.compile(r"[\w-]+")


class Write(msgspec.Struct, frozen=True):
    """A change of one file of the kernel's; `old` is what it holds before."""

    what: str
    path: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.what}: {self.old} -> {self.new}"


class Outcome(msgspec.Struct, frozen=True):
    """What became of a write; `error` is None if it was done."""

    write: Write
    error: str | None = None


def plan(board: Board) -> tuple[Write, ...]:
    """What to change for full speed. Governors that already are, or cannot be, right are left alone."""
    return tuple(
        Write(f"{clock.name} governor", clock.governor_file, clock.governor, GOVERNOR)
        for clock in board.clocks
        if clock.governor not in (None, GOVERNOR) and GOVERNOR in clock.governors
    )


def left_alone(board: Board) -> tuple[str, ...]:
    """What `plan` does not change though it is not at full speed, and why; a sentence each."""
    found = []
    for clock in board.clocks:
        if clock.governor is None:
            found.append(f"{clock.name} governor: left alone, as {clock.governor_file} could not be read.")
        elif clock.governor != GOVERNOR and GOVERNOR not in clock.governors:
            offered = ", ".join(clock.governors) or "none that could be read"
            found.append(
                f"{clock.name} governor: left at {clock.governor}, as this kernel has no {GOVERNOR} for it "
                f"(it offers {offered})."
            )
    return tuple(found)


def require_root(user: int) -> None:
    """Forbidden unless `user` is root."""
    if user != 0:
        raise Forbidden(
            "Only root may change the board's governors: run sudo rkllama tune. "
            "To see what it would change, run rkllama tune --dry-run."
        )


def apply(writes: Sequence[Write], root: Path, state: Path) -> tuple[Outcome, ...]:
    """Does the writes under `root`, each whatever became of the others, and remembers what was before.

    The file `state` keeps the first value of each path, however often this is done. NotReady, and nothing is
    changed, if it cannot be written.
    """
    before = _remembered(state)
    _remember(state, {**{write.path: write.old for write in writes}, **before})
    outcomes = tuple(_done(write, root) for write in writes)
    done = {outcome.write.path: outcome.write.old for outcome in outcomes if outcome.error is None}
    _remember(state, {**done, **before})
    return outcomes


def plan_revert(root: Path, state: Path) -> tuple[Write, ...]:
    """What to write to have everything as it was before the first `apply`.

    NotFound if nothing is remembered, NotReady if what is remembered cannot be made out.
    """
    if not (before := _remembered(state)):
        raise NotFound(
            f"Nothing to revert: {state} does not exist. It does after rkllama tune, until a restart."
        )
    return tuple(Write(_name(path), path, _now(root, path), old) for path, old in before.items())


def revert(root: Path, state: Path) -> tuple[Outcome, ...]:
    """Restores what was before the first `apply`; what could not be restored stays remembered."""
    writes = plan_revert(root, state)
    outcomes = tuple(_done(write, root) for write in writes)
    _remember(state, {each.write.path: each.write.new for each in outcomes if each.error is not None})
    return outcomes


def _done(write: Write, root: Path) -> Outcome:
    """Writes, and looks whether the kernel has taken it."""
    file = _under(root, write.path)
    try:
        # A file of the kernel's is there already; one that is not must not be made.
        opened = os.open(file, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            os.write(opened, f"{write.new}\n".encode())
        finally:
            os.close(opened)
        now = file.read_text().strip()
    except OSError as error:
        return Outcome(write, f"{write.path} cannot be written: {error.strerror}.")
    if now != write.new:
        return Outcome(write, f"{write.path} stays at {now}: the kernel has not taken {write.new}.")
    return Outcome(write)


def _now(root: Path, path: str) -> str:
    try:
        return _under(root, path).read_text(errors="replace").strip()
    except OSError as error:
        return f"(unreadable: {error.strerror})"


def _name(path: str) -> str:
    """A name for a governor when only its file is known: "policy4 governor", "dmc governor"."""
    return f"{Path(path).parent.name} governor"


def _under(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _remembered(state: Path) -> Mapping[str, str]:
    try:
        values = msgspec.json.decode(state.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise NotReady(f"{state} cannot be read: {error.strerror}. It is root's: use sudo.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _damaged(state) from error
    for path, value in values.items():
        if not _GOVERNOR_FILE.fullmatch(path) or not _GOVERNOR_NAME.fullmatch(value):
            raise _damaged(state)
    return values


def _damaged(state: Path) -> NotReady:
    return NotReady(
        f"{state} is damaged: it does not hold governors by file. Remove it; the governors are as the system "
        "wants them again after a restart."
    )


def _remember(state: Path, values: Mapping[str, str]) -> None:
    """Replaces the file in one step, so that it is never half written; nothing to remember is no file."""
    try:
        if not values:
            state.unlink(missing_ok=True)
            return
        state.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=state.parent, prefix=f".{state.name}.")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as opened:
                opened.write(msgspec.json.encode(values))
                opened.flush()
                os.fsync(opened.fileno())
            os.replace(temporary, state)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise NotReady(
            f"{state} cannot be written: {error.strerror}. Nothing may be changed then."
        ) from error
