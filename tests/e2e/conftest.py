"""Nodes for the tests of this folder: one for all that only ask, and as many of its own as a test wants."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import openai
import pytest

from .node import HANG, PATIENCE, Node, fail, text, write_script

ALLOWED_ORIGIN = "https://app.example"
CALL = {"type": "tool_call", "index": 0, "id": "call_1", "name": "add", "arguments": ""}


@pytest.fixture(scope="session")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    home = tmp_path_factory.mktemp("shared")
    write_script(home, "hello", [text("Hello"), text(", "), text("wörld"), text("!")], slots=4)
    write_script(home, "thinker", [{"type": "reasoning", "text": "Hm."}, text("42")])
    write_script(
        home,
        "caller",
        [CALL, *({"type": "tool_call", "index": 0, "arguments": piece} for piece in ('{"a":', "2}"))],
    )
    write_script(home, "broken", [fail("the wheel came off")])
    write_script(home, "breaks-midway", [text("so far"), fail("the wheel came off")])
    write_script(home, "hangs", [text("started"), text(" on"), HANG], slots=16)
    node = Node(home, "--cors-origin", ALLOWED_ORIGIN)
    try:
        yield node
        node.stop()
    finally:
        node.kill()


@pytest.fixture
def node(_shared: Node) -> Iterator[Node]:
    """A node with the bundled model and some scripts, shared by tests that leave it as they found it."""
    yield _shared
    _shared.check_log()


class Start(Protocol):
    def __call__(
        self, *flags: str, scripts: Mapping[str, list[object]] = ..., env: Mapping[str, str] | None = ...
    ) -> Node: ...


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    """Starts a node of the test's own, in `home`. At the end it must stop well and have logged no defect."""
    nodes: list[Node] = []

    def start_one(
        *flags: str, scripts: Mapping[str, list[object]] | None = None, env: Mapping[str, str] | None = None
    ) -> Node:
        for name, steps in (scripts or {}).items():
            write_script(home, name, steps)
        nodes.append(Node(home, *flags, env=env))
        return nodes[-1]

    try:
        yield start_one
        for node in nodes:
            node.stop()
    finally:
        for node in nodes:
            node.kill()


@pytest.fixture
def client(node: Node) -> Iterator[openai.OpenAI]:
    with sdk(node) as client:
        yield client


def sdk(node: Node, key: str = "unused") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{node.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE)
