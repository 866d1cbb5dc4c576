"""What a shell offers: bash itself sources click's script and calls the function, as on pressing Tab."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from exo.cli import app
from exo.store.catalogue import BUNDLED
from tests.e2e.node import PATIENCE, environment, text, write_script

BIN = Path(sys.executable).parent

# The program, and the words of the line behind its name, of which the last is being typed.
_PRESS_TAB = r"""
name=${1##*/}
eval "$(env "_${name^^}_COMPLETE=bash_source" "$name")"
[[ $(complete -p "$name") == *"-F _${name}_completion "* ]] || exit
COMP_WORDS=("$name" "${@:2}")
COMP_CWORD=$(($# - 1))
"_${name}_completion" "$name"
printf '%s\n' "${COMPREPLY[@]}"
"""


def offered(home: Path, line: str) -> list[str]:
    """By bash, at the end of that line. Says nothing else."""
    program, *words = line.split(" ")
    ended = subprocess.run(
        ["bash", "--norc", "-c", _PRESS_TAB, "bash", str(BIN / program), *words],
        env=environment(home, {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.split()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Has two models beside the bundled one, and a file that is none."""
    write_script(tmp_path, "hello", [text("Hello")])
    folder = tmp_path / "models" / "user" / "tiny"
    folder.mkdir(parents=True)
    (folder / "tiny.gguf").write_bytes((BUNDLED / "exo-demo" / "model.gguf").read_bytes())
    (tmp_path / "models" / "nonsense.gguf").write_bytes(b"this is no model")
    return tmp_path


def test_commands_are_offered(home: Path) -> None:
    assert offered(home, "exo ") == sorted(app.commands)
    assert offered(home, "exo clu") == ["cluster"]
    assert offered(home, "rkllama ") == ["config", "doctor", "serve", "tune"]
    assert offered(home, "exo cluster ") == ["init", "invite", "join", "router", "status"]


def test_options_are_offered_with_a_command_and_without_one(home: Path) -> None:
    assert offered(home, "exo --slo") == ["--slots"]
    assert offered(home, "exo --ver") == ["--version"]
    assert offered(home, "exo --port 8000 --slo") == ["--slots"]
    assert offered(home, "exo run --temp") == ["--temperature"]
    assert sorted(offered(home, "exo -")) == sorted(set(offered(home, "exo -")))


@pytest.mark.parametrize("command", ["run", "plan", "spread", "serve --preload", "--default-model"])
def test_models_on_the_disk_are_offered(home: Path, command: str) -> None:
    assert offered(home, f"exo {command} ") == ["exo-demo", "hello", "user/tiny"]
    assert offered(home, f"exo {command} us") == ["user/tiny"]


def test_the_bundled_model_is_not_offered_to_be_deleted(home: Path) -> None:
    assert offered(home, "exo rm ") == ["hello", "user/tiny"]


def test_short_names_are_offered(home: Path) -> None:
    assert offered(home, "exo pull qwen3-0") == ["qwen3-0.6b", "qwen3-0.6b-4bit"]
    assert offered(home, "exo show qwen3-0") == ["qwen3-0.6b", "qwen3-0.6b-4bit"]
    assert offered(home, "exo show h") == ["hello"]


def test_rkllama_offers_its_own(home: Path) -> None:
    assert offered(home, "rkllama serve --target-") == ["--target-platform"]
    assert offered(home, "rkllama --port 8000 --max") == ["--max-waiting"]
    assert offered(home, "rkllama doctor --j") == ["--json"]


# For zsh and fish click's scripts are taken as they are: what they call is asked here, as they would.


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("program", ["exo", "rkllama"])
def test_there_is_a_script_for_each_shell(home: Path, program: str, shell: str) -> None:
    script = completed(home, program, f"{shell}_source")
    assert f"_{program.upper()}_COMPLETE={shell}_complete" in script
    assert f"_{program}_completion" in script


@pytest.mark.parametrize(
    ("shell", "typed", "shown"), [("zsh", "2", ["plain", "hello", "_"]), ("fish", "h", ["plain,hello"])]
)
def test_other_shells_are_answered_in_their_form(
    home: Path, shell: str, typed: str, shown: list[str]
) -> None:
    words = {"COMP_WORDS": "exo run h", "COMP_CWORD": typed}
    assert completed(home, "exo", f"{shell}_complete", words).split() == shown


def test_a_completion_loads_nothing_heavy(home: Path) -> None:
    """Where it would wait: a server, an engine, a client of the hub. They are imported by what uses them."""
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "exo.main"],
        env=environment(
            home, {"_EXO_COMPLETE": "bash_complete", "COMP_WORDS": "exo rm h", "COMP_CWORD": "2"}
        ),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert loaded.stdout.split() == ["plain,hello"]
    names = {line.rpartition("|")[2].strip() for line in loaded.stderr.splitlines()}
    assert "exo.store.catalogue" in names
    heavy = {"aiohttp", "huggingface_hub", "jinja2", "llguidance", "numpy", "uvloop", "xllamacpp", "zenoh"}
    assert not names & heavy
    assert not {name for name in names if name.startswith(("exo.http", "exo.wire", "exo.engines"))}


def completed(home: Path, program: str, instruction: str, words: Mapping[str, str] | None = None) -> str:
    return subprocess.run(
        [str(BIN / program)],
        env=environment(home, {f"_{program.upper()}_COMPLETE": instruction, **(words or {})}),
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    ).stdout
