"""What documents tell people to type would be taken: every block, and every command in a sentence."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from .blocks import ROOT, blocks
from .commandlines import PROGRAMS, why_not
from .shell import Command, commands

DOCUMENTS = sorted(
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
)
_SPAN = re.compile(rf"`((?:[A-Z_]+=\S+ |sudo |/\S+/)*(?:{'|'.join(PROGRAMS)})(?: [^`]*)?)`")
# What stands for what has been left out: "exo run MODEL ...", "exo …".
_CUT = ("...", "…", "[")


def names(document: Path) -> str:
    return str(document.relative_to(ROOT))


class Typed(NamedTuple):
    """A command of ours, and where; `whole` if it is to be typed, and not only spoken of."""

    place: str
    command: Command
    whole: bool


def typed(document: Path) -> list[Typed]:
    found: list[Typed] = []
    if document.name == "CLI.md":  # made of the commands themselves
        return found
    for block in blocks(document):
        lines = block.text
        if block.language == "":
            lines = "\n".join(line[2:] for line in lines.splitlines() if line.startswith("$ "))
        elif block.language not in ("sh", "bash", "console"):
            continue
        found += [Typed(block.place, command, True) for command in commands(lines)]
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for span in _SPAN.findall(text):
        if not any(cut in span for cut in _CUT):
            place = f"{names(document)}: `{span}`"
            found += [Typed(place, command, False) for command in commands(" ".join(span.split()))]
    return [each for each in found if each.command.program in PROGRAMS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_commands_are_as_the_programs_take_them(document: Path) -> None:
    wrong = {}
    for place, command, whole in typed(document):
        words = [word for word in command.words[1:] if word not in _CUT]
        if not words and not whole:
            continue
        if why := why_not(command.program, words, whole=whole):
            wrong[f"{place}: {command}"] = why
    assert not wrong, "\n".join(f"{command}\n    {why}" for command, why in wrong.items())


def test_there_are_commands_to_look_at() -> None:
    found = [each.command for document in DOCUMENTS for each in typed(document)]
    assert {command.program for command in found} == set(PROGRAMS)
    assert len(found) > 150


@pytest.mark.parametrize("document", DOCUMENTS, ids=names)
def test_a_shell_can_read_every_block(document: Path) -> None:
    for block in blocks(document, "sh"):
        read = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
        assert (read.returncode, read.stderr) == (0, ""), f"{block.place}: {read.stderr}"


@pytest.mark.parametrize(
    "line",
    [
        "exo puul qwen3-0.6b",
        "exo pull",
        "exo serve --slots many",
        "exo --no-such-flag",
        "exo nodes --peer a",
        "exo cluster leave",
        "rkllama serve --target_platform rk3399",
        "rkllm-convert plan",
    ],
)
def test_what_no_program_takes_is_found(line: str) -> None:
    [command] = commands(line)
    assert why_not(command.program, command.words[1:])
