"""What was typed in earlier chats."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.cli.chat.history import LONGEST, MOST, History


def test_there_is_none_at_first(tmp_path: Path) -> None:
    file = tmp_path / "home" / "history"
    assert History(file).read() == []
    assert not file.parent.exists()


@given(entries=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r")), max_size=5))
def test_entries_come_back_as_they_were(entries: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("history") / "history"
    history = History(file)
    for entry in entries:
        history.add(entry)
    assert History(file).read() == entries
    assert len(file.read_bytes().splitlines()) == len(entries) if entries else not file.exists()


def test_only_its_owner_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.touch(0o644)
    History(file).add("x")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (tmp_path / "full").write_text("old\n" * MOST)
    full = History(tmp_path / "full")
    full.read()
    full.add("new")
    assert stat.S_IMODE((tmp_path / "full").stat().st_mode) == 0o600


def test_the_oldest_make_room_and_the_file_is_rarely_written_anew(tmp_path: Path) -> None:
    file = tmp_path / "history"
    history = History(file)
    seen, most = set[int](), 0
    for number in range(3 * MOST):
        history.add(f"entry {number}")
        most = max(most, file.read_bytes().count(b"\n"))
        seen.add(file.stat().st_ino)
    assert most == MOST
    assert len(seen) <= 3 * MOST // (MOST // 10) + 1
    entries = History(file).read()
    assert entries == [f"entry {number}" for number in range(3 * MOST - len(entries), 3 * MOST)]
    assert [each.name for each in tmp_path.iterdir()] == ["history"]


def test_chats_side_by_side_keep_each_others_entries(tmp_path: Path) -> None:
    file = tmp_path / "history"
    one, two = History(file), History(file)
    one.add("one")
    two.add("two")
    assert History(file).read() == ["one", "two"]


def test_what_was_pasted_is_not_kept_where_it_is_too_long(tmp_path: Path) -> None:
    history = History(tmp_path / "history")
    history.add("x" * (LONGEST + 1))
    history.add("short")
    assert history.read() == ["short"]


def test_a_file_that_somebody_broke_is_read_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.write_bytes(b"good\n\xff\xfe\ncut off")
    assert History(file).read() == ["good", "\ufffd\ufffd", "cut off"]


def test_a_place_that_cannot_be_written_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    history = History(tmp_path / "file" / "history")
    with pytest.raises(OSError, match="file"):
        history.add("x")
