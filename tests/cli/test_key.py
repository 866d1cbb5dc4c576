"""`exo key`, as it is typed."""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from exo.admission import keyfile
from exo.admission.keys import match
from exo.admission.rates import Limits
from exo.cli import app


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith("EXO_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EXO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def key(*arguments: str, env: Mapping[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, ["key", *arguments], env=env)


def made(*arguments: str, env: Mapping[str, str] | None = None) -> str:
    """The key that was printed, which is all of standard output."""
    ended = key("add", *arguments, env=env)
    assert ended.exit_code == 0, ended.output
    [line] = ended.stdout.splitlines()
    return line


def fails(ended: Result, *words: str) -> None:
    assert ended.exit_code != 0
    assert ended.stdout == ""
    assert all(word in ended.stderr for word in words), ended.stderr


def test_a_key_is_printed_once_and_only_its_hash_is_kept(home: Path) -> None:
    limits = ("--requests-per-minute", "60", "--tokens-per-minute", "20000")
    one, two = made("laptop", *limits), made("me", "--owner")
    assert one.startswith("exo-")
    assert len({one, two}) == 2
    file = home / "keys.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert one not in file.read_text()
    keys = keyfile.read(file)
    assert keys is not None
    laptop, me = match(keys, one), match(keys, two)
    assert laptop is not None
    assert me is not None
    assert (laptop.name, laptop.owner, laptop.limits) == ("laptop", False, Limits(60, 20_000))
    assert (me.name, me.owner, me.limits) == ("me", True, Limits())


def test_what_the_first_key_changes_is_said(home: Path) -> None:
    first = key("add", "kid").stderr
    assert "shown this once" in first
    assert "asks every client for a key" in first
    assert "exo key add NAME --owner" in first
    second = key("add", "me", "--owner").stderr
    assert "asks every client" not in second
    assert "None is an owner's" not in second


def test_where_the_node_has_a_key_of_its_own_there_is_less_to_say(home: Path) -> None:
    said = key("add", "kid", env={"EXO_API_KEY": "own"}).stderr
    assert "asks every client" not in said
    assert "None is an owner's" not in said


def test_they_are_listed_without_what_they_are(home: Path) -> None:
    word = made("laptop", "--requests-per-minute", "60")
    made("me", "--owner", "--tokens-per-minute", "5")
    shown = key("list").stdout
    head, laptop, me = shown.splitlines()
    assert head.split() == ["NAME", "OWNER", "REQUESTS/MIN", "TOKENS/MIN", "MADE"]
    assert laptop.split()[:4] == ["laptop", "no", "60", "-"]
    assert me.split()[:4] == ["me", "yes", "-", "5"]
    [*_, own] = key("list", env={"EXO_API_KEY": "s3cret-of-mine"}).stdout.splitlines()
    assert own.split() == ["EXO_API_KEY", "yes", "-", "-", "-"]
    ended = key("list", "--json", env={"EXO_API_KEY": "s3cret-of-mine"})
    listed = json.loads(ended.stdout)["keys"]
    assert [(each["name"], each["owner"]) for each in listed] == [
        ("laptop", False),
        ("me", True),
        ("EXO_API_KEY", True),
    ]
    assert listed[0]["requests_per_minute"] == 60
    assert listed[0]["tokens_per_minute"] is None
    assert listed[0]["created"].endswith("Z")
    for output in (shown, ended.stdout):
        assert word not in output
        assert "s3cret" not in output
        assert "sha256" not in output


def test_they_are_taken_away_by_name(home: Path) -> None:
    made("a")
    made("b")
    assert "'a' is taken away" in key("rm", "a").stdout
    assert "last one" not in key("rm", "x").output
    fails(key("rm", "a"), "no key 'a'", "there are b")
    last = key("rm", "b")
    assert last.exit_code == 0
    assert "nobody is answered" in last.stdout
    assert str(home / "keys.json") in last.stdout
    assert "nobody is answered" in key("list").stdout
    assert json.loads(key("list", "--json").stdout) == {"keys": []}


def test_without_any_it_says_so(home: Path) -> None:
    shown = key("list")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "none is asked for" in shown.stdout
    assert json.loads(key("list", "--json").stdout) == {"keys": []}
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add"], ["NAME"]),
        (["add", "a b"], ["'a b'", "letters"]),
        (["add", ""], ["letters"]),
        (["add", "x" * 65], ["64"]),
        (["add", "EXO_API_KEY"], ["EXO_API_KEY", "already"]),
        (["add", "a", "--requests-per-minute", "0"], ["--requests-per-minute"]),
        (["add", "a", "--tokens-per-minute", "many"], ["--tokens-per-minute"]),
        (["rm", "a"], ["no key 'a'", "there is none"]),
    ],
)
def test_what_is_typed_wrong_makes_no_key(home: Path, arguments: list[str], words: list[str]) -> None:
    fails(key(*arguments), *words)
    assert not (home / "keys.json").exists()


def test_a_file_that_others_can_read_is_refused_by_each_command(home: Path) -> None:
    made("a")
    (home / "keys.json").chmod(0o644)
    for arguments in (["add", "b"], ["list"], ["list", "--json"], ["rm", "a"]):
        fails(key(*arguments), f"chmod 600 {home / 'keys.json'}")
    (home / "keys.json").chmod(0o600)
    assert key("list").stdout.splitlines()[1].split()[0] == "a"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, home: Path) -> None:
    (tmp_path / "home").write_text("a file")
    fails(key("add", "a"), str(home))
