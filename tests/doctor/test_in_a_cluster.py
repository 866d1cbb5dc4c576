"""`exo doctor` on a machine of a real cluster: its peers, the nodes it was told of, and its network."""

import json
import subprocess
import sys
from typing import Any

from tests.cluster.hosts import Host
from tests.cluster.machines import Lan, inside
from tests.e2e.node import PATIENCE, environment, text

QUICK = ("--inference-engine", "dummy")


def doctor(host: Host, lan: Lan, *arguments: str) -> dict[str, Any]:
    """What it prints as JSON on that host."""
    with inside(host):
        ended = subprocess.run(
            [sys.executable, "-m", "exo.main", "doctor", "--json", *arguments],
            env=environment(lan.folder / "doctor"),
            capture_output=True,
            check=False,
            timeout=PATIENCE,
        )
    assert ended.stderr == b"", ended.stderr
    said: dict[str, Any] = json.loads(ended.stdout)
    return said


def levels(said: dict[str, Any]) -> dict[str, str]:
    return {each["subject"]: each["level"] for each in said["findings"]}


def test_peers_and_named_nodes_are_found_or_missed(lan: Lan) -> None:
    a, b = lan.start(*(lan.machine(name, *QUICK, scripts={name: [text("Hello")]}) for name in "ab"))
    there, nobody = b.host.address, lan.hosts[2].address

    said = doctor(a.host, lan, "--peer", there, "--peer", nobody)

    found = levels(said)
    (peer,) = said["evidence"]["node"]["peers"]
    assert (peer["id"], peer["url"], peer["problem"]) == ("b", f"http://{there}:52415", None)
    assert abs(peer["ahead"]) <= 2, "both have this machine's clock"
    assert (found["Node a"], found["Node b"]) == ("ok", "ok")
    assert (found[f"Named node {there}:7447"], found[f"Named node {nobody}:7447"]) == ("ok", "slow")
    assert (found["Multicast"], found["API key"], found["Cluster"]) == ("ok", "note", "note")
    ports = {each["number"]: each["ours"] for each in said["evidence"]["ports"]}
    assert ports == {52415: True, 7447: True, 7446: True, 8080: False}
    assert "broken" not in found.values(), said["findings"]


def test_a_node_that_answers_and_belongs_to_another_cluster_is_told(lan: Lan) -> None:
    first = lan.machine("a", *QUICK, scripts={"a": [text("Hello")]})
    other = lan.machine("z", *QUICK, "--cluster-name", "other")
    lan.start_apart(first, other)
    said = doctor(first.host, lan, "--peer", other.host.address)
    (finding,) = [each for each in said["findings"] if each["level"] == "slow"]
    assert finding["subject"] == f"Named node {other.host.address}:7447"
    assert "a does not see it" in finding["says"]
    assert "--cluster-name" in finding["remedy"]
