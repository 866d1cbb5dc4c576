"""Where a panel is shown, asked in a real terminal."""

import io
import subprocess
import sys

import pytest

from exo.terminal import fitting
from tests.terminal.emulator import Terminal

ASK = """
import os, sys
from exo.terminal.fitting import terminal
print(terminal(os.environ, sys.stdout, sys.stderr), "over")
"""
USUAL = {"PYTHONUTF8": "1", "TERM": "xterm-256color"}
FULL = "Terminal(unicode=True, colours=True)"


@pytest.mark.parametrize(
    ("environment", "fits"),
    [
        ({}, FULL),
        ({"CI": ""}, FULL),
        ({"CI": "false"}, FULL),
        ({"CI": "true"}, "None"),
        ({"CI": "1"}, "None"),
        ({"TERM": "dumb"}, "None"),
        ({"TERM": ""}, "None"),
        ({"TERM": "linux"}, "Terminal(unicode=False, colours=True)"),
        ({"NO_COLOR": "1"}, "Terminal(unicode=True, colours=False)"),
        ({"NO_COLOR": ""}, FULL),
        ({"PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1"}, "Terminal(unicode=False, colours=True)"),
    ],
)
def test_the_environment_is_heeded(environment: dict[str, str], fits: str) -> None:
    with Terminal([sys.executable, "-c", ASK], {**USUAL, **environment}) as terminal:
        assert terminal.exit_code() == 0
        assert f"{fits} over" in terminal.shown


@pytest.mark.parametrize(("columns", "rows", "fits"), [(60, 12, FULL), (59, 12, "None"), (60, 11, "None")])
def test_a_terminal_that_is_too_small_has_lines(columns: int, rows: int, fits: str) -> None:
    with Terminal([sys.executable, "-c", ASK], USUAL, columns, rows) as terminal:
        assert terminal.exit_code() == 0
        assert f"{fits} over" in terminal.shown


@pytest.mark.parametrize("redirected", ["> /dev/null", "2> /dev/null", "| cat", "&"])
def test_in_a_pipe_in_a_file_and_in_the_background_there_are_lines(redirected: str) -> None:
    there = f"exec 3>&1; {sys.executable} -c '{ASK}' ".replace(
        "print(", 'print(file=os.fdopen(3, "w"), *['
    ).replace('"over")', '"over"])')
    shell = ["/bin/bash", "--norc", "-c", f"set -m; {there} {redirected}\nwait"]
    with Terminal(shell, USUAL) as terminal:
        assert terminal.exit_code() == 0
        assert "None over" in terminal.shown


def test_where_there_is_no_terminal_nothing_is_asked_of_it() -> None:
    assert fitting.terminal(USUAL, io.StringIO(), io.StringIO()) is None


def test_a_process_without_a_terminal_of_its_own_is_not_in_front() -> None:
    code = "from exo.terminal.fitting import in_front; print(in_front(0))"
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, check=True, text=True
    )
    assert done.stdout == "False\n"
