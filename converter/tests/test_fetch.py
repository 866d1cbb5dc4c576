"""Models of a hub: one on this machine, asked by the real command."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BUNDLED, HERE, Bench
from ggufs import write_gguf
from tests.store.mirror import COMMIT, Mirror


@pytest.fixture
def mirror() -> Mirror:
    made = Mirror()
    made.files = {path.name: path.read_bytes() for path in BUNDLED.iterdir() if path.suffix != ".gguf"}
    made.files["README.md"] = b"#"
    return made


async def command(mirror: Mirror, home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    path = f"{os.environ['PYTHONPATH']}{os.pathsep}{HERE.parent / 'src'}"
    hub = {"HF_ENDPOINT": mirror.url, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "rkllm_convert", *arguments],
        env={**os.environ, "PYTHONPATH": path, **hub},
        capture_output=True,
        text=True,
        timeout=120,
    )


async def test_a_plan_needs_no_weights(bench: Bench, mirror: Mirror, tmp_path: Path) -> None:
    async with mirror.running():
        done = await command(mirror, tmp_path / "hf", "plan", "user/tiny", "-p", "rk3588", "--json")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["name"] == "tiny"
    # By the size of its weights, which are not here.
    size = len(mirror.files["model.safetensors"])
    assert made["board"]["file_mb"] == round(size / 2 * 1.05 / 1e6)
    fetched = {seen.path.rpartition("/")[2] for seen in mirror.downloads()}
    assert "config.json" in fetched
    assert "model.safetensors" not in fetched


async def test_a_model_of_the_hub_is_converted_and_its_commit_is_on_the_card(
    bench: Bench, mirror: Mirror, tmp_path: Path
) -> None:
    wanted = ("user/tiny", "-p", "rk3588", "-o", str(bench.out))
    async with mirror.running():
        done = await command(mirror, tmp_path / "hf", *wanted)
        assert done.returncode == 0, done.stderr
        described = json.loads((bench.out / "tiny" / "card.json").read_text())
        assert described["source"]["repository"] == "user/tiny"
        assert described["source"]["revision"] == COMMIT
        assert 'HUGGINGFACE_PATH="user/tiny"' in (bench.out / "tiny" / "Modelfile").read_text()
        before = len(mirror.downloads())
        again = await command(mirror, tmp_path / "hf", *wanted)
        assert "is there already" in again.stderr
        assert len(mirror.downloads()) == before


async def test_one_file_of_a_repository_is_taken_if_it_is_named(
    bench: Bench, mirror: Mirror, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "a.gguf", file_type=2)
    mirror.files = {"Tiny-q4_0.gguf": (tmp_path / "a.gguf").read_bytes()}
    async with mirror.running():
        refused = await command(mirror, tmp_path / "hf", "plan", "user/tiny", "-p", "rk3588")
        assert "name a file as user/tiny:FILE.gguf" in refused.stderr
        done = await command(mirror, tmp_path / "hf", "plan", "user/tiny:Tiny-q4_0.gguf", "-p", "rk3588")
    assert done.returncode == 0, done.stderr
    assert "Tiny-rk3588-w8a8" in done.stdout


async def test_what_is_gated_or_not_there_is_told_with_the_remedy(
    bench: Bench, mirror: Mirror, tmp_path: Path
) -> None:
    mirror.gated = "secret"
    async with mirror.running():
        gated = await command(mirror, tmp_path / "hf", "plan", "user/tiny", "-p", "rk3588")
        missing = await command(mirror, tmp_path / "hf", "plan", "user/other", "-p", "rk3588")
    for done in (gated, missing):
        assert done.returncode == 1
        assert "HF_TOKEN" in done.stderr
        assert "Traceback" not in done.stderr
