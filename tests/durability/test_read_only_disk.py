"""A disk that cannot be written: what reads goes on, and what would write says which folder it is."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exo.store.catalogue import BUNDLED
from tests.e2e.conftest import Start
from tests.e2e.node import Node
from tests.e2e.test_cli import fails, run
from tests.store.mirror import Mirror

from .conftest import Disk

WHY = "Read-only file system"


@pytest.fixture
async def hub() -> AsyncIterator[Mirror]:
    mirror = Mirror()
    mirror.files = {"tiny.gguf": (BUNDLED / "exo-demo" / "model.gguf").read_bytes()}
    async with mirror.running():
        yield mirror


@pytest.fixture
def node(disk: Disk, start: Start, hub: Mirror, tmp_path: Path) -> Node:
    """On a disk with a model of its own."""
    (disk.path / "models").mkdir()
    shutil.copy(BUNDLED / "exo-demo" / "model.gguf", disk.path / "models" / "own.gguf")
    disk.read_only()
    env = {
        "EXO_HOME": str(disk.path),
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "NO_PROXY": "*",
    }
    return start("--discovery-module", "none", env=env)


async def test_a_node_starts_on_it_and_answers_but_takes_and_removes_nothing(disk: Disk, node: Node) -> None:
    await asyncio.to_thread(node.assert_serves, "own")
    pulled = await asyncio.to_thread(
        node.request, "POST", "/api/pull", {"model": "user/tiny", "stream": False}
    )
    assert (pulled.status, WHY in pulled.body.decode()) == (503, True), pulled
    removed = await asyncio.to_thread(node.request, "DELETE", "/v1/models/own")
    assert (removed.status, WHY in removed.body.decode()) == (503, True), removed
    assert str(disk.path) in removed.body.decode()
    await asyncio.to_thread(node.assert_serves, "own")


def test_commands_say_what_cannot_be_written(disk: Disk) -> None:
    disk.read_only()
    fails(run(disk.path, "cluster", "init"), str(disk.path), WHY)
    chatted = run(disk.path, "run", "exo-demo", "What is 145 + 278?", "--temperature", "0")
    assert (chatted.returncode, "423" in chatted.stdout) == (0, True), chatted
