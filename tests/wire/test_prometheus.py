"""What Prometheus is told of a cluster."""

import json

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from exo.nodes import Cluster, Device, Node
from exo.wire.prometheus import answer, target_groups


def node(id: str, url: str, *npus: str, addresses: tuple[str, ...] = ()) -> Node:
    return Node(
        id=id,
        url=url,
        version="0",
        device=Device(name=id, cores=1, memory=1),
        cards=(),
        loaded=(),
        waiting=0,
        addresses=addresses,
        npu_servers=npus,
    )


def told(cluster: Cluster, host: str = "192.168.1.9", job: str = "exo") -> list[tuple[str, str, str]]:
    """Each target, its job and its node, as Prometheus reads them."""
    groups = json.loads(answer(target_groups(cluster, job, host)))
    return [(each["targets"][0], each["labels"]["job"], each["labels"]["node"]) for each in groups]


def test_all_nodes_at_addresses_that_can_be_reached() -> None:
    me = node("pc", "http://0.0.0.0:52415", addresses=("192.168.1.9", "172.17.0.1"))
    peer = node("board", "http://0.0.0.0:52416", addresses=("10.0.0.7", "172.17.0.1", "192.168.1.7"))
    assert told(Cluster(me=me, peers=(peer,))) == [
        ("192.168.1.9:52415", "exo", "pc"),
        ("192.168.1.7:52416", "exo", "board"),
    ]


def test_npu_servers_are_at_their_nodes_machine_or_at_their_own() -> None:
    me = node("pc", "http://0.0.0.0:52415", "http://10.1.1.1:8081", addresses=("192.168.1.9",))
    peer = node("board", "http://0.0.0.0:52415", "http://localhost:8080", addresses=("192.168.1.7",))
    assert told(Cluster(me=me, peers=(peer,)))[2:] == [
        ("10.1.1.1:8081", "rkllama", "pc"),
        ("192.168.1.7:8080", "rkllama", "board"),
    ]


def test_an_npu_server_of_two_nodes_is_scraped_once() -> None:
    me = node("pc", "http://0.0.0.0:52415", "http://192.168.1.7:8080", addresses=("192.168.1.9",))
    peer = node("board", "http://0.0.0.0:52415", "http://localhost:8080", addresses=("192.168.1.7",))
    assert [each for each in told(Cluster(me=me, peers=(peer,))) if each[1] == "rkllama"] == [
        ("192.168.1.7:8080", "rkllama", "pc")
    ]


def test_with_certificates_the_port_of_the_api_is_the_one_before() -> None:
    me = node("pc", "https://0.0.0.0:52416", addresses=("192.168.1.9",))
    assert told(Cluster(me=me)) == [("192.168.1.9:52415", "exo", "pc")]


def test_a_node_that_says_where_its_api_is_is_scraped_there_and_so() -> None:
    """With certificates `url` is not it, and without another node it is, be it HTTPS or not."""
    alone = replace(node("pc", "https://0.0.0.0:443"), api="https://0.0.0.0:443")
    plain = replace(node("a", "https://0.0.0.0:52416", addresses=("10.0.0.1",)), api="http://0.0.0.0:52415")
    both = replace(plain, id="b", addresses=("10.0.0.2",), api="https://0.0.0.0:52415")
    me = replace(alone, addresses=("10.0.0.9",))
    groups = json.loads(answer(target_groups(Cluster(me=me, peers=(plain, both)), "exo", "10.0.0.9")))
    assert [(each["targets"], each["labels"].get("__scheme__")) for each in groups] == [
        (["10.0.0.9:443"], "https"),
        (["10.0.0.1:52415"], None),
        (["10.0.0.2:52415"], "https"),
    ]


def test_ipv6_is_put_into_brackets() -> None:
    me = node("pc", "http://[::]:52415", "http://[fd00::7]:8080", addresses=("fd00::9",))
    assert told(Cluster(me=me), "fd00::9") == [
        ("[fd00::9]:52415", "exo", "pc"),
        ("[fd00::7]:8080", "rkllama", "pc"),
    ]


def test_an_npu_server_behind_tls_is_scraped_so() -> None:
    me = node("pc", "http://0.0.0.0:52415", "https://npu.example")
    groups = target_groups(Cluster(me=me), "exo", "10.0.0.1")
    assert groups[1].targets == ("npu.example:443",)
    assert groups[1].labels["__scheme__"] == "https"


def test_the_npu_server_says_that_it_is_one() -> None:
    assert told(Cluster(me=node("rkllama", "http://0.0.0.0:8080")), job="rkllama") == [
        ("192.168.1.9:8080", "rkllama", "rkllama")
    ]


@given(st.text(), st.text())
def test_names_are_any_text(one: str, other: str) -> None:
    cluster = Cluster(me=node(one, "http://10.0.0.1:1"), peers=(node(other, "http://10.0.0.2:1"),))
    assert [name for _, _, name in told(cluster)] == [one, other]
