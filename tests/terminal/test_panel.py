"""A real node in a real terminal: what its owner sees, and what is left when it is over."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import conftest
from tests.cluster.hosts import Hosts
from tests.e2e.node import PATIENCE, environment, text, wait, write_script
from tests.terminal.emulator import Terminal
from tests.terminal.picture import cluster_at_work, picture

make_hosts = conftest.make_hosts

SHOW, LEAVE = b"\x1b[?1049h", b"\x1b[?1049l"
BOTH = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
COMMAND = [sys.executable, "-m", "exo.main", "--host", "127.0.0.1", "--port", "0", "--node-id", "here"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., Terminal]]:
    running: list[Terminal] = []

    def start_one(*flags: str, env: Mapping[str, str] | None = None, **more: Any) -> Terminal:
        usual = {
            name: value for name, value in environment(home, env).items() if name not in ("CI", "NO_COLOR")
        }
        running.append(
            Terminal([*COMMAND, *flags], {**usual, "TERM": "xterm-256color", **(env or {})}, **more)
        )
        return running[-1]

    yield start_one
    for terminal in running:
        terminal.__exit__(None, None, None)


def port_of(terminal: Terminal) -> int:
    shown = terminal.until(lambda text: bool(re.search(r"http://127.0.0.1:\d+ ", text)))
    return int(re.findall(r"http://127.0.0.1:(\d+) ", shown)[0])


def ask(port: int, path: str, body: object) -> dict[str, Any]:
    sent = json.dumps(body).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", sent, {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        result: dict[str, Any] = json.load(answer)
        return result


def chat(port: int, model: str) -> dict[str, Any]:
    question = {"role": "user", "content": "What is 145 + 278?"}
    return ask(port, "/v1/chat/completions", {"model": model, "messages": [question]})


@contextmanager
def asking(port: int, model: str) -> Iterator[None]:
    """A client that reads a streamed answer, and hangs up at the end."""
    body = json.dumps({"model": model, "prompt": "", "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(head.encode() + body)
        yield


def assert_restored(terminal: Terminal) -> None:
    """The usual screen, with a cursor, and keys that are seen when typed."""
    sent = terminal.sent
    assert sent.rindex(LEAVE) > sent.rindex(SHOW)
    assert sent.rindex(b"\x1b[?25h") > sent.rindex(b"\x1b[?25l")
    assert sent.rindex(b"\x1b[?7h") > sent.rindex(b"\x1b[?7l")
    assert terminal.modes() == terminal.modes_before


def after(terminal: Terminal) -> str:
    """What was printed once the screen was left."""
    return terminal.sent.rpartition(LEAVE)[2].decode()


def test_a_request_is_seen_with_its_figures(start: Callable[..., Terminal]) -> None:
    terminal = start()
    port = port_of(terminal)
    terminal.until_shows(
        "NODES", "* here", "MODELS", "exo-demo", "on disk", "none yet", "this machine only", "ready"
    )
    chat(port, "exo-demo")
    shown = terminal.until_shows("1 answered", "in memory")
    (line,) = [line for line in shown.splitlines() if " ok " in line]
    assert re.search(r"\d\d:\d\d:\d\d +exo-demo +ok +\d+ +\d+ ms +\d+ ms +\d+", line), line
    with pytest.raises(urllib.error.HTTPError):
        chat(port, "no-such-model")
    terminal.until_shows("no-such-model", "model_not_found", "1 answered, 1 failed")


def test_what_is_under_way_is_seen_while_it_is(start: Callable[..., Terminal], home: Path) -> None:
    write_script(home, "slow", [text("started"), *[wait(0.05), text(".")] * 400])
    terminal = start()
    with asking(port_of(terminal), "slow"):
        shown = terminal.until_shows("answering", "tok/s")
        assert re.search(r"\* here .* slow +1 +0", shown)
    terminal.until_shows("hung up")


@BOTH
def test_the_terminal_is_as_before_when_it_is_over(
    start: Callable[..., Terminal], number: signal.Signals
) -> None:
    terminal = start()
    chat(port := port_of(terminal), "exo-demo")
    terminal.until_shows("1 answered")
    assert terminal.modes() != terminal.modes_before
    if number == signal.SIGINT:
        terminal.type("\x03")
    else:
        terminal.process.send_signal(number)
    assert terminal.exit_code() == 0
    assert_restored(terminal)
    assert "stopping" in after(terminal)
    assert f"was at http://127.0.0.1:{port} for" in after(terminal)
    assert "1 requests answered, 0 failed" in after(terminal)
    assert "{" not in after(terminal)


def test_keys_do_not_reach_the_screen_nor_the_shell(start: Callable[..., Terminal]) -> None:
    terminal = start()
    port_of(terminal)
    terminal.type("rm -rf everything\n")
    terminal.resize(90, 25)
    assert "everything" not in terminal.until_shows("ready")
    terminal.type("\x03")
    assert terminal.exit_code() == 0
    assert b"everything" not in terminal.sent
    os.set_blocking(terminal._slave, False)
    with pytest.raises(BlockingIOError):
        os.read(terminal._slave, 100)


def test_a_second_ctrl_c_does_not_wait(start: Callable[..., Terminal], home: Path) -> None:
    write_script(home, "slow", [text("started"), wait(60), text(".")])
    terminal = start("--grace", "60")
    with asking(port_of(terminal), "slow"):
        terminal.until_shows("answering")
        terminal.type("\x03")
        terminal.until_shows("stopping: Ctrl-C again ends it at once", "answering")
        terminal.type("\x03")
        assert terminal.exit_code() == 0
    assert_restored(terminal)
    assert "1 failed" in after(terminal)


def test_it_fits_another_size_at_once(start: Callable[..., Terminal]) -> None:
    terminal = start()
    port_of(terminal)
    terminal.until_shows("ready", "LOG")
    for columns, rows in ((60, 12), (140, 40), (30, 5)):
        cleared = terminal.sent.count(b"\x1b[2J")
        terminal.resize(columns, rows)
        wide = "this machine only".rjust(columns - len("http://127.0.0.1:50000  ")) if columns > 40 else "exo"
        terminal.until(lambda shown, wide=wide: wide in shown and shown.startswith("exo "))  # type: ignore[misc]
        # Terminals move lines about when their width changes.
        assert terminal.sent.count(b"\x1b[2J") > cleared
    terminal.type("\x03")
    assert terminal.exit_code() == 0
    assert_restored(terminal)


def test_a_shell_gets_its_screen_back_on_ctrl_z_and_lends_it_again(home: Path) -> None:
    shell = [shutil.which("bash") or "bash", "--norc", "--noprofile", "-i"]
    with Terminal(
        shell, {**environment(home), "TERM": "xterm-256color", "PS1": "ready> ", "CI": ""}
    ) as terminal:
        terminal.until_shows("ready>")
        terminal.type(" ".join(COMMAND) + "\n")
        port = port_of(terminal)
        terminal.type("\x1a")
        terminal.until_shows("Stopped")
        assert terminal.sent.rindex(LEAVE) > terminal.sent.rindex(SHOW)
        # In the background it serves, and does not write over the shell's screen.
        terminal.type("bg\n")
        chat(port, "exo-demo")
        terminal.until_shows('"model":"exo-demo"')
        assert terminal.sent.rindex(LEAVE) > terminal.sent.rindex(SHOW)
        terminal.type("fg\n")
        terminal.until_shows("1 answered", "* here")
        terminal.type("\x03")
        terminal.until_shows("1 requests answered")
        terminal.type("exit\n")
        assert terminal.exit_code() == 0


def test_a_start_that_fails_is_told_on_the_usual_screen(start: Callable[..., Terminal]) -> None:
    first = start()
    second = start("--port", str(port_of(first)))
    assert second.exit_code() == 1
    assert SHOW not in second.sent
    assert b"Error: cannot listen on" in second.sent
    assert second.modes() == second.modes_before


def test_ctrl_s_stops_nothing(start: Callable[..., Terminal]) -> None:
    terminal = start()
    port = port_of(terminal)
    terminal.type("\x13")  # Ctrl-S
    for _ in range(30):
        chat(port, "exo-demo")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.exit_code() == 0
    assert_restored(terminal)
    assert "30 requests answered" in after(terminal)


def test_a_node_whose_window_was_closed_goes_on(start: Callable[..., Terminal]) -> None:
    terminal = start(ignored=[signal.SIGHUP])
    port = port_of(terminal)
    terminal.hang_up()
    for _ in range(3):
        assert "423" in json.dumps(chat(port, "exo-demo"))
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("flags", "env"),
    [
        (["--disable-tui"], {}),
        ([], {"TERM": "dumb"}),
        ([], {"CI": "true"}),
    ],
    ids=["disabled", "dumb", "ci"],
)
def test_where_no_panel_is_wanted_there_are_lines(
    start: Callable[..., Terminal], flags: list[str], env: dict[str, str]
) -> None:
    terminal = start(*flags, env=env)
    terminal.until_shows("INFO listening on", "INFO models:")
    terminal.type("\x03")
    assert terminal.exit_code() == 0
    assert b"\x1b" not in terminal.sent.replace(b"\x1b]end\x07", b"")


def test_without_colours_there_are_none(start: Callable[..., Terminal]) -> None:
    terminal = start(env={"NO_COLOR": "1"})
    port_of(terminal)
    terminal.until_shows("ready")
    assert not re.search(rb"\x1b\[(\d+;)*3[0-7](;\d+)*m", terminal.sent)


def test_a_terminal_without_unicode_is_sent_ascii(start: Callable[..., Terminal], home: Path) -> None:
    write_script(home, "modèle-中", [text("x")])
    terminal = start(env={"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
    terminal.until_shows("ready", "mod?le-?")
    assert terminal.sent.isascii()


def test_a_defect_of_the_panel_is_told_and_costs_no_answer(home: Path) -> None:
    broken = """
