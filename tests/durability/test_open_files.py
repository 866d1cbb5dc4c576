"""No more files or connections to be had."""

import socket
from contextlib import ExitStack
from pathlib import Path

from tests.durability.bare import Bare
from tests.e2e.node import eventually

# Little more than a node has open without anybody asking.
LIMIT = 24


def test_a_node_with_too_few_of_them_says_so_and_is_well_again_once_they_are_back(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Bare(tmp_path, f'ulimit -n {LIMIT}; exec "$@" 2>{log}') as node:
        node.answers()
        with ExitStack() as held:
            for _ in range(64):
                held.enter_context(socket.create_connection(("127.0.0.1", node.port)))
            eventually(lambda: "a connection cannot be accepted" in log.read_text())
        node.answers()
        assert node.ends() == 0
    said = log.read_text()
    assert said.count("Too many open files") == 1
    assert "LimitNOFILE=" in said
    assert "Traceback" not in said


def test_a_node_takes_what_the_owner_allows_and_not_the_little_a_shell_sets(tmp_path: Path) -> None:
    with Bare(tmp_path, 'ulimit -S -n 80; ulimit -H -n 500; exec "$@"') as node:
        limits = Path(f"/proc/{node.process.pid}/limits").read_text()
        (line,) = (line for line in limits.splitlines() if line.startswith("Max open files"))
        assert line.split()[3:5] == ["500", "500"]


def test_whoever_only_holds_connections_takes_none_from_those_who_ask(tmp_path: Path) -> None:
    with Bare(tmp_path, 'ulimit -n 64; exec "$@"') as node, ExitStack() as held:
        for _ in range(200):
            held.enter_context(socket.create_connection(("127.0.0.1", node.port)))
        node.answers()
        held.close()
        assert node.ends() == 0
