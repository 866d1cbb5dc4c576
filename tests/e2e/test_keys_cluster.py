"""Keys on nodes of a cluster: what one node asks another for is counted once, where the client asked."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import conftest
from tests.cluster.hosts import Hosts
from tests.cluster.machines import Exo, Lan, Machine, inside

from .node import Node, Reply, chat_body, eventually, text
from .test_cli import run
from .test_keys import add, bearer

make_hosts = conftest.make_hosts

OWN = {"EXO_API_KEY": "the same on all nodes"}


@pytest.fixture
def lan(make_hosts: Callable[..., Hosts], tmp_path: Path) -> Iterator[Lan]:
    """A network for two machines without an NPU."""

    def no_boards(release: str) -> Any:
        raise AssertionError("these tests have no boards")

    with Lan(make_hosts(2), tmp_path, no_boards) as lan:
        yield lan


def pair(lan: Lan, **options: Any) -> tuple[Machine, Machine]:
    a, b = (lan.machine(name, scripts={f"of-{name}": [text("Hello")]}, **options) for name in "ab")
    return a, b


def ask(node: Exo, key: str, model: str = "of-b") -> Reply:
    return node.request("POST", "/v1/chat/completions", chat_body(model), bearer(key))


def counted(node: Exo, asker: str, name: str, **labels: str) -> float:
    """The sum of what `asker`, a key, sees of a counter."""
    lines = node.request("GET", "/metrics", headers=bearer(asker)).body.decode().splitlines()
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(
        float(line.split()[-1])
        for line in lines
        if line.startswith(f"{name}{{") and all(each in line for each in wanted)
    )


def test_what_is_passed_on_is_counted_where_it_was_asked_and_nowhere_else(lan: Lan) -> None:
    a, b = pair(lan, env=OWN)
    kid = add(a.home, "kid", "--requests-per-minute", "2")
    b.flags = (*b.flags, "--requests-per-minute", "1")
    near, far = lan.start()
    assert [ask(near, kid).status for _ in range(3)] == [200, 200, 429]
    own = OWN["EXO_API_KEY"]
    assert counted(near, own, "exo_key_requests_total", key="kid", status="success") == 2
    assert counted(near, own, "exo_key_tokens_total", key="kid", kind="completion") == 2
    assert counted(far, own, "exo_hop_requests_total", model="of-b") == 2
    assert counted(far, own, "exo_key_requests_total") == 0
    assert ask(far, kid).status == 401, "it is a key of the other node only"


def test_the_clusters_certificates_do_in_place_of_a_key_between_nodes(lan: Lan) -> None:
    a, b = pair(lan)
    bundle = lan.folder / "b.pem"
    assert run(a.home, "cluster", "init").returncode == 0
    assert run(a.home, "cluster", "invite", "b", "--out", str(bundle)).returncode == 0
    assert run(b.home, "cluster", "join", str(bundle)).returncode == 0
    near, far = lan.start()
    kid, other = add(a.home, "kid", "--requests-per-minute", "2"), add(b.home, "other")
    for node in (near, far):
        eventually(lambda node=node: node.chat("of-b").status == 401)  # type: ignore[misc]
    # Until the keys were seen, chats were passed on, too.
    before = counted(far, other, "exo_hop_requests_total", model="of-b")
    assert [ask(near, kid).status for _ in range(3)] == [200, 200, 429]
    assert ask(far, kid).status == 401
    assert counted(far, other, "exo_hop_requests_total", model="of-b") == before + 2
    assert counted(far, other, "exo_key_requests_total") == 0


def test_a_node_whose_keys_the_others_do_not_have_says_so(lan: Lan) -> None:
    a = lan.machine("a", scripts={"of-a": [text("Hello")]})
    kid = add(a.home, "kid")
    with inside(a.host):
        # `a.start` would ask it for its name, without a key.
        node = Node(a.home, "--host", "0.0.0.0")
    try:
        node.line("other nodes cannot pass requests on to this one")
        node.line("set the same EXO_API_KEY on all nodes")
        assert "anyone on this network" not in node.log
        assert kid not in node.log
        node.stop()
    finally:
        node.kill()
