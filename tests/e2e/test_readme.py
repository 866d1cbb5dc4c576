"""The README's examples, run as they stand but for the port."""

import json
import re
import subprocess
import sys
from pathlib import Path

from .node import PATIENCE, Node

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def example(language: str, start: str) -> str:
    """The one code block of that language that starts so."""
    [block] = re.findall(rf"^```{language}\n({re.escape(start)}.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return str(block)


def run(command: list[str]) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_curl(node: Node) -> None:
    command = example("sh", "curl").replace("http://localhost:52415", node.url)
    answer = json.loads(run(["bash", "-c", command]))
    assert "423" in answer["choices"][0]["message"]["content"]


def test_openai_sdk(node: Node) -> None:
    program = example("python", "from openai").replace("http://localhost:52415", node.url)
    assert "423" in run([sys.executable, "-c", program])


def test_ollama_client(node: Node) -> None:
    program = example("python", "from ollama").replace("http://localhost:52415", node.url)
    assert "423" in run([sys.executable, "-c", program])


def test_every_flag_named_exists() -> None:
    flags = set(re.findall(r"`(--[a-z-]+)`", README)) | {"--host"}
    known = run([sys.executable, "-m", "exo.main", "serve", "--help"])
    assert len(flags) >= 5
    assert not [flag for flag in flags if f"{flag} " not in known and f"{flag}," not in known]
