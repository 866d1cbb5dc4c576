"""A node with scripts, shared by tests that leave it as they found it, and the command's own home."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.chat.hostile import HOSTILE
from tests.e2e.node import HANG, Node, fail, text, wait, write_script

SLOW: list[object] = [text("tick "), wait(0.02)] * 5000


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    home = tmp_path_factory.mktemp("node")
    write_script(home, "hello", [text("Hello"), text(", "), text("wörld"), text("!")])
    write_script(home, "tiny", [text("Hi")])  # which "auto" has for what needs no thoughts
    write_script(home, "thinker", [{"type": "reasoning", "text": "Hm."}, text("42")])
    write_script(home, "slow", SLOW)
    write_script(home, "hangs", [text("started"), HANG])
    write_script(home, "hostile", [text("before " + HOSTILE + " behind")])
    write_script(home, "midway", [text("so far"), fail(f"the wheel {HOSTILE} came off")])
    node = Node(home)
    try:
        yield node
        node.stop()
    finally:
        node.kill()


@pytest.fixture
def node(_shared: Node) -> Iterator[Node]:
    yield _shared
    _shared.check_log()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Of the command, not of the node."""
    return tmp_path / "home"
