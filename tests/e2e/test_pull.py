"""Models from a hub on this machine, over the API and with the commands of real processes."""

import asyncio
import json
import os
import pty
import re
import select
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest

from exo.store.catalogue import BUNDLED
from tests import checkpoints
from tests.store.mirror import Mirror

from .conftest import Start
from .node import PATIENCE, Node, Reply, environment
from .test_cli import command, fails, free_port, run

__all__ = ["free_port"]

DEMO = BUNDLED / "exo-demo"
ID = "user/tiny"
T = TypeVar("T")


@pytest.fixture
async def hub() -> AsyncIterator[Mirror]:
    """Has the bundled model's GGUF file."""
    mirror = Mirror()
    mirror.files = {"tiny.gguf": (DEMO / "model.gguf").read_bytes(), "README.md": b"#"}
    async with mirror.running():
        yield mirror


@pytest.fixture
def env(hub: Mirror, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "", "NO_PROXY": "*"}


@pytest.fixture
def node(start: Start, env: dict[str, str]) -> Node:
    return start("--discovery-module", "none", env=env)


async def elsewhere(work: Callable[[], T]) -> T:
    """Its result, while the hub of this loop serves."""
    return await asyncio.to_thread(work)


async def asked(node: Node, method: str, path: str, body: object = None) -> Reply:
    return await elsewhere(lambda: node.request(method, path, body))


async def progress(node: Node) -> dict[str, Any]:
    return dict((await asked(node, "GET", "/v1/download/progress")).json())


