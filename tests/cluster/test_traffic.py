from exo.cluster.traffic import Traffic
from exo.nodes import Device, Node


def state() -> Node:
    device = Device(name="b", cores=1, memory=1)
    return Node(id="b", url="", version="0", device=device, cards=(), loaded=(), waiting=0)


def test_a_state_counts_what_was_under_way_when_it_came() -> None:
    peers = [state()]
    traffic = Traffic(lambda: peers)
    with traffic.on("b"), traffic.on("b"):
        assert (traffic.sent["b"], traffic.counted["b"]) == (2, 0)
        peers[0] = state()
        with traffic.on("b"):
            assert (traffic.sent["b"], traffic.counted["b"]) == (3, 2)
    assert (traffic.sent["b"], traffic.counted["b"]) == (0, 2)


def test_a_state_that_came_before_a_request_ended_counts_it() -> None:
    peers = [state()]
    traffic = Traffic(lambda: peers)
    with traffic.on("b"):
        peers[0] = state()
    assert (traffic.sent["b"], traffic.counted["b"]) == (0, 1)


def test_a_node_that_left_is_forgotten() -> None:
    peers = [state()]
    traffic = Traffic(lambda: peers)
    assert traffic.counted == {"b": 0}
    peers.clear()
    assert traffic.counted == {}
