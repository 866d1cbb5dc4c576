"""A node that offers another server's models: here another node, which is killed and started again."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from exo.store.catalogue import BUNDLED

from .conftest import Start, sdk
from .node import HANG, Node, Reply, Wire, events, eventually, fail, raw_chat, text, write_script


class Far:
    """The other node: `far-demo` is the bundled model under a name that only this node has."""

    def __init__(self, home: Path) -> None:
        self.home = home
        write_script(home, "hello", [text("Hello")])
        (home / "models" / "far-demo.gguf").symlink_to(BUNDLED / "exo-demo" / "model.gguf")
        self.node = Node(home, "--slots", "1", "--max-waiting", "1")

    def restart(self, *flags: str) -> None:
        """Kills it, and starts it again at the same address."""
        self.node.kill()
        self.node = Node(self.home, "--port", str(self.node.port), *flags)


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    far = Far(tmp_path / "far")
    try:
        yield far
        far.node.stop()
    finally:
        far.node.kill()


@pytest.fixture
def near(start: Start, far: Far) -> Node:
    return start("--upstream", far.node.url + "/v1/")


def models(node: Node) -> set[str]:
    """Those that are any model's own name."""
    return {model["id"] for model in node.get("/v1/models").json()["data"]} - {"auto"}


def kind(reply: Reply) -> tuple[int, str, str, str | None]:
    error = reply.error()
    return reply.status, error["code"], error["message"], error["param"]


QUESTION = "What is 12 + 7?"
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 30}


def test_its_models_are_listed_beside_our_own(near: Node) -> None:
    assert models(near) == {"exo-demo", "hello", "far-demo"}
    assert near.get("/ready").status == 200
    near.line("far-demo")


def test_a_whole_answer_is_the_same(near: Node, far: Far) -> None:
    here = near.chat("far-demo", QUESTION, **GREEDY).json()
    there = far.node.chat("far-demo", QUESTION, **GREEDY).json()
    assert here["choices"] == there["choices"]
    assert here["usage"]["total_tokens"] == there["usage"]["total_tokens"] > 0
    assert here["timings"]["predicted_n"] == here["usage"]["completion_tokens"]
    assert here["timings"]["predicted_ms"] > 0
    assert near.metric("exo_tokens_generated_total", model="far-demo") > 0
    assert near.metric("exo_tokens_per_second", model="far-demo") > 0


def test_a_streamed_answer_is_the_same(near: Node, far: Far) -> None:
    keys = {**GREEDY, "stream": True, "stream_options": {"include_usage": True}}
    answers = []
    for node in (near, far.node):
        *chunks, done = events(node.chat("far-demo", QUESTION, **keys).body)
        assert done == "[DONE]"
        parsed = [json.loads(chunk) for chunk in chunks]
        finish, usage = parsed[-2:]
        assert finish["choices"][0]["finish_reason"]
        assert finish["timings"]["predicted_ms"] > 0
        said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in parsed[:-1])
        answers.append((said, usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]))
    assert answers[0] == answers[1]
    assert answers[0][0]


def test_the_official_client_is_content(near: Node) -> None:
    with sdk(near) as client:
        answer = client.completions.create(model="far-demo", prompt="1 2 3", max_tokens=5, temperature=0)
        assert answer.choices[0].text
        assert answer.usage
        assert answer.usage.completion_tokens == 5


def test_embeddings_are_the_same(near: Node, far: Far) -> None:
    body = {"model": "far-demo", "input": ["one", "two words"]}
    here, there = (node.request("POST", "/v1/embeddings", body).json() for node in (near, far.node))
    assert here == there
    assert len(here["data"]) == 2


def test_hanging_up_here_frees_the_slot_there(near: Node, far: Far) -> None:
    write_script(far.home, "hangs", [text("started"), HANG])
    for id in ("one", "two"):
        with Wire(near) as wire:
            wire.send(raw_chat("hangs", stream=True, id=id))
            wire.until(b"started")
            assert far.node.running() == 1
        assert far.node.access(id)["status"] == 499
        eventually(lambda: far.node.running() == 0)
    far.node.assert_serves()
    assert near.metric("exo_requests_in_progress") == 0


def test_a_server_that_was_killed_is_named_and_back_when_it_is_back(near: Node, far: Far) -> None:
    assert near.chat("hello").status == 200
    far.node.kill()
    for stream in (False, True):
        status, code, message, _ = kind(near.chat("hello", stream=stream))
        assert (status, code) == (503, "not_ready")
        assert f"cannot reach the server at {far.node.url}: Connection refused" in message
    assert models(near) == {"exo-demo"}
    assert near.chat("exo-demo", max_tokens=1).status == 200
    assert near.chat("no-such-model").status == 404
    far.restart()
    assert near.chat("hello").json()["choices"][0]["message"]["content"] == "Hello"
    assert near.log.count("it is asked again until it answers") == 1
    assert near.log.count(f"the server at {far.node.url} has") == 2


