"""`--json`: one JSON value on standard output and nothing else, of a real node."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from exo.cli import app
from exo.store.catalogue import BUNDLED
from tests.e2e.node import Node, text, write_script
from tests.e2e.test_cli import free_port, run
from tests.store.mirror import Mirror

__all__ = ["free_port"]

LISTINGS = {
    "config": ("config",),
    "doctor": ("doctor",),
    "run": ("run", "exo-demo", "What is 2 + 2?"),
    "list": ("list",),
    "nodes": ("nodes",),
    "plan": ("plan", "exo-demo"),
    "ps": ("ps",),
    "show": ("show", "hello"),
    "spread": ("spread", "hello", "1"),
}
# It downloads, and so has tests of its own.
_PULL = "pull"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    home = tmp_path_factory.mktemp("home")
    write_script(home, "hello", [text("Hello")])
    node = Node(home, "--discovery-module", "none")
    try:
        yield node
        node.stop()
    finally:
        node.kill()


@pytest.fixture
async def hub() -> AsyncIterator[Mirror]:
    mirror = Mirror()
    mirror.files = {"tiny.gguf": (BUNDLED / "exo-demo" / "model.gguf").read_bytes()}
    async with mirror.running():
        yield mirror


@pytest.fixture
def env(hub: Mirror, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "", "NO_PROXY": "*"}


def as_json(home: Path, *arguments: str, **options: Any) -> Any:
    """The one value that it prints."""
    ended = run(home, *arguments, "--json", **options)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("\n")
    return json.loads(ended.stdout)


def test_every_command_with_json_is_tried() -> None:
    def has_json(command: click.Command) -> bool:
        options = [each for each in command.params if isinstance(each, click.Option)]
        return any("--json" in option.opts and option.is_flag for option in options)

    assert {name for name, each in app.commands.items() if has_json(each)} == {*LISTINGS, _PULL}


@pytest.mark.parametrize("name", LISTINGS)
def test_a_listing_prints_one_value(node: Node, name: str) -> None:
    env = {"EXO_URL": node.url}
    ended = run(node.home, *LISTINGS[name], "--json", env=env)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout)
    assert run(node.home, *LISTINGS[name], env=env).stdout != ended.stdout


def test_a_failure_prints_a_value_only_where_there_is_one(node: Node) -> None:
    env = {"EXO_URL": node.url}
    too_many = run(node.home, "spread", "hello", "3", "--json", env=env)
    assert too_many.returncode == 1
    assert json.loads(too_many.stdout)["problem"] in too_many.stderr
    for arguments in (("plan", "nothing"), ("show", "nothing")):
        ended = run(node.home, *arguments, "--json", env=env)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "nothing" in ended.stderr


async def test_a_pull_says_what_has_come(
    hub: Mirror, env: dict[str, str], tmp_path: Path, free_port: int
) -> None:
    come = {"model": "user/tiny", "files": {"tiny.gguf": len(hub.files["tiny.gguf"])}}
    for _ in ("downloaded", "here already"):
        assert come == await asyncio.to_thread(
            lambda: as_json(tmp_path, "pull", "user/tiny", env=env, local_port=free_port)
        )


async def test_a_pull_of_a_node_says_the_same(hub: Mirror, env: dict[str, str], tmp_path: Path) -> None:
    def pulled() -> Any:
        node = Node(tmp_path, "--discovery-module", "none", env=env)
        try:
            come = as_json(tmp_path, "pull", "user/tiny", "--url", node.url)
            node.stop()
            return come
        finally:
            node.kill()

    come = await asyncio.to_thread(pulled)
    assert come == {"model": "user/tiny", "files": {"tiny.gguf": len(hub.files["tiny.gguf"])}}
