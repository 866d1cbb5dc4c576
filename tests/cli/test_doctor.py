"""`exo doctor` as it is typed: on this machine, beside real nodes, and with what people do to theirs."""

import fcntl
import json
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exo.doctor.evidence import Evidence
from exo.store.catalogue import BUNDLED
from tests.e2e.node import PATIENCE, Node, environment

DOCUMENT = Path(__file__).parents[2] / "docs" / "DOCTOR.md"
MODEL = BUNDLED / "exo-demo" / "model.gguf"
COMMAND = [sys.executable, "-m", "exo.main", "doctor"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port on which nobody listens: bound, and so not given to anybody else."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


def doctor(
    home: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command, asking the node of port 1 where nothing else is said: nobody listens there."""
    ended = subprocess.run(
        [*COMMAND, *arguments],
        env=environment(home, {"EXO_PORT": "1", **(env or {})}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        timeout=PATIENCE,
    )
    assert "Traceback" not in ended.stderr + ended.stdout, ended.stderr
    return ended


def said(home: Path, *arguments: str, env: Mapping[str, str] | None = None) -> tuple[dict[str, Any], int]:
    """What it prints as JSON, and the status it ends with."""
    ended = doctor(home, "--json", *arguments, env=env)
    assert ended.stderr == ""
    return json.loads(ended.stdout), ended.returncode


def findings(said: dict[str, Any], level: str) -> dict[str, str]:
    """Evidence by subject of what is of this level."""
    return {each["subject"]: each["says"] for each in said["findings"] if each["level"] == level}


def test_a_machine_without_a_node_is_examined_and_left_as_it_was(home: Path) -> None:
    ended = doctor(home)
    assert ended.returncode == 0, ended.stdout
    lines = ended.stdout.splitlines()
    assert any(line.startswith("ok      Python: 3.") for line in lines)
    assert any(line.startswith("ok      Node: none is running at http://127.0.0.1:1") for line in lines)
    assert lines[-1] == "Nothing is wrong."
    assert not home.exists()


def test_the_worst_comes_first_and_nothing_is_coloured_in_a_file(home: Path) -> None:
    shown = doctor(home, env={"EXO_TYPO": "1"}).stdout
    marks = [line.split(" ")[0] for line in shown.splitlines()[:-1] if not line.startswith(" ")]
    assert marks == sorted(marks, key=("BROKEN", "SLOW", "note", "ok").index)
    assert (marks[0], marks[-1]) == ("BROKEN", "ok")
    assert "\x1b" not in shown


# With a node


def test_a_running_node_is_asked(home: Path) -> None:
    node = Node(home)
    try:
        found, status = said(home, "--url", node.url)
        assert status == 0
        assert found["evidence"]["node"]["id"] == node.me()["id"]
        subject = f"Node {node.me()['id']}"
        assert findings(found, "ok")[subject].startswith(f"{node.url}, release ")
        assert f"(pid {node.process.pid})" in findings(found, "ok")[f"Port {node.port}"]
        assert "API key" not in findings(found, "note"), "nobody else reaches it"
        node.stop()
    finally:
        node.kill()


def test_a_node_with_a_key_is_asked_with_it(home: Path) -> None:
    node = Node(home, env={"EXO_API_KEY": "hush"})
    try:
        found, status = said(home, "--url", node.url)
        assert status == 1
        assert "asks for a key" in findings(found, "broken")["Node"]
        found, status = said(home, "--url", node.url, env={"EXO_API_KEY": "hush"})
        assert (status, findings(found, "broken")) == (0, {})
        assert found["evidence"]["node"]["keyless"] is False
        assert "hush" not in json.dumps(found)
        node.stop()
    finally:
        node.kill()


def test_a_node_that_is_named_and_gone_is_broken(home: Path, free_port: int) -> None:
    found, status = said(home, "--url", f"http://127.0.0.1:{free_port}")
    assert status == 1
    assert "cannot reach" in findings(found, "broken")["Node"]


def test_an_address_that_is_none_is_refused(home: Path) -> None:
    ended = doctor(home, "--url", "nonsense")
    assert ended.returncode == 2
    assert "nonsense" in ended.stderr


# What people do to their machines


def test_another_program_on_the_port_is_named(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        found, status = said(home, env={"EXO_PORT": str(port)})
    assert status == 1
    broken = findings(found, "broken")
    assert f"(pid {os.getpid()}) has it" in broken[f"Port {port}"]
    (remedy,) = [each["remedy"] for each in found["findings"] if each["subject"] == f"Port {port}"]
    assert f"exo --port {port + 1}" in remedy


def test_a_model_that_is_cut_short_is_named(home: Path) -> None:
    (home / "models").mkdir(parents=True)
    shutil.copy(MODEL, home / "models" / "whole.gguf")
    (home / "models" / "cut.gguf").write_bytes(MODEL.read_bytes()[:-200_000])
    found, status = said(home)
    assert status == 1
    assert list(findings(found, "broken")) == ["Model cut"]
    assert "cut short" in findings(found, "broken")["Model cut"]
    assert findings(found, "ok")["Models"].startswith("whole can be loaded")


def test_a_home_that_cannot_be_written_is_told(home: Path) -> None:
    found, status = said(Path("/proc/exo"))  # closed even to root
    assert status == 1
    assert "/proc/exo cannot be written" in findings(found, "broken")["Disk"]


def test_a_variable_that_nothing_reads_is_told_and_keeps_nothing_else(home: Path) -> None:
    found, status = said(home, env={"EXO_DEFAULT_MODLE": "x"})
    assert status == 1
    assert "did you mean EXO_DEFAULT_MODEL" in findings(found, "broken")["Environment"]
    assert "Python" in findings(found, "ok")


@pytest.mark.parametrize(
    ("content", "named"), [("[http]\nprot = 1\n", "http.prot"), ("no toml", "is no TOML")]
)
def test_a_configuration_that_cannot_be_used_is_told(home: Path, content: str, named: str) -> None:
    home.mkdir()
    (home / "config.toml").write_text(content)
    found, status = said(home)
    assert status == 1
    assert named in findings(found, "broken")["Configuration"]
    assert "Python" in findings(found, "ok")


def test_what_is_configured_is_looked_at(home: Path, free_port: int) -> None:
    home.mkdir()
    (home / "config.toml").write_text(
        f'[http]\nhost = "127.0.0.1"\nport = {free_port}\n[limits]\nmemory = "64MB"\n'
    )
    ended = subprocess.run([*COMMAND, "--json"], env=environment(home), capture_output=True, check=False)
    evidence = json.loads(ended.stdout)["evidence"]
    assert evidence["node"]["url"] == f"http://127.0.0.1:{free_port}"
    assert evidence["memory"]["budget"] == 64_000_000
    assert evidence["security"]["open_at"] == ["127.0.0.1"]


def test_a_server_that_is_configured_and_gone_is_broken(home: Path, free_port: int) -> None:
    found, status = said(home, env={"RKLLM_SERVER_HOST": "127.0.0.1", "RKLLM_SERVER_PORT": str(free_port)})
    assert status == 1
    assert f"127.0.0.1:{free_port}" in findings(found, "broken")["NPU server"]


def test_a_peer_that_is_named_and_gone_is_slow_and_not_broken(home: Path, free_port: int) -> None:
    found, status = said(home, "--peer", f"127.0.0.1:{free_port}")
    assert (status, list(findings(found, "slow"))) == (0, [f"Named node 127.0.0.1:{free_port}"])


# What it prints


def test_the_json_is_as_its_document_says(home: Path) -> None:
    found, _ = said(home)
    assert found.keys() == {"findings", "evidence"}
    assert all(each.keys() == {"level", "subject", "says", "remedy"} for each in found["findings"])
    fields = [field.name for field in msgspec.structs.fields(Evidence)]
    assert list(found["evidence"]) == fields
    msgspec.convert(found["evidence"], Evidence)
    rows = re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text(), re.MULTILINE)
    assert rows == ["level", "subject", "says", "remedy", *fields]


def test_a_terminal_of_80_columns_gets_a_page_in_colours(home: Path) -> None:
    page = on_a_terminal(home, 80)
    assert "\x1b[" in page
    plain = re.sub(r"\x1b\[[0-9;]*m", "", page)
    # But for names of files, which stay whole to be copied.
    assert all(len(line) <= 80 or len(line.split()) == 1 for line in plain.splitlines()), plain
    assert plain.splitlines()[-1] == "Nothing is wrong."
    assert "\x1b" not in on_a_terminal(home, 80, NO_COLOR="1")


def on_a_terminal(home: Path, columns: int, **env: str) -> str:
    """All that is shown on one."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    kept = {name: value for name, value in environment(home).items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        COMMAND,
        env={**kept, "TERM": "xterm", "EXO_PORT": "1", **env},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:
        pass  # which is how Linux tells that the other side is closed
    finally:
        os.close(ours)
        process.wait(PATIENCE)
    return shown.decode().replace("\r\n", "\n")
