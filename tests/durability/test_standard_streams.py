"""Without a terminal, and without anything in its place."""

import fcntl
import os
import pty
import signal
import subprocess
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.durability.bare import Bare
from tests.e2e.node import PATIENCE, chat_body, environment, text, wait, write_script
from tests.e2e.test_cli import command


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_node_whose_streams_are_closed_serves_and_ends_well(tmp_path: Path, closed: str) -> None:
    with Bare(tmp_path, f'exec "$@" {closed}') as node:
        node.answers()
        for number in range(3):
            # Nothing else has got its number: what a library prints goes nowhere.
            assert not os.readlink(f"/proc/{node.process.pid}/fd/{number}").startswith("socket:")
        assert node.ends() == 0


def test_a_log_without_room_holds_up_no_answer(tmp_path: Path) -> None:
    with Bare(tmp_path, 'exec "$@" >/dev/full 2>/dev/full') as node:
        node.answers()
        assert node.ends() == 0


def test_a_pipe_that_nobody_reads_any_more_holds_up_no_answer(tmp_path: Path) -> None:
    with Bare(tmp_path, 'exec "$@" 2>&1', stdout=subprocess.PIPE) as node:
        assert node.process.stdout is not None
        node.process.stdout.close()
        node.answers()
        assert node.ends() == 0


def test_a_command_whose_output_is_closed_says_why_it_failed_or_nothing(tmp_path: Path) -> None:
    for closed in (">&-", ">/dev/full"):
        ended = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", *command("list")],
            env=environment(tmp_path),
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        )
        assert b"Traceback" not in ended.stderr, ended.stderr


def test_hanging_up_lets_answers_end(tmp_path: Path) -> None:
    write_script(tmp_path, "slow", [text("one"), wait(1), text(" two")])
    with Bare(tmp_path) as node, ThreadPoolExecutor(1) as client:
        asked = client.submit(node.request, "POST", "/v1/chat/completions", chat_body("slow"))
        # It answers this one only once the other is there.
        while not node.request("GET", "/v1/cluster")[1]["me"]["loaded"]:
            pass
        assert node.ends(signal.SIGHUP) == 0
        status, said = asked.result()
        assert (status, said["choices"][0]["message"]["content"]) == (200, "one two")


def test_nohup_is_heeded(tmp_path: Path) -> None:
    with Bare(tmp_path, 'trap "" HUP; exec "$@"') as node:
        node.process.send_signal(signal.SIGHUP)
        node.answers()
        assert node.ends() == 0


@pytest.mark.parametrize("shell", ['exec "$@"', 'trap "" HUP; exec "$@"'], ids=["hangs up", "nohup"])
def test_a_terminal_that_goes_away_takes_no_answer_along(tmp_path: Path, shell: str) -> None:
    """With its live panel on it. As it is the node's terminal, the kernel hangs up on it, too; where that is
    ignored, the node goes on without a panel."""
    ours, theirs = pty.openpty()

    def take() -> None:
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    # In the child, which has no threads: it makes the terminal its own.
    options = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "preexec_fn": take}
    with Bare(tmp_path, shell, env={"TERM": "xterm-256color"}, **options) as node:
        os.close(theirs)
        os.read(ours, 1)
        os.close(ours)
        if "trap" in shell:
            node.answers()
            node.answers()
            assert node.ends() == 0
        else:
            assert node.process.wait(PATIENCE) == 0
