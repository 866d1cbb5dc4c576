"""docs/CLI.md says what the commands take now."""

import click
import pytest

from exo.cli import app as exo
from exo.cli.retired import RETIRED
from rkllama.cli import app as rkllama
from tests.cli import manual


def everything(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
    inner = command.commands if isinstance(command, click.Group) else {}
    return [(path, command), *(each for name in inner for each in everything(inner[name], f"{path} {name}"))]


COMMANDS = [*everything(exo, "exo"), *everything(rkllama, "rkllama")]


def test_the_file_is_up_to_date() -> None:
    written = manual.FILE.read_text(encoding="utf-8") if manual.FILE.exists() else ""
    assert written == manual.text(), f"docs/CLI.md is out of date; {manual.REMEDY}"


def test_the_file_has_every_command_and_option() -> None:
    sections = {
        section.partition("```\n")[2].partition("\n")[0]: section
        for section in manual.text().split("\n### ")
        for section in section.split("\n## ")
    }
    for path, command in COMMANDS:
        [section] = [text for usage, text in sections.items() if f"{usage} ".startswith(f"{path} [OPTIONS]")]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert all(f"`{name}`" in section for name in parameter.opts), (path, parameter.opts)


def test_the_file_has_nothing_of_the_machine_or_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    before = manual.text()
    for name, value in (("COLUMNS", "40"), ("HOME", "/somewhere"), ("EXO_URL", "http://board:1")):
        monkeypatch.setenv(name, value)
    assert manual.text() == before


def test_retired_options_are_not_offered() -> None:
    assert not [name for name in RETIRED if f"`{name}`" in manual.text()]
