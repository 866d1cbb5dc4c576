"""`exo run` as a chat: a real terminal and a real node."""

import stat
from pathlib import Path

import pytest

from tests.cli.chat.conftest import SLOW
from tests.cli.chat.recorder import Recorder
from tests.cli.chat.typing_at import CTRL_C, CTRL_D, ENTER, UP, Terminal, chat, saved
from tests.e2e.node import Node, eventually, text, wait, write_script

# Typing


def test_what_was_typed_comes_back_in_the_next_session(home: Path, node: Node, tmp_path: Path) -> None:
    with chat(home, node, "hello") as terminal:
        terminal.ask("one two")
        terminal.ask("/set seed 3")
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    assert (home / "history").read_text() == "one two\n/set seed 3\n"
    assert stat.S_IMODE((home / "history").stat().st_mode) == 0o600
    with chat(home, node, "hello") as terminal:
        terminal.type(UP + UP)
        terminal.until("one two")
        assert "wörld" in terminal.ask("")
        messages = saved(terminal, tmp_path / "talk.json")["messages"]
        assert [message["content"] for message in messages] == ["one two", "Hello, wörld!"]


def test_no_history_is_kept_where_it_is_not_wanted(home: Path, node: Node) -> None:
    with chat(home, node, "hello", "--no-history") as terminal:
        terminal.ask("one two")
        terminal.type("/bye" + ENTER)
        assert terminal.end() == 0
    assert not home.exists()


def test_a_home_that_cannot_be_written_is_said_once(node: Node, tmp_path: Path) -> None:
    """A file in its place: permissions keep nobody out who is root."""
    (tmp_path / "file").touch()
    with chat(tmp_path / "file", node, "hello") as terminal:
        assert all("wörld" in terminal.ask("hi") for _ in range(2))
        assert terminal.shown.count("no history is kept") == 1


def test_a_message_may_have_many_lines(home: Path, node: Node, tmp_path: Path) -> None:
    pasted = "def f():\n    return 1 \\\n        + 2\n\nf()"
    with chat(home, node, "hello") as terminal:
        terminal.type('"""one' + ENTER)
        terminal.until("...")
        terminal.type("two" + ENTER)
        terminal.until("...")
        assert "wörld" in terminal.ask('"""')
        terminal.type("three\\" + ENTER)
        terminal.until("...")
        assert "wörld" in terminal.ask("four")
        for as_sent in (pasted, pasted.replace("\n", "\r")):
            terminal.paste(as_sent)
            assert "wörld" in terminal.ask("")
        asked = [
            message["content"]
            for message in saved(terminal, tmp_path / "talk.json")["messages"]
            if message["role"] == "user"
        ]
        assert asked == ["one\ntwo", "three\nfour", pasted, pasted]


def test_what_is_typed_while_an_answer_runs_is_read_behind_it(home: Path, node: Node, tmp_path: Path) -> None:
    """And a paste is one message then, too."""
    write_script(node.home, "waits", [text("begun"), wait(1.0), text(" done")])
    with chat(home, node, "waits") as terminal:
        terminal.type("hi" + ENTER)
        terminal.until("begun")
        terminal.paste("one\ntwo")
        terminal.type(ENTER)
        assert "one" not in terminal.until("done")
        terminal.until("begun")
        terminal.until(">>>")
        messages = saved(terminal, tmp_path / "talk.json")["messages"]
        assert [message["content"] for message in messages] == ["hi", "begun done", "one\ntwo", "begun done"]


def test_ctrl_c_at_the_prompt_clears_the_line_and_twice_ends_the_chat(home: Path, node: Node) -> None:
    with chat(home, node, "hello") as terminal:
        terminal.type("to be cleared" + CTRL_C)
        terminal.until("ends the chat)")
        terminal.until(">>>")
        assert "wörld" in terminal.ask("hi")
        terminal.type(CTRL_C)
        terminal.until("ends the chat)")
        terminal.until(">>>")
        terminal.type(CTRL_C)
        assert terminal.end() == 0
    assert (home / "history").read_text() == "hi\n"


