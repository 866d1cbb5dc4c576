"""Onto a board over ssh, whose commands are stand-ins that work in a folder."""

import shutil
from pathlib import Path

import pytest
from conftest import Bench
from fake_ssh import FakeBoard

from rkllm_convert import card, copy
from rkllm_convert.convert import convert
from rkllm_convert.errors import BadInput, CopyFailed

RKLLAMA = "RKLLAMA/models"


@pytest.fixture
def folder(bench: Bench) -> Path:
    return convert(bench.conversion(name="Demo 1.5B"), bench.say)


@pytest.fixture(params=["scp", "rsync"])
def there(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeBoard:
    made = FakeBoard(tmp_path / "board", rsync=request.param == "rsync")
    monkeypatch.setenv("PATH", made.path)
    monkeypatch.delenv("BREAKS", raising=False)
    return made


def same(folder: Path, there: FakeBoard, place: str) -> bool:
    ours = {path.name: path.read_bytes() for path in folder.iterdir()}
    return ours == {path.name: path.read_bytes() for path in (there.home / place).iterdir()}


def test_a_model_comes_whole_into_the_folder_that_rkllama_scans(folder: Path, there: FakeBoard) -> None:
    said: list[str] = []
    place = copy.copy(folder, copy.board("me@board"), said.append)
    assert place == f"{RKLLAMA}/Demo 1.5B"
    assert same(folder, there, place)
    assert [path.name for path in (there.home / RKLLAMA).iterdir()] == ["Demo 1.5B"]
    assert said[0].endswith("GB to me@board")


def test_a_folder_a_port_and_a_key_of_the_users_are_kept_to(folder: Path, there: FakeBoard) -> None:
    to = copy.board("board:/".rstrip("/") + "models dir", port=2222, identity="key")
    assert to.folder == "models dir"
    copy.copy(folder, to, print)
    assert same(folder, there, "models dir/Demo 1.5B")
    for line in there.lines():
        assert "2222" in line
        assert "-i key" in line


def test_what_is_there_already_is_not_copied_again(folder: Path, there: FakeBoard) -> None:
    copy.copy(folder, copy.board("board"), print)
    before = len([line for line in there.lines() if not line.startswith("ssh")])
    said: list[str] = []
    copy.copy(folder, copy.board("board"), said.append)
    assert said == ["board has it already"]
    assert len([line for line in there.lines() if not line.startswith("ssh")]) == before


def test_another_model_of_that_name_is_replaced_only_if_asked(folder: Path, there: FakeBoard) -> None:
    other = there.home / RKLLAMA / "Demo 1.5B"
    other.mkdir(parents=True)
    (other / "other.rkllm").write_bytes(b"x")
    with pytest.raises(CopyFailed, match=r"another model.*--replace"):
        copy.copy(folder, copy.board("board"), print)
    assert (other / "other.rkllm").exists()
    copy.copy(folder, copy.board("board"), print, replace=True)
    assert same(folder, there, f"{RKLLAMA}/Demo 1.5B")


@pytest.mark.parametrize(
    ("breaks", "says"),
    [("ssh", "No route to host"), ("copy", "connection lost"), ("corrupts", "its checksum differs")],
)
def test_a_copy_that_fails_leaves_no_model(
    folder: Path, there: FakeBoard, monkeypatch: pytest.MonkeyPatch, breaks: str, says: str
) -> None:
    tool = "rsync" if (Path(there.path.split(":")[0]) / "rsync").exists() else "scp"
    monkeypatch.setenv("BREAKS", tool if breaks == "copy" else breaks)
    with pytest.raises(CopyFailed, match=says):
        copy.copy(folder, copy.board("board"), print)
    assert not (there.home / RKLLAMA / "Demo 1.5B").exists()
    monkeypatch.delenv("BREAKS")
    copy.copy(folder, copy.board("board"), print)
    assert same(folder, there, f"{RKLLAMA}/Demo 1.5B")


def test_a_full_board_is_told_of_before_anything_is_sent(
    folder: Path, there: FakeBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = card.read(folder)
    monkeypatch.setattr(card, "checked", lambda path: {**described, "bytes": 10**18})
    with pytest.raises(CopyFailed, match=r"GB free, and the model takes .* Make room"):
        copy.copy(folder, copy.board("board"), print)
    assert there.files() == []


def test_what_has_no_card_or_names_no_board_is_refused(folder: Path, there: FakeBoard) -> None:
    with pytest.raises(BadInput, match="names no board"):
        copy.board("-oProxyCommand=evil")
    (folder / "card.json").unlink()
    with pytest.raises(BadInput, match=r"card\.json cannot be used"):
        copy.copy(folder, copy.board("board"), print)
    assert there.lines() == []


def test_a_machine_without_ssh_is_told_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert shutil.which("ssh") is None
    with pytest.raises(CopyFailed, match="ssh cannot be run"):
        copy.copy(folder, copy.board("board"), print)
