"""docs/DEPLOYMENT.md, done: its commands in their order, on a board and a PC that are thrown away.

What differs from what a person does stands in `BY_HAND` and in `Doing`. Nothing comes from the internet, so
Debian's packages have to be here already, and the packages of Python are those that the tests run with.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.deploy.throwaway import PATIENCE, Machine
from tests.docs.blocks import ROOT, Block, blocks
from tests.rkllama.npu import put_model

GUIDE = ROOT / "docs" / "DEPLOYMENT.md"
BLOCKS = blocks(GUIDE, "sh")
MARKS = ("# on the board", "# on the pc", "# by hand")
RELEASE = "1.2.3"
MODEL = "Qwen2.5-1.5B-Instruct"
PACKAGES = "/opt/packages-of-the-tests"


class Hand(NamedTuple):
    """A block that is not run, by the first command in it: why, and what is done in its place."""

    why: str
    instead: "Callable[[Doing], None] | None" = None


class Doing:
    """The two machines, and what the test has to bring to them."""

    def __init__(self, board: Machine, pc: Machine, library: Path, model: Path) -> None:
        self.board, self.pc = board, pc
        self.both = (board, pc)
        self._library, self._model = library, model
        self.failed: str | None = None
        self.before = {each.name: each.changes() for each in self.both}

    def of(self, block: Block) -> tuple[Machine, ...]:
        """Where it is done."""
        return {"# on the board": (self.board,), "# on the pc": (self.pc,)}.get(mark(block), self.both)

    def source(self) -> None:
        """What a checkout has, but not its history."""
        parts = "pyproject.toml README.md LICENSE src requirements deploy docs"
        for each in self.both:
            each.run(f"mkdir /opt/exo-source && cd {ROOT} && cp -r {parts} /opt/exo-source/")

    def packages(self) -> None:
        """pip finds that all is there which the lock names, in the release it names, without a download, and
        where services see it: neither in /tmp nor in a home."""
        [packages] = (ROOT / ".venv" / "lib").glob("python3.*/site-packages")
        for each in self.both:
            each.run(
                f"mkdir {PACKAGES} && mount --bind {packages} {PACKAGES} && "
                f"mount -o remount,bind,ro {PACKAGES} && "
                f"cd /opt/exo/lib/python3.*/site-packages && echo {PACKAGES} > tests.pth"
            )

    def library(self) -> None:
        self.board.put("/root/librkllmrt.so", self._library.read_bytes())

    def model(self) -> None:
        for path in self._model.iterdir():
            self.board.put(f"/root/{MODEL}/{path.name}", path.read_bytes())

    def key(self) -> None:
        self.pc.put("/root/api-key", self.board.get("/var/lib/exo/api-key"))
        self.pc.run("install -o exo -g exo -m 600 /root/api-key /var/lib/exo/api-key && rm /root/api-key")

    def bundle(self) -> None:
        self.pc.put("/root/pc.pem", self.board.get("/root/pc.pem"))
        self.board.run("rm /root/pc.pem")


# udevd would work on the devices of the machine that the test runs on. This does what the rules say.
UDEVADM = b"""#!/bin/sh
test "$1" != trigger || { chgrp render /dev/dri/renderD128 && chmod 660 /dev/dri/renderD128; }
"""

BY_HAND: Mapping[str, Hand] = {
    "apt-get update": Hand("needs the internet, and the devices of a board"),
    "git clone REPOSITORY /opt/exo-source": Hand("the tree that is tested is copied", Doing.source),
    "uv pip install": Hand("uv is another way, and needs the internet"),
    "/opt/exo/bin/pip download": Hand("needs the internet"),
    "git ls-remote": Hand("needs the internet; the stand-in is put in its place", Doing.library),
    "cd /root/rknn-llm": Hand("needs the vendor's repository"),
    "exo pull qwen-2.5-1.5b": Hand("needs the internet"),
    "rkllm-convert Qwen/Qwen2.5-1.5B-Instruct": Hand(
        "needs the vendor's toolkit: a model of the stand-in's is put where the copy goes", Doing.model
    ),
    "exo pull USER/REPO/FILE.rkllm": Hand("needs the internet"),
    "scp root@192.168.1.21:/var/lib/exo/api-key": Hand("there is no sshd: the file is carried", Doing.key),
    "scp root@192.168.1.21:/root/pc.pem": Hand("there is no sshd: the file is carried", Doing.bundle),
    "ufw allow": Hand("one of two firewalls; the other one is run"),
}

SAYS: Mapping[str, tuple[str, ...]] = {
    "cat /sys/kernel/debug/rknpu/version": ("0.9.8",),
    "install -m 644 /root/librkllmrt.so": ("Library", "release 1.2.1-1.2.3"),
    "/opt/exo/bin/exo install-service --dry-run": ("write /etc/systemd/system/exo-rkllm.service",),
    "/opt/exo/bin/exo install-service\n": ("exo-rkllm.service run", "active"),
    "cat > /etc/systemd/system/rkllama-tune.service": ("performance",),
    "exo key add phone": ("phone", "30"),
    "curl -fsS http://localhost:52415/v1/chat/completions": ("423", "4"),
    "cp -r /root/Qwen2.5": ('"id":"Qwen2.5-1.5B-Instruct"', "4"),
    'test "$(curl': ('"id":"exo-demo"',),
    "exo nodes\nexo cluster status": ("board", "pc", "certificates  ", " is ready and sees 1 other node"),
    "exo run qwen2.5-1.5b-instruct-rkllm": ("7", "42"),
    "promtool query instant": tuple(
        f'job="{job}", node="{node}' for job, node in [("exo", "board"), ("exo", "pc"), ("rkllama", "board")]
    ),
    "apt-get install -y nginx": ('"id":"exo-demo"', '"id":"qwen2.5-1.5b-instruct-rkllm"'),
    "exo doctor\njournalctl": ("ok ", "listening on"),
}
"""What blocks say, by how they begin. One that only looks is tried until it says so, as a person would."""

ONLY_LOOK = ("exo nodes", "promtool query", "exo run")


CERTIFICATE, HAPROXY = (
    next(each.text for each in blocks(ROOT / "docs" / "BALANCING.md", "sh") if start in each.text)
    for start in ("openssl req", "haproxy -c")
)

MAIN = "$(systemctl show --value -p MainPID {unit})"
BEHIND: Mapping[str, str] = {
    # The units are without a fault for systemd, and the processes are confined to users of their own.
    "/opt/exo/bin/exo install-service\n": f"""
        systemd-analyze verify --man=no /etc/systemd/system/exo-rkllm.service 2>&1 | tee /run/judged
        test ! -s /run/judged
        test "$(ps -o user= -p {MAIN.format(unit="exo-rkllm")})" = exo
        test "$(systemctl show --value -p StatusText exo-rkllm)" != ""
    """,
    "systemctl is-active rkllama": f'test "$(ps -o user= -p {MAIN.format(unit="rkllama")})" = rkllama',
    # It has read its file of secrets, and nobody else can.
    "(umask 077; echo HF_TOKEN": f"""
        tr '\\0' '\\n' < /proc/{MAIN.format(unit="exo-rkllm")}/environ | grep -x HF_TOKEN=hf_yours
        test "$(stat -c %a /etc/exo/exo-rkllm.env)" = 600
    """,
    # The other front, as docs/BALANCING.md has it, in the place of this one.
    "apt-get install -y nginx": f"""
        systemctl stop nginx
        ip addr add 192.168.1.10/24 dev eth0
        cd /opt/exo-source
        export EXO_API_KEY=$(cat /var/lib/exo/api-key)
        {CERTIFICATE.partition("curl")[0]}
        {HAPROXY}
        until {CERTIFICATE[CERTIFICATE.index("curl") :].strip()} | grep exo-demo; do sleep 0.1; done
        systemctl stop haproxy
        ip addr del 192.168.1.10/24 dev eth0
        rm exo.crt exo.key /etc/haproxy/exo.cfg /etc/haproxy/exo.pem
        sed -i /exo.cfg/d /etc/default/haproxy
    """,
    # Killed, it is started anew; stopped so that it says nothing, too.
    "exo doctor\njournalctl": f"""
        unit=/run/systemd/system/exo-rkllm.service.d
        mkdir $unit && printf '[Service]\\nRestartSec=0\\nWatchdogSec=8\\n' > $unit/quick.conf
        systemctl daemon-reload
        systemctl restart exo-rkllm
        for signal in KILL STOP; do
            before={MAIN.format(unit="exo-rkllm")}
            kill -$signal $before
            until now={MAIN.format(unit="exo-rkllm")}
                test $now != 0 && test $now != $before && systemctl is-active -q exo-rkllm
            do sleep 0.1; done
        done
        test "$(systemctl show --value -p NRestarts exo-rkllm)" -ge 2
        rm -r $unit
        systemctl daemon-reload
    """,
}
"""What is looked at behind a block, by how it begins."""

LEFT = (
    # What the guide says is left.
    "/etc/prometheus/prometheus.yml",
    "/var/lib/prometheus/metrics2/",
    "/etc/systemd/system/sysinit.target.wants/nftables.service",
    "/var/log/",
    # The lists of users, which are compared, and of groups, with the copies that programs make of them.
    "/etc/passwd",
    "/etc/shadow",
    "/etc/subuid",
    "/etc/subgid",
    "/etc/group",
    "/etc/gshadow",
    "/etc/nftables.conf",
    "/etc/default/haproxy",
    # What Debian and systemd keep for themselves: also of services that are disabled.
    "/etc/rc",
    "/var/lib/dpkg/",
    "/var/lib/apt/",
    "/var/lib/nginx/",
    "/var/lib/haproxy/",
    "/var/lib/systemd/",
    "/var/cache/",
)
FOLDERS_LEFT = {
    PACKAGES,
    "/etc/sysusers.d",
    "/etc/udev",
    "/etc/udev/rules.d",
    # Emptied when the machine was started, and so gone with its last link.
    "/etc/systemd/system/multi-user.target.wants",
    "/etc/systemd/system/sysinit.target.wants",
}
"""systemd's, which a minimal system may be without."""