async def until(node: Node, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The first progress of which that holds."""
    async with asyncio.timeout(PATIENCE):
        while not holds(shown := await progress(node)):
            await asyncio.sleep(0.01)
    return shown


def weights(home: Path) -> list[str]:
    return sorted(
        str(path.relative_to(home / "models")) for path in (home / "models").rglob("*") if path.is_file()
    )


# Over the API


async def test_a_download_goes_on_in_the_background_and_ends_as_a_model(hub: Mirror, node: Node) -> None:
    hub.held["tiny.gguf"] = asyncio.Event()
    began = await asked(node, "POST", "/download", {"model": ID})
    assert began.json() == {"status": "success", "message": f"Download started for model: {ID}"}
    again = await asked(node, "POST", "/download", {"model": ID})
    assert again.status == 200
    shown = await until(node, lambda shown: any(each["downloaded_bytes"] for each in shown.values()))
    (one,) = shown.values()
    assert list(shown) == [(await asked(node, "GET", "/v1/cluster")).json()["me"]["id"]]
    assert one["status"] == "in_progress"
    assert one["repo_id"] == ID
    assert (one["completed_files"], one["total_files"]) == (0, 1)
    assert one["total_bytes"] == len(hub.files["tiny.gguf"])
    assert one["file_progress"]["tiny.gguf"]["status"] == "in_progress"
    refused = await asked(node, "DELETE", f"/models/{ID}")
    assert refused.status == 503
    hub.held["tiny.gguf"].set()
    assert await until(node, lambda shown: not shown) == {}
    answer = await elsewhere(lambda: node.chat(ID, "What is 2 + 2?"))
    assert answer.status == 200
    assert len(hub.downloads()) == 1
    pool = (await asked(node, "GET", "/modelpool")).body.decode()
    states: dict[str, Any] = {}
    *events, end = pool.removesuffix("\n\n").split("\n\n")
    for event in events:
        states |= json.loads(event.removeprefix("data: "))
    assert end == "data: [DONE]"
    size = len(hub.files["tiny.gguf"])
    assert states[ID] == {
        "downloaded": True,
        "download_percentage": 100.0,
        "total_size": size,
        "total_downloaded": size,
    }
    assert states["qwen3-0.6b"]["downloaded"] is False
    initial = (await asked(node, "GET", "/initial_models")).json()
    assert initial["qwen3-0.6b"]["name"] == "Qwen 3 0.6B"
    assert initial.keys() == states.keys()
    gone = await asked(node, "DELETE", f"/v1/models/{ID}")
    assert gone.json() == {"status": "success", "message": f"Model {ID} deleted successfully"}
    assert (await asked(node, "DELETE", f"/models/{ID}")).status == 404
    assert weights(node.home) == []


async def test_what_fails_is_a_status_before_and_in_the_progress_after_it_has_begun(
    hub: Mirror, node: Node
) -> None:
    missing = await asked(node, "POST", "/download", {"model": "user/other"})
    nothing = await asked(node, "POST", "/download", {"model": "nonsense"})
    assert (missing.status, nothing.status) == (404, 400)
    assert "names no model on the hub" in nothing.error()["message"]
    hub.gated = "secret"
    gated = await asked(node, "POST", "/download", {"model": ID})
    assert gated.status == 403
    assert "user/tiny is gated" in gated.error()["message"]
    assert await progress(node) == {}
    hub.gated, hub.tag = "", "0" * 64
    assert (await asked(node, "POST", "/download", {"model": ID})).status == 200
    await until(node, lambda shown: any("checksum" in each.get("error", "") for each in shown.values()))
    assert weights(node.home) == []
    assert (await asked(node, "GET", f"/v1/models/{ID}")).status == 404
    node.line("the download of user/tiny failed")


async def test_a_download_is_stopped_with_what_has_come_and_a_failure_forgotten(
    hub: Mirror, node: Node
) -> None:
    hub.held["tiny.gguf"] = asyncio.Event()
    assert (await asked(node, "DELETE", f"/download/{ID}")).status == 404
    await asked(node, "POST", "/download", {"model": ID})
    await until(node, lambda shown: any(each["downloaded_bytes"] for each in shown.values()))
    stopped = await asked(node, "DELETE", f"/download/{ID}")
    assert stopped.json() == {"status": "success", "message": f"Download stopped for model: {ID}"}
    assert await progress(node) == {}
    (left,) = weights(node.home)
    assert left.startswith("user/.tiny.partial/")
    hub.held["tiny.gguf"].set()
    hub.tag = "0" * 64
    await asked(node, "POST", "/download", {"model": ID})
    await until(node, lambda shown: any("error" in each for each in shown.values()))
    assert (await asked(node, "DELETE", f"/download/{ID}")).status == 200
    assert await progress(node) == {}


async def test_a_known_model_that_is_not_here_says_how_to_get_it(node: Node) -> None:
    answer = await elsewhere(lambda: node.chat("qwen3-0.6b"))
    assert answer.status == 404
    assert "`exo pull qwen3-0.6b` downloads it" in answer.error()["message"]


async def test_only_the_owner_downloads_and_deletes(hub: Mirror, node: Node) -> None:
    for method, path in (("POST", "/download"), ("DELETE", f"/download/{ID}"), ("DELETE", f"/models/{ID}")):
        refused = await elsewhere(
            lambda method=method, path=path: node.request(  # type: ignore[misc]
                method, path, {"model": ID}, {"X-Forwarded-For": "10.0.0.9"}
            )
        )
        assert refused.status == 403
    assert hub.seen == []


async def test_a_node_that_stops_keeps_what_has_come(hub: Mirror, start: Start, env: dict[str, str]) -> None:
    hub.held["tiny.gguf"] = asyncio.Event()
    node = start("--discovery-module", "none", "--grace", "1", env=env)
    await asked(node, "POST", "/download", {"model": ID})
    await until(node, lambda shown: any(each["downloaded_bytes"] for each in shown.values()))
    await elsewhere(node.stop)
    hub.held["tiny.gguf"].set()
    (left,) = weights(node.home)
    assert left.startswith("user/.tiny.partial/")
    ended = await elsewhere(lambda: run(node.home, "rm", ID, local_port=1, env=env))
    assert (ended.returncode, weights(node.home)) == (0, [])


# With the commands


async def test_pull_show_and_rm_on_the_disk_alone(
    hub: Mirror, home: Path, env: dict[str, str], free_port: int, tmp_path: Path
) -> None:
    checkpoints.write(tmp_path / "m", layers=2, width=64, intermediate=64, heads=2, kv_heads=2, split=True)
    hub.files = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}

    async def exo(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await elsewhere(lambda: run(home, *arguments, env=env, local_port=free_port))

    ended = await exo("pull", ID, "--max-parallel-downloads", "1")
    assert (ended.returncode, ended.stdout) == (0, f"{ID} is here.\n")
    assert "model-00001-of-00003.safetensors: " in ended.stderr
    assert hub.most_at_once == 1
    shown = (await exo("show", ID)).stdout
    assert [line.split(maxsplit=1) for line in shown.splitlines()][:3] == [
        ["model", ID],
        ["format", "safetensors"],
        ["architecture", "qwen2"],
    ]
    assert json.loads((await exo("show", ID, "--json")).stdout)["layers"] == 2
    assert ID in (await exo("list")).stdout
    assert (await exo("rm", ID)).stdout == f"Deleted {ID}.\n"
    fails(await exo("rm", ID), "is not here")
    fails(await exo("rm", "exo-demo"), "came with this program")
    assert weights(home) == []


async def test_the_commands_ask_the_node_that_is_running(
    hub: Mirror, node: Node, env: dict[str, str]
) -> None:
    def exo(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run(node.home / "other", *arguments, "--url", node.url)

    ended = await elsewhere(lambda: exo("pull", ID))
    assert (ended.returncode, ended.stdout) == (0, f"{ID} is here.\n"), ended.stderr
    assert weights(node.home) == ["user/tiny/tiny.gguf"]
    assert "gguf" in (await elsewhere(lambda: exo("show", ID))).stdout
    assert (await elsewhere(lambda: node.chat(ID))).status == 200
    assert (await elsewhere(lambda: exo("rm", ID))).returncode == 0
    assert weights(node.home) == []
    fails(await elsewhere(lambda: exo("pull", "user/other")), "no repository user/other")
    hub.tag = "0" * 64
    fails(await elsewhere(lambda: exo("pull", ID)), "checksum")


def test_show_tells_where_a_short_name_leads_to(home: Path, free_port: int) -> None:
    shown = run(home, "show", "qwen3-0.6b", local_port=free_port).stdout
    assert "Qwen/Qwen3-0.6B" in shown
    assert "no; exo pull qwen3-0.6b" in shown
    fails(run(home, "show", "qwen3-0.6", local_port=free_port), "did you mean qwen3-0.6b")
    fails(run(home, "show", "qwen3-0.6b", "--json", local_port=free_port), "`exo pull qwen3-0.6b`")


async def test_failures_are_one_line_and_leave_nothing(
    hub: Mirror, home: Path, env: dict[str, str], free_port: int
) -> None:
    async def pull(model: str, **more: str) -> subprocess.CompletedProcess[str]:
        return await elsewhere(lambda: run(home, "pull", model, env={**env, **more}, local_port=free_port))

    fails(await pull(ID, HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE is set")
    fails(await pull(ID, HF_ENDPOINT=f"http://127.0.0.1:{free_port}"), "cannot reach")
    fails(await pull("user/other"), "no repository user/other")
    hub.gated = "secret"
    fails(await pull(ID), "is gated", "HF_TOKEN")
    assert weights(home) == []
    assert (await pull(ID, HF_TOKEN="secret")).returncode == 0
    assert weights(home) == ["user/tiny/tiny.gguf"]


def interrupted(home: Path, env: Mapping[str, str], port: int) -> tuple[int, str]:
    """Presses Ctrl-C when the bar shows that something has come; the exit code, and what was drawn."""
    master, terminal = pty.openpty()
    seen = ""
    with subprocess.Popen(
        command("pull", ID, local_port=port),
        env=environment(home, env),
        stdout=subprocess.DEVNULL,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        try:
            while not re.search(r"[1-9]\d?%", seen):
                assert select.select([master], [], [], PATIENCE)[0], seen
                seen += os.read(master, 1000).decode()
            process.send_signal(signal.SIGINT)
            return process.wait(PATIENCE), seen
        finally:
            process.kill()
            os.close(master)


async def test_ctrl_c_stops_a_download_which_then_goes_on_where_it_ended(
    hub: Mirror, home: Path, env: dict[str, str], free_port: int
) -> None:
    hub.held["tiny.gguf"] = asyncio.Event()
    code, seen = await elsewhere(lambda: interrupted(home, env, free_port))
    hub.held["tiny.gguf"].set()
    assert code == 130
    assert f"{ID}  [" in seen
    assert weights(home)[0].startswith("user/.tiny.partial/.tiny.gguf.")
    ended = await elsewhere(lambda: run(home, "pull", ID, env=env, local_port=free_port))
    assert ended.returncode == 0
    assert hub.downloads()[-1].range != "bytes=0-"
    assert weights(home) == ["user/tiny/tiny.gguf"]
