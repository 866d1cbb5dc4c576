"""The file of keys: whole or not at all, and for its owner's eyes only."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from exo.admission import keyfile
from exo.admission.keys import MOST, OWN, Key, digest, new_key
from exo.errors import BadRequest, NotReady

HASH = digest("x")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home" / "keys.json"


def key(name: str) -> Key:
    return Key(name=name, sha256=digest(new_key()))


def put(file: Path, content: object) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    file.chmod(0o600)


def names(file: Path) -> list[str]:
    return [each.name for each in keyfile.read(file) or ()]


def test_what_is_put_in_comes_out(file: Path) -> None:
    assert keyfile.read(file) is None
    one = key("one")
    many = Key(name="two", sha256=HASH, owner=True, requests_per_minute=60, tokens_per_minute=10**9)
    keyfile.add(file, one)
    keyfile.add(file, many)
    assert keyfile.read(file) == (one, many)
    keyfile.remove(file, "one")
    assert keyfile.read(file) == (many,)
    keyfile.remove(file, "two")
    assert keyfile.read(file) == (), "it stays, and asks for a key that nobody has"


def test_it_is_its_owners_alone(file: Path) -> None:
    before = os.umask(0)
    try:
        keyfile.add(file, key("a"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["keys.json"]


def test_no_key_is_in_it(file: Path) -> None:
    word = new_key()
    keyfile.add(file, Key(name="a", sha256=digest(word)))
    content = file.read_text()
    assert word not in content
    assert word.removeprefix("exo-") not in content


def test_a_name_is_taken_once(file: Path) -> None:
    keyfile.add(file, key("a"))
    for name in ("a", OWN):
        with pytest.raises(BadRequest, match=f"key '{name}' already"):
            keyfile.add(file, key(name))
    assert names(file) == ["a"]


def test_there_are_not_more_keys_than_can_be_compared(file: Path) -> None:
    put(file, {"keys": [{"name": f"k{number}", "sha256": HASH} for number in range(MOST)]})
    with pytest.raises(BadRequest, match="256 keys already"):
        keyfile.add(file, key("one-more"))
    put(file, {"keys": [{"name": f"k{number}", "sha256": HASH} for number in range(MOST + 1)]})
    with pytest.raises(NotReady, match="257 keys"):
        keyfile.read(file)


def test_a_key_that_is_not_there_is_told_of(file: Path) -> None:
    with pytest.raises(BadRequest, match="no key 'a'; there is none"):
        keyfile.remove(file, "a")
    keyfile.add(file, key("b"))
    with pytest.raises(BadRequest, match="no key 'a'; there are b"):
        keyfile.remove(file, "a")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_what_others_have_access_to_is_refused_with_the_remedy(file: Path, mode: int) -> None:
    keyfile.add(file, key("a"))
    file.chmod(mode)
    with pytest.raises(NotReady, match=f"run chmod 600 {file}"):
        keyfile.read(file)
    with pytest.raises(NotReady, match=f"run chmod 600 {file}"):
        keyfile.add(file, key("b"))
    file.chmod(0o600)
    assert names(file) == ["a"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"\xff", "damaged"),
        (b"[" * 100_000, "damaged"),
        ({}, "keys"),
        ([], "damaged"),
        ({"keys": [], "open": True}, "unknown field `open`"),
        ({"keys": [{"name": "a", "sha256": HASH, "admin": True}]}, "unknown field `admin`"),
        ({"keys": [{"name": "a"}]}, "sha256"),
        ({"keys": [{"name": "a", "sha256": HASH.upper()}]}, "damaged"),
        ({"keys": [{"name": "a", "sha256": HASH[:-1]}]}, "damaged"),
        ({"keys": [{"name": "a b", "sha256": HASH}]}, "name"),
        ({"keys": [{"name": "a", "sha256": HASH, "requests_per_minute": 0}]}, "requests_per_minute"),
        ({"keys": [{"name": "a", "sha256": HASH, "tokens_per_minute": -1}]}, "tokens_per_minute"),
        ({"keys": [{"name": "a", "sha256": HASH, "tokens_per_minute": "9"}]}, "tokens_per_minute"),
        (
            {"keys": [{"name": "a", "sha256": HASH}, {"name": "a", "sha256": HASH}]},
            "two keys of the name 'a'",
        ),
        ({"keys": [{"name": OWN, "sha256": HASH}]}, OWN),
        (b" " * (1 << 20) + b'{"keys": []}', "more than 1 MiB"),
    ],
)
def test_a_file_that_is_not_as_it_should_be_is_refused_whole(file: Path, content: Any, words: str) -> None:
    put(file, content)
    before = file.read_bytes()
    with pytest.raises(NotReady) as refused:
        keyfile.read(file)
    assert str(file) in refused.value.message
    assert words in refused.value.message
    assert "exo key add" in refused.value.message
    with pytest.raises(NotReady):
        keyfile.add(file, key("b"))
    assert file.read_bytes() == before


def test_what_is_no_file_is_refused_at_once(file: Path) -> None:
    file.parent.mkdir()
    os.mkfifo(file, 0o600)
    with pytest.raises(NotReady, match="is no file"):
        keyfile.read(file)
    file.unlink()
    file.mkdir(0o700)
    with pytest.raises(NotReady, match=str(file)):
        keyfile.read(file)


def test_two_who_add_keys_at_once_lose_none(file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: keyfile.add(file, key(f"k{number}")), range(40)))
    assert sorted(names(file)) == sorted(f"k{number}" for number in range(40))


def test_a_disk_that_is_full_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyfile.add(file, key("a"))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("exo.admission.keyfile.os.fsync", full)
    with pytest.raises(NotReady, match="No space left"):
        keyfile.add(file, key("b"))
    monkeypatch.undo()
    assert names(file) == ["a"]
    assert [each.name for each in file.parent.iterdir()] == ["keys.json"]


def test_what_a_killed_command_has_left_is_in_nobodys_way(file: Path) -> None:
    file.parent.mkdir()
    left = file.with_name(".keys.json.new")
    left.write_text("half")
    left.chmod(0o666)
    keyfile.add(file, key("a"))
    assert names(file) == ["a"]
    assert not left.exists()


def test_root_makes_it_for_whoever_the_folder_belongs_to(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the node, which runs as that user, could not read it. What chown is told is looked at, as the
    tests need not be root's."""
    told: list[tuple[int, int]] = []
    monkeypatch.setattr("exo.admission.keyfile.os.geteuid", lambda: 0)
    monkeypatch.setattr("exo.admission.keyfile.os.fchown", lambda fd, user, group: told.append((user, group)))
    keyfile.add(file, key("a"))
    folder = file.parent.stat()
    assert told == [(folder.st_uid, folder.st_gid)]
