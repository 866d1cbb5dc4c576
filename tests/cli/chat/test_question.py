"""`exo run` with one question, and what it needs to be answered at all."""

import json
import os
from pathlib import Path

import pytest

from tests.cli.chat.hostile import DRIVES, HOSTILE
from tests.cli.chat.recorder import Recorder
from tests.cli.chat.typing_at import CTRL_C, Terminal, chat, run
from tests.e2e.node import Node, eventually, text, write_script


def test_standard_input_goes_behind_the_question(home: Path, node: Node) -> None:
    """The scripted engine counts words: here it is OpenAI's dialect alone that tells what was sent."""
    with Recorder() as server:
        assert run(home, "m", "Sum", "up:", "--url", server.url, stdin=b"a\nb\n").stdout == "Yes.\n"
        assert server.asked() == [{"role": "user", "content": "Sum up:\n\na\nb"}]
        assert run(home, "m", "--url", server.url, stdin="  ä\n".encode()).stdout == "Yes.\n"
        assert server.asked() == [{"role": "user", "content": "ä"}]
        ended = run(home, "m", "hi", "--stats", "--url", server.url)
        assert (ended.returncode, ended.stdout) == (0, "Yes.\n")
        assert "5 tokens read, 2 written" in ended.stderr


def test_one_question_leaves_nothing_behind(home: Path, node: Node) -> None:
    ended = run(home, "thinker", "hi", "--url", node.url)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "Hm.\n\n42\n", "")
    assert not home.exists()


def test_without_a_model_one_question_says_which_on_standard_error(home: Path, node: Node) -> None:
    ended = run(home, "--no-think", "--url", node.url, stdin=b"What is 2 + 3?")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "Hi\n", "(auto)\n")
    with Recorder() as server:
        ended = run(home, "--url", server.url, stdin=b"hi")
        assert ended.returncode == 1
        assert f"name a MODEL at {server.url}" in ended.stderr


def test_json_is_one_object(home: Path, node: Node) -> None:
    ended = run(home, "thinker", "one two", "--json", "--url", node.url)
    assert (ended.returncode, ended.stderr, ended.stdout.count("\n")) == (0, "", 1)
    told = json.loads(ended.stdout)
    assert (told["model"], told["answer"], told["reasoning"]) == ("thinker", "42", "Hm.")
    assert told["node"] == node.me()["id"]
    assert told["usage"]["prompt_tokens"] == 2
    assert 0 < told["timings"]["ttft_seconds"] <= told["timings"]["total_seconds"]
    hostile = run(home, "hostile", "hi", "--json", "--url", node.url).stdout
    assert json.loads(hostile)["answer"] == f"before {HOSTILE} behind"
    assert not DRIVES.search(hostile)


def test_what_is_not_for_a_terminal_has_no_control_characters_either(home: Path, node: Node) -> None:
    for model in ("hostile", "midway"):
        ended = run(home, model, "hi", "--url", node.url)
        assert r"\x1b]0;owned\x07" in ended.stdout + ended.stderr
        assert not DRIVES.search(ended.stdout + ended.stderr)


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "named"),
    [
        (["thinkr", "hi"], b"", 1, "did you mean thinker"),
        (["midway", "hi"], b"", 1, "came off"),
        (["--json", "hello"], b"", 2, "no question"),
        ([], b"", 2, "no question"),
        (["hello"], b"\xff\xfe", 2, "no text"),
        (["hello", os.fsdecode(b"\xff")], b"", 2, "no text"),
        (["hello", "hi", "--temperature", "3"], b"", 2, "--temperature"),
        (["hello", "hi", "--temperature", "nan"], b"", 2, "--temperature"),
        (["hello", "hi", "--no-histroy"], b"", 2, "--no-history"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(
    home: Path, node: Node, arguments: list[str], stdin: bytes, code: int, named: str
) -> None:
    ended = run(home, *arguments, "--url", node.url, stdin=stdin)
    errors = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
    assert (ended.returncode, len(errors)) == (code, 1)
    assert named in ended.stderr[ended.stderr.index("Error: ") :]


def test_ctrl_c_ends_one_question_with_130_and_frees_the_slot(home: Path, node: Node) -> None:
    with Terminal(home, "run", "hangs", "hi", "--url", node.url) as terminal:
        terminal.until("started")
        terminal.type(CTRL_C)
        assert terminal.end() == 130
        assert "Traceback" not in terminal.shown
    eventually(lambda: node.running() == 0)


def test_a_node_with_a_key_wants_it(home: Path, tmp_path: Path) -> None:
    write_script(tmp_path, "hello", [text("Hello")])
    node = Node(tmp_path, env={"EXO_API_KEY": "s3cret"})
    try:
        for key in ({}, {"EXO_API_KEY": "wrong"}):
            with Terminal(home, "run", "hello", "--url", node.url, env=key) as terminal:
                assert terminal.end() == 1
                assert "EXO_API_KEY" in terminal.shown
            ended = run(home, "hello", "hi", "--url", node.url, env=key)
            assert ended.returncode == 1
            assert "EXO_API_KEY" in ended.stderr
        with chat(home, node, "hello", env={"EXO_API_KEY": "s3cret"}) as terminal:
            assert "Hello" in terminal.ask("hi")
            assert "leaves memory" in terminal.ask("/stop")
        node.stop()
    finally:
        node.kill()
