"""A real `rkllama` that is started from a file, with the environment and flags over it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.node import PATIENCE, Node, environment
from tests.rkllama.npu import put_model

KEY = "a key for this test"

CONFIG = """\
[http]
port = 1
api_key_file = "key"
cors_origins = ["http://file.example"]

[models]
folder = "put here"
default = "demo"
preload = ["demo"]

[limits]
memory = "3GB"
waiting = 7

[npu]
platform = "RK3588"
library = "{library}"
release = "1.3.0"
"""

ENV = {"RKLLAMA_MEMORY": "2GB", "RKLLAMA_CORS_ORIGIN": "http://one.example,http://two.example"}


class Configured(Node):
    """`rkllama` that is told where it listens, and nothing else by flags."""

    program = "rkllama.main"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, build: Path, file_for: Callable[..., Path]) -> Path:
    home = tmp_path_factory.mktemp("home")
    own = home / "RKLLAMA"
    put_model(own / "put here", file_for("1.3.0"))
    (own / "rkllama.toml").write_text(CONFIG.format(library=build / "1.3.0" / "librkllmrt.so"))
    (own / "key").write_text(KEY + "\n")
    (own / "key").chmod(0o600)
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[Node]:
    server = Configured(home, env={**ENV, "HOME": str(home)})
    try:
        yield server
        server.stop()
    finally:
        server.kill()


def asked(server: Node, path: str, body: object = None, **headers: str) -> Any:
    method = "GET" if body is None else "POST"
    return server.request(method, path, body, {"authorization": f"Bearer {KEY}", **headers})


def run(home: Path, *arguments: str, env: Mapping[str, str] = ENV) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rkllama.main", *arguments]
    variables = environment(home, {**env, "HOME": str(home)})
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


def test_the_server_does_as_the_file_says(server: Node, home: Path) -> None:
    shown = run(home, "config", "--json", "--port", "0")
    assert (shown.returncode, shown.stderr) == (0, "")
    said = {each["key"]: each for each in json.loads(shown.stdout)["settings"]}
    question = [{"role": "user", "content": "What is 12 + 7?"}]
    answer = asked(server, "/v1/chat/completions", {"messages": question, "max_tokens": 60}).json()
    assert answer["model"] == said["models.default"]["value"] == "demo"
    assert "19" in answer["choices"][0]["message"]["content"]
    assert said["models.folder"]["value"] == str(home / "RKLLAMA" / "put here")
    me = asked(server, "/v1/cluster").json()["me"]
    assert me["budget"] == said["limits.memory"]["value"] == 2 * 10**9
    assert [each["model"] for each in me["loaded"]] == said["models.preload"]["value"]
    assert said["limits.waiting"]["where"] == f"{home}/RKLLAMA/rkllama.toml:13"


def test_the_key_of_the_file_is_asked_for(server: Node) -> None:
    assert server.get("/v1/models").status == 401
    assert asked(server, "/v1/models").status == 200


def test_the_environment_counts_more_than_the_file(server: Node) -> None:
    for origin, allowed in (("two", True), ("file", False)):
        reply = asked(server, "/v1/models", origin=f"http://{origin}.example")
        assert (reply.status == 200) == allowed


def test_a_file_with_faults_stops_the_server(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("[http]\nprot = 1\nhost = 2\n")
    ended = run(tmp_path, "serve", "--host", "127.0.0.1", "--port", "0", "--config", str(file), env={})
    assert ended.returncode == 2
    for part in (f"{file}:2: http.prot is no key; did you mean http.port?", f"{file}:3: http.host"):
        assert part in ended.stderr
