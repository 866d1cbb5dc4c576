"""Findings about the node, its ports, its peers and the servers behind it."""

from typing import Any

import msgspec
import pytest

import exo
from exo.doctor.evidence import Multicast, Named, Port, RunningNode
from exo.doctor.examine import examine
from exo.doctor.finding import Finding, Level
from tests.doctor.healthy import HEALTHY, NODE, PEER, PORTS, SERVER, bad, ill, instead, says


def of(subject: str, findings: tuple[Finding, ...]) -> Finding:
    (finding,) = [each for each in findings if each.subject == subject]
    return finding


# The node


def test_a_node_that_runs_is_described() -> None:
    finding = of("Node anna", examine(HEALTHY))
    assert (
        finding.says == f"http://127.0.0.1:52415, release {exo.__version__}, is ready and sees 1 other node"
    )


def test_that_no_node_runs_is_no_fault_unless_somebody_named_one() -> None:
    gone = RunningNode(url="http://127.0.0.1:52415", asked_for=False, problem="Connection refused")
    found = of("Node", examine(instead(node=gone)))
    assert (found.level, found.says) == ("ok", "none is running at http://127.0.0.1:52415; exo starts one")
    asked_for = msgspec.structs.replace(gone, asked_for=True)
    assert of("Node", examine(instead(node=asked_for))).level == "broken"


@pytest.mark.parametrize(("asked_for", "level"), [(False, "note"), (True, "broken")])
def test_a_node_that_wants_a_key_says_which(asked_for: bool, level: Level) -> None:
    node = RunningNode(url="http://h:1", asked_for=asked_for, problem="http://h:1 asks for a key: none came")
    found = of("Node", examine(instead(node=node)))
    assert found.level == level
    assert "EXO_API_KEY" in str(found.remedy)


@pytest.mark.parametrize(
    ("changed", "level", "parts"),
    [
        (
            {"not_ready": "waiting for other nodes: 0 of 1 are here"},
            "broken",
            ["not ready: waiting for other"],
        ),
        ({"version": "0.0.1", "peers": ()}, "note", ["release 0.0.1", "Restart"]),
        ({"failed": 20}, "note", ["20 of 100 requests", "exo_errors_total"]),
    ],
)
def test_a_node_with_a_problem(changed: dict[str, Any], level: Level, parts: list[str]) -> None:
    says(ill("node", **changed), level, "Node anna", *parts)


@pytest.mark.parametrize(("requests", "failed"), [(100, 19), (19, 19), (0, 0)])
def test_few_failures_are_clients_own(requests: int, failed: int) -> None:
    assert bad(ill("node", requests=requests, failed=failed)) == []


# Ports


def with_port(use: str, **changed: Any) -> tuple[Port, ...]:
    return tuple(msgspec.structs.replace(port, **changed) if port.use == use else port for port in PORTS)


NO_NODE = RunningNode(url="http://127.0.0.1:52415", asked_for=False, problem="no node answers")


@pytest.mark.parametrize(
    ("owner", "named"), [("nginx (pid 12)", "nginx (pid 12)"), (None, "a program of another user")]
)
def test_another_program_on_the_apis_port_keeps_exo_from_starting(owner: str | None, named: str) -> None:
    ports = with_port("exo's API", owner=owner, ours=False)
    says(instead(ports=ports, node=NO_NODE), "broken", "Port 52415", named, "exo --port 52416")


def test_the_nodes_own_port_is_fine_even_if_its_program_is_not_told() -> None:
    assert bad(instead(ports=with_port("exo's API", owner=None, ours=False))) == []


def test_a_taken_cluster_port_is_worth_a_note() -> None:
    ports = with_port("other nodes", owner="zenohd (pid 3)", ours=False)
    says(instead(ports=ports), "note", "Port 7447", "zenohd (pid 3)", "exo --cluster-port 7449")


def test_rkllamas_port_matters_only_where_an_npu_does() -> None:
    ports = with_port("rkllama", owner="java (pid 5)", ours=False)
    assert bad(instead(ports=ports)) == []
    board = (Finding("ok", "Board", "Radxa"),)
    says(instead(ports=ports, board=board), "note", "Port 8080", "java", "RKLLM_SERVER_PORT=8081")


def test_the_port_of_multicast_is_shared() -> None:
    assert bad(instead(ports=with_port("finding other nodes", owner="zenohd (pid 3)", ours=False))) == []


def test_free_ports_are_one_line() -> None:
    free = tuple(msgspec.structs.replace(port, owner="", ours=False) for port in PORTS)
    assert of("Ports", examine(instead(ports=free, node=NO_NODE))).says == (
        "52415, 7447, 7446/udp, 8080 are free"
    )


# Multicast and firewalls


def test_an_interface_on_which_multicast_fails_is_named_with_the_way_around() -> None:
    failing = (*HEALTHY.network.multicast, Multicast("wlan0", "10.0.0.2", "did not come back"))  # type: ignore[union-attr]
    says(ill("network", multicast=failing), "note", "Multicast", "wlan0 (10.0.0.2)", "exo --peer")


def test_a_machine_without_multicast_has_to_name_its_peers() -> None:
    says(ill("network", multicast=()), "note", "Multicast", "exo --peer")


