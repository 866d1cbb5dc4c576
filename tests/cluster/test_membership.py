"""Nodes on this machine that know each other by address: no network is needed."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import msgspec
import pytest

from exo.cluster import certificates, discovery, membership, view
from exo.cluster.membership import Membership
from exo.cluster.network import Place, addresses, place
from exo.cluster.session import Session
from exo.cluster.settings import ClusterSettings, TlsFiles
from exo.cluster.states import State, StateCodec
from exo.errors import BadRequest, NotReady
from tests.cluster.conftest import Member
from tests.cluster.node import node

Join = Callable[..., Awaitable[Member]]


async def test_nodes_see_each_other_and_a_leave_at_once(join: Join) -> None:
    a = await join("a")
    b = await join("b", a)
    c = await join("c", a)
    await asyncio.gather(a.sees("b", "c"), b.sees("a", "c"), c.sees("a", "b"))
    await c.membership.close()
    async with asyncio.timeout(1):
        await asyncio.gather(a.sees("b"), b.sees("a"))
    assert c.ids == []
    assert "closed" in repr(c.membership)


async def test_a_change_that_is_announced_is_seen_before_the_second_is_over(join: Join) -> None:
    a = await join("a")
    b = await join("b", a)
    await a.sees("b")
    await b.sees("a")
    for waiting in range(1, 6):
        b.waiting = waiting
        b.membership.announce()
        async with asyncio.timeout(0.8):
            await a.hears_of("b", waiting)


async def test_announcing_all_the_time_makes_no_more_than_a_few_messages(join: Join) -> None:
    a = await join("a")
    b = await join("b", a)
    await a.sees("b")
    before = len(a.views)
    loop = asyncio.get_running_loop()
    end = loop.time() + 1.0
    while loop.time() < end:
        b.waiting += 1
        b.membership.announce()
        await asyncio.sleep(0.001)
    assert 3 <= len(a.views) - before <= 12


async def test_a_port_that_another_node_only_looked_at_is_taken(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes that start at once on a machine do so."""
    looking: list[socket.socket] = []

    def find(ports: Iterable[int], *arguments: object) -> Place:
        for other in looking:
            other.close()
        found = place(ports, *arguments)  # type: ignore[arg-type]
        if not looking:
            looking.append(socket.create_server(("127.0.0.1", found.port)))
        return found

    monkeypatch.setattr(membership, "place", find)
    a = await join("a")
    assert [each.fileno() for each in looking] == [-1]
    await join("b", a)
    await a.sees("b")


async def test_nodes_of_another_cluster_are_not_seen(join: Join) -> None:
    a = await join("a")
    await join("x", a, name="another")
    b = await join("b", a)
    await asyncio.gather(a.sees("b"), b.sees("a"))
    odd = await join("y/*$@é ?", a, name="a/b*$#")
    even = await join("z", odd, a, name="a/b*$#")
    await odd.sees("z")
    await even.sees("y/*$@é ?")
    assert {id for member in (a, b) for view in member.views for id in view} == {"a", "b"}


async def test_only_nodes_with_the_same_secret_are_seen_and_the_others_are_told_of_once(
    join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    a = await join("a", secret=b"ours")
    wrong = await join("wrong", a, secret=b"theirs")
    none = await join("none", a)
    b = await join("b", a, secret=b"ours")
    await asyncio.gather(a.sees("b"), b.sees("a"))
    # Each of a and b about both of the others, and these about everyone.
    told = [f"node '{id}' is ignored: {reason}" for id, reason in _REFUSALS]
    async with asyncio.timeout(30):
        while [refusals(caplog).count(each) for each in told] != [2, 1, 3, 1, 1, 1, 1]:
            await asyncio.sleep(0.01)
    for waiting in (1, 2):
        b.waiting = waiting
        b.membership.announce()
        await a.hears_of("b", waiting)
    assert len(refusals(caplog)) == 10
    assert {id for member in (a, b) for view in member.views for id in view} == {"a", "b"}
    assert (wrong.ids, none.ids) == ([], [])


_REFUSALS = [
    ("wrong", "its states are signed with another cluster secret"),
    ("wrong", "its states are signed, and this node has no cluster secret"),
    ("none", "its states are not signed; it has no cluster secret"),
    ("a", "its states are signed with another cluster secret"),
    ("a", "its states are signed, and this node has no cluster secret"),
    ("b", "its states are signed with another cluster secret"),
    ("b", "its states are signed, and this node has no cluster secret"),
]


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "is ignored" in record.message]


