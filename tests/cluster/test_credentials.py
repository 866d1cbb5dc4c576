"""What a machine's certificates and secret are found to lack."""

import datetime
from pathlib import Path

import pytest

from exo.cluster import certificates
from exo.cluster.credentials import Credentials, inspect, problems_of_secret

NOW = datetime.datetime.now(datetime.UTC)
CA = certificates.make_ca("home")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As of a machine that has joined."""
    certificates.install(certificates.make_node_certificate(CA, ["board"]), tmp_path / "cluster")
    return tmp_path / "cluster"


def only_problem(folder: Path, now: datetime.datetime = NOW) -> str:
    (problem,) = inspect(folder, now).problems
    return problem


def test_a_machine_without_certificates_has_no_problem(tmp_path: Path) -> None:
    assert inspect(tmp_path / "cluster", NOW) == Credentials()


def test_a_machine_that_has_joined_has_none_either(folder: Path) -> None:
    has = inspect(folder, NOW)
    assert (has.ca, has.node, has.can_invite, has.problems) == ("home cluster CA", "board", False, ())
    assert has.until is not None
    assert has.until - NOW > datetime.timedelta(days=365 * 10)


def test_who_has_the_cas_key_can_invite(folder: Path) -> None:
    certificates.write_ca(folder, CA)
    assert inspect(folder, NOW).can_invite


@pytest.mark.parametrize("name", ["ca.pem", "node.pem", "node-key.pem"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert f"{folder / name} is missing" in only_problem(folder)


@pytest.mark.parametrize("name", ["ca.pem", "node.pem", "node-key.pem"])
def test_a_file_that_is_something_else_is_told(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"hello")
    assert "cannot be read" in only_problem(folder) or "is no certificate" in only_problem(folder)


def test_parts_of_two_clusters_are_told(folder: Path) -> None:
    other = certificates.make_ca("work")
    (folder / "ca.pem").write_bytes(other.certificate)
    assert "not one of this CA" in only_problem(folder)


def test_a_key_that_others_can_read_is_told(folder: Path) -> None:
    (folder / "node-key.pem").chmod(0o644)
    assert f"chmod 600 {folder / 'node-key.pem'}" in only_problem(folder)


def test_the_end_of_the_certificates_is_told_in_time(folder: Path) -> None:
    until = inspect(folder, NOW).until
    assert until is not None
    assert "certificates end on" in only_problem(folder, until - datetime.timedelta(days=29))
    assert "certificates ended on" in only_problem(folder, until + datetime.timedelta(seconds=1))
    assert inspect(folder, until - datetime.timedelta(days=31)).problems == ()


@pytest.mark.parametrize(
    ("secret", "words"),
    [("short", "can be guessed"), ("0123456789abcdef\n", "line end"), (" 0123456789abcdef", "blank")],
)
def test_a_poor_secret_is_told(secret: str, words: str) -> None:
    (problem,) = problems_of_secret(secret)
    assert words in problem
    assert secret.strip() not in problem


def test_a_good_secret_and_none_are_no_problem() -> None:
    assert problems_of_secret("0123456789abcdef") == problems_of_secret("") == ()