def mark(block: Block) -> str:
    first = block.text.splitlines()[0]
    return first if first in MARKS else ""


def command(block: Block) -> str:
    """The first line of it that is not a mark."""
    return next(line for line in block.text.splitlines() if line not in MARKS)


def hand(block: Block) -> Hand:
    [found] = [each for start, each in BY_HAND.items() if command(block).startswith(start)]
    return found


@pytest.fixture(scope="module")
def doing(
    tmp_path_factory: pytest.TempPathFactory, build: Path, file_for: Callable[..., Path]
) -> Iterator[Doing]:
    model = put_model(tmp_path_factory.mktemp("converted"), file_for(RELEASE), MODEL)
    with Machine("board", "192.168.1.21", board=True) as board, Machine("pc", "192.168.1.20") as pc:
        board.wired(pc)
        board.put("/usr/local/bin/udevadm", UDEVADM)
        board.run(
            "chmod 755 /usr/local/bin/udevadm && mkdir /dev/dri && mknod -m 600 /dev/dri/renderD128 c 1 3"
        )
        for each in (board, pc):
            each.run("mkdir /run/before && cp /etc/passwd /etc/nftables.conf /run/before/")
        yield Doing(board, pc, build / RELEASE / "librkllmrt.so", model)


def test_the_guide_says_where_each_block_goes() -> None:
    for block in BLOCKS:
        for line in block.text.splitlines()[1:]:
            assert line not in MARKS, block.place
        odd = re.match(r"# (on|by) ", block.text)
        assert not odd or mark(block), f"{block.place}: nobody knows this mark"
    by_hand = [command(block) for block in BLOCKS if mark(block) == "# by hand"]
    for start in BY_HAND:
        assert sum(each.startswith(start) for each in by_hand) == 1, start
    assert not [each for each in by_hand if not each.startswith(tuple(BY_HAND))]
    assert len(BLOCKS) - len(by_hand) > 30
    for start in (*SAYS, *BEHIND):
        assert sum(told(block).startswith(start) for block in BLOCKS) == 1, start


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.line}: {command(block)[:50]}")
def test_it_works(doing: Doing, block: Block) -> None:
    assert not doing.failed, f"the block in line {doing.failed} has failed"
    doing.failed = str(block.line)
    if mark(block) == "# by hand":
        if instead := hand(block).instead:
            instead(doing)
    else:
        with ThreadPoolExecutor() as both:
            list(both.map(lambda machine: run(block, machine), doing.of(block)))
    if "-m venv" in block.text:
        doing.packages()
    for script in (each for start, each in BEHIND.items() if told(block).startswith(start)):
        for machine in doing.of(block):
            machine.run(script)
    doing.failed = None


