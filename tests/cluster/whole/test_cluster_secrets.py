"""Who belongs to a cluster, and who only says so."""

from collections.abc import Sequence

from exo.http.headers import HOP_HEADER, PROOF_HEADER, proof
from tests.cluster.machines import Exo, Lan
from tests.e2e.node import chat_body, text


def two_and_two(lan: Lan) -> tuple[Sequence[Exo], Sequence[Exo]]:
    """All four at once, and each pair has found itself: who could see another pair would have."""
    nodes = lan.start_apart(*lan.machines)
    ours, theirs = nodes[:2], nodes[2:]
    for left, right in (ours, theirs):
        left.sees(right)
        right.sees(left)
    return ours, theirs


def test_nodes_of_another_cluster_are_not_seen(lan: Lan) -> None:
    for number, name in enumerate(("home", "home", "work", "work")):
        lan.machine(f"{name}-{number}", "--cluster-name", name, scripts={f"of-{number}": [text("Hello")]})
    ours, theirs = two_and_two(lan)
    assert ours[0].ask("of-1") == theirs[0].ask("of-3") == "Hello"
    assert (ours[0].chat("of-2").status, theirs[1].chat("of-0").status) == (404, 404)


def test_nodes_with_another_secret_or_with_none_are_not_believed(lan: Lan) -> None:
    for name, secret in {"a": "ours", "b": "ours", "other": "theirs", "open": ""}.items():
        lan.machine(name, scripts={f"of-{name}": [text("Hello")]}, env={"EXO_CLUSTER_SECRET": secret})
    a, b, other, unguarded = lan.start_apart(*lan.machines)
    a.sees(b)
    b.sees(a)
    for node in (a, b):
        node.line("node 'other' is ignored")
        node.line("node 'open' is ignored")
        assert node.ids() == ["a", "b"]
    other.line("node 'a' is ignored")
    assert other.ids() == ["other"]
    assert {"a", "b", "other"}.isdisjoint(unguarded.ids())
    assert a.ask("of-b") == "Hello"
    assert a.chat("of-open").status == 404


def test_a_request_that_only_pretends_to_come_from_a_node_is_refused(lan: Lan) -> None:
    for name in "ab":
        lan.machine(name, scripts={f"of-{name}": [text("Hello")]}, env={"EXO_CLUSTER_SECRET": "ours"})
    a, b = lan.start()
    assert b.ask("of-a") == "Hello"
    path, body = "/v1/chat/completions", chat_body("of-a")
    for headers in (
        {HOP_HEADER: "b"},
        {HOP_HEADER: "b", PROOF_HEADER: proof(b"guessed", "b")},
        {HOP_HEADER: "b", PROOF_HEADER: proof(b"ours", "a")},
        {HOP_HEADER: "b", PROOF_HEADER: "é"},
    ):
        reply = a.request("POST", path, body, headers)
        assert (reply.status, reply.error()["code"]) == (401, "unauthorized"), headers
    assert a.request("POST", path, body, {HOP_HEADER: "b", PROOF_HEADER: proof(b"ours", "b")}).status == 200


def test_one_key_opens_all_nodes(lan: Lan) -> None:
    for name in "ab":
        lan.machine(name, scripts={f"of-{name}": [text("Hello")]}, env={"EXO_API_KEY": "key"})
    a, b = lan.start()
    assert (a.ask("of-b"), b.ask("of-a")) == ("Hello", "Hello")
    for headers in ({"Authorization": "Bearer guessed"}, {"Authorization": "", HOP_HEADER: "b"}):
        assert a.request("POST", "/v1/chat/completions", chat_body("of-b"), headers).status == 401
        assert b.request("GET", "/v1/cluster", headers=headers).status == 401
