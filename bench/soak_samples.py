"""What a process holds, read from /proc every few seconds, and whether that grows. Linux only."""

import contextlib
import os
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

_CLOSE_WAIT = "08"  # include/net/tcp_states.h
_SOCKET = re.compile(r"socket:\[(\d+)\]")
_KEPT_OUT = ("log", "tmp")
# Slopes are taken over so many points at most: every pair of them is looked at.
_POINTS = 250


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a process: MB of memory, how many of the rest. `home` is MB of its EXO_HOME, its log and
    its temporary files left out; `at` is on `time.monotonic`'s clock."""

    at: float
    rss: float
    pss: float
    fds: int
    threads: int
    children: int
    close_wait: int
    temporary: int
    home: float


MEASURES: dict[str, Callable[[Sample], float]] = {
    "RSS, MB": lambda sample: sample.rss,
    "PSS, MB": lambda sample: sample.pss,
    "files open": lambda sample: sample.fds,
    "threads": lambda sample: sample.threads,
    "children": lambda sample: sample.children,
    "CLOSE_WAIT": lambda sample: sample.close_wait,
    "temporary files": lambda sample: sample.temporary,
    "EXO_HOME, MB": lambda sample: sample.home,
}


class Trend(msgspec.Struct, frozen=True):
    """Of one measure: the median of the first and of the last quarter of the time, and what the slope of all
    samples makes of the whole time. It is flat where that is within what chance does."""

    first: float
    last: float
    growth: float
    flat: bool


def look(pid: int, home: Path, at: float) -> Sample | None:
    """The process as it is now; None where it is gone, or about to be."""
    process = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError, ValueError, KeyError):
        memory = _fields(process / "smaps_rollup")
        status = _fields(process / "status")
        sockets = set(_SOCKET.findall(" ".join(_targets(process / "fd"))))
        return Sample(
            at=at,
            rss=memory["Rss"] / 1e3,
            pss=memory["Pss"] / 1e3,
            fds=len(list((process / "fd").iterdir())),
            threads=status["Threads"],
            children=len(descendants(pid)),
            close_wait=_waiting_to_close(process, sockets),
            temporary=sum(1 for each in (home / "tmp").rglob("*") if each.is_file()),
            home=_size(home) / 1e6,
        )
    return None


def descendants(pid: int) -> list[int]:
    """Its children, and theirs."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                found += [int(child), *descendants(int(child))]
    return found


def command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def left_over(homes: Iterable[Path]) -> list[str]:
    """Commands of processes that were started with one of these as their EXO_HOME, and are still there."""
    ours = [f"EXO_HOME={home}".encode() for home in homes]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            environment = (process / "environ").read_bytes().split(b"\0")
            if any(each in environment for each in ours):
                found.append(command(int(process.name)))
    return found


def trend(samples: Sequence[Sample], measure: Callable[[Sample], float], allowed: float) -> Trend:
    """By the median of the slopes of all pairs (Theil and Sen), which no spike moves. `allowed` is what may
    be gained over the whole time; raises `ValueError` for too few samples."""
    if len(samples) < 8:
        raise ValueError(f"{len(samples)} samples tell no trend")
    quarter = len(samples) // 4
    points = [(each.at, measure(each)) for each in samples[:: max(1, len(samples) // _POINTS)]]
    growth = statistics.median(_slopes(points)) * (samples[-1].at - samples[0].at)
    first = statistics.median(measure(each) for each in samples[:quarter])
    last = statistics.median(measure(each) for each in samples[-quarter:])
    # Steps that come late move the slope little, and the last quarter all the more.
    return Trend(first, last, growth, max(growth, last - first) <= allowed)


def _slopes(points: Sequence[tuple[float, float]]) -> Iterator[float]:
    for number, (early, before) in enumerate(points):
        for late, after in points[number + 1 :]:
            if late > early:
                yield (after - before) / (late - early)


def _fields(file: Path) -> dict[str, int]:
    """Lines of "Name:   123 kB"."""
    pairs = (line.partition(":") for line in file.read_text(encoding="ascii", errors="replace").splitlines())
    return {
        name: int(words[0]) for name, _, rest in pairs if (words := rest.split()) and words[0].isdecimal()
    }


def _targets(folder: Path) -> Iterator[str]:
    for each in folder.iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            yield os.readlink(each)


def _waiting_to_close(process: Path, sockets: set[str]) -> int:
    """Its connections that the other side has closed and it has not."""
    count = 0
    for table in ("tcp", "tcp6"):
        for line in (process / "net" / table).read_text(encoding="ascii").splitlines()[1:]:
            cells = line.split()
            count += cells[3] == _CLOSE_WAIT and cells[9] in sockets
    return count


def _size(home: Path) -> int:
    total = 0
    for top in home.iterdir():
        if top.name not in _KEPT_OUT:
            for each in (top, *top.rglob("*")):
                with contextlib.suppress(OSError):
                    total += each.lstat().st_size
    return total