def test_what_the_trial_does_not_prove_is_said() -> None:
    assert "says nothing of switches" in of("Multicast", examine(HEALTHY)).says


def test_a_machine_that_nobody_reaches_needs_no_multicast() -> None:
    assert bad(ill("network", addresses=(), multicast=())) == []


@pytest.mark.parametrize("firewall", ["", None])
def test_no_firewall_and_none_that_can_be_read_are_not_worth_a_word(firewall: str | None) -> None:
    assert bad(ill("network", firewall=firewall)) == []


def test_a_firewall_is_told_with_the_ports_that_have_to_be_open() -> None:
    says(
        ill("network", firewall="nftables, chain input"), "note", "Firewall", "52415/tcp, 7447/tcp, 7446/udp"
    )


# Peers


@pytest.mark.parametrize(
    ("changed", "level", "parts"),
    [
        ({"problem": "Connection refused"}, "slow", ["not reached", "Open port 52415/tcp"]),
        ({"version": "0.0.1"}, "note", ["release 0.0.1", "same release"]),
        ({"ahead": 61.0}, "note", ["61 s ahead of"]),
        ({"ahead": -61.0}, "note", ["61 s behind"]),
    ],
)
def test_a_peer_with_a_problem(changed: dict[str, Any], level: Level, parts: list[str]) -> None:
    peer = msgspec.structs.replace(PEER, **changed)
    says(ill("node", peers=(peer,)), level, "Node bob", *parts)


@pytest.mark.parametrize("ahead", [None, 4.9, -4.9])
def test_a_peers_clock_may_be_a_little_off(ahead: float | None) -> None:
    assert bad(ill("node", peers=(msgspec.structs.replace(PEER, ahead=ahead),))) == []


# Nodes that somebody named


def test_a_named_node_that_is_a_peer_is_fine() -> None:
    evidence = instead(named=(Named("bob:7447", ("192.168.1.3",)),))
    assert bad(evidence) == []
    assert of("Named node bob:7447", examine(evidence)).says == "its cluster port answers"


@pytest.mark.parametrize("problem", [None, "Connection refused"])
def test_this_machine_itself_may_be_named(problem: str | None) -> None:
    """All machines may have the same file."""
    named = (Named("anna:7447", ("192.168.1.2",), problem),)
    assert bad(instead(named=named)) == []
    assert bad(instead(named=(Named("anna:7448", ("192.168.1.2",), "Connection refused"),))) != []


def test_a_router_has_to_answer_and_is_no_peer() -> None:
    assert bad(instead(named=(Named("hub:7447", ("192.168.1.9",), None, kind="router"),))) == []
    gone = (Named("hub:7447", (), "Connection refused", kind="router"),)
    says(instead(named=gone), "slow", "Named router hub:7447", "exo cluster router")


def test_a_named_node_that_does_not_answer() -> None:
    named = (Named("carl:7447", (), "Connection refused"),)
    says(instead(named=named), "slow", "Named node carl:7447", "Connection refused", "Is exo running there")


def test_a_named_node_that_answers_and_is_not_seen() -> None:
    named = (Named("carl:7447", ("192.168.1.9",)),)
    says(instead(named=named), "slow", "Named node carl:7447", "anna does not see it", "EXO_CLUSTER_SECRET")
    assert bad(instead(named=named, node=NO_NODE)) == [], "nobody runs that could see it"


# The NPU server


def test_an_npu_server_that_answers_is_described() -> None:
    found = of("NPU server", examine(instead(servers=(SERVER,))))
    assert (found.level, found.says) == (
        "ok",
        "http://localhost:8080: rkllama 0.1.0, OpenAI's dialect; Qwen2.5-1.5B-Instruct",
    )


@pytest.mark.parametrize(
    ("changed", "level", "parts"),
    [
        ({"problem": "cannot reach it"}, "broken", ["cannot reach it", "RKLLM_SERVER_HOST"]),
        ({"models": ()}, "broken", ["no model", "~/RKLLAMA/models"]),
        ({"dialect": "original", "release": ""}, "note", ["no release told", "first rkllama's dialect"]),
    ],
)
def test_an_npu_server_with_a_problem(changed: dict[str, Any], level: Level, parts: list[str]) -> None:
    server = msgspec.structs.replace(SERVER, **changed)
    says(instead(servers=(server,)), level, "NPU server", *parts)


def test_a_node_without_peers_says_so() -> None:
    alone = msgspec.structs.replace(NODE, peers=())
    assert of("Node anna", examine(instead(node=alone))).says.endswith("sees no other node")


def test_another_server_is_called_by_its_address() -> None:
    server = msgspec.structs.replace(SERVER, npu=False, problem="cannot reach it")
    says(instead(servers=(server,)), "broken", "Upstream http://localhost:8080", "--upstream")


def test_a_file_of_nodes_that_cannot_be_used_keeps_exo_from_starting() -> None:
    file = Named("/etc/peers.json", (), "not as it should be", kind="file")
    says(instead(named=(file,)), "broken", "Named file /etc/peers.json", "not as it should be", "CLUSTER.md")
