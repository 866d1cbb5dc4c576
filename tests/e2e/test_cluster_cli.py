"""The commands about the cluster, as they are typed: alone, and on machines of a network."""

import json
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from exo.cluster import certificates
from tests.cluster import conftest
from tests.cluster.hosts import Hosts
from tests.cluster.machines import Lan, Machine, inside
from tests.e2e.node import HANG, Node, environment, eventually, fail, text
from tests.e2e.test_cli import command, fails, run

make_hosts = conftest.make_hosts

HELLO = [text("Hello")]


# A machine's part in a cluster


def folder(home: Path) -> Path:
    return home / "cluster"


def files(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder(home).iterdir()}


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The home of the machine where the cluster was begun."""
    ended = run(tmp_path / "first", "cluster", "init", "--name", "home")
    assert (ended.returncode, ended.stderr) == (0, "")
    return tmp_path / "first"


@pytest.fixture
def bundle(first: Path, tmp_path: Path) -> Path:
    file = tmp_path / "board.pem"
    ended = run(first, "cluster", "invite", "board", "--out", str(file))
    assert (ended.returncode, ended.stderr) == (0, "")
    return file


def status(home: Path) -> subprocess.CompletedProcess[str]:
    return run(home, "cluster", "status", "--url", "http://127.0.0.1:1")


def test_a_cluster_is_begun(first: Path) -> None:
    assert set(files(first)) == {"ca.pem", "ca-key.pem", "node.pem", "node-key.pem"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder(first).iterdir())
    assert folder(first).stat().st_mode & 0o777 == 0o700
    assert [path.name for path in first.iterdir()] == ["cluster"]
    shown = status(first)
    assert shown.returncode == 0
    assert "of home cluster CA, until 20" in shown.stdout
    assert "this machine can invite" in shown.stdout
    assert "nodes of its cluster's name that have a certificate of this CA" in shown.stdout
    assert "cannot reach http://127.0.0.1:1" in shown.stdout


def test_what_root_makes_belongs_to_whom_the_home_does(tmp_path: Path) -> None:
    owner = 65534 if os.geteuid() == 0 else os.geteuid()
    os.chown(tmp_path, owner, -1)
    assert run(tmp_path, "cluster", "init").returncode == 0
    made = [tmp_path / "cluster", *(tmp_path / "cluster").iterdir()]
    assert {path.stat().st_uid for path in made} == {owner}


def test_what_to_do_next_is_said(tmp_path: Path) -> None:
    said = run(tmp_path, "cluster", "init").stdout
    assert "exo cluster invite" in said
    assert "exo cluster join FILE" in said
    assert str(tmp_path / "cluster" / "ca-key.pem") in said


def test_a_cluster_is_not_begun_twice(first: Path) -> None:
    before = files(first)
    fails(run(first, "cluster", "init"), str(folder(first)), "already")
    assert files(first) == before


def test_a_bundle_has_no_key_of_the_ca(first: Path, bundle: Path) -> None:
    assert bundle.stat().st_mode & 0o777 == 0o600
    assert files(first)["ca-key.pem"] not in bundle.read_bytes()
    assert files(first)["node-key.pem"] not in bundle.read_bytes()


def test_a_machine_joins(first: Path, bundle: Path, tmp_path: Path) -> None:
    board = tmp_path / "second"
    ended = run(board, "cluster", "join", str(bundle))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert set(files(board)) == {"ca.pem", "node.pem", "node-key.pem"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder(board).iterdir())
    assert [path.name for path in board.iterdir()] == ["cluster"]
    assert files(board)["ca.pem"] == files(first)["ca.pem"]
    assert files(board)["node-key.pem"] != files(first)["node-key.pem"]
    shown = status(board)
    assert shown.returncode == 0
    assert "board, of home cluster CA" in shown.stdout
    assert "on another machine" in shown.stdout
    fails(run(board, "cluster", "invite"), "ca-key.pem", "exo cluster init")


def test_a_bundle_goes_through_a_pipe(first: Path, tmp_path: Path) -> None:
    given = run(first, "cluster", "invite", "--out", "-")
    assert given.stdout.startswith("-----BEGIN PRIVATE KEY-----")
    ended = run(tmp_path / "second", "cluster", "join", "-", stdin=given.stdout)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert status(tmp_path / "second").returncode == 0


def test_a_bundle_without_a_name_is_put_here(first: Path, tmp_path: Path) -> None:
    for _ in range(2):
        subprocess.run(
            command("cluster", "invite"),
            cwd=tmp_path,
            env=environment(first),
            check=True,
            capture_output=True,
        )
    assert len(list(tmp_path.glob("node-*.join.pem"))) == 2


def test_a_bundle_overwrites_nothing(first: Path, bundle: Path) -> None:
    before = bundle.read_bytes()
    fails(run(first, "cluster", "invite", "--out", str(bundle)), str(bundle), "--out")
    assert bundle.read_bytes() == before
    fails(run(first, "cluster", "invite", "--out", "/nowhere/b.pem"), "/nowhere/b.pem")


def test_another_clusters_certificates_are_not_overwritten(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert run(other, "cluster", "init", "--name", "work").returncode == 0
    before = files(other)
    fails(run(other, "cluster", "join", str(bundle)), "another cluster", str(folder(other)))
    assert files(other) == before


def test_a_machine_may_join_its_own_cluster_again(first: Path, bundle: Path) -> None:
    before = files(first)
    assert run(first, "cluster", "join", str(bundle)).returncode == 0
    after = files(first)
    assert {name for name in before if before[name] != after[name]} == {"node.pem", "node-key.pem"}
    assert status(first).returncode == 0


def test_what_is_missing_comes_back_by_joining_again(bundle: Path, tmp_path: Path) -> None:
    board = tmp_path / "second"
    for name in ("ca.pem", "node.pem", "node-key.pem"):
        assert run(board, "cluster", "join", str(bundle)).returncode == 0
        (folder(board) / name).unlink()
        assert f"{name} is missing; run exo cluster join again" in status(board).stdout
    assert run(board, "cluster", "join", str(bundle)).returncode == 0
    assert status(board).returncode == 0


def test_the_key_of_another_ca_is_not_overwritten(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert run(other, "cluster", "init", "--name", "work").returncode == 0
    (folder(other) / "ca.pem").unlink()
    before = files(other)
    fails(run(other, "cluster", "join", str(bundle)), "another cluster")
    assert files(other) == before


@pytest.mark.parametrize("broken", ["nothing", "something else", "half", "mixed"])
def test_a_bad_bundle_is_named_and_leaves_nothing(
    first: Path, bundle: Path, tmp_path: Path, broken: str
) -> None:
    whole = bundle.read_bytes()
    other = certificates.make_node_certificate(certificates.make_ca("other"), ["x"])
    mixed = certificates.Bundle(other.node, files(first)["ca.pem"])
    bundle.write_bytes(
        {
            "nothing": b"",
            "something else": b"\xff\x00 hello",
            "half": whole[: len(whole) // 2],
            "mixed": certificates.pack(mixed),
        }[broken]
    )
    fails(run(tmp_path / "second", "cluster", "join", str(bundle)), str(bundle))
    assert not (tmp_path / "second").exists()


def test_a_bundle_that_is_not_there_is_named(tmp_path: Path) -> None:
    fails(run(tmp_path, "cluster", "join", "/nowhere/b.pem"), "/nowhere/b.pem")
    fails(run(tmp_path, "cluster", "join", str(tmp_path)), str(tmp_path))
    fails(run(tmp_path, "cluster", "join", "-"), "standard input")


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    fails(run(tmp_path / "home" / "exo", "cluster", "init"), str(tmp_path / "home"))


def test_a_disk_that_is_full_leaves_what_was_there(first: Path, bundle: Path, tmp_path: Path) -> None:
    """Files may have 300 bytes here: keys fit, certificates do not."""

    def fills() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))

    before = files(first)
    for home, arguments in (
        (tmp_path / "second", ("join", str(bundle))),
        (tmp_path / "third", ("init",)),
        (first, ("join", str(bundle))),
    ):
        ended = subprocess.run(
            command("cluster", *arguments), env=environment(home), preexec_fn=fills, text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        fails(ended, "File too large")
        assert "Traceback" not in ended.stderr
    assert files(first) == before
    assert list((tmp_path / "second").iterdir()) == list((tmp_path / "third").iterdir()) == []
    assert [path.name for path in first.iterdir()] == ["cluster"]


def test_problems_are_told_and_are_the_status(first: Path) -> None:
    (folder(first) / "node.pem").unlink()
    shown = status(first)
    assert shown.returncode == 1
    assert f"PROBLEM: {folder(first) / 'node.pem'} is missing" in shown.stdout
    shown = run(first.parent, "cluster", "status", env={"EXO_CLUSTER_SECRET": "short"})
    assert shown.returncode == 1
    assert "can be guessed" in shown.stdout
    assert "the same secret" in shown.stdout


def test_exo_does_not_start_with_half_of_its_certificates(first: Path) -> None:
    (folder(first) / "node.pem").unlink()
    fails(run(first, "serve", "--port", "0"), "node.pem", "exo cluster join")


# One node


def test_a_node_alone_is_a_cluster_of_one(node: Node, home: Path) -> None:
    node.assert_serves()
    ended = run(home, "nodes", "--url", node.url)
    assert (ended.returncode, ended.stderr) == (0, "")
    head, row = ended.stdout.splitlines()
    assert head.split()[:3] == ["NODE", "WHERE", "DEVICE"]
    assert row.split()[:3] == ["*", node.me()["id"], f"127.0.0.1:{node.port}"]
    assert "hello" in row
    shown = json.loads(run(home, "nodes", "--json", "--url", node.url).stdout)
    assert (shown["me"]["id"], shown["peers"]) == (node.me()["id"], [])
    assert "sees no other" in run(home, "cluster", "status", "--url", node.url).stdout


def test_a_node_alone_spreads_over_itself(node: Node, home: Path) -> None:
    ended = run(home, "spread", "hello", "1", "--url", node.url)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[1].split()[:2] == [node.me()["id"], "loaded"]
    fails(run(home, "spread", "hello", "2", "--url", node.url), "2 nodes were asked for, and 1 can have it")
    fails(run(home, "spread", "helo", "1", "--url", node.url), "helo", "hello")


def test_without_a_node_commands_name_the_address(home: Path) -> None:
    for arguments in (("nodes",), ("spread", "hello", "2")):
        fails(run(home, *arguments, "--url", "http://127.0.0.1:1"), "http://127.0.0.1:1", "--url")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["spread", "hello"], "K"),
        (["spread", "hello", "0"], "0"),
        (["spread", "hello", "many"], "many"),
        (["cluster", "jion"], "jion"),
        (["cluster", "join"], "FILE"),
        (["nodes", "now"], "now"),
    ],
    ids=" ".join,
)
def test_what_is_typed_wrong(home: Path, arguments: list[str], named: str) -> None:
    fails(run(home, *arguments), named)


# Machines of a network


@pytest.fixture
def lan(make_hosts: Callable[..., Hosts], tmp_path: Path) -> Iterator[Lan]:
    """A network for three machines without an NPU."""

    def no_boards(release: str) -> Any:
        raise AssertionError("these tests have no boards")

    with Lan(make_hosts(3), tmp_path, no_boards) as lan:
        yield lan


def at(machine: Machine, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, typed on that machine."""
    with inside(machine.host):
        return run(machine.home, *arguments, env=machine.env)


