"""A node that is started from a file, with the environment and flags over it, does as `exo config` says."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.node import Node, text, write_script
from tests.e2e.test_cli import fails, run

KEY = "a key for this test"

CONFIG = """\
[http]
host = "127.0.0.1"
api_key_file = "key"
cors_origins = ["http://file.example"]

[models]
default = "hello"
max_tokens = 2
system_prompt = "three little words"

[models.long]
max_tokens = 3

[limits]
slots = 2
waiting = 7
memory = "3GB"

[cluster]
node_id = "of-the-file"
"""

# Over the file: an environment variable of its own, and a flag over that.
ENV = {
    "EXO_MAX_WAITING": "5",
    "EXO_MEMORY": "2GB",
    "EXO_CORS_ORIGIN": "http://one.example,http://two.example",
}
FLAGS = ("--memory", "1GB")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    for model in ("hello", "long"):
        write_script(home, model, [text(word) for word in ("one", " two", " three", " four")])
    (home / "config.toml").write_text(CONFIG)
    (home / "key").write_text(KEY + "\n")
    (home / "key").chmod(0o600)
    return home


@pytest.fixture(scope="module")
def node(home: Path) -> Iterator[Node]:
    node = Node(home, *FLAGS, env=ENV)
    try:
        yield node
        node.stop()
    finally:
        node.kill()


def asked(node: Node, path: str, body: object = None, **headers: str) -> Any:
    method = "GET" if body is None else "POST"
    return node.request(method, path, body, {"authorization": f"Bearer {KEY}", **headers})


def chat(node: Node, **keys: object) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "hi"}], **keys}
    answer: dict[str, Any] = asked(node, "/v1/chat/completions", body).json()
    return answer


def settings(home: Path, *flags: str, env: Mapping[str, str] = ENV) -> dict[str, Any]:
    shown = run(home, "config", "--json", "--port", "0", *flags, env=env)
    assert (shown.returncode, shown.stderr) == (0, "")
    return {each["key"]: each["value"] for each in json.loads(shown.stdout)["settings"]}


def test_the_node_does_as_exo_config_says(node: Node, home: Path) -> None:
    said = settings(home, *FLAGS)
    me = asked(node, "/v1/cluster").json()["me"]
    assert me["id"] == said["cluster.node_id"] == "of-the-file"
    assert me["budget"] == said["limits.memory"] == 10**9
    for model, cap in ((None, said["models.max_tokens"]), ("long", said["models.long.max_tokens"])):
        answer = chat(node, **({"model": model} if model else {}))
        assert answer["model"] == (model or said["models.default"])
        assert answer["usage"]["completion_tokens"] == cap
        # Each word is a token of the scripted engine: those of the system prompt, and the user's.
        assert answer["usage"]["prompt_tokens"] == len(said["models.system_prompt"].split()) + 1
    chat(node, model="exo-demo", max_tokens=1)
    loaded = asked(node, "/v1/cluster").json()["me"]["loaded"]
    assert [each["slots"] for each in loaded if each["model"] == "exo-demo"] == [said["limits.slots"]] == [2]
    assert said["http.api_key_file"] == str(home / "key")


def test_the_key_of_the_file_is_asked_for(node: Node) -> None:
    assert node.get("/v1/models").status == 401
    assert asked(node, "/v1/models").status == 200


def test_the_environment_counts_more_than_the_file(node: Node, home: Path) -> None:
    assert settings(home)["http.cors_origins"] == ["http://one.example", "http://two.example"]
    for origin, allowed in (("two", True), ("file", False)):
        reply = asked(node, "/v1/models", origin=f"http://{origin}.example")
        assert (reply.status == 200) == allowed


def test_other_commands_find_the_node_and_its_key_by_the_file(node: Node, home: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    key = home / "key"
    config.write_text(f'[http]\nhost = "127.0.0.1"\nport = {node.port}\napi_key_file = "{key}"\n')
    for command in (["nodes", "--json"], ["ps", "--json"]):
        found = run(tmp_path, *command)
        assert found.returncode == 0, found.stderr
        assert json.loads(found.stdout)["me"]["id"] == "of-the-file"
    named = tmp_path / "elsewhere"
    named.mkdir()
    assert run(named, "ps", env={"EXO_CONFIG": str(config)}).returncode == 0
    fails(run(named, "ps", env={"EXO_PORT": str(node.port)}), "key")


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["ps"], ["list"]], ids=" ".join)
def test_a_file_with_faults_stops_a_command(home: Path, tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "config.toml").write_text("[http]\nprot = 1\nhost = 2\n")
    ended = run(tmp_path, *command)
    fails(ended, f"{tmp_path}/config.toml:2: http.prot", "http.port?", f"{tmp_path}/config.toml:3: http.host")
    assert ended.returncode == 2


def test_help_is_given_whatever_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("nonsense")
    assert "--port" in run(tmp_path, "serve", "--help").stdout
