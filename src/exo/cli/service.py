"""`exo install-service`: the node, and on a board its NPU server, as services of systemd.

What is to be done is planned as values, and carried out by `carry_out`. The units were run by a systemd, on
machines made of namespaces (tests/deploy/test_guide.py). That they reach a board's NPU could not be tried.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import TypeAlias

import click
import msgspec

import exo
from exo import devices
from exo.errors import BadRequest, NotFound, NotReady

NODE, NPU_SERVER = "exo-rkllm.service", "rkllama.service"

_UNITS = Path("/etc/systemd/system")
_SYSUSERS, _TMPFILES = Path("/etc/sysusers.d"), Path("/etc/tmpfiles.d")
_RULES = Path("/etc/udev/rules.d/99-rkllama.rules")
# Where the shipped units look for the programs.
_SHIPPED = "/opt/exo/bin/"
# What services do not see: their units have ProtectHome and PrivateTmp.
_HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))
# The first systemd that waits longer each time (RestartSteps).
_BACKOFF_SINCE = 254


class Write(msgspec.Struct, frozen=True):
    """A file with this text, for all to read."""

    path: Path
    text: str


class Remove(msgspec.Struct, frozen=True):
    path: Path


class Run(msgspec.Struct, frozen=True):
    command: tuple[str, ...]


Step: TypeAlias = Write | Remove | Run


class Machine(msgspec.Struct, frozen=True):
    """`programs` is the folder of the `exo` that is running, which needs all of `parts` to run. `systemd` is
    its release, None where this machine does not run it. `installed` are those of `FILES` that are there."""

    programs: Path
    parts: tuple[Path, ...]
    has_npu: bool
    systemd: int | None
    installed: frozenset[Path] = frozenset()


FILES = (
    _UNITS / NODE,
    _UNITS / f"{NODE}.d" / "10-backoff.conf",
    _UNITS / f"{NODE}.d" / "10-npu.conf",
    _UNITS / NPU_SERVER,
    _UNITS / f"{NPU_SERVER}.d" / "10-backoff.conf",
    _SYSUSERS / "exo.conf",
    _SYSUSERS / "rkllama.conf",
    _TMPFILES / "exo.conf",
    _RULES,
)
"""All that an installation may write."""


@click.command("install-service")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option(
    "--user", metavar="USER", help="Run as this user. [default: exo, and rkllama for the NPU server]"
)
@click.option("--uninstall", is_flag=True, help="Stop the services and take away what this has written.")
def install_service(dry_run: bool, user: str | None, uninstall: bool) -> None:
    """Have systemd start this node with the machine, watch it, and start it anew when it fails.

    On a board with an NPU, its NPU server, too. Both run as users of their own, who are made. The node keeps
    its files in /var/lib/exo and reads /etc/exo/config.toml; the NPU server's are in /var/lib/rkllama. To
    upgrade, install the new exo and run this again.
    """
    if uninstall and user is not None:
        raise click.UsageError("--user is for installing; --uninstall takes away whatever is there")
    machine = look()
    steps = removal(machine) if uninstall else installation(machine, user)
    obstacle = why_not(machine, uninstall=uninstall)
    if dry_run:
        for step in steps:
            click.echo(shown(step))
        if obstacle:
            click.echo(f"Here it could not be done: {obstacle}", err=True)
        return
    if obstacle:
        raise NotReady(obstacle)
    if os.geteuid() != 0:
        arguments = [*(["--user", user] if user else []), *(["--uninstall"] if uninstall else [])]
        command = shlex.join(["sudo", str(machine.programs / "exo"), "install-service", *arguments])
        raise NotReady(f"only root may change services: {command}")
    carry_out(steps)
    click.echo(_GONE if uninstall else done(machine, user))


_GONE = (
    "The services are gone. Users, /etc/exo, /var/lib/exo and /var/lib/rkllama are left; docs/DEPLOYMENT.md "
    "has the commands that take them away, too."
)


def done(machine: Machine, user: str | None = None) -> str:
    """For people: what runs now, and how it is spoken to."""
    services = _services(machine)
    command = (
        f"runuser -u {user or 'exo'} -- env HOME=/var/lib/exo EXO_HOME=/var/lib/exo {machine.programs}/exo"
    )
    return (
        f"{' and '.join(services)} {'run' if len(services) > 1 else 'runs'}. journalctl -fu {NODE} shows "
        f"what the node says.\nCommands that write for it have to be its own user's: {command} pull MODEL"
    )


def look() -> Machine:
    """This machine, and the exo that is running."""
    return Machine(
        programs=Path(sys.executable).parent,
        parts=(Path(sys.executable), Path(sys.base_prefix), Path(exo.__file__).resolve().parent),
        has_npu=devices.detect().kind == "rockchip",
        systemd=_systemd(),
        installed=frozenset(path for path in FILES if path.exists()),
    )


def installation(machine: Machine, user: str | None = None) -> tuple[Step, ...]:
    """What makes services of the programs, if nothing is against it (`why_not`). Raises `BadRequest` for a
    user that cannot be one."""
    if user is not None and (user == "root" or not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", user)):
        raise BadRequest(f"--user {user}: name a user who is not root, in lower-case letters and digits")
    backoff = machine.systemd is not None and machine.systemd >= _BACKOFF_SINCE
    named = [
        (_UNITS / NODE, NODE, True),
        (_UNITS / f"{NODE}.d" / "10-backoff.conf", "backoff.conf", backoff),
        (_UNITS / f"{NODE}.d" / "10-npu.conf", "npu.conf", machine.has_npu),
        (_UNITS / NPU_SERVER, NPU_SERVER, machine.has_npu),
        (_UNITS / f"{NPU_SERVER}.d" / "10-backoff.conf", "backoff.conf", machine.has_npu and backoff),
        (_SYSUSERS / "exo.conf", "exo.sysusers", True),
        (_SYSUSERS / "rkllama.conf", "rkllama.sysusers", machine.has_npu),
        (_TMPFILES / "exo.conf", "exo.tmpfiles", True),
        (_RULES, "rkllama.rules", machine.has_npu),
    ]
    files = [Write(path, _text(source, machine.programs, user)) for path, source, wanted in named if wanted]
    services = _services(machine)
    commands: list[tuple[str, ...]] = [
        ("systemd-sysusers", *(each.path.name for each in files if each.path.parent == _SYSUSERS)),
        ("systemd-tmpfiles", "--create", "exo.conf"),
    ]
    if machine.has_npu:
        commands += [("udevadm", "control", "--reload"), ("udevadm", "trigger")]
    commands += [
        ("systemctl", "daemon-reload"),
        ("systemctl", "enable", *services),
        # Not only start: one that runs already is to go by what was just written.
        ("systemctl", "restart", *services),
    ]
    return (*files, *map(Run, commands))


def removal(machine: Machine) -> tuple[Step, ...]:
    """What takes them away again, and leaves users, settings and models. Raises `NotFound` where nothing is
    installed."""
    services = [name for name in (NPU_SERVER, NODE) if _UNITS / name in machine.installed]
    files = [path for path in FILES if path in machine.installed]
    if not files:
        raise NotFound("no service of exo is installed on this machine")
    stop = [Run(("systemctl", "disable", "--now", *services))] if services else []
    return (*stop, *map(Remove, files), Run(("systemctl", "daemon-reload")))


def why_not(machine: Machine, *, uninstall: bool = False) -> str | None:
    """Why it cannot be done on this machine, and what could be; None where it can."""
    if machine.systemd is None:
        return "this machine does not run systemd; have what starts its programs run exo serve --disable-tui"
    if uninstall:
        return None
    for part in machine.parts:
        if hidden := next((place for place in _HIDDEN if part.is_relative_to(place)), None):
            return (
                f"a service cannot run {part}, as it sees nothing of {hidden}; install exo where it does: "
                "sudo /usr/bin/python3 -m venv /opt/exo && sudo /opt/exo/bin/pip install exo-rkllama, then "
                "sudo /opt/exo/bin/exo install-service"
            )
    # In a unit, blanks, "%", "$" and quotes mean something else.
    if not re.fullmatch(r"[\w./+@-]+", str(machine.programs)):
        return f"a unit cannot name {machine.programs}, for its characters; install exo into /opt/exo"
    return None


def shown(step: Step) -> str:
    """For people: what is done, and what would be in a file."""
    match step:
        case Write():
            return f"write {step.path}\n" + "".join(f"    {line}\n" for line in step.text.splitlines())
        case Remove():
            return f"remove {step.path}"
        case Run():
            return f"run {shlex.join(step.command)}"


def carry_out(
    steps: Sequence[Step], under: Path = Path("/"), run: Callable[[Run], None] | None = None
) -> None:
    """Does it, in this order, with the files in the tree `under`. Raises `NotReady` for the first step that
    fails, with what it said; all of them may be done again."""
    for step in steps:
        try:
            match step:
                case Run():
                    (run or _run)(step)
                case Write(path, text):
                    place = under / path.relative_to("/")
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_text(text)
                    place.chmod(0o644)
                case Remove(path):
                    place = under / path.relative_to("/")
                    place.unlink(missing_ok=True)
                    # A unit's own folder, in which the owner may have put a file of his (`systemctl edit`).
                    if place.parent.suffix == ".d" and place.parent.parent.name == "system":
                        _leave(place.parent)
        except OSError as error:
            raise NotReady(f"{shown(step).splitlines()[0]}: {error.strerror}") from error


def _leave(folder: Path) -> None:
    """Takes a folder away that nothing is in."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _run(step: Run) -> None:
    done = subprocess.run(
        step.command, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise NotReady(f"{shlex.join(step.command)} failed: {done.stderr.strip() or done.returncode}")


def _services(machine: Machine) -> tuple[str, ...]:
    return (NPU_SERVER, NODE) if machine.has_npu else (NODE,)


def _text(source: str, programs: Path, user: str | None) -> str:
    """A shipped file, with these programs and this user for its own."""
    text = resources.files("exo.cli").joinpath("units", source).read_text()
    text = text.replace(_SHIPPED, f"{programs}/")
    if user is None:
        return text
    text = re.sub(r"^User=.*$", f"User={user}", text, flags=re.MULTILINE)
    text = re.sub(r"^(u|m) \w+ ", rf"\1 {user} ", text, flags=re.MULTILINE)
    # Nobody can be made twice: the node's file makes him.
    return re.sub(r"^u .*\n", "", text, flags=re.MULTILINE) if source == "rkllama.sysusers" else text


def _systemd() -> int | None:
    """The release of the systemd that runs this machine (sd_booted(3))."""
    if not Path("/run/systemd/system").is_dir():
        return None
    said = devices.ask(("systemctl", "--version")) or ""
    number = re.match(r"systemd (\d+)", said)
    return int(number[1]) if number else None
