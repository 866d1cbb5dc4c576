"""What this machine gives a node: disk, memory, the clock, what the environment says, what lies open."""

import contextlib
import locale
import os
import re
import resource
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from exo import devices
from exo.doctor.evidence import Clock, Memory, Security, Storage, Surroundings
from exo.doctor.gather.scope import Scope
from exo.errors import NotReady
from exo.private import exposed

_KILLED = re.compile(rb"Killed process \d+ \(([^)]*)\)")
# Of a kernel's log, which is a few hundred KB.
_MOST_LOG = 8 << 20
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
# Characters below which a key is found by trying, as each try takes a node less than a millisecond.
_FEWEST = 16
_SECRETS = re.compile(r"\b(?:EXO_API_KEY|EXO_UPSTREAM_KEY|EXO_CLUSTER_SECRET|HF_TOKEN)=\S")


def storage(home: Path, root: Path = Path("/")) -> Storage:
    """The disk that `home` is on, or would be. Tries to write there, and leaves nothing. Raises OSError."""
    at = home
    while not at.exists() and at != at.parent:
        at = at.parent
    problem = None if at.is_dir() else f"{at} is no folder"
    if problem is None:
        try:
            # Only trying tells: a file system may be read-only, or forbid what the folder's mode allows.
            with tempfile.TemporaryFile(dir=at):
                pass
        except OSError as error:
            problem = f"{at}: {error.strerror}"
    sizes = os.statvfs(at)
    return Storage(
        folder=str(home),
        exists=home.exists(),
        free=sizes.f_bavail * sizes.f_frsize,
        total=sizes.f_blocks * sizes.f_frsize,
        free_files=sizes.f_favail if sizes.f_files else None,
        problem=problem,
        kind=kind_of_disk(os.stat(at).st_dev, root),
    )


def kind_of_disk(device: int, root: Path = Path("/")) -> Literal["", "SD card", "eMMC", "hard disk"]:
    """What a device number (`st_dev`) belongs to, if it is slow; "" for what sysfs does not show."""
    shown = root / "sys/dev/block" / f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        # A partition stands in the folder of its disk.
        disk = shown.resolve(strict=True)
        disk = disk.parent if (disk / "partition").exists() else disk
        if disk.name.startswith("mmcblk"):
            return "SD card" if (disk / "device/type").read_text().strip() == "SD" else "eMMC"
        # Virtual disks (vda, xvda) call themselves rotational, whatever they are.
        if disk.name.startswith("sd") and (disk / "queue/rotational").read_text().strip() == "1":
            return "hard disk"
    return ""


def memory(root: Path, budget: int | None, run: devices.Run = devices.ask) -> Memory:
    """`budget` is None for a node's own choice, three quarters of the memory."""
    device = devices.now(devices.detect(root, run), root, run)
    sizes = _meminfo(root)
    return Memory(
        total=sizes.get("MemTotal", device.memory),
        usable=device.memory,
        free=device.free,
        swap_total=sizes.get("SwapTotal", 0),
        swap_free=sizes.get("SwapFree", 0),
        cores=device.cores,
        cpus=os.cpu_count() or device.cores,
        budget=device.memory * 3 // 4 if budget is None else budget,
        killed=killed(root),
    )


def killed(root: Path) -> tuple[str, ...] | None:
    """Programs that the kernel ended for want of memory, each once, by its log; None where that is closed.

    What earlyoom and systemd-oomd end is in their own logs, and not seen here.
    """
    try:
        log = os.open(root / "dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    content = b""
    try:
        while len(content) < _MOST_LOG:
            try:
                piece = os.read(log, 8192)
            except BlockingIOError:
                break
            except BrokenPipeError:  # a record was overwritten meanwhile
                continue
            if not piece:
                break
            content += piece
    except OSError:
        return None
    finally:
        os.close(log)
    names = (match.decode(errors="replace") for match in _KILLED.findall(content))
    return tuple(dict.fromkeys(names))


def clock(root: Path, run: devices.Run = devices.ask) -> Clock:
    """systemd's own service, or whatever else it knows to keep the clock."""
    said = (run(("timedatectl", "show", "--property=NTPSynchronized", "--value")) or "").strip()
    synchronised = {"yes": True, "no": False}.get(said)
    if (root / "run/systemd/timesync/synchronized").exists():
        synchronised = True
    return Clock(time.time(), synchronised)


def security(scope: Scope) -> Security:
    """What is set and what lies open. Raises OSError for a folder of certificates that cannot be read."""
    from exo.admission import keyfile
    from exo.cluster import credentials
    from exo.cluster.reach import reachable_at

    keys, keys_problem = None, ""
    try:
        keys = keyfile.read(scope.home / keyfile.NAME)
    except NotReady as error:
        keys_problem = error.message
    found = credentials.inspect(scope.home / "cluster", datetime.now(UTC))
    return Security(
        key=bool(scope.key),
        secret=bool(scope.secret),
        open_at=reachable_at(scope.host),
        certificates=bool(found.node),
        root=os.geteuid() == 0,
        credentials=(*found.problems, *credentials.problems_of_secret(scope.secret)),
        readable=tuple(str(path) for path in _secret_files(scope.environment) if _open_to_others(path)),
        shown=_showing_secrets(),
        guessable=0 < len(scope.key or "") < _FEWEST,
        keys=None if keys is None else len(keys),
        keys_problem=keys_problem,
    )


def surroundings(scope: Scope) -> Surroundings:
    lower = {name.lower(): value for name, value in scope.environment.items() if value}
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Surroundings(
        unknown=scope.unknown,
        faults=scope.faults,
        proxies={
            name: re.sub(r"//[^/@]*@", "//", lower[name]) for name in _PROXIES if name in lower
        },  # without the name and password that one may carry
        past_proxy=tuple(each.strip() for each in lower.get("no_proxy", "").split(",") if each.strip()),
        encoding=locale.getencoding(),
        open_files=None if limit == resource.RLIM_INFINITY else limit,
    )


def _meminfo(root: Path) -> dict[str, int]:
    try:
        content = (root / "proc/meminfo").read_text()
    except OSError:
        return {}  # macOS has none
    lines = re.findall(r"^(MemTotal|SwapTotal|SwapFree): +(\d{1,15}) kB$", content, re.MULTILINE)
    return {name: int(kilobytes) * 1024 for name, kilobytes in lines}


def _secret_files(environment: Mapping[str, str]) -> tuple[Path, ...]:
    """The hub's token, where its library keeps it."""
    home = environment.get("HF_HOME")
    return ((Path(home) if home else Path.home() / ".cache/huggingface") / "token",)


def _open_to_others(path: Path) -> bool:
    return path.is_file() and exposed(path, path.stat()) is not None


def _showing_secrets() -> tuple[str, ...]:
    """Processes whose command line, which every user may read, has a secret in it."""
    import psutil

    return tuple(
        f"{process.info['name']} (pid {process.info['pid']})"
        for process in psutil.process_iter(["pid", "name", "cmdline"])
        if any(_SECRETS.search(word) for word in process.info["cmdline"] or ())
    )
