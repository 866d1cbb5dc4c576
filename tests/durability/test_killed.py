"""A node that lost power, and what it had half written."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exo.store.catalogue import BUNDLED
from tests.durability.bare import Bare
from tests.e2e.conftest import Start
from tests.e2e.node import PATIENCE, chat_body
from tests.store.mirror import Mirror

DEMO = BUNDLED / "exo-demo"
ID = "user/tiny"


@pytest.fixture
async def hub() -> AsyncIterator[Mirror]:
    mirror = Mirror()
    mirror.files = {"tiny.gguf": (DEMO / "model.gguf").read_bytes()}
    async with mirror.running():
        yield mirror


async def test_a_download_goes_on_from_where_a_killed_node_was(
    hub: Mirror, start: Start, home: Path, tmp_path: Path
) -> None:
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "*"}
    hub.held["tiny.gguf"] = asyncio.Event()
    first = await asyncio.to_thread(lambda: start("--discovery-module", "none", env=env))
    await asyncio.to_thread(first.request, "POST", "/download", {"model": ID})
    partial = home / "models" / "user"
    async with asyncio.timeout(PATIENCE):
        while not any(file.stat().st_size for file in partial.rglob("*.partial") if file.is_file()):
            await asyncio.sleep(0.01)
    had = sum(file.stat().st_size for file in partial.rglob("*.partial") if file.is_file())
    first.kill()
    hub.held["tiny.gguf"].set()

    second = await asyncio.to_thread(lambda: start("--discovery-module", "none", env=env))
    models = await asyncio.to_thread(second.get, "/v1/models")
    assert ID not in {model["id"] for model in models.json()["data"]}, "half of it is no model"
    pulled = await asyncio.to_thread(second.request, "POST", "/api/pull", {"model": ID, "stream": False})
    assert pulled.status == 200, pulled
    assert hub.downloads()[-1].range == f"bytes={had}-"
    await asyncio.to_thread(second.assert_serves, ID)
    assert [file.name for file in (home / "models").rglob("*") if file.is_file()] == ["tiny.gguf"]
    # What was killed ends as a killed process does, and not well.
    first.process.returncode = 0


def test_halves_of_files_are_left_out_by_name_and_keep_nothing_else_from_being_served(
    tmp_path: Path,
) -> None:
    models, log = tmp_path / "models", tmp_path / "log"
    (models / "half").mkdir(parents=True)
    for file in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO / file, models / "half")
    weights, gguf = ((DEMO / name).read_bytes() for name in ("model.safetensors", "model.gguf"))
    halves = {
        "half/model.safetensors": weights[: len(weights) // 2],
        "cut.gguf": gguf[: len(gguf) // 2],
        "short.gguf": gguf[:100],
        "empty.gguf": b"",
        "played.script.json": b'{"steps": [{"type": "te',
    }
    for name, content in halves.items():
        (models / name).write_bytes(content)
    (tmp_path / "history").write_bytes(b"hi\nhow a")
    with Bare(tmp_path, f'exec "$@" 2>{log}') as node:
        node.answers()
        listed = {model["id"] for model in node.request("GET", "/v1/models")[1]["data"]}
        assert listed == {"exo-demo", "auto", "cut", "played"}
        for name in ("empty.gguf", "short.gguf", "half"):
            assert str(models / name) in log.read_text()
        # What only a load can tell, the load says, and the node goes on.
        for model, file in (("cut", "cut.gguf"), ("played", "played.script.json")):
            status, said = node.request("POST", "/v1/chat/completions", chat_body(model))
            assert (status, file in said["error"]["message"]) == (502, True), said
        node.answers()
        assert node.ends() == 0
