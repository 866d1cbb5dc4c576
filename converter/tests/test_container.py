"""The container's files. No engine runs here, so nothing was built: they are read, their script is run."""

import hashlib
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

CONVERTER = Path(__file__).parents[1]
INSTALL = CONVERTER / "docker" / "install-toolkit"


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile with its arguments, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (CONVERTER / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_dockerfile_has_known_instructions_in_a_sensible_order() -> None:
    words = [word for word, _ in instructions()]
    known = {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "USER", "ENTRYPOINT", "CMD"}
    assert set(words) <= known
    assert words[0] == "FROM"
    assert words.index("COPY") < words.index("USER") < words.index("ENTRYPOINT") < words.index("CMD")
    assert words.count("ENTRYPOINT") == words.count("CMD") == 1


def test_it_is_for_x86_64_and_a_python_of_the_toolkits() -> None:
    (base,) = [rest for word, rest in instructions() if word == "FROM"]
    assert "--platform=linux/amd64" in base
    assert re.search(r"python:3\.10-slim-bookworm$", base)


def test_all_that_it_copies_and_runs_is_let_through_and_there() -> None:
    allowed = {line[1:] for line in (CONVERTER / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    run = " ".join(rest for word, rest in instructions() if word == "RUN")
    for name in ("docker/install-toolkit", "requirements.lock"):
        assert name in run
        assert (CONVERTER / name).is_file()
        assert name in allowed or f"{name.partition('/')[0]}/**" in allowed
    for name in ("pyproject.toml", "README.md", "src/**", "recipes/**", "wheels/**"):
        assert name in allowed
    assert "pip install --require-hashes" in run


def test_compose_names_what_the_dockerfile_asks_for() -> None:
    services = yaml.safe_load((CONVERTER / "compose.yaml").read_text())["services"]
    asked = {rest.partition("=")[0] for word, rest in instructions() if word == "ARG"}
    for service in services.values():
        assert set(service["build"]["args"]) == asked
        assert service["platform"] == "linux/amd64"
        assert service["command"][0] in ("doctor", "serve")
    assert services["serve"]["ports"] == ["8099:8099"]
    for argument in ("TOOLKIT", "TOOLKIT_SHA256"):
        assert services["convert"]["build"]["args"][argument].startswith("${" + argument + ":?")


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `pip` that notes what it is asked for."""
    log = tmp_path / "pip.log"
    fake = tmp_path / "bin" / "pip"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$*" >> {log}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return log


def install(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", str(INSTALL), *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_the_wheel_is_installed_if_it_is_the_right_one(pip: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "rkllm_toolkit-1.2.3-cp310-cp310-linux_x86_64.whl"
    wheel.write_bytes(b"a wheel")
    (tmp_path / "requirements.txt").write_text("")
    checksum = hashlib.sha256(b"a wheel").hexdigest()
    done = install(wheel.name, checksum, "requirements.txt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = pip.read_text().splitlines()
    assert re.fullmatch(r"install -r \S+/requirements\.txt", first)
    # Its name says for which Python it is, so it is kept.
    assert re.fullmatch(rf"install \S+/{re.escape(wheel.name)}", second)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name the toolkit's wheel"),
        (("a.whl",), "name its checksum"),
        (("nowhere.whl", "0" * 64), "nowhere.whl is not there"),
        (("a.whl", "0" * 64), "a.whl is not what its checksum says"),
        (("http://127.0.0.1:9/a.whl", "0" * 64), "http://127.0.0.1:9/a.whl is not there"),
    ],
)
def test_anything_else_is_not_installed(
    pip: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "a.whl").write_bytes(b"a wheel")
    done = install(*arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert says in done.stderr
    assert not pip.exists()
