"""From a model's folder to an answer: convert, rkllama over the stand-in runtime, exo in front of it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from conftest import BUNDLED, HERE, Bench
from tests.e2e.node import Node, eventually
from tests.e2e.npu import NpuServer

from rkllm_convert import card
from rkllm_convert.convert import convert


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """`rkllm-convert` as a process of its own."""
    path = f"{os.environ['PYTHONPATH']}{os.pathsep}{HERE.parent / 'src'}"
    return subprocess.run(
        [sys.executable, "-m", "rkllm_convert", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@contextmanager
def pair(home: Path, library: Path) -> Iterator[tuple[NpuServer, Node]]:
    """The NPU server on what was converted, and the node in front of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ExitStack() as stack:
        npu = NpuServer(home, library, port=port)
        stack.callback(npu.kill)
        node = Node(home / "exo", "--inference-engine", "rkllm", env={"RKLLM_SERVER_PORT": str(port)})
        stack.callback(node.kill)
        yield npu, node
        node.stop()
        npu.stop()


@pytest.mark.parametrize("bench", ["1.2.3", "1.3.0"], indirect=True)
def test_what_the_command_has_converted_answers_through_exo(bench: Bench, build: Path) -> None:
    name = "Qwen2.5-1.5B-Instruct"
    done = command(str(BUNDLED), "-p", "rk3588", "-q", "w8a8", "--name", name, "-o", str(bench.out))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(bench.out / name)
    assert "Optimizing model" in done.stderr
    with pair(bench.folder, build / bench.release / "librkllmrt.so") as (npu, node):
        shown = npu.me()["cards"]
        assert [(each["id"], each["context"], each["quantization"]) for each in shown] == [
            (name, 2048, "w8a8")
        ]
        eventually(lambda: node.get("/ready").status == 200)
        # The name that exo has had for that folder since its first version.
        reply = node.chat("qwen2.5-1.5b-instruct-rkllm", "What is 145 + 278?", enable_thinking=False)
        assert reply.status == 200, reply
        assert "423" in reply.json()["choices"][0]["message"]["content"]
        thought = node.chat("qwen2.5-1.5b-instruct-rkllm", "What is 145 + 278?", enable_thinking=True)
        message = thought.json()["choices"][0]["message"]
        assert "423" in message["content"]
        assert message["reasoning_content"]


@pytest.mark.parametrize("bench", ["1.1.4"], indirect=True)
def test_what_the_oldest_release_makes_is_loaded_with_its_own_context(bench: Bench, build: Path) -> None:
    folder = convert(bench.conversion(), bench.say)
    assert card.read(folder)["context"] is None
    with pair(bench.folder, build / bench.release / "librkllmrt.so") as (npu, node):
        eventually(lambda: node.get("/ready").status == 200)
        reply = node.chat("demo", "What is 12 + 7?", enable_thinking=False)
        assert "19" in reply.json()["choices"][0]["message"]["content"]
        assert npu.me()["cards"][0]["context"] == 2048


def test_the_command_tells_of_a_failure_in_lines_and_by_its_status(bench: Bench) -> None:
    bench.fault("build:returns:Catch exception when optimizing model: 'mlp.down_proj'")
    done = command(str(BUNDLED), "-p", "rk3588", "-o", str(bench.out))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "a layer that the toolkit expects is not in the model" in done.stderr
    refused = command("plan", str(BUNDLED), "-p", "rk3588", "-q", "w4a16")
    assert refused.returncode == 1
    assert "Nearest: -q w8a8" in refused.stderr


def test_a_toolkit_with_other_parameters_is_not_begun_with(bench: Bench) -> None:
    """The installed one is asked what it takes, and not only its number."""
    api = next((bench.folder / "toolkit" / "rkllm").glob("api.py"))
    api.write_text("from standin_toolkit.release_1_1_4 import RKLLM\n")
    done = command(str(BUNDLED), "-p", "rk3588", "-o", str(bench.out))
    assert done.returncode == 1
    assert "does not take load_huggingface(custom_config)" in done.stderr
    assert "build(max_context)" in done.stderr
    assert bench.calls() == []