async def test_a_process_with_an_id_that_is_taken_is_told_of_and_all_see_the_same_one(
    join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    a = await join("a")
    twins = [await join("twin", a), await join("twin", a)]
    b = await join("b", a)
    for number, twin in enumerate(twins):
        twin.waiting = number + 1
        twin.membership.announce()
    async with asyncio.timeout(30):
        while caplog.text.count("two processes are node 'twin'") < 4:
            await asyncio.sleep(0.01)
    seen = [member.membership.peers for member in (a, b)]
    assert len({peers[-1].waiting for peers in seen}) == 1
    assert [len(peers) for peers in seen] == [2, 2]
    assert [twin.ids for twin in twins] == [["a", "b"], ["a", "b"]]


async def test_a_restarted_node_is_seen_as_it_is_now(join: Join) -> None:
    a = await join("a")
    b = await join("b", a)
    b.waiting = 99
    b.membership.announce()
    await a.hears_of("b", 99)
    await b.membership.close()
    await a.sees()
    again = await join("b", a)
    await a.sees("b")
    assert a.membership.peers[0].waiting == 0
    await again.sees("a")


async def test_a_port_that_is_taken_is_told_and_replaced(
    join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        a = await join("a", port=port)
        assert a.membership.port != port
        assert f"port {port} is taken: this node is at port {a.membership.port}" in caplog.text
        b = await join("b", a)
        await a.sees("b")
        await b.sees("a")


async def test_a_node_whose_state_stops_is_gone_though_its_session_lives(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await join("a")
    b = await join("b", a)
    await a.sees("b")
    monkeypatch.setattr(b.membership, "_publish", lambda: None)
    loop = asyncio.get_running_loop()
    start = loop.time()
    await a.sees()
    assert loop.time() - start < view.TIME_TO_LIVE + 1.5
    monkeypatch.undo()
    await a.sees("b")


# A node that does not hear this one


async def test_a_session_is_opened_anew_for_a_node_that_does_not_hear_this_one(
    join: Join, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(view, "PATIENCE", 1.0)
    monkeypatch.setattr(membership, "_LOOK", 0.1)
    a = await join("a")
    c = await join("c", a)
    await c.sees("a")
    tokens: list[tuple[str, str, bool]] = []
    settings = ClusterSettings(discovery="none", port=0)
    deaf = await asyncio.to_thread(
        Session,
        settings,
        place((0,), addresses()),
        (a.address,),
        asyncio.get_running_loop(),
        lambda sender, payload: None,
        lambda *token: tokens.append(token),
    )
    try:
        await asyncio.to_thread(deaf.appear, "deaf", "1")
        codec = StateCodec(settings.name, None)

        def a_appeared() -> int:
            return sum(there for id, _, there in tokens if id == "a")

        sequence = 0
        async with asyncio.timeout(30):
            while a_appeared() < 2:
                sequence += 1
                # As after zenoh#2806: it goes on talking, and what others say does not reach it.
                state = State(incarnation="1", sequence=sequence, hears={"c": "?"}, node=node("deaf"))
                deaf.publish("deaf", codec.encode(state))
                await asyncio.sleep(0.1)
    finally:
        await asyncio.to_thread(deaf.close)
    assert "node 'deaf' has not heard this one" in caplog.text
    await asyncio.gather(a.sees("c"), c.sees("a"))
    assert all("c" in ids for ids in a.views[1:] if ids), "a peer was lost for it"


# Addresses that come later


def write_manual(path: Path, **nodes: Member) -> None:
    peers = {id: {"address": "127.0.0.1", "port": each.membership.port} for id, each in nodes.items()}
    beside = path.with_suffix(".new")
    beside.write_bytes(msgspec.json.encode({"peers": peers}))
    beside.replace(path)


async def test_a_node_that_is_added_to_the_file_is_connected_to_and_nobody_is_lost_for_it(
    join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery.ManualFile, "interval", 0.05)
    path = tmp_path / "nodes.json"
    b = await join("b")
    write_manual(path, b=b)
    a = await join("a", discovery="manual", manual_file=path)
    await a.sees("b")
    lonely = await join("lonely")
    write_manual(path, b=b, a=a, lonely=lonely)
    await asyncio.gather(a.sees("b", "lonely"), lonely.sees("a", "b"))
    assert all("b" in ids for ids in a.views)
    assert all("a" in ids for ids in b.views)


async def test_an_address_where_nobody_listens_yet_is_tried_until_somebody_does(
    join: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery.ManualFile, "interval", 0.05)
    monkeypatch.setattr(membership, "_RETRY", 0.1)
    path = tmp_path / "nodes.json"
    write_manual(path)
    a = await join("a", discovery="manual", manual_file=path)
    later = await join("later")
    write_manual(path, later=later)
    port = later.membership.port
    await later.membership.close()
    tried: list[str | None] = []
    introduce = Session.introduce

    def introducing(session: Session, address: str) -> str | None:
        tried.append(introduce(session, address))
        return tried[-1]

    monkeypatch.setattr(Session, "introduce", introducing)
    async with asyncio.timeout(30):
        while not tried:
            await asyncio.sleep(0.01)
    assert tried == [None]
    later = await join("later", port=port)
    await asyncio.gather(a.sees("later"), later.sees("a"))


# TLS


def tls(folder: Path, id: str, ca: certificates.Identity) -> TlsFiles:
    return certificates.install(certificates.make_node_certificate(ca, [id]), folder / id)


async def test_with_certificates_only_nodes_of_the_same_ca_see_or_connect_to_each_other(
    join: Join, tmp_path: Path
) -> None:
    ours, theirs = certificates.make_ca("home"), certificates.make_ca("home")
    a = await join("a", tls=tls(tmp_path, "a", ours))
    stranger = await join("stranger", a, tls=tls(tmp_path, "stranger", theirs))
    plain = await join("plain", a)
    # Whoever connects checks the other's certificate; this one would find it good, and has none of the CA.
    false = msgspec.structs.replace(tls(tmp_path, "false", theirs), ca=tls(tmp_path, "a", ours).ca)
    impostor = await join("impostor", a, tls=false)
    b = await join("b", a, stranger, plain, tls=tls(tmp_path, "b", ours))
    await asyncio.gather(a.sees("b"), b.sees("a"))
    # Whoever could connect would have by now: the refusals came before b was let in.
    assert [len(connected(each)) for each in (a, b, stranger, plain, impostor)] == [1, 1, 0, 0, 0]
    assert [each.views for each in (stranger, plain, impostor)] == [[], [], []]


def connected(member: Member) -> set[str]:
    assert member.membership._session is not None
    return member.membership._session.connected


@pytest.mark.parametrize("missing", ["ca", "certificate", "key"])
async def test_a_certificate_that_is_not_there_is_named(tmp_path: Path, missing: str) -> None:
    files = tls(tmp_path, "a", certificates.make_ca("home"))
    getattr(files, missing).unlink()
    await fails(ClusterSettings(tls=files), NotReady, str(getattr(files, missing)))


async def test_a_certificate_that_is_none_is_a_failure_to_join(tmp_path: Path) -> None:
    files = tls(tmp_path, "a", certificates.make_ca("home"))
    files.certificate.write_text("no certificate")
    await fails(ClusterSettings(discovery="none", port=0, tls=files), NotReady, "cannot be joined")


# What cannot be


async def fails(settings: ClusterSettings, kind: type[Exception], reason: str) -> None:
    member = Member("a", settings)
    with pytest.raises(kind, match=reason):
        await member.membership.start()
    assert "closed" in repr(member.membership)
    await member.membership.close()


async def test_a_manual_file_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nodes.json"
    await fails(ClusterSettings(discovery="manual", manual_file=path), NotReady, str(path))


@pytest.mark.parametrize("settings", [ClusterSettings(name=""), ClusterSettings(peers=("a b",))])
def test_settings_that_cannot_be_are_refused_before_anything_is_opened(settings: ClusterSettings) -> None:
    with pytest.raises(BadRequest):
        Membership(settings, lambda: node("a"))


async def test_a_start_that_is_cancelled_leaves_no_session(join: Join) -> None:
    a = await join("a")
    b = Member("b", ClusterSettings(discovery="none", port=0, peers=(a.address,)))
    starting = asyncio.ensure_future(b.membership.start())
    await asyncio.sleep(0)
    while not b.membership._opening.locked():
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    assert starting.cancelled()
    assert "closed" in repr(b.membership)
    c = await join("c", a)
    await asyncio.gather(a.sees("c"), c.sees("a"))


async def test_an_open_cluster_is_told_at_the_start(join: Join, caplog: pytest.LogCaptureFixture) -> None:
    await join("a", secret=b"ours")
    assert "open to everyone" not in caplog.text
    await join("b")
    assert "cluster 'exo' is open to everyone" in caplog.text


def test_zenoh_is_not_loaded_until_a_cluster_is_joined() -> None:
    program = (
        "import sys, exo.cluster.membership, exo.cluster.certificates, exo.cluster.discovery\n"
        "print([name for name in ('zenoh', 'cryptography', 'psutil') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
    assert "ZENOH_RUNTIME" not in os.environ or "zenoh" in sys.modules
