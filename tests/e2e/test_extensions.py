"""Engines and models of other packages, installed as their users install them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Start
from .test_cli import fails, run

EXAMPLE = Path(__file__).parents[2] / "examples" / "engine_and_model"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the example is installed into, without a network."""
    into = tmp_path_factory.mktemp("site")
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "example")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--disable-pip-version-check", "--target", str(into), str(source)],
        check=True,
    )
    return into


@pytest.fixture
def env(installed: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])}


def test_the_example_answers_through_a_node_that_names_it(start: Start, env: dict[str, str]) -> None:
    node = start("--inference-engine", "parrot", "--discovery-module", "none", env=env)
    answer = node.chat("exo-demo", "pieces of eight")
    assert answer.json()["choices"][0]["message"]["content"] == "pieces of eight"
    assert answer.json()["usage"]["completion_tokens"] == 3
    assert 'exo_inference_engine_info{engine="parrot"' in node.get("/metrics").body.decode()


def test_the_example_is_not_imported_where_nothing_needs_it(
    start: Start, installed: Path, tmp_path: Path, env: dict[str, str]
) -> None:
    site = shutil.copytree(installed, tmp_path / "site")
    (site / "parrot" / "__init__.py").write_text("raise RuntimeError('the wheel came off')")
    env["PYTHONPATH"] = str(site)
    node = start("--discovery-module", "none", env=env)
    assert node.chat("exo-demo", "What is 2 + 2?").status == 200
    assert "parrot" not in node.log
    # An unknown name may be another package's: it is looked into, named in the log, and left out.
    assert node.chat("nobody-knows-it").status == 404
    assert "exo-parrot 1.0 (parrot): the wheel came off" in node.line("left out the models of")


def test_an_engine_that_is_named_and_broken_is_an_error_that_names_its_package(
    home: Path, installed: Path, tmp_path: Path, env: dict[str, str]
) -> None:
    site = shutil.copytree(installed, tmp_path / "site")
    (site / "parrot" / "engine.py").write_text("raise RuntimeError('the wheel came off')")
    env["PYTHONPATH"] = str(site)
    ended = run(home, "--host", "127.0.0.1", "--port", "0", "--inference-engine", "parrot", env=env)
    fails(ended, "exo-parrot 1.0: its engine 'parrot' cannot be used: the wheel came off")
    fails(run(home, "--inference-engine", "cockatoo", env=env), "'cockatoo'", "dummy, parrot and rkllm")


def test_the_models_of_the_example_are_known(home: Path, env: dict[str, str]) -> None:
    shown = run(home, "show", "parrot-tiny", local_port=1, env=env).stdout
    assert "example/parrot-tiny-gguf:parrot-tiny.gguf" in shown
    fails(run(home, "show", "parrot-tiny", local_port=1), "not here")
