"""The examples of README.md and docs/CLIENTS.md, run as they stand but for the port."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .node import PATIENCE, Node

_ROOT = Path(__file__).parents[2]
_ADDRESS = "http://localhost:52415"
_CLIENTS = _ROOT / "tests" / "clients"
README = (_ROOT / "README.md").read_text(encoding="utf-8")
CLIENTS = (_ROOT / "docs" / "CLIENTS.md").read_text(encoding="utf-8")


def examples(text: str, language: str, start: str = "") -> list[str]:
    """The code blocks of that language that start so."""
    found = re.findall(rf"^```{language}\n({re.escape(start)}.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [str(block) for block in found]


def run(command: list[str], *, folder: Path = _ROOT, given: str = "") -> str:
    ended = subprocess.run(
        command, cwd=folder, input=given, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_chat_by_curl(node: Node) -> None:
    [command, *_] = examples(README, "sh", f"curl {_ADDRESS}/v1/chat/completions")
    answer = json.loads(run(["bash", "-c", command.replace(_ADDRESS, node.url)]))
    assert "423" in answer["choices"][0]["message"]["content"]


def test_tokens_by_curl(node: Node) -> None:
    [commands] = examples(README, "sh", f"curl {_ADDRESS}/tokenize")
    one, two, three = re.findall(r"^curl .*?'\n|^curl .*?\n\}'\n", commands, re.MULTILINE | re.DOTALL)
    told = [json.loads(run(["bash", "-c", each.replace(_ADDRESS, node.url)])) for each in (one, two, three)]
    assert told[0]["count"] == len(told[0]["tokens"]) == 12
    assert told[1]["content"] == "What is 1"
    assert "What is 145 + 278?" in told[2]["encoded_prompt"]


def test_auto_by_curl(node: Node) -> None:
    """Which model that is depends on the scripts that the node has."""
    [command] = examples(README, "sh", f"curl -i {_ADDRESS}")
    [shown] = examples(README, "", "x-exo-route")
    head, _, body = run(["bash", "-c", command.replace(_ADDRESS, node.url)]).partition("\n\n")
    [route] = re.findall(r"^x-exo-route: (.*)$", head, re.MULTILINE | re.IGNORECASE)
    assert route.partition(";")[0] == " ".join(shown.split()).partition(" ")[2].partition(";")[0]
    assert json.loads(body)["choices"][0]["message"]["content"]


PYTHON = [*examples(README, "python"), *examples(CLIENTS, "python")]


@pytest.mark.parametrize("program", PYTHON, ids=lambda program: program.split()[1])
def test_python_clients(node: Node, program: str) -> None:
    assert "423" in run([sys.executable, "-c", program.replace(_ADDRESS, node.url)])


@pytest.mark.parametrize("program", examples(CLIENTS, "js"), ids=lambda program: program.split('"')[1])
def test_npm_clients(node: Node, program: str) -> None:
    told = run(["node", "--input-type=module"], folder=_CLIENTS, given=program.replace(_ADDRESS, node.url))
    assert "423" in told


def test_the_versions_named_are_those_that_are_tried() -> None:
    lock = (_ROOT / "requirements" / "dev.lock").read_text(encoding="utf-8")
    package = json.loads((_CLIENTS / "package.json").read_text(encoding="utf-8"))
    locked = {
        "Python": dict(re.findall(r"^([a-z]+)==([0-9.]+)", lock, re.MULTILINE)),
        "JavaScript": package["dependencies"],
    }
    rows = re.findall(r"^\| (Python|JavaScript) \| (.*?) \|", CLIENTS, re.MULTILINE)
    named = [(language, *pair) for language, row in rows for pair in re.findall(r"`(\S+)` ([0-9.]+)", row)]
    assert len(named) == 10
    for language, name, version in named:
        assert locked[language][name] == version


def test_every_flag_named_exists() -> None:
    flags = set(re.findall(r"`(--[a-z-]+)`", README)) | {"--host"}
    known = run([sys.executable, "-m", "exo.main", "serve", "--help"])
    assert len(flags) >= 5
    assert not [flag for flag in flags if f"{flag} " not in known and f"{flag}," not in known]


@pytest.mark.parametrize(
    "path", [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert heading in anchors, target