def listed(ended: subprocess.CompletedProcess[str]) -> dict[str, list[str]]:
    """Rows of the table by node, with the mark in front."""
    assert (ended.returncode, ended.stderr) == (0, "")
    rows = [line.split() for line in ended.stdout.splitlines()[1:]]
    return {(row[1] if row[0] == "*" else row[0]): row for row in rows}


def loaded(machine: Machine) -> list[str]:
    return [r["model"] for r in machine.exo.me()["loaded"] if r["state"] == "ready"]


def test_every_node_lists_all(lan: Lan) -> None:
    for name in "abc":
        lan.machine(name, scripts={"hello": HELLO})
    a, b, _ = lan.machines
    lan.start()
    b.exo.chat("hello")
    for machine in (a, b):
        rows = listed(at(machine, "nodes"))
        assert set(rows) == {"a", "b", "c"}
        assert [id for id, row in rows.items() if row[0] == "*"] == [machine.exo.id]
        for each in lan.machines:
            assert f"{each.host.address}:52415" in rows[each.exo.id]
    shown = json.loads(at(a, "nodes", "--json").stdout)
    assert {peer["id"] for peer in shown["peers"]} == {"b", "c"}
    assert "a sees b, c" in at(a, "cluster", "status").stdout
    b.kill()
    eventually(lambda: set(listed(at(a, "nodes"))) == {"a", "c"})


