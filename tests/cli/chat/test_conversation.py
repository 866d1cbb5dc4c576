"""What of a chat a model is sent, and how it is kept in a file."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.chat import Message
from exo.cli.chat.conversation import Conversation, Saved, Turn, from_json, to_json, to_markdown
from exo.cli.chat.files import Files
from exo.cli.chat.settings import Settings
from exo.errors import BadRequest

TALK = Conversation("Be brief.", (Turn("one?", "1", "Hm."), Turn("two?", "tw", "", "stopped")))


def test_a_model_is_sent_all_that_was_said_and_no_thoughts() -> None:
    assert TALK.messages("three?") == (
        Message("system", "Be brief."),
        Message("user", "one?"),
        Message("assistant", "1"),
        Message("user", "two?"),
        Message("assistant", "tw"),
        Message("user", "three?"),
    )


def test_a_question_that_nothing_was_answered_to_is_not_sent_again() -> None:
    """Two messages of a user in a row are refused by some templates."""
    failed = TALK.with_turn(Turn("lost?", broken="it broke off"))
    assert failed.messages("three?") == TALK.messages("three?")
    assert failed.told() == TALK
    assert TALK.told() == TALK
    assert Conversation().messages("one?") == (Message("user", "one?"),)


def test_undoing_takes_the_last_question_back() -> None:
    assert TALK.undone().turns == TALK.turns[:1]
    with pytest.raises(BadRequest, match="nothing has been asked"):
        Conversation().undone()


_TEXT = st.text(st.characters(codec="utf-8"))
_SAID = st.text(st.characters(codec="utf-8"), min_size=1)


@given(
    _TEXT,
    st.lists(st.builds(Turn, _TEXT, _SAID, _TEXT, _TEXT)),
    st.builds(Settings, temperature=st.none() | st.floats(0, 2), think=st.none() | st.booleans()),
)
def test_a_saved_conversation_is_the_same_again(system: str, turns: list[Turn], settings: Settings) -> None:
    saved = Saved(Conversation(system, tuple(turns)), "hello", settings)
    assert from_json(to_json(saved)) == saved


def test_a_file_has_messages_as_the_api_takes_them() -> None:
    file = json.loads(to_json(Saved(TALK, "hello", Settings(top_k=3))))
    assert file == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "one?"},
            {"role": "assistant", "content": "1", "reasoning": "Hm."},
            {"role": "user", "content": "two?"},
            {"role": "assistant", "content": "tw", "broken": "stopped"},
        ],
        "model": "hello",
        "settings": {"top_k": 3},
    }


def test_messages_alone_are_a_conversation() -> None:
    assert from_json(b'{"messages": [{"role": "user", "content": "hi"}]}') == Saved(
        Conversation(turns=(Turn("hi"),))
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"", "no saved conversation"),
        (b"\xff", "no saved conversation"),
        (b"[" * 100_000, "no saved conversation"),
        (b"[]", "no saved conversation"),
        (b"{}", "messages"),
        (b'{"messages": [], "modle": "x"}', "modle"),
        (b'{"messages": [{"role": "tool", "content": ""}]}', "messages[0].role"),
        (b'{"messages": [{"role": "user"}]}', "content"),
        (b'{"messages": [], "settings": {"temperature": 3}}', "settings.temperature"),
        (b'{"messages": [{"role": "assistant", "content": "hi"}]}', "messages[0]"),
        (b'{"messages": [{"role":"user","content":"a"},{"role":"user","content":"b"}]}', "messages[1]"),
        (b'{"messages": [{"role":"user","content":"a"},{"role":"system","content":"b"}]}', "messages[1]"),
        (b'{"messages": [{"role":"user","content":"a"},{"role":"assistant","content":""}]}', "messages[1]"),
    ],
)
def test_what_is_no_conversation_says_why(text: bytes, named: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(named)):
        from_json(text)


def test_for_people_an_answer_that_is_not_whole_is_marked() -> None:
    assert to_markdown(Saved(TALK, "hello")).decode() == (
        "## System\n\nBe brief.\n\n## You\n\none?\n\n"
        "<details>\n<summary>Thoughts</summary>\n\nHm.\n\n</details>\n\n## hello\n\n1\n\n"
        "## You\n\ntwo?\n\n## hello\n\ntw\n\n*(stopped)*\n"
    )


# Files


def test_a_chat_writes_over_its_own_files_only(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs.json", tmp_path / "ours.json"
    theirs.write_text("theirs")
    files = Files()
    with pytest.raises(BadRequest, match=re.escape(f"{theirs} exists")):
        files.save(str(theirs), Saved(TALK))
    assert theirs.read_text() == "theirs"
    files.save(str(ours), Saved(Conversation()))
    files.save(str(ours), Saved(TALK))
    other = Files()
    assert other.load(str(ours)) == Saved(TALK)
    other.save(str(ours), Saved(Conversation()))
    assert other.load(str(ours)) == Saved(Conversation())


def test_a_file_that_cannot_be_had_is_named(tmp_path: Path) -> None:
    gone = tmp_path / "no" / "where"
    bad = tmp_path / "bad"
    bad.write_text("no JSON")
    for name, do in (
        (gone, lambda: Files().save(str(gone), Saved(TALK))),
        (gone, lambda: Files().load(str(gone))),
        (bad, lambda: Files().load(str(bad))),
        (tmp_path, lambda: Files().load(str(tmp_path))),
        (Path("x.MD"), lambda: Files().load("x.MD")),
    ):
        with pytest.raises(BadRequest, match=re.escape(str(name))):
            do()
    with pytest.raises(BadRequest, match="character"):
        Files().save("a\0b", Saved(TALK))


def test_a_tilde_is_the_owners_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    Files().save("~/talk.md", Saved(TALK, "hello"))
    assert (tmp_path / "talk.md").read_bytes() == to_markdown(Saved(TALK, "hello"))
