"""To a board over ssh: a model's folder into the one that rkllama scans.

The files go into a hidden folder there, the .rkllm file's checksum is compared on the board, and then the
folder gets its name: rkllama finds a whole model or none. rsync goes on where a copy broke off, where both
machines have it; else scp copies anew. ssh's own configuration says how a board is reached; a password can be
typed only where ssh can ask for one.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Sequence

from rkllm_convert import card
from rkllm_convert.errors import BadInput, CopyFailed

FOLDER = "RKLLAMA/models"
"""Where rkllama looks, in the home folder."""


@dataclass(frozen=True)
class Board:
    """A machine that ssh knows as `host` ("user@address"), and the folder of its models."""

    host: str
    folder: str = FOLDER
    port: int | None = None
    identity: str | None = None


def board(target: str, *, port: int | None = None, identity: str | None = None) -> Board:
    """Reads "USER@HOST" or "USER@HOST:FOLDER"."""
    host, _, folder = target.partition(":")
    if not host or host.startswith("-"):
        raise BadInput(f"'{target}' names no board: give USER@HOST or USER@HOST:FOLDER")
    return Board(host, folder.rstrip("/") or FOLDER, port, identity)


def copy(folder: Path, to: Board, say: Callable[[str], None], *, replace: bool = False) -> str:
    """Copies the model in `folder`; where it is then, on the board. Raises `BadInput` for a folder that is no
    model, and `CopyFailed` with what ssh said."""
    described = card.checked(folder)
    name = str(described["name"])
    final, hidden = f"{to.folder}/{name}", f"{to.folder}/.{name}.partial"
    there = _ssh(
        to, f"cat {_quoted(final)}/{card.CARD} 2>/dev/null || test ! -e {_quoted(final)} || echo other"
    )
    if described["sha256"] in there:
        say(f"{to.host} has it already")
        return final
    if there.strip() and not replace:
        raise CopyFailed(f"{to.host} has another model in {final}. Delete it there, or --replace it.")
    _check_room(to, described["bytes"])
    _ssh(to, f"mkdir -p {_quoted(hidden)}")
    say(f"Copying {described['bytes'] / 1e9:.2f} GB to {to.host}")
    _transfer(folder, to, hidden)
    say("Checking it there")
    summed = _ssh(to, f"sha256sum {_quoted(hidden)}/{_quoted(described['file'])}")
    if not summed.startswith(described["sha256"]):
        raise CopyFailed(f"What came to {to.host} is not what was sent: its checksum differs. Copy it again.")
    _ssh(to, f"rm -rf {_quoted(final)} && mv {_quoted(hidden)} {_quoted(final)} && sync")
    return final


def _check_room(to: Board, size: int) -> None:
    said = _ssh(to, f"mkdir -p {_quoted(to.folder)} && df -Pk {_quoted(to.folder)}").split("\n")
    free = int(said[1].split()[3]) << 10
    if free < size:
        raise CopyFailed(
            f"{to.host} has {free / 1e9:.1f} GB free, and the model takes {size / 1e9:.1f}. Make room."
        )


def _transfer(folder: Path, to: Board, hidden: str) -> None:
    files = sorted(str(path) for path in folder.iterdir() if path.is_file())
    if shutil.which("rsync") and _ssh(to, "command -v rsync || true").strip():
        shell = shlex.join(["ssh", *_options(to, "-p")])
        target = f"{to.host}:{_quoted(hidden)}/"
        _run(["rsync", "--partial", "--times", "--rsh", shell, *files, target], to)
        return
    # Today's scp speaks SFTP, which takes paths as they are.
    _run(["scp", "-q", *_options(to, "-P"), *files, f"{to.host}:{hidden}/"], to)


def _ssh(to: Board, command: str) -> str:
    return _run(["ssh", *_options(to, "-p"), to.host, command], to)


def _options(to: Board, port: str) -> list[str]:
    found = ["-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15"]
    found += [port, str(to.port)] if to.port else []
    return found + (["-i", to.identity] if to.identity else [])


def _run(command: Sequence[str], to: Board) -> str:
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        raise CopyFailed(
            f"{command[0]} cannot be run: {error.strerror}. Install it (openssh-client)."
        ) from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise CopyFailed(
            f"{command[0]} to {to.host} ended with status {done.returncode}: {said[-1]} "
            f"Try `ssh {to.host}` by itself; what was copied is kept."
        )
    return done.stdout.decode(errors="replace")


def _quoted(path: str) -> str:
    return shlex.quote(path)
