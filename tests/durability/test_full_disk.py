"""A disk without room: who asks is told, what is there stays whole, and the node goes on."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exo.cards import Recipe
from exo.cli.chat.conversation import Conversation, Saved, Turn
from exo.cli.chat.files import Files
from exo.cli.chat.history import History
from exo.errors import BadRequest, NotReady
from exo.store.catalogue import BUNDLED
from rkllama.models.catalogue import Models
from tests.e2e.conftest import Start
from tests.e2e.node import PATIENCE, Node
from tests.e2e.test_cli import fails, run
from tests.rkllama.npu import put_model
from tests.store.mirror import Mirror

from .conftest import Disk

ID = "user/tiny"
FULL = "the disk is full"


@pytest.fixture
async def hub() -> AsyncIterator[Mirror]:
    mirror = Mirror()
    mirror.files = {"tiny.gguf": (BUNDLED / "exo-demo" / "model.gguf").read_bytes()}
    async with mirror.running():
        yield mirror


@pytest.fixture
def on_disk(disk: Disk, start: Start, hub: Mirror, tmp_path: Path) -> Node:
    """A node whose files are on the disk, and that pulls from the hub here."""
    env = {
        "EXO_HOME": str(disk.path),
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "NO_PROXY": "*",
    }
    return start("--discovery-module", "none", env=env)


async def pulled(node: Node) -> str:
    """The last line of a pull in Ollama's dialect."""
    reply = await asyncio.to_thread(node.request, "POST", "/api/pull", {"model": ID})
    return reply.body.decode().splitlines()[-1]


async def test_a_download_that_finds_no_room_says_how_much_it_takes(disk: Disk, on_disk: Node) -> None:
    disk.fill(leave=100 << 10)
    said = await pulled(on_disk)
    assert "MB are still to come" in said
    assert "make room there" in said
    assert [name for name in disk.files() if name.endswith(".gguf")] == []
    await asyncio.to_thread(on_disk.assert_serves, "exo-demo")


async def test_a_download_that_fills_the_disk_says_so_and_goes_on_from_there(
    disk: Disk, on_disk: Node, hub: Mirror
) -> None:
    """What has come of it stays, and is what it should be in spite of the last bytes that found no room."""
    hub.held["tiny.gguf"] = asyncio.Event()
    pulling = asyncio.create_task(pulled(on_disk))
    async with asyncio.timeout(PATIENCE):
        while not hub.downloads():
            await asyncio.sleep(0.01)
    await asyncio.to_thread(disk.fill, leave=200 << 10)
    hub.held["tiny.gguf"].set()
    assert FULL in await pulling
    await asyncio.to_thread(on_disk.assert_serves, "exo-demo")
    disk.make_room()
    assert await pulled(on_disk) == '{"status":"success"}'
    ranges = [seen.range for seen in hub.downloads()]
    assert ranges[0] == "bytes=0-"
    assert ranges[-1] not in ("bytes=0-", ""), ranges
    await asyncio.to_thread(on_disk.assert_serves, ID)


def test_a_node_starts_and_answers_where_there_is_no_room_at_all(disk: Disk, start: Start) -> None:
    disk.fill()
    node = start(env={"EXO_HOME": str(disk.path)})
    node.assert_serves("exo-demo")
    assert disk.files() == []


def test_a_chat_that_cannot_be_saved_leaves_the_one_that_was_there(disk: Disk) -> None:
    files, name = Files(), str(disk.path / "chat.json")
    before, large = (Saved(Conversation(turns=(Turn("q" * size, "a"),))) for size in (1, 100_000))
    files.save(name, before)
    disk.fill()
    with pytest.raises(BadRequest, match=r"cannot write .*chat\.json: No space left on device"):
        files.save(name, large)
    assert Files().load(name) == before
    with pytest.raises(BadRequest, match="No space left"):
        files.save(str(disk.path / "other.json"), large)
    assert disk.files() == ["chat.json"]


def test_what_was_typed_is_remembered_whole_or_not_at_all(disk: Disk) -> None:
    history = History(disk.path / "history")
    history.add("one")
    disk.fill()
    with pytest.raises(OSError, match="No space left"):
        history.add("x" * 9000)
    disk.make_room()
    history.add("two")
    assert history.read() == ["one", "two"]


def test_certificates_are_made_whole_or_not_at_all(disk: Disk) -> None:
    disk.fill()
    ended = run(disk.path, "cluster", "init")
    fails(ended, str(disk.path), "No space left on device")
    assert disk.files() == []


def test_a_model_that_cannot_be_made_on_the_board_leaves_no_folder(disk: Disk, tmp_path: Path) -> None:
    weights = tmp_path / "weights.rkllm"
    weights.write_bytes(bytes(1000))
    put_model(disk.path, weights, "demo")
    models = Models(disk.path)
    before = disk.files()
    disk.fill()
    with pytest.raises(NotReady, match=FULL):
        models.create("other", Recipe(base="demo", system="s" * 8000))
    assert disk.files() == before
    assert [card.id for card in models.cards] == ["demo"]