def test_a_server_killed_in_the_middle_of_an_answer_fails_it(near: Node, far: Far) -> None:
    write_script(far.home, "hangs", [text("started"), HANG])
    with Wire(near) as wire:
        wire.send(raw_chat("hangs", stream=True, id="cut"))
        wire.until(b"started")
        far.node.kill()
        received = wire.until(b"broke off")
        assert b'"code":"connection_lost"' in received
        assert b"[DONE]" not in received
    far.restart()
    near.assert_serves()


def test_its_refusals_arrive_as_they_are(near: Node, far: Far) -> None:
    write_script(far.home, "short", [text("x")], context=3)
    write_script(far.home, "gone", [fail("it was here a moment ago", "model_not_found")])
    for model, status, code in (
        ("short", 400, "context_length_exceeded"),
        ("gone", 404, "model_not_found"),
    ):
        for stream in (False, True):
            here = kind(near.chat(model, "far too many words", stream=stream))
            assert here == kind(far.node.chat(model, "far too many words", stream=stream))
            assert here[:2] == (status, code)


def test_its_queue_being_full_says_when_to_come_back(near: Node, far: Far) -> None:
    write_script(far.home, "holds", [text("started"), text(" on"), HANG])
    with Wire(near) as holder, ThreadPoolExecutor(1) as other:
        holder.send(raw_chat("holds", stream=True))
        holder.until(b"started")
        second = other.submit(near.chat, "holds", max_tokens=1)
        eventually(lambda: far.node.waiting() == 1)
        refused = near.chat("holds")
        assert kind(refused)[:2] == (429, "overloaded")
        assert int(refused.headers["retry-after"]) > 0
        assert kind(refused) == kind(far.node.chat("holds"))
        holder.close()
        assert second.result().status == 200


def test_a_key_of_the_other_servers_own(start: Start, tmp_path: Path) -> None:
    write_script(tmp_path / "far", "hello", [text("Hello")])
    far = Node(tmp_path / "far", env={"EXO_API_KEY": "s3cret"})
    try:
        near = start("--upstream", far.url, env={"EXO_UPSTREAM_KEY": "s3cret"})
        assert near.chat("hello").status == 200
        stranger = start("--upstream", far.url)
        stranger.line("EXO_UPSTREAM_KEY is the key it gets")
        assert stranger.chat("hello").status == 503
        far.stop()
    finally:
        far.kill()


# The NPU server


INSTRUCT = "qwen2.5-1.5b-instruct-rkllm"


def test_the_npu_server_may_come_later(start: Start, far: Far) -> None:
    """A node takes its place: it answers as the NPU server does, under the name of the model's folder."""
    write_script(far.home, "Qwen2.5-1.5B-Instruct", [text("Hello from the NPU")])
    port = str(far.node.port)
    far.node.kill()
    near = start(
        "--inference-engine", "rkllm", env={"RKLLM_SERVER_HOST": "127.0.0.1", "RKLLM_SERVER_PORT": port}
    )
    assert models(near) == set()
    status, code, message, _ = kind(near.chat(INSTRUCT))
    assert (status, code) == (503, "not_ready")
    assert f"cannot reach the NPU server at http://127.0.0.1:{port}: Connection refused" in message
    assert "start rkllama there" in message
    assert near.get("/ready").error()["message"] == message
    assert near.metric("exo_inference_engine_info", engine="rkllm") == 1
    far.restart()
    answer = near.chat(INSTRUCT).json()
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == (INSTRUCT, "Hello from the NPU")
    assert near.get("/ready").status == 200
    assert models(near) == {INSTRUCT, "exo-demo", "hello", "far-demo"}
    status, code, message, param = kind(near.chat("phi-3-mini-rkllm"))
    assert (status, code, param) == (404, "model_not_found", "model")
    assert "~/RKLLAMA/models/Phi-3-mini on that machine" in message


def test_the_npu_server_is_used_beside_our_own_engines_where_it_is_named(start: Start, far: Far) -> None:
    near = start(env={"RKLLM_SERVER_HOST": "127.0.0.1", "RKLLM_SERVER_PORT": str(far.node.port)})
    assert models(near) == {"exo-demo", "hello", "far-demo"}
    assert near.metric("exo_inference_engine_info", engine="llamacpp,mlx,tinygrad,dummy,rkllm") == 1
    far.node.stop()
    assert near.get("/ready").status == 200


def test_no_other_engine_looks_for_the_npu_server(start: Start, far: Far) -> None:
    near = start(
        "--inference-engine",
        "dummy",
        env={"RKLLM_SERVER_HOST": "127.0.0.1", "RKLLM_SERVER_PORT": str(far.node.port)},
    )
    assert "hello" not in models(near)


def test_a_model_to_preload_that_is_kept_elsewhere_is_said_to_be(start: Start, far: Far) -> None:
    near = start("--upstream", far.node.url, "--preload", "hello")
    near.line(f"preloading failed: model 'hello' is kept by the server at {far.node.url}")
    with sdk(near) as client, pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")
