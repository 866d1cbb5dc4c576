"""Four machines on a network of their own: joins, deaths, cut cables.

Each test prints what it measured (pytest -s), and holds it to just what is promised. Where chance has a part
in it, that is the median of some rounds.
"""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from exo.cluster import certificates
from exo.cluster.settings import ClusterSettings
from tests.cluster.hosts import Host, Hosts
from tests.cluster.nodes import NodeProgram, all_see, took

IDS = ("a", "b", "c", "d")
ROUNDS = 3

Start = Callable[..., NodeProgram]
Make = Callable[..., Hosts]


@pytest.fixture
def hosts(make_hosts: Make) -> Hosts:
    return make_hosts(4)


def start_all(start: Start, hosts: Iterable[Host], **fields: object) -> list[NodeProgram]:
    """A node on each host, when all see each other."""
    settings = ClusterSettings(**fields)  # type: ignore[arg-type]
    programs = [start(id, settings, host=host) for id, host in zip(IDS, hosts, strict=False)]
    all_see(programs, [program.id for program in programs])
    return programs


def test_nodes_that_start_at_once_see_each_other(hosts: Hosts, start: Start) -> None:
    """The hardest join: none is there yet when another looks for it, and Zenoh looks again after a second. By
    chance the node that has to connect has heard of the other before."""
    seconds = []
    for _ in range(ROUNDS):
        programs = [start(id, host=host) for id, host in zip(IDS, hosts, strict=True)]
        joined = max(program.joined() for program in programs)
        seconds.append(all_see(programs, IDS) - joined)
        for program in programs:
            program.end()
    took("join of all at once", 1, *seconds)


def test_a_node_that_joins_is_seen_by_all_and_sees_all(hosts: Hosts, start: Start) -> None:
    there = start_all(start, hosts[:3])
    newcomer = start("d", host=hosts[3])
    joined = newcomer.joined()
    took("join seen by all", 1, all_see((*there, newcomer), IDS, joined) - joined)


def test_a_newcomer_does_not_wait_for_those_that_have_long_been_there_to_look_again(
    hosts: Hosts, start: Start
) -> None:
    old = start("a", host=hosts[0])
    # By then it looks for others every 4 s, and soon every 8.
    time.sleep(max(0.0, old.joined() + 8 - time.monotonic()))
    for _ in range(6):
        newcomer = start("b", host=hosts[1])
        joined = newcomer.joined()
        took("newcomer seen by a node that is old", 1, all_see((old, newcomer), "ab", joined) - joined)
        killed = time.monotonic()
        newcomer.kill()
        old.sees((), after=killed)


def test_a_killed_node_is_gone(hosts: Hosts, start: Start) -> None:
    *others, victim = start_all(start, hosts)
    killed = time.monotonic()
    victim.kill()
    took("SIGKILL seen by all", 1, all_see(others, IDS[:3], killed) - killed)


def test_a_node_that_leaves_is_gone_at_once(hosts: Hosts, start: Start) -> None:
    *others, leaver = start_all(start, hosts)
    seconds = []
    for _ in range(ROUNDS):
        left = time.monotonic()
        leaver.leave()
        seconds.append(all_see(others, IDS[:3], left) - left)
        assert leaver.process.wait(30) == 0
        leaver = start("d", host=hosts[3])
        all_see((*others, leaver), IDS)
    took("leave seen by all", 0.1, *seconds)


def test_a_silent_cut_is_seen_on_both_sides_and_heals_without_a_restart(hosts: Hosts, start: Start) -> None:
    first, *others = programs = start_all(start, hosts)
    cut = time.monotonic()
    hosts.cut(hosts[0])
    took("silent cut seen by all", 3, max(all_see(others, IDS[1:], cut), first.sees((), after=cut)) - cut)
    healed = time.monotonic()
    hosts.join()
    took("healed", 10, all_see(programs, IDS, healed) - healed)


def test_two_halves_see_themselves_and_become_one_again(hosts: Hosts, start: Start) -> None:
    programs = start_all(start, hosts)
    cut = time.monotonic()
    hosts.part(hosts[:2], hosts[2:])
    halves = all_see(programs[:2], IDS[:2], cut), all_see(programs[2:], IDS[2:], cut)
    took("partition seen by all", 3, max(halves) - cut)
    healed = time.monotonic()
    hosts.join()
    took("partition healed", 10, all_see(programs, IDS, healed) - healed)


def test_a_node_keeps_its_id_when_it_is_started_again(hosts: Hosts, start: Start) -> None:
    *others, victim = start_all(start, hosts)
    for _ in range(3):
        victim.kill()
        victim.process.wait()
        victim = start("d", host=hosts[3])
        joined = victim.joined()
        took("back after SIGKILL", 1, all_see([*others, victim], IDS, joined) - joined)
    assert not [line for program in (*others, victim) for line in program.lines("two processes")]


