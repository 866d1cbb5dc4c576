"""Small disks, and nodes whose streams, limits and clocks are not the usual ones."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.conftest import make_hosts
from tests.e2e.conftest import home, start

__all__ = ["home", "make_hosts", "start"]

_ROOM = 8 << 20


class Disk:
    """A disk of its own, of 8 MiB."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filling = path / "filling"

    def fill(self, *, leave: int = 0) -> None:
        """Takes all its room but `leave` bytes."""
        with self._filling.open("ab", buffering=0) as file:
            try:
                while file.write(bytes(64 << 10)):
                    pass
            except OSError:
                size = file.tell()
        os.truncate(self._filling, max(0, size - leave))

    def make_room(self) -> None:
        self._filling.unlink()

    def read_only(self) -> None:
        _mount("-o", "remount,ro", str(self.path))

    def files(self) -> list[str]:
        """What lies on it, hidden files and folders included, what fills it left out."""
        return sorted(
            str(each.relative_to(self.path)) for each in self.path.rglob("*") if each != self._filling
        )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Skips the test where nothing can be mounted, except in CI."""
    path = tmp_path / "disk"
    path.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", f"size={_ROOM}", "tmpfs", str(path))
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        reason = f"nothing can be mounted here, which takes root: {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", "--lazy", str(path)], check=True)
        yield Disk(path)


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
