"""Machines that are thrown away: what is done on one is done to the files, users and services of nobody else.

    with Machine("board", "192.168.1.21", board=True) as machine:
        machine.run("systemctl status")

A machine has the files of the one that the test runs on, below an overlay that takes what is changed, and
namespaces of its own for all else: mounts, processes, network, names. A systemd runs it, the one that is
installed here, so its services are really started, watched and confined. What it is not: its kernel is this
machine's, whose /sys it can only read; of control groups it has the tree and whatever limits are left to it;
it has no device node but those of every machine, and no network but a cable to whoever is `wired` to it.

With `board`, the kernel's files say that there is the NPU of an RK3588, idle at its lowest clocks, as
tests/rkllama/board/trees.py has them.
The NPU's runtime is up to the test.

Takes root. Nothing is left when it is closed: all is in memory, and mounts end with the namespace.
"""

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.docs.blocks import ROOT
from tests.rkllama.board import trees

PATIENCE = 60.0
"""Seconds after which waiting is a failure; never a way to pass."""

CHANGES = "/run/throwaway/upper"
"""Where a machine sees what is other than on this one, as files of the same paths. What is gone is a
character device there."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What would touch the machine the test runs on, or wait for devices. What packages start is left out, too.
_LEFT_OUT = """
    systemd-sysctl.service systemd-modules-load.service systemd-remount-fs.service systemd-random-seed.service
    systemd-udevd.service systemd-udev-trigger.service systemd-logind.service systemd-hwdb-update.service
    systemd-firstboot.service dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount proc-sys-fs-binfmt_misc.automount
    getty.target
