"""The units, judged by systemd's own tools, as `exo install-service` would write them for this exo."""

import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from exo.cli.service import Machine, Write, installation, look
from exo.settings import HttpSettings

SHIPPED = Path(__file__).parents[2] / "deploy" / "systemd"
SERVICES = ("exo-rkllm.service", "rkllama.service")
# Of systemd-analyze's eleven; the contract is "at most 3.0", and these are what the units have.
MOST_EXPOSED = {"exo-rkllm.service": 1.5, "rkllama.service": 2.0}
# Keys that systemd knows since 254.
NEW = {"RestartSteps", "RestartMaxDelaySec"}


def written(folder: Path, release: int) -> Path:
    """The units of a board, in a folder."""
    board: Machine = msgspec.structs.replace(look(), has_npu=True, systemd=release)
    for step in installation(board):
        if isinstance(step, Write) and step.path.is_relative_to("/etc/systemd/system"):
            path = folder / step.path.relative_to("/etc/systemd/system")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step.text)
    return folder


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], check=False, capture_output=True, text=True)


def settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (SHIPPED / unit).read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def seconds(unit: str, key: str) -> float:
    [value] = settings(unit)[key]
    return float(value)


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    folder = written(tmp_path, 252)
    judged = analyze("verify", "--man=no", *(str(folder / name) for name in SERVICES))
    assert (judged.returncode, judged.stdout, judged.stderr) == (0, "", "")


def test_of_the_back_off_a_systemd_says_no_more_than_that_it_is_too_old(tmp_path: Path) -> None:
    folder = written(tmp_path, 254)
    judged = analyze("verify", "--man=no", *(str(folder / name) for name in SERVICES))
    unknown = re.findall(r"Unknown key (?:name )?'(\w+)'", judged.stderr)
    assert len(judged.stderr.splitlines()) == len(unknown), judged.stderr
    assert set(unknown) in (set(), NEW)


@pytest.mark.parametrize("unit", SERVICES)
def test_a_unit_with_a_fault_would_be_found(tmp_path: Path, unit: str) -> None:
    """The judge is awake."""
    path = written(tmp_path, 252) / unit
    path.write_text(path.read_text().replace("ProtectSystem=strict", "ProtectSystem=stricter"))
    assert "stricter" in analyze("verify", "--man=no", str(path)).stderr


@pytest.mark.parametrize("unit", SERVICES)
def test_little_is_exposed(tmp_path: Path, unit: str) -> None:
    judged = analyze("security", "--offline=true", "--no-pager", str(written(tmp_path, 252) / unit))
    found = re.search(r"Overall exposure level for \S+ ([\d.]+)", judged.stdout)
    assert found, judged
    assert float(found[1]) <= MOST_EXPOSED[unit] <= 3.0, judged.stdout


@pytest.mark.parametrize("unit", SERVICES)
def test_answers_have_their_grace_before_what_is_left_is_killed(unit: str) -> None:
    assert seconds(unit, "TimeoutStopSec") >= 2 * HttpSettings().grace
    assert settings(unit)["KillSignal"] == ["SIGTERM"]
    assert settings(unit)["Type"] == ["notify"]
    assert seconds(unit, "WatchdogSec") > 0


def test_the_npu_stays_within_reach_and_no_other_device_does() -> None:
    npu = settings("rkllama.service")
    assert npu["PrivateDevices"] == ["no"]
    assert npu["DevicePolicy"] == ["closed"]
    assert npu["DeviceAllow"] == ["char-drm rw", "char-dma_heap rw", "/dev/rknpu rw"]
    assert npu["SupplementaryGroups"] == ["render video"]
    # Groups are the machine's only with the machine's users.
    assert "PrivateUsers" not in npu
    assert settings("exo-rkllm.service")["PrivateDevices"] == ["yes"]


def test_what_the_programs_read_is_not_hidden_from_them() -> None:
    """/proc has the memory and the chip; engines and callbacks are code made at run time."""
    for unit in SERVICES:
        assert not {"ProcSubset", "MemoryDenyWriteExecute"} & set(settings(unit))


def test_the_node_follows_the_npu_server_and_the_network() -> None:
    assert settings("exo-rkllm.service")["After"] == ["network-online.target rkllama.service"]
    assert settings("rkllama.service")["After"] == ["network-online.target"]


def test_what_is_shipped_is_what_is_installed() -> None:
    units = Path(__file__).parents[2] / "src" / "exo" / "cli" / "units"
    assert {path.name: path.read_text() for path in SHIPPED.iterdir()} == {
        path.name: path.read_text() for path in units.iterdir()
    }