# Answers


def test_ctrl_c_stops_the_answer_at_the_node_and_keeps_its_part(
    home: Path, node: Node, tmp_path: Path
) -> None:
    with chat(home, node, "slow") as terminal:
        for model in ("slow", "hangs"):
            terminal.ask(f"/model {model}")
            terminal.type("hi" + ENTER)
            terminal.until("tick tick" if model == "slow" else "started")
            assert node.running() == 1
            terminal.type(CTRL_C)
            terminal.until("(stopped)")
            terminal.until(">>>")
            eventually(lambda: (node.running(), node.waiting()) == (0, 0))
        first, part, _, started = saved(terminal, tmp_path / "talk.json")["messages"]
        assert first == {"role": "user", "content": "hi"}
        assert part["content"].startswith("tick tick")
        assert part["broken"] == started["broken"] == "stopped"
        terminal.ask("/model hello")
        terminal.ask("/stats")
        read = 2 + len(part["content"].split()) + 1 + 1
        assert f"{read} tokens read, 4 written" in terminal.ask("and")


def test_an_answer_that_breaks_off_keeps_its_part_and_can_be_asked_again(home: Path, tmp_path: Path) -> None:
    write_script(tmp_path, "slow", SLOW)
    node = Node(tmp_path)
    try:
        with chat(home, node, "slow") as terminal:
            terminal.type("hi" + ENTER)
            terminal.until("tick tick")
            node.kill()
            terminal.until("Error: ")
            assert node.url in terminal.until(">>>")
            [_, part] = saved(terminal, tmp_path / "talk.json")["messages"]
            assert part["content"].startswith("tick tick")
            assert node.url in part["broken"]
            terminal.type("/retry" + ENTER)
            terminal.until("Error: cannot reach")
            terminal.until(">>>")
            write_script(tmp_path, "slow", [text("at last")])
            node = Node(tmp_path, "--port", str(node.port))
            assert "at last" in terminal.ask("/retry")
            messages = saved(terminal, tmp_path / "talk.json")["messages"]
            assert [message["content"] for message in messages] == ["hi", "at last"]
        node.stop()
    finally:
        node.kill()


def test_a_failure_ends_no_chat_and_its_words_drive_nothing(home: Path, node: Node) -> None:
    with chat(home, node, "midway") as terminal:
        assert r"the wheel \x1b]0;owned\x07" in terminal.ask("hi")
        terminal.ask("/model hostile")
        assert r"before \x1b]0;owned\x07\x1b[2J\x9b31m\x08\x7f\x00 behind" in terminal.ask("hi")
        assert b"\x1b]0;owned" not in terminal.raw
        assert b"\x1b[2J\xc2\x9b" not in terminal.raw


@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}])
def test_thoughts_are_dimmed(home: Path, node: Node, env: dict[str, str]) -> None:
    with chat(home, node, "thinker", env=env) as terminal:
        assert "Hm.\n\n42\n" in terminal.ask("hi")
        assert (b"\x1b[2mHm.\x1b[0m" in terminal.raw) is ("NO_COLOR" not in env)


# Commands


def test_the_model_changes_and_the_conversation_goes_on(home: Path, node: Node) -> None:
    with chat(home, node, "hello", "--stats", "--system", "Be brief.") as terminal:
        figures = terminal.ask("one two").splitlines()[1]
        assert figures.startswith("4 tokens read, 4 written; first after ")
        assert figures.endswith(f"; {node.me()['id']}")
        shown = terminal.ask("/models")
        assert "* hello\n" in shown
        assert "  thinker\n" in shown
        assert "did you mean thinker" in terminal.ask("/model thinkr")
        assert "Now thinker." in terminal.ask("/model thinker")
        assert "* thinker\n" in terminal.ask("/model")
        assert "7 tokens read, 2 (1 thought) written" in terminal.ask("three")
        terminal.ask("/system -")
        assert "(no system message)" in terminal.ask("/system")
        terminal.ask("/undo")
        terminal.ask("/undo")
        assert "1 tokens read" in terminal.ask("alone")
        terminal.ask("/clear")
        assert "1 tokens read" in terminal.ask("again")