def run(block: Block, machine: Machine) -> None:
    [says, *more] = [each for start, each in SAYS.items() if told(block).startswith(start)] or [()]
    assert not more, block.place
    deadline = time.monotonic() + PATIENCE
    while True:
        again = command(block).startswith(ONLY_LOOK) and time.monotonic() < deadline
        done = machine.run(block.text, check=not again)
        lacking = [each for each in says if each not in done.stdout]
        if not done.returncode and not lacking:
            return
        assert again, f"{block.place} on {machine.name} does not say {lacking}:\n{done.stdout}"
        time.sleep(0.2)


def told(block: Block) -> str:
    return block.text.removeprefix(mark(block)).lstrip("\n")


def test_nothing_is_left(doing: Doing) -> None:
    """Behind the last block, each machine is as it was before the first one, but for what the guide says."""
    assert not doing.failed
    for machine in doing.both:
        new = {path for path in machine.changes() - doing.before[machine.name] if not path.startswith(LEFT)}
        assert new <= FOLDERS_LEFT, f"{machine.name}: {sorted(new - FOLDERS_LEFT)}"
        machine.run(
            "diff /run/before/passwd /etc/passwd && diff /run/before/nftables.conf /etc/nftables.conf"
        )
        assert machine.run("nft list ruleset").stdout == ""
        assert machine.run("systemctl list-units --all --no-legend 'exo*' 'rkllama*'").stdout == ""
        assert machine.run("ps -e -o args | grep -E '/opt/[e]xo|[p]rometheus|[n]ginx' || :").stdout == ""
