"""The keys of a running node, as they change."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from exo.admission import keyfile
from exo.admission.keyring import Keyring
from exo.admission.keys import OWN, Key, digest
from exo.errors import NotReady
from tests.admission.test_limiter import Clock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def add(file: Path, name: str) -> None:
    keyfile.add(file, Key(name=name, sha256=digest(name)))


def names(keys: Sequence[Key] | None) -> list[str] | None:
    return None if keys is None else [key.name for key in keys]


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.ERROR]


def test_without_any_no_key_is_asked_for(file: Path) -> None:
    assert Keyring()() is None
    assert Keyring(None, file)() is None
    assert Keyring("", file)() is None


def test_the_settings_key_is_one_of_them(file: Path) -> None:
    assert names(Keyring("own")()) == [OWN]
    add(file, "a")
    assert names(Keyring("own", file)()) == ["a", OWN]
    assert names(Keyring(None, file)()) == ["a"]


def test_what_changes_counts_within_a_second_and_is_not_looked_for_more_often(
    file: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keyring(None, file, clock=clock)
    looks: list[Path | None] = []
    real = Keyring._look

    def look(keys: Keyring, file: Path) -> None:
        looks.append(file)
        real(keys, file)

    monkeypatch.setattr(Keyring, "_look", look)
    add(file, "a")
    assert keys() is None
    clock.now += 0.99
    assert keys() is None
    clock.now += 0.02
    assert names(keys()) == ["a"], "from now on a key is asked for"
    keyfile.remove(file, "a")
    add(file, "b")
    for _ in range(100):
        keys()
    clock.now += 1
    assert names(keys()) == ["b"]
    assert len(looks) == 2


def test_the_last_key_that_is_taken_away_opens_nothing(file: Path, clock: Clock) -> None:
    add(file, "a")
    keys = Keyring(None, file, clock=clock)
    keyfile.remove(file, "a")
    clock.now += 1
    assert names(keys()) == []
    assert names(Keyring(None, file)()) == []


def test_a_file_that_cannot_be_used_keeps_a_node_from_starting(file: Path) -> None:
    add(file, "a")
    file.chmod(0o644)
    with pytest.raises(NotReady, match="chmod 600"):
        Keyring("own", file)


def test_one_that_breaks_while_the_node_runs_takes_no_key_away_and_is_told_of_once(
    file: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    add(file, "a")
    keys = Keyring(None, file, clock=clock)

    def damage() -> None:
        file.write_text("{")
        file.chmod(0o600)

    spoiled: list[tuple[Callable[[], None], str]] = [
        (lambda: file.chmod(0o644), "chmod 600"),
        (damage, "damaged"),
        (file.unlink, "is gone"),
    ]
    for spoil, words in spoiled:
        spoil()
        caplog.clear()
        for _ in range(5):
            clock.now += 1
            assert names(keys()) == ["a"]
        [said] = errors(caplog)
        assert words in said
        assert str(file) in said
    add(file, "b")
    clock.now += 1
    assert names(keys()) == ["b"]


def test_what_was_never_good_is_told_of_and_closes_no_open_node(
    file: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    keys = Keyring(None, file, clock=clock)
    file.write_text("{")
    file.chmod(0o600)
    clock.now += 1
    assert keys() is None
    file.unlink()
    clock.now += 1
    assert keys() is None
    assert len(errors(caplog)) == 1