def test_tab_completes_commands_and_models(home: Path, node: Node) -> None:
    with chat(home, node, "hello") as terminal:
        assert "Now thinker." in terminal.ask("/model thi\t")
        assert "did you mean /model" in terminal.ask("/mdel")


def test_settings_are_sent(home: Path, node: Node) -> None:
    with chat(home, node, "hello", "--temperature", "0.5") as terminal:
        assert "temperature  0.5" in terminal.ask("/set")
        assert "max_tokens  2" in terminal.ask("/set max_tokens 2")
        assert "Hello, \n" in terminal.ask("hi")
        assert "takes 1 or more, not '0'" in terminal.ask("/set max_tokens 0")
        terminal.ask("/set max_tokens -")
        assert "Hello, wörld!" in terminal.ask("hi")
        terminal.ask("/model exo-demo")
        terminal.ask("/think")
        assert "\n\n" in terminal.ask("What is 2 + 3?")
        terminal.ask("/nothink")
        assert "\n\n" not in terminal.ask("What is 2 + 3?")


def test_a_conversation_is_saved_and_gone_on_with(home: Path, node: Node, tmp_path: Path) -> None:
    file = tmp_path / "my talk.json"
    with chat(home, node, "hello", "--system", "Be brief.") as terminal:
        terminal.ask("one two")
        terminal.ask("/set top_k 3")
        saved(terminal, file)
        assert "1 question saved" in terminal.ask(f"/save {tmp_path / 'talk.md'}")
        assert "exists" in terminal.ask(f"/save {__file__}")
    assert (tmp_path / "talk.md").read_text().endswith("## You\n\none two\n\n## hello\n\nHello, wörld!\n")
    with chat(home, node, "thinker", "--stats") as terminal:
        shown = terminal.ask(f"/load {file}")
        assert "1 question loaded" in shown
        assert "Now hello." in shown
        assert "top_k  3" in terminal.ask("/set top_k")
        assert "7 tokens read, 4 written" in terminal.ask("three")
        assert "no saved conversation" in terminal.ask(f"/load {__file__}")


def test_stop_takes_the_model_out_of_memory(home: Path, node: Node) -> None:
    with chat(home, node, "hello") as terminal:
        terminal.ask("hi")
        assert "hello" in {resident["model"] for resident in node.me()["loaded"]}
        assert "hello leaves memory" in terminal.ask("/stop")
        eventually(lambda: "hello" not in {resident["model"] for resident in node.me()["loaded"]})
        terminal.ask("/model auto")
        assert "name the one" in terminal.ask("/stop")
        assert "not here" in terminal.ask("/stop nosuch")


def test_an_unknown_model_is_said_before_anything_is_typed(home: Path, node: Node) -> None:
    with Terminal(home, "run", "thinkr", "--url", node.url) as terminal:
        assert terminal.end() == 1
        assert "did you mean thinker" in terminal.shown


def test_without_a_model_it_says_which(home: Path, node: Node) -> None:
    with chat(home, node) as terminal:
        assert f"auto at {node.url}" in terminal.shown


def test_a_server_that_is_no_node_can_be_chatted_with(home: Path) -> None:
    with Recorder() as server, Terminal(home, "run", "m", "--url", server.url) as terminal:
        terminal.until(">>>")
        assert "Yes." in terminal.ask("one")
        assert "Yes." in terminal.ask("two")
        assert [message["content"] for message in server.asked()] == ["one", "Yes.", "two"]
        assert "* m\n" in terminal.ask("/models")
        assert "keeps its models" in terminal.ask("/stop")
