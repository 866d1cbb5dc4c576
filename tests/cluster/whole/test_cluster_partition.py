"""A network that falls apart, and is one again."""

import time

from tests.cluster.machines import Lan
from tests.cluster.nodes import took
from tests.e2e.node import eventually, text

# Seconds from a healed network to a whole cluster.
HEAL = 10.0


def test_each_half_answers_for_what_it_has_and_they_find_each_other_again(lan: Lan) -> None:
    for name in "abcd":
        lan.machine(name, scripts={f"of-{name}": [text(name)], "everywhere": [text("Hello")]})
    for machine in (lan.machines[1], lan.machines[3]):
        machine.put({"on-two": [text("Hello")]})
    a, b, c, d = nodes = lan.start()
    hosts = lan.hosts
    hosts.part([hosts[0], hosts[1]], [hosts[2], hosts[3]])
    # At once, before anybody has noticed.
    assert {entry.ask(model) for entry in (a, c) for model in ("everywhere", "on-two")} == {"Hello"}
    a.sees(b)
    b.sees(a)
    c.sees(d)
    d.sees(c)
    assert (a.ask("of-b"), b.ask("of-a"), c.ask("of-d"), d.ask("of-c")) == ("b", "a", "d", "c")
    assert (a.chat("of-c").status, d.chat("of-b").status) == (404, 404)
    for node in nodes:
        assert node.ask("everywhere") == "Hello"
    hosts.join()
    healed = time.monotonic()
    for node in nodes:
        eventually(lambda node=node: node.ids() == ["a", "b", "c", "d"])  # type: ignore[misc]
    took("healed", HEAL, time.monotonic() - healed)
    assert (a.ask("of-d"), d.ask("of-a")) == ("d", "a")