"""

# Outside: a control group, from which the machine's tree begins, and which is gone when the machine is.
_KEEPER = """
set -eu
mount --make-rprivate /
mkdir "$BASE/groups"
mount -t cgroup2 cgroup2 "$BASE/groups"
# What a test that was killed has left.
for each in "$BASE"/groups/throwaway-*; do
    pid=${each##*/throwaway-}
    [ -e "/proc/${pid%%-*}" ] || find "$each" -depth -type d -exec rmdir {} + 2>/dev/null || :
done
own=$BASE/groups/$NAME
mkdir "$own"
echo 0 > "$own/cgroup.procs"
setpriv --pdeathsig KILL unshare --cgroup --mount --pid --uts --ipc --net --fork --kill-child \\
    bash -c "$INSIDE" || :
echo 0 > "$BASE/groups/cgroup.procs" || :
for _ in $(seq 100); do
    find "$own" -depth -type d -exec rmdir {} + 2>/dev/null && break
    sleep 0.05
done
"""

# Inside: the tree, and then systemd in this process' place.
_INSIDE = """
set -eu
mount -t tmpfs -o mode=755,size=4g tmpfs "$BASE"
mkdir "$BASE/upper" "$BASE/work" "$BASE/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$BASE/upper,workdir=$BASE/work" "$BASE/root"
root=$BASE/root
mount -t proc proc "$root/proc"
mount --bind -o ro "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for each in null zero full random urandom tty; do
    touch "$root/dev/$each"
    mount --bind "/dev/$each" "$root/dev/$each"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s /proc/self/fd/0 "$root/dev/stdin"
ln -s /proc/self/fd/1 "$root/dev/stdout"
ln -s /proc/self/fd/2 "$root/dev/stderr"
# Knowing of nothing newer, apt-get is content with what is installed.
for each in lib/apt/lists cache/apt; do mount -t tmpfs tmpfs "$root/var/$each"; done
mkdir -p "$root/run/throwaway" "$root/run/systemd/system"
mount --bind "$BASE" "$root/run/throwaway"
for each in $LEFT_OUT; do ln -s /dev/null "$root/run/systemd/system/$each"; done
mkdir -p "$root$SHARED"
mount --bind -o ro "$SHARED" "$root$SHARED"
eval "$BOARD"
rm -f "$root"/etc/systemd/system/*.wants/*
tr -d - < /proc/sys/kernel/random/uuid > "$root/etc/machine-id"
echo "$HOST" > "$root/etc/hostname"
hostname "$HOST"
ip link set lo up
cd "$root"
pivot_root . .
umount -l .
exec env -i container=throwaway PATH="$PATH" /lib/systemd/systemd --unit=multi-user.target \
    --log-target=console --log-level=warning --show-status=no
"""


class Machine:
    """One that runs when the constructor returns. `address` is what its cable will have, in a /24."""

    def __init__(self, name: str, address: str, *, board: bool = False) -> None:
        self.name, self.address = name, address
        self.pid: int | None = None
        self._base = tempfile.TemporaryDirectory(prefix="throwaway-")
        said = Path(self._base.name, "said")
        # So that no machine outlives a test that is killed.
        tied = ["setpriv", "--pdeathsig", "KILL"]
        command = [*tied, "unshare", "--mount", "--propagation", "private", "bash", "-c", _KEEPER]
        told = {
            "PATH": _PATH,
            "BASE": self._base.name,
            "NAME": f"throwaway-{os.getpid()}-{name}",
            "HOST": name,
            "INSIDE": _INSIDE,
            "LEFT_OUT": " ".join(_LEFT_OUT.split()),
            "SHARED": str(ROOT),
            "BOARD": _board() if board else "",
        }
        with said.open("wb") as out:
            self._keeper = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=told, start_new_session=True
            )
        self._said = said
        try:
            self.pid = self._first_process()
            self.until("systemctl is-system-running | grep -qE 'running|degraded'")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _inside(self) -> list[str]:
        enter = ["nsenter", f"--target={self.pid}", "--all", "--root", "--wdns=/root"]
        # Nothing is to be looked for that the test's own network has not got either.
        given = {"HOME": "/root", "USER": "root", "LANG": "C.UTF-8", "TERM": "dumb", "PIP_NO_INDEX": "1"}
        return [*enter, "env", "-i", f"PATH={_PATH}", *(f"{name}={value}" for name, value in given.items())]

    def run(self, script: str, *, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """What bash says of it, typed by root, but that the first command that fails ends it."""
        done = subprocess.run(
            [*self._inside(), "bash", "-euo", "pipefail", "-c", script],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=5 * PATIENCE,
        )
        if check and done.returncode:
            raise AssertionError(
                f"on {self.name}, with status {done.returncode}:\n{script}\n{done.stdout}\n{done.stderr}\n"
                f"{self.said}"
            )
        return done

    def until(self, script: str) -> None:
        """Waits until the script ends well, where there is no event to wait for."""
        deadline = time.monotonic() + PATIENCE
        while (done := self.run(script, check=False)).returncode:
            assert self._keeper.poll() is None, self.said
            late = time.monotonic() >= deadline
            assert not late, f"never on {self.name}:\n{script}\n{done.stdout}\n{done.stderr}\n{self.said}"
            time.sleep(0.1)

    def put(self, path: str, content: bytes) -> None:
        """A file of root's, with its folders."""
        script = f"mkdir -p {shlex.quote(os.path.dirname(path))} && cat > {shlex.quote(path)}"
        subprocess.run(
            [*self._inside(), "bash", "-c", script], input=content, check=True, capture_output=True
        )

    def get(self, path: str) -> bytes:
        done = subprocess.run([*self._inside(), "cat", path], check=True, capture_output=True)
        return done.stdout

    @property
    def said(self) -> str:
        """By the machine itself, on its console."""
        return self._said.read_text(errors="replace")[-4000:]

    def changes(self) -> frozenset[str]:
        """Paths of all that is new, other or gone, but for folders that this machine has, too."""
        found = self.run(f"cd {CHANGES} && find . -mindepth 1 -printf '%y /%P\\n'").stdout
        told = (line.split(" ", 1) for line in found.splitlines())
        return frozenset(path for kind, path in told if not (kind == "d" and Path(path).is_dir()))

    def wired(self, other: "Machine") -> None:
        """A cable between the two, each with its address."""
        ends = (
            "eth0",
            "netns",
            str(self.pid),
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            str(other.pid),
        )
        subprocess.run(["ip", "link", "add", *ends], check=True, capture_output=True)
        for each in (self, other):
            each.run(f"ip addr add {each.address}/24 dev eth0 && ip link set eth0 up")

    def close(self) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        else:
            self._keeper.kill()
        try:
            self._keeper.wait(PATIENCE)
        finally:
            self._keeper.kill()
            self._keeper.wait()
            self._base.cleanup()

    def _first_process(self) -> int:
        """The process that is number 1 in there."""
        deadline = time.monotonic() + PATIENCE
        while self._keeper.poll() is None and time.monotonic() < deadline:
            for unshare in _children(self._keeper.pid):
                for first in _children(unshare):
                    # Until it is, its files are this machine's.
                    if _name(first) == "systemd":
                        return first
            time.sleep(0.02)
        raise AssertionError(f"{self.name} does not run:\n{self.said}")


def _children(pid: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _name(pid: int) -> str:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _board() -> str:
    """Commands that put the kernel's files of an RK3588 into `$root`, where its /sys cannot be written."""
    commands = ['mkdir "$BASE/class" && cp -a "$root/sys/class/net" "$BASE/class/"']
    commands.append('mount --bind "$BASE/class" "$root/sys/class"')
    commands.append('mount -t tmpfs tmpfs "$root/sys/kernel/debug"')
    files = {
        path: text
        for path, text in trees.rk3588("powersave").items()
        if path.startswith(("/sys/class/devfreq/", "/sys/kernel/debug/"))
    }
    # /proc/device-tree cannot be made in a /proc; containers see the chip here.
    files[f"{trees.NPU}/device/uevent"] = "OF_COMPATIBLE_0=rockchip,rk3588-rknpu\n"
    for path, text in files.items():
        place = f'"$root"{shlex.quote(path)}'
        commands.append(f"mkdir -p $(dirname {place}) && printf %s {shlex.quote(text)} > {place}")
    return "\n".join(commands)
