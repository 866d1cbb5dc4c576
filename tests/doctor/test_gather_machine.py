"""What is read of a machine: from trees of files, and from the one that runs the test."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

import exo
from exo.doctor.gather import Scope, machine, software
from tests.rkllama.board import trees


def silent(command: Sequence[str]) -> str | None:
    return None


def scope(home: Path, **more: Any) -> Scope:
    return Scope(home=home, folders=(), url="http://127.0.0.1:1", **more)


# Disk


def disks(root: Path, name: str, *, rotational: str = "0", kind: str = "", partition: bool = True) -> Path:
    """A machine whose device 8:1 is that disk, or its first partition."""
    disk = f"/sys/devices/{name}"
    place = f"{disk}/{name}p1" if partition else disk
    files = {f"{disk}/queue/rotational": f"{rotational}\n", f"{disk}/device/type": f"{kind}\n"}
    if partition:
        files[f"{place}/partition"] = "1\n"
    trees.write(root, files)
    (root / "sys/dev/block").mkdir(parents=True)
    (root / "sys/dev/block/8:1").symlink_to(root / place.lstrip("/"))
    return root


@pytest.mark.parametrize(
    ("name", "rotational", "kind", "found"),
    [
        ("mmcblk0", "0", "SD", "SD card"),
        ("mmcblk1", "0", "MMC", "eMMC"),
        ("sda", "1", "0", "hard disk"),
        ("sda", "0", "0", ""),
        ("nvme0n1", "0", "", ""),
        ("vda", "1", "", ""),
    ],
)
@pytest.mark.parametrize("partition", [True, False])
def test_a_slow_disk_is_told(
    tmp_path: Path, name: str, rotational: str, kind: str, found: str, partition: bool
) -> None:
    root = disks(tmp_path, name, rotational=rotational, kind=kind, partition=partition)
    assert machine.kind_of_disk(os.makedev(8, 1), root) == found
    assert machine.kind_of_disk(os.makedev(8, 2), root) == ""


def test_a_folder_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    found = machine.storage(tmp_path)
    assert (found.exists, found.problem) == (True, None)
    assert 0 < found.free <= found.total
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_counts_as_its_parent_and_is_not_made(tmp_path: Path) -> None:
    found = machine.storage(tmp_path / "a" / "b")
    assert (found.exists, found.problem) == (False, None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_nothing_can_be_written_to_says_why() -> None:
    found = machine.storage(Path("/proc/exo"))  # closed even to root
    assert found.problem is not None
    assert found.problem.startswith("/proc: ")


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert machine.storage(tmp_path / "file" / "exo").problem == f"{tmp_path}/file is no folder"


# Memory


def test_memory_of_a_board(tmp_path: Path) -> None:
    found = machine.memory(trees.write(tmp_path, trees.rk3588()), None, silent)
    assert (found.total, found.usable) == (8_000_000 * 1024,) * 2
    assert found.budget == found.total * 3 // 4
    assert (found.free, found.swap_total, found.killed) == (7_000_000 * 1024, 0, None)


def test_memory_in_a_container_and_swap(tmp_path: Path) -> None:
    contained = machine.memory(trees.write(tmp_path / "board", trees.contained()), None, silent)
    assert (contained.total, contained.usable) == (8_000_000 * 1024, 2**31)
    assert contained.budget == 2**31 * 3 // 4
    pc = machine.memory(trees.write(tmp_path / "pc", trees.pc()), 5, silent)
    assert (pc.swap_total, pc.swap_free) == (1_000_000 * 1024, 900_000 * 1024)
    assert pc.budget == 5


def test_what_the_kernel_killed_is_named_once(tmp_path: Path) -> None:
    log = (
        "6,1,0,-;Linux version 6.1\n"
        "3,2,9,-;Out of memory: Killed process 812 (python3) total-vm:1kB\n"
        " SUBSYSTEM=memory\n"
        "3,3,9,-;Memory cgroup out of memory: Killed process 900 (exo: worker) total-vm:1kB\n"
        "3,4,9,-;Out of memory: Killed process 950 (python3) total-vm:1kB\n"
    )
    assert machine.killed(trees.write(tmp_path / "a", {"/dev/kmsg": log})) == ("python3", "exo: worker")
    assert machine.killed(trees.write(tmp_path / "b", {"/dev/kmsg": "6,1,0,-;Linux\n"})) == ()
    assert machine.killed(tmp_path / "none") is None


# Clock


@pytest.mark.parametrize(("said", "synchronised"), [("yes\n", True), ("no\n", False), (None, None)])
def test_whether_the_clock_is_kept(tmp_path: Path, said: str | None, synchronised: bool | None) -> None:
    def timedatectl(command: Sequence[str]) -> str | None:
        assert command[0] == "timedatectl"
        return said

    assert machine.clock(tmp_path, timedatectl).synchronised is synchronised


def test_systemds_own_service_leaves_a_mark(tmp_path: Path) -> None:
    root = trees.write(tmp_path, {"/run/systemd/timesync/synchronized": ""})
    assert machine.clock(root, silent).synchronised is True


# Environment and secrets


def test_the_environment_is_told_without_what_is_secret_in_it() -> None:
    environment = {
        "HTTPS_PROXY": "http://anna:word@proxy:3128",
        "no_proxy": "localhost, .lan,",
        "http_proxy": "",
        "EXO_API_KEY": "hush",
    }
    found = machine.surroundings(
        scope(Path("/"), environment=environment, unknown=("EXO_TYPO",), faults=("x.toml",))
    )
    assert found.proxies == {"https_proxy": "http://proxy:3128"}
    assert found.past_proxy == ("localhost", ".lan")
    assert (found.unknown, found.faults) == (("EXO_TYPO",), ("x.toml",))
    assert found.open_files is None or found.open_files > 0


def test_files_with_secrets_that_others_can_read(tmp_path: Path) -> None:
    token = tmp_path / "token"
    here = scope(tmp_path, environment={"HF_HOME": str(tmp_path)}, key="key", secret="short")
    assert machine.security(here).readable == ()
    token.write_text("hf_x")
    token.chmod(0o644)
    found = machine.security(here)
    assert found.readable == (str(token),)
    assert (found.key, found.secret, found.certificates) == (True, True, False)
    assert "fewer than 16" in found.credentials[0]
    token.chmod(0o600)
    assert machine.security(here).readable == ()


def test_a_command_line_that_shows_a_key_is_found(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "input()", "EXO_API_KEY=hush"]
    with psutil.Popen(words, stdin=-1) as process:
        try:
            shown = machine.security(scope(tmp_path)).shown
        finally:
            process.kill()
    assert any(f"(pid {process.pid})" in each for each in shown)
    assert "hush" not in str(shown)
    after = machine.security(scope(tmp_path)).shown
    assert not any(f"(pid {process.pid})" in each for each in after)


# Software


def test_this_installation_is_whole() -> None:
    found = software.software()
    assert found.python == sys.version_info[:3]
    assert (found.exo, found.installed, found.lost) == (exo.__version__, exo.__version__, ())
    assert found.packages == ()


def test_a_package_of_the_wrong_release_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "aiohttp":
            return "3.9.1"
        if name == "psutil":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {each.name: each.installed for each in software.software().packages}
    assert found == {"aiohttp": "3.9.1", "psutil": None}


async def test_the_engines_that_are_here_can_run() -> None:
    found = {each.name: each for each in await software.engines()}
    assert {"llamacpp", "mlx", "tinygrad"} <= found.keys()
    assert found["llamacpp"].problem is None
    assert found["llamacpp"].formats == ("gguf",)


async def test_an_engine_that_ends_its_process_is_a_problem_and_no_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xllamacpp.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    (broken,) = [each for each in await software.engines() if each.name == "llamacpp"]
    assert broken.problem is not None
    assert "SIGILL ended it: this CPU lacks" in broken.problem


def test_a_node_for_this_machine_alone_would_not_be_open(tmp_path: Path) -> None:
    assert machine.security(scope(tmp_path, host="127.0.0.1")).open_at == ("127.0.0.1",)
