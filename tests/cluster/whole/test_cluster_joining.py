"""Nodes find each other, in each of the ways there are, and any of them answers for all."""

import json
import signal
import time

from tests.cluster.machines import Lan, node_of
from tests.cluster.nodes import took
from tests.e2e.node import eventually, text


def test_without_any_configuration_each_lists_all_and_answers_for_all(lan: Lan) -> None:
    for number in range(4):
        lan.machine(scripts={f"only-{number}": [text(f"from {number}")]})
    nodes = lan.start_apart(*lan.machines)
    ready = time.monotonic()
    ids = sorted({node.id for node in nodes})
    assert len(ids) == 4
    for node in nodes:
        eventually(lambda node=node: node.ids() == ids)  # type: ignore[misc]
    # A second more than is promised of one that joins: by chance none of them was there to be found when the
    # others looked, and Zenoh looks again after a second. `test_membership_on_hosts` has the median.
    took("four at once list each other", 2, time.monotonic() - ready)
    for node in nodes:
        assert {f"only-{number}" for number in range(4)} <= set(node.models())
        assert node.metric("exo_nodes_active") == 4
        for number, other in enumerate(nodes):
            reply = node.chat(f"only-{number}")
            assert reply.json()["choices"][0]["message"]["content"] == f"from {number}"
            assert node_of(reply) == other.id
            assert reply.json()["model"] == f"only-{number}"


def test_one_that_comes_later_is_listed_and_one_that_leaves_no_longer(lan: Lan) -> None:
    first, second, third = (lan.machine(name, "--inference-engine", "dummy") for name in "abc")
    a, b = lan.start(first, second)
    third.put({"late": [text("late")]})
    c = third.start()
    ready = time.monotonic()
    for node in (a, b, c):
        node.sees(*{a, b, c} - {node})
    took("one that is ready is listed by all", 1, time.monotonic() - ready)
    assert a.ask("late") == "late"
    left = time.monotonic()
    c.signal(signal.SIGTERM)
    a.sees(b)
    b.sees(a)
    took("one that leaves is listed no longer", 1, time.monotonic() - left)
    assert c.exit_code() == 0
    assert "late" not in a.models()
    assert a.chat("late").status == 404


def manual(**addresses: str) -> str:
    """The first exo-rkllama's file of manual discovery."""
    capabilities = {"model": "PC", "chip": "CPU", "memory": 1, "flops": {"fp32": 0, "fp16": 0, "int8": 0}}
    peers = {
        id: {"address": address, "port": 7447, "device_capabilities": capabilities}
        for id, address in addresses.items()
    }
    return json.dumps({"peers": peers})


def test_nodes_are_found_by_a_file_that_may_change(lan: Lan) -> None:
    a, b, c = lan.hosts[0].address, lan.hosts[1].address, lan.hosts[2].address
    for name, file in (("a", manual(a=a, b=b)), ("b", manual(a=a, b=b)), ("c", manual(c=c))):
        path = lan.folder / f"{name}.json"
        path.write_text(file)
        flags = ("--discovery-module", "manual", "--discovery-config-path", str(path))
        lan.machine(name, *flags, scripts={f"only-{name}": [text(name)]})
    # Were anyone to be found by multicast, it would be c: it is there first.
    third = lan.machines[2].start()
    first, second = lan.start(*lan.machines[:2])
    assert third.ids() == ["c"]
    assert first.ask("only-b") == "b"
    assert first.chat("only-c").status == 404
    (lan.folder / "a.json").write_text(manual(a=a, b=b, c=c))
    for node in (first, second, third):
        node.sees(*{first, second, third} - {node})
    assert second.ask("only-c") == "c"


def test_a_peer_that_is_named_is_found_and_introduces_the_others(lan: Lan) -> None:
    quiet = ("--discovery-module", "none", "--inference-engine", "dummy")
    hub = lan.machine("hub", *quiet)
    hub.flags = (*hub.flags, "--peer", "192.0.2.1")  # nobody is there
    for name in "ab":
        lan.machine(name, *quiet, "--peer", lan.hosts[0].address, scripts={f"only-{name}": [text(name)]})
    nodes = lan.start()
    assert nodes[1].ask("only-b") == "b"


def test_it_is_not_ready_before_the_peers_it_waits_for_are_there(lan: Lan) -> None:
    waiting = lan.machine("a", "--wait-for-peers", "3", scripts={"hello": [text("Hello")]})
    others = [lan.machine(name, scripts={"hello": [text("Hello")]}) for name in "bcd"]
    a = waiting.start()
    reply = a.get("/ready")
    assert reply.status == 503
    assert "0 of 3" in reply.error()["message"]
    (b,) = lan.start_apart(others[0])
    a.sees(b)
    assert "1 of 3" in a.get("/ready").error()["message"]
    assert b.get("/ready").status == 200
    lan.start_apart(*others[1:])
    eventually(lambda: a.get("/ready").status == 200)
    assert len(a.ids()) == 4
