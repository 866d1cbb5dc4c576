"""The Dockerfiles and the compose file, as far as a machine can judge that has no Docker to build them with.

hadolint reads the Dockerfiles, and the specification's own schema the compose file. What images are made of
is put together as Docker would, and their health checks are run.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from exo.cli.keys import SETTINGS
from exo.settings import HttpSettings
from rkllama.cli.keys import SETTINGS as NPU_SETTINGS
from tests.certificates import Authority
from tests.deploy.prometheus import shipped
from tests.e2e.node import Node

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy" / "docker"
COMPOSE = DOCKER / "compose.yaml"
DOCKERFILES = tuple(DOCKER / f"Dockerfile.{name}" for name in ("node", "rkllama"))


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Name and arguments, in order, lines that go on joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if line and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def arguments(dockerfile: Path, name: str) -> list[str]:
    return [rest for each, rest in instructions(dockerfile) if each == name]


def sources(dockerfile: Path) -> list[str]:
    """What is copied out of the repository."""
    copied = [rest.split() for rest in arguments(dockerfile, "COPY") if not rest.startswith("--from=")]
    return [path for words in copied for path in words[:-1]]


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return read


# Dockerfiles


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    judged = subprocess.run(
        [Path(sys.executable).parent / "hadolint", "--no-color", dockerfile],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (judged.returncode, judged.stdout) == (0, "")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_is_pinned_is_not_root_s_and_tells_its_health(dockerfile: Path) -> None:
    for base in arguments(dockerfile, "FROM"):
        assert re.match(r"python:3\.\d+-slim-[a-z]+( AS \w+)?$", base), base
    [user] = arguments(dockerfile, "USER")
    assert int(user.partition(":")[0]) > 0
    last = [name for name, _ in instructions(dockerfile)]
    assert last.index("USER") > max(i for i, name in enumerate(last) if name == "RUN")
    assert len(arguments(dockerfile, "HEALTHCHECK")) == 1
    # As a list: through a shell, SIGTERM would end that and not the program.
    assert json.loads(arguments(dockerfile, "ENTRYPOINT")[0])
    assert json.loads(arguments(dockerfile, "CMD")[0])[0] == "serve"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_no_secret_gets_into_an_image(dockerfile: Path) -> None:
    set_there = " ".join(arguments(dockerfile, "ENV") + arguments(dockerfile, "ARG"))
    assert not re.search(r"KEY|TOKEN|SECRET|PASSWORD", set_there, re.IGNORECASE)
    ignored = Path(f"{dockerfile}.dockerignore").read_text().splitlines()
    # All but what is named.
    assert ignored[1] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == {
        source.partition("/")[0] for source in sources(dockerfile)
    }


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_is_enough_to_make_the_package_with_its_units(
    tmp_path: Path, dockerfile: Path
) -> None:
    context = tmp_path / "context"
    for source in sources(dockerfile):
        to = context / source
        to.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, to)
    made = ("hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    subprocess.run([sys.executable, "-m", *made], cwd=context, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    units = {path.name for path in (ROOT / "deploy" / "systemd").iterdir()}
    assert {f"exo/cli/units/{name}" for name in units} <= names
    modules = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.py")}
    assert modules <= names


def healthy(dockerfile: Path, **variables: str) -> bool:
    """What the image's health check says, run here with these variables."""
    [check] = arguments(dockerfile, "HEALTHCHECK")
    program, *rest = json.loads(check.partition("CMD ")[2])
    assert program == "python"
    environment = {**os.environ, **variables}
    ended = subprocess.run([sys.executable, *rest], check=False, capture_output=True, env=environment)
    return ended.returncode == 0


def test_the_health_check_tells_a_node_that_answers_from_one_that_does_not(tmp_path: Path) -> None:
    node = Node(tmp_path)
    try:
        checks = [(DOCKERFILES[0], "EXO_PORT"), (DOCKERFILES[1], "RKLLAMA_PORT")]
        assert [healthy(dockerfile, **{name: str(node.port)}) for dockerfile, name in checks] == [True, True]
        node.stop()
        assert [healthy(dockerfile, **{name: str(node.port)}) for dockerfile, name in checks] == [
            False,
            False,
        ]
    finally:
        node.kill()


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mutual"])
def test_the_health_check_goes_by_the_variables_of_tls(tmp_path: Path, *, mutual: bool) -> None:
    authority = Authority(tmp_path / "ca")
    files = authority.issue("node", "exo.lan")
    variables = {"EXO_TLS_CERT": str(files.certificate), "EXO_TLS_KEY": str(files.key)}
    node = Node(tmp_path / "home", *(("--tls-client-ca", str(authority.ca)) if mutual else ()), env=variables)
    try:
        assert healthy(DOCKERFILES[0], EXO_PORT=str(node.port), **variables)
        node.stop()
        assert not healthy(DOCKERFILES[0], EXO_PORT=str(node.port), **variables)
    finally:
        node.kill()


def test_ports_and_variables_are_the_programs() -> None:
    for dockerfile, table in zip(DOCKERFILES, (SETTINGS, NPU_SETTINGS), strict=True):
        port = next(each for each in table if each.key == "http.port")
        assert arguments(dockerfile, "EXPOSE") == [str(port.default)]
        assert f"'{port.variable}', '{port.default}'" in arguments(dockerfile, "HEALTHCHECK")[0]


# Compose


def test_the_compose_file_is_what_the_specification_says() -> None:
    judged = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert judged.returncode == 0, judged.stdout


def test_what_is_mounted_and_built_is_there() -> None:
    read = compose()
    for name, service in read["services"].items():
        if build := service.get("build"):
            assert (DOCKER / build["context"]).resolve() == ROOT
            assert (ROOT / build["dockerfile"]).is_file()
        else:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DOCKER / source).is_dir(), volume
                assert volume.endswith(":ro")
            elif not source.startswith("$"):
                assert source in read["volumes"], volume


def test_every_service_is_confined_and_answers_get_their_grace() -> None:
    for name, service in compose()["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        if "build" in service:
            assert int(service["stop_grace_period"].removesuffix("s")) >= 2 * HttpSettings().grace


def test_each_finds_the_other_on_the_machine_s_own_network() -> None:
    services = compose()["services"]
    assert {service["network_mode"] for service in services.values()} == {"host"}
    listen = next(flag for flag in services["prometheus"]["command"] if "listen-address" in flag)
    grafana = services["grafana"]["environment"]
    assert grafana["PROMETHEUS_URL"].removeprefix("http://localhost:") == listen.rpartition(":")[2]
    assert f"http://localhost:{HttpSettings().port}/" in shipped("prometheus.yml")
    # Both without a password of their own by default: for this machine only.
    assert "127.0.0.1" in listen
    assert grafana["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"


def test_the_board_s_npu_is_passed_in() -> None:
    npu = compose()["services"]["rkllama"]
    assert npu["profiles"] == ["npu"]
    assert {device.partition(":")[0] for device in npu["devices"]} == {"/dev/dri", "/dev/dma_heap"}
    assert npu["group_add"]


def test_variables_that_are_passed_on_are_known() -> None:
    known = {each.variable for each in (*SETTINGS, *NPU_SETTINGS)} | {"HF_TOKEN"}
    for name in ("node", "rkllama"):
        given = compose()["services"][name]["environment"]
        assert set(given) <= known
        # With a value none would be "" where it is not set, which some take for said.
        assert not [each for each in given if "=" in each]