import sys
from exo.cli import app
from exo.terminal import view
whole = view.lines
def lines(snapshot, *more):
    if snapshot.answered:
        raise ValueError("the frame cracked")
    return whole(snapshot, *more)
view.lines = lines
app(args=sys.argv[1:], prog_name="exo")
"""
    usual = {**environment(home), "TERM": "xterm-256color", "CI": ""}
    with Terminal([sys.executable, "-c", broken, *COMMAND[3:]], usual) as terminal:
        port = port_of(terminal)
        chat(port, "exo-demo")
        terminal.until_shows("the panel met a defect of this program", "the frame cracked")
        assert_restored(terminal)
        chat(port, "exo-demo")
        terminal.type("\x03")
        assert terminal.exit_code() == 0
        assert "2 requests answered" in after(terminal)


@pytest.mark.parametrize("flags", [[], ["--disable-tui"]], ids=["in a pipe", "disabled"])
def test_where_there_is_no_panel_it_costs_nothing(home: Path, flags: list[str]) -> None:
    asked = {**environment(home), "PYTHONPROFILEIMPORTTIME": "1"}
    node = subprocess.Popen([*COMMAND, *flags], env=asked, stderr=subprocess.PIPE, text=True)
    assert node.stderr is not None
    try:
        said = list[str]()
        for line in node.stderr:
            said.append(line)
            if "INFO models:" in line:
                break
        node.send_signal(signal.SIGTERM)
        said += node.stderr.readlines()
    finally:
        node.kill()
        node.wait()
        node.stderr.close()
    imported = {line.rpartition("|")[2].strip() for line in said if line.startswith("import time:")}
    assert "exo.terminal.fitting" in imported
    assert not {name for name in imported if name.split(".")[0] == "rich"}
    assert {name for name in imported if name.startswith("exo.terminal")} == {
        "exo.terminal",
        "exo.terminal.fitting",
    }
    assert not any("\x1b" in line or "was at" in line for line in said)


async def test_a_cluster_at_work_is_seen_as_a_whole(make_hosts: Callable[..., Hosts], tmp_path: Path) -> None:
    async with cluster_at_work(make_hosts(2), tmp_path) as terminal:
        shown = terminal.shown
        drawn = picture(terminal)
    assert re.search(r"\n\* rock-1 .*writer-7b.* 2 +1 ", shown)
    assert re.search(r"\n  rock-2 .*translator-3b +1 +0 ", shown)
    assert re.search(r"\ntranslator-3b .*answering +rock-2 +1 +0 +\d+\.\d", shown)
    assert re.search(r"broken +rock-1 +engine_failed", shown)
    assert re.search(r"\nuser/tiny:tiny.gguf .*━.* MB of 5.0 MB", shown)
    assert "no key: open to this network" in shown
    assert "failed: the wheel came off" in shown
    assert re.search(r"http://198.18.0.1:52415  http://localhost:52415", shown)
    assert all(part in drawn for part in ("rock-1", "translator-3b", "DOWNLOADS"))
