"""What the NPU servers before this one did wrong, each measured there, and right here: for every release."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from demo.sums import held_out_pairs
from tests.e2e.node import Wire, events, eventually, raw_chat
from tests.e2e.npu import RELEASES, Bench, NpuServer

TOKEN_MS = 2
LONG = "Count from 1 to 40."


@pytest.fixture(scope="module", params=RELEASES)
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    build: Path,
    file_for: Callable[..., Path],
) -> Iterator[NpuServer]:
    """One for all tests of a release, which leave it idle."""
    bench = Bench(tmp_path_factory.mktemp("npu"), build, file_for, request.param)
    bench.put("demo")
    bench.put("other")
    server = bench.start(env={"STANDIN_TOKEN_MS": str(TOKEN_MS), "STANDIN_ABORT_ON_REENTRY": "1"})
    try:
        yield server
        server.stop()
        assert "RE-ENTRY" not in server.log
    finally:
        server.kill()


@pytest.fixture(autouse=True)
def idle(server: NpuServer) -> Iterator[None]:
    yield
    eventually(lambda: (server.running(), server.waiting()) == (0, 0))
    server.check_log()


def ask(server: NpuServer, question: str, **keys: Any) -> str:
    reply = server.chat("demo", question, **{"temperature": 0, "enable_thinking": False, **keys})
    assert reply.status == 200, reply
    content: str = reply.json()["choices"][0]["message"]["content"]
    return content


def test_first_requests_at_once_load_the_model_once(server: NpuServer) -> None:
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: ask(server, "What is 12 + 7?"), range(3)))
    assert len(set(answers)) == 1
    assert server.loads() == 1
    assert len(server.children()) == 1


def test_no_client_gets_a_word_of_anothers_answer(server: NpuServer) -> None:
    questions = [f"What is {a} + {b}?" for a, b in held_out_pairs(16, 11)]
    alone = [ask(server, question) for question in questions]
    assert len(set(alone)) == len(alone)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda question: ask(server, question), questions)) == alone


def test_a_client_that_leaves_is_followed_by_the_next_at_once(server: NpuServer) -> None:
    children = server.children() or (ask(server, "What is 1 + 1?") and server.children())
    for _ in range(3):
        with Wire(server) as wire:
            wire.send(raw_chat("demo", LONG, temperature=0, enable_thinking=False, stream=True))
            wire.until(b'"content":"3"')
        assert "19" in ask(server, "What is 12 + 7?")
    assert server.children() == children


def test_a_waiting_client_that_gives_up_ends_nobody_elses_answer(server: NpuServer) -> None:
    whole = ask(server, LONG)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, server, LONG)
        eventually(lambda: server.running() == 1)
        for _ in range(3):
            with Wire(server) as wire:
                wire.send(raw_chat("demo", "What is 12 + 7?", temperature=0))
                eventually(lambda: server.waiting() == 1)
            eventually(lambda: server.waiting() == 0)
        assert answer.result() == whole


def test_another_model_asked_for_ends_nobody_elses_answer(server: NpuServer) -> None:
    whole = ask(server, LONG)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, server, LONG)
        eventually(lambda: server.running() == 1)
        reply = server.chat("other", "What is 12 + 7?", temperature=0, enable_thinking=False)
        assert "19" in reply.json()["choices"][0]["message"]["content"]
        assert answer.result() == whole


def test_durations_are_nanoseconds_of_the_time_that_passed(server: NpuServer) -> None:
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": LONG}],
        "stream": False,
        "think": False,
        "options": {"temperature": 0},
    }
    began = time.monotonic()
    reply = server.request("POST", "/api/chat", body)
    passed = time.monotonic() - began
    assert reply.status == 200, reply
    answer = reply.json()
    # The second begins with the first token: when that came is part of both.
    ran = answer["prompt_eval_duration"] + answer["eval_duration"]
    assert answer["eval_count"] * TOKEN_MS / 1e3 <= ran / 1e9 <= passed
    assert answer["eval_duration"] <= answer["total_duration"] <= passed * 1e9


def test_stop_is_heeded(server: NpuServer) -> None:
    assert ask(server, LONG, stop=["7"]) == ask(server, LONG).partition("7")[0]


def test_max_tokens_is_heeded(server: NpuServer) -> None:
    reply = server.chat("demo", LONG, temperature=0, enable_thinking=False, max_tokens=5).json()
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"]["completion_tokens"] == 5


def test_seed_and_format_are_heeded_or_refused(server: NpuServer) -> None:
    keys = {"temperature": 1.9, "seed": 4, "max_tokens": 20, "enable_thinking": False}
    replies = [server.chat("demo", LONG, **keys) for _ in range(2)]  # type: ignore[arg-type]
    schema = {
        "type": "object",
        "properties": {"even": {"type": "boolean"}},
        "required": ["even"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    formed = server.chat("demo", LONG, temperature=0, max_tokens=60, response_format=form)
    if "1.1.4" in str(server.home) or replies[0].status == 400:
        assert [reply.error()["param"] for reply in (*replies, formed)] == ["seed", "seed", "response_format"]
        assert "1.2.0 or later" in formed.error()["message"]
        return
    first, second = (reply.json()["choices"][0]["message"]["content"] for reply in replies)
    assert first == second
    assert isinstance(json.loads(formed.json()["choices"][0]["message"]["content"])["even"], bool)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/api/generate", "/generate"])
@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'{"model": 1}', b"\xff"])
def test_bad_json_is_the_clients_fault(server: NpuServer, path: str, body: bytes) -> None:
    reply = server.request("POST", path, body)
    assert reply.status == 400
    assert reply.json()["error"]


def test_no_special_token_leaks_and_a_stream_ends_with_done(server: NpuServer) -> None:
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "What is 12 + 7?"}],
        "stream": True,
        "temperature": 0,
    }
    reply = server.request("POST", "/v1/chat/completions", body)
    assert events(reply.body)[-1] == "[DONE]"
    assert b"<|" not in reply.body
    assert b"think>" not in reply.body


def test_a_process_that_is_killed_fails_one_answer_and_no_other(server: NpuServer) -> None:
    ask(server, "What is 1 + 1?")
    with ThreadPoolExecutor(2) as pool:
        dying = pool.submit(server.chat, "demo", LONG, temperature=0, enable_thinking=False)
        eventually(lambda: server.running() == 1)
        waiting = pool.submit(ask, server, "What is 12 + 7?")
        eventually(lambda: server.waiting() == 1)
        import os
        import signal

        os.kill(max(server.children()) if len(server.children()) == 1 else _busiest(server), signal.SIGKILL)
        assert dying.result().status == 502
        assert "SIGKILL" in dying.result().error()["message"]
        assert "19" in waiting.result()


def _busiest(server: NpuServer) -> int:
    """The process of "demo", which was loaded first."""
    return min(server.children())