def test_a_model_is_spread_over_machines(lan: Lan) -> None:
    a = lan.machine("a", scripts={"hello": HELLO})
    b = lan.machine("b", scripts={"hello": HELLO})
    c = lan.machine("c")
    c.put({"hello": HELLO}, load=[fail("the disk broke")])
    lan.start()
    ended = at(a, "spread", "hello", "2")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert loaded(a) == loaded(b) == ["hello"]
    ended = at(b, "spread", "hello", "3")
    fails(ended, "3 nodes were asked for, and 2 can have it", "c: the disk broke")
    assert ended.returncode == 1
    states = {row.split()[0]: row.split()[1] for row in ended.stdout.splitlines()[1:]}
    assert states == {"a": "loaded", "b": "loaded", "c": "failed"}
    shown = at(a, "spread", "hello", "3", "--json")
    assert shown.returncode == 1
    assert (json.loads(shown.stdout)["wanted"], json.loads(shown.stdout)["loaded"]) == (3, 2)
    # Only its owner may have a machine do that, and he is at the machine.
    elsewhere = f"http://{a.host.address}:52415"
    fails(at(b, "spread", "hello", "2", "--url", elsewhere), "/v1/spread", "EXO_API_KEY")


def test_a_machine_that_dies_while_it_loads_is_a_failure_in_seconds(lan: Lan) -> None:
    a = lan.machine("a", scripts={"hello": HELLO})
    b = lan.machine("b")
    b.put({"hello": HELLO}, load=[HANG])
    lan.start()
    with inside(a.host):
        spreading = subprocess.Popen(
            command("spread", "hello", "2"), env=environment(a.home), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    eventually(lambda: "loading" in [r["state"] for r in b.exo.me()["loaded"]])
    lan.hosts.cut(b.host)
    out, err = spreading.communicate(timeout=30)
    assert spreading.returncode == 1
    assert "2 nodes were asked for, and 1 can have it" in err
    assert "node b was silent" in err, out


def test_machines_with_certificates_are_a_cluster_of_their_own(lan: Lan) -> None:
    a, b = lan.machine("a", scripts={"of-a": HELLO}), lan.machine("b", scripts={"of-b": HELLO})
    stranger = lan.machine("stranger", scripts={"of-stranger": HELLO})
    assert at(a, "cluster", "init").returncode == 0
    given = at(a, "cluster", "invite", "b", "--out", str(lan.folder / "b.pem"))
    assert given.returncode == 0
    assert at(b, "cluster", "join", str(lan.folder / "b.pem")).returncode == 0
    lan.start_apart(a, b, stranger)
    a.exo.sees(b.exo)
    b.exo.sees(a.exo)
    assert stranger.exo.ids() == ["stranger"]
    assert a.exo.ask("of-b") == b.exo.ask("of-a") == "Hello"
    assert set(listed(at(b, "nodes"))) == {"a", "b"}
    ended = at(b, "spread", "of-a", "1")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert loaded(a) == ["of-a"]
    shown = at(b, "cluster", "status")
    assert shown.returncode == 0
    assert "b sees a" in shown.stdout