def test_neither_another_cluster_nor_another_secret_is_seen(hosts: Hosts, start: Start) -> None:
    ours = ClusterSettings(secret=b"ours")
    a, b = start("a", ours, host=hosts[0]), start("b", ours, host=hosts[1])
    strangers = [
        start("x", ClusterSettings(name="another", secret=b"ours"), host=hosts[2]),
        start("y", ClusterSettings(secret=b"theirs"), host=hosts[3]),
        start("z", ClusterSettings(), host=hosts[3]),
    ]
    all_see((a, b), ("a", "b"))
    a.says("node 'y' is ignored")
    a.says("node 'z' is ignored")
    for stranger in strangers:
        assert stranger.peers == []
        assert not any(program.ever_saw(stranger.id) for program in (a, b))


def test_with_certificates_a_cut_is_seen_and_strangers_are_not(
    hosts: Hosts, start: Start, tmp_path: Path
) -> None:
    ca, another = certificates.make_ca("home"), certificates.make_ca("home")

    def settings(id: str, issuer: certificates.Identity) -> ClusterSettings:
        bundle = certificates.make_node_certificate(issuer, [id])
        return ClusterSettings(tls=certificates.install(bundle, tmp_path / id))

    a, b = (start(id, settings(id, ca), host=host) for id, host in zip("ab", hosts[:2], strict=True))
    stranger = start("x", settings("x", another), host=hosts[2])
    plain = start("p", ClusterSettings(peers=(hosts[0].address,)), host=hosts[3])
    stranger.joined()
    plain.joined()
    all_see((a, b), "ab")
    cut = time.monotonic()
    hosts.cut(hosts[0])
    took("silent cut with certificates", 3, max(a.sees((), after=cut), b.sees((), after=cut)) - cut)
    healed = time.monotonic()
    hosts.join()
    took("healed with certificates", 10, all_see((a, b), "ab", healed) - healed)
    killed = time.monotonic()
    a.kill()
    took("SIGKILL with certificates", 1, b.sees((), after=killed) - killed)
    a = start("a", settings("a", ca), host=hosts[0])
    joined = a.joined()
    took("join with certificates", 1, all_see((a, b), "ab", joined) - joined)
    assert not any(program.ever_saw(id) for program in (a, b) for id in "xp")
    assert (stranger.peers, plain.peers) == ([], [])


def test_a_manual_file_is_enough_and_followed_while_it_runs(
    hosts: Hosts, start: Start, tmp_path: Path
) -> None:
    file = tmp_path / "nodes.json"

    def write(ids: str) -> None:
        peers = {id: {"address": hosts["abcd".index(id)].address, "port": 7447} for id in ids}
        beside = tmp_path / "new.json"
        beside.write_text(json.dumps({"peers": peers}))
        beside.replace(file)

    write("ab")
    settings = ClusterSettings(discovery="manual", manual_file=file)
    a, b = (start(id, settings, host=host) for id, host in zip("ab", hosts[:2], strict=True))
    all_see((a, b), "ab")
    alone = start("c", ClusterSettings(discovery="none"), host=hosts[2])
    alone.joined()
    changed = time.monotonic()
    write("abc")
    took("added to the file", 3, all_see((a, b, alone), "abc", changed) - changed)

    cut = time.monotonic()
    hosts.cut(hosts[2])
    took("cut", 3, max(all_see((a, b), "ab", cut), alone.sees((), after=cut)) - cut)
    healed = time.monotonic()
    hosts.join()
    took("healed without multicast", 10, all_see((a, b, alone), "abc", healed) - healed)


def test_an_address_that_comes_after_the_start_is_used(make_hosts: Make, start: Start) -> None:
    early, late = make_hosts(2, addressed=False)
    early.ip("addr", "add", f"{early.address}/24", "dev", "eth0")
    late.unplug()
    a, b = start("a", host=early), start("b", host=late)
    a.joined()
    b.joined()
    late.plug()
    late.ip("addr", "add", f"{late.address}/24", "dev", "eth0")
    plugged = time.monotonic()
    took("late address", 10, all_see((a, b), "ab", plugged) - plugged)


def test_two_nodes_on_a_machine_without_network_find_each_other(make_hosts: Make, start: Start) -> None:
    (alone,) = make_hosts(1, addressed=False)
    a, b = start("a", host=alone), start("b", host=alone)
    all_see((a, b), "ab")


def test_forty_nodes_see_each_other(hosts: Hosts, start: Start) -> None:
    ids = [f"n{number:02}" for number in range(40)]
    programs = [start(id, host=hosts[number % 4]) for number, id in enumerate(ids)]
    joined = max(program.joined() for program in programs)
    took("forty nodes", 2, all_see(programs, ids) - joined)
    left = time.monotonic()
    for program in programs[20:]:
        program.kill()
    took("twenty of forty killed", 2, all_see(programs[:20], ids[:20], left) - left)
