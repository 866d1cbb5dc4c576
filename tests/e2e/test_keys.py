"""Keys of a real node: made, asked for, limited, and taken away while it runs."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from .conftest import Start, sdk
from .node import PATIENCE, Node, Reply, chat_body, environment, eventually, text
from .test_cli import fails, run
from .test_readme import examples

KEYS_MD = (Path(__file__).parents[2] / "docs" / "KEYS.md").read_text(encoding="utf-8")

HELLO: dict[str, list[object]] = {"hello": [text("Hello"), text("!")]}


def add(home: Path, *arguments: str) -> str:
    ended = run(home, "key", "add", *arguments)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def ask(node: Node, key: str, model: str = "hello") -> Reply:
    return node.request("POST", "/v1/chat/completions", chat_body(model), bearer(key))


def test_no_key_another_key_and_the_right_one(start: Start, home: Path) -> None:
    kid = add(home, "kid")
    node = start(scripts=HELLO)
    for headers in ({}, bearer("exo-guessed"), bearer(kid[:-1]), {"x-api-key": "guessed"}):
        for method, path in (("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/metrics")):
            reply = node.request(method, path, chat_body("hello"), headers)
            assert (reply.status, reply.error()["code"]) == (401, "unauthorized")
    assert ask(node, kid).json()["choices"][0]["message"]["content"] == "Hello!"
    assert node.get("/healthcheck").status == node.get("/ready").status == node.get("/").status == 200
    with anthropic.Anthropic(base_url=node.url, api_key=kid, max_retries=0) as client:
        said = client.messages.create(
            model="hello", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        )
    assert said.content[0].type == "text"
    assert kid not in node.log
    assert '"key":"kid"' in node.log
    figures = node.get("/metrics", **bearer(kid)).body.decode()
    assert 'exo_key_requests_total{key="kid",status="success"} 2.0' in figures


def test_who_has_had_enough_is_refused_and_served_again_when_told(start: Start, home: Path) -> None:
    """The official client waits as long as Retry-After says, and is served then."""
    kid = add(home, "kid", "--requests-per-minute", "60", "--tokens-per-minute", "600")
    node = start(scripts={**HELLO, "long": [text("x ") for _ in range(605)]})
    with sdk(node, kid) as client:
        raw = client.chat.completions.with_raw_response.create(**_asked("hello"))
        assert raw.headers["x-ratelimit-limit-requests"] == "60"
        assert raw.headers["x-ratelimit-remaining-requests"] == "59"
        assert raw.headers["x-ratelimit-limit-tokens"] == "600"
        client.chat.completions.create(**_asked("long"))
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(**_asked("hello"))
        assert refused.value.code == "rate_limit_exceeded"
        assert refused.value.response.headers["retry-after"] == "1"
        assert "'kid' has had its 600 tokens a minute" in refused.value.message
        said = client.with_options(max_retries=1).chat.completions.create(**_asked("hello"))
        assert said.choices[0].message.content == "Hello!"
    assert node.get("/v1/models", **bearer(kid)).status == 200


def _asked(model: str) -> Any:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}]}


def test_a_flood_of_requests_is_cut_off_at_the_limit(start: Start, home: Path) -> None:
    kid, other = add(home, "kid", "--requests-per-minute", "20"), add(home, "other")
    node = start(scripts=HELLO)
    statuses = [ask(node, kid).status for _ in range(40)]
    assert statuses[:20] == [200] * 20
    # As many more as have leaked meanwhile: one in three seconds.
    assert statuses.count(429) >= 10
    assert ask(node, other).status == 200


def test_a_guest_changes_nothing_on_the_machine(start: Start, home: Path) -> None:
    kid, me = add(home, "kid"), add(home, "me", "--owner")
    node = start(scripts={**HELLO, "spare": [text("x")]})
    asked: Any = {"model": "hello", "messages": [{"role": "user", "content": "hi"}]}
    with ollama.Client(host=node.url, headers=bearer(kid)) as guest:
        changes: list[Callable[[], object]] = [
            lambda: guest.delete("spare"),
            lambda: guest.pull("no/such"),
            lambda: guest.create("x", "hello"),
        ]
        for change in changes:
            with pytest.raises(ollama.ResponseError, match="'kid' is not an owner's") as refused:
                change()
            assert refused.value.status_code == 403
        assert guest.chat(**asked, keep_alive="30m").message.content == "Hello!"
        with pytest.raises(ollama.ResponseError, match="keep no model for ever"):
            guest.chat(**asked, keep_alive=-1)
    fails(run(home, "rm", "spare", "--url", node.url, env={"EXO_API_KEY": kid}), "'kid' is not an owner's")
    assert ask(node, kid, "spare").status == 200
    with ollama.Client(host=node.url, headers=bearer(me)) as owner:
        owner.delete("spare")
    assert ask(node, kid, "spare").status == 404


def test_keys_come_and_go_while_the_node_runs(start: Start, home: Path) -> None:
    node = start(scripts=HELLO)
    assert node.chat("hello").status == 200
    kid, me = add(home, "kid"), add(home, "me")
    eventually(lambda: node.chat("hello").status == 401)
    assert ask(node, kid).status == ask(node, me).status == 200
    assert run(home, "key", "rm", "kid").returncode == 0
    eventually(lambda: ask(node, kid).status == 401)
    assert ask(node, me).status == 200
    assert run(home, "ps", "--url", node.url, env={"EXO_API_KEY": me}).returncode == 0
    fails(run(home, "ps", "--url", node.url), "wants its key")


def test_a_stream_under_way_is_not_cut_off_with_its_key(start: Start, home: Path) -> None:
    kid = add(home, "kid")
    add(home, "me")
    node = start(scripts={"slow": [text("one "), {"type": "wait", "seconds": 2.0}, text("two")]})
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=PATIENCE)
    try:
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(chat_body("slow", stream=True)), bearer(kid)
        )
        answer = connection.getresponse()
        assert run(home, "key", "rm", "kid").returncode == 0
        eventually(lambda: ask(node, kid, "none").status == 401)
        assert b"[DONE]" in answer.read()
    finally:
        connection.close()


def test_a_file_that_others_can_read_stops_the_start_and_not_a_running_node(start: Start, home: Path) -> None:
    kid = add(home, "kid")
    file = home / "keys.json"
    file.chmod(0o644)
    fails(run(home, "--host", "127.0.0.1", "--port", "0"), str(file), f"chmod 600 {file}")
    file.write_text('{"keys": [], "open": true}')
    file.chmod(0o600)
    fails(run(home, "--host", "127.0.0.1", "--port", "0"), str(file), "unknown field `open`")
    file.unlink()
    kid = add(home, "kid")
    node = start(scripts=HELLO)
    file.chmod(0o644)

    def told() -> bool:
        assert ask(node, kid).status == 200
        return "go on counting" in node.log

    eventually(told)
    assert node.log.count("go on counting") == 1


def test_without_keys_addresses_have_limits_where_the_owner_wants_them(start: Start) -> None:
    node = start("--requests-per-minute", "2", scripts=HELLO)
    assert [node.chat("hello").status for _ in range(3)] == [200, 200, 429]
    refused = node.chat("hello")
    assert "127.0.0.1 may send 2 requests a minute" in refused.error()["message"]
    assert 25 <= int(refused.headers["retry-after"]) <= 30
    assert refused.headers["x-ratelimit-limit-requests"] == "2"
    assert node.get("/v1/models").status == 200
    assert "x-ratelimit-limit-requests" not in node.get("/v1/models").headers


def test_such_a_limit_and_keys_do_not_go_together(start: Start, home: Path) -> None:
    kid = add(home, "kid")
    node = start("--requests-per-minute", "1", scripts=HELLO)
    node.line("--requests-per-minute has no effect")
    assert [ask(node, kid).status for _ in range(3)] == [200] * 3


def test_the_nodes_own_key_is_an_owners_without_limits(start: Start, home: Path) -> None:
    add(home, "kid", "--requests-per-minute", "1")
    own = {"EXO_API_KEY": "the owner's own key"}
    node = start(scripts={**HELLO, "spare": [text("x")]}, env=own)
    key = own["EXO_API_KEY"]
    assert [ask(node, key).status for _ in range(5)] == [200] * 5
    assert node.request("DELETE", "/models/spare", headers=bearer(key)).status == 200
    figures = _figures(node, key)
    assert figures['key="EXO_API_KEY",status="success"'] == 6


def _figures(node: Node, key: str) -> Mapping[str, float]:
    """Of exo_key_requests_total, by its labels."""
    lines = node.get("/metrics", **bearer(key)).body.decode().splitlines()
    ours = [line for line in lines if line.startswith("exo_key_requests_total{")]
    return {line[line.index("{") + 1 : line.index("}")]: float(line.split()[-1]) for line in ours}


def test_the_commands_of_the_documentation_do_what_they_say(start: Start, home: Path) -> None:
    making, asking = examples(KEYS_MD, "sh")
    programs = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def typed(commands: str, **more: str) -> list[str]:
        ended = subprocess.run(
            ["bash", "-euc", commands],
            env=environment(home, {**programs, **more}),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    laptop, kids, _, _, *listed, _ = typed(making)
    assert [line.split()[:4] for line in listed] == [
        ["laptop", "no", "-", "-"],
        ["kids", "no", "20", "20000"],
        ["me", "yes", "-", "-"],
    ]
    node = start(scripts=HELLO)
    assert ask(node, kids).status == 401
    for answer in typed(asking.replace("http://localhost:52415", f"-sS --fail {node.url}"), KEY=laptop):
        assert "hello" in answer
    [headers] = examples(KEYS_MD, "", "x-ratelimit")
    ours = add(home, "again", "--requests-per-minute", "20", "--tokens-per-minute", "20000")
    eventually(lambda: ask(node, ours).status == 200)
    told = ask(node, ours).headers
    shown = dict(line.split(": ") for line in headers.splitlines())
    assert shown.keys() == {name for name in told if name.startswith("x-ratelimit-")}
    assert [shown[f"x-ratelimit-limit-{what}"] for what in ("requests", "tokens")] == ["20", "20000"]
