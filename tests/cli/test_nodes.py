"""The cluster as a table."""

from exo.cli.nodes import table
from exo.nodes import Cluster, Device, Kind, Node, Residence


def node(
    id: str,
    *,
    kind: Kind = "cpu",
    chip: str = "",
    temperature: float | None = None,
    npu_load: float | None = None,
    loaded: tuple[Residence, ...] = (),
    waiting: int = 0,
    leaving: bool = False,
    addresses: tuple[str, ...] = (),
) -> Node:
    device = Device(
        name=id,
        cores=4,
        memory=8 * 10**9,
        free=3_100_000_000,
        kind=kind,
        chip=chip,
        temperature=temperature,
        npu_load=npu_load,
    )
    return Node(
        id=id,
        url="http://0.0.0.0:52415",
        version="0",
        device=device,
        cards=(),
        loaded=loaded,
        waiting=waiting,
        leaving=leaving,
        addresses=addresses,
    )


def resident(
    model: str, state: str = "ready", bytes: int = 10, running: int = 0, waiting: int = 0
) -> Residence:
    return Residence(model=model, state=state, bytes=bytes, slots=4, running=running, waiting=waiting)


def rows(cluster: Cluster) -> dict[str, dict[str, str]]:
    """By node, its cells by head."""
    head, *lines = table(cluster)
    shown = [dict(zip(head, line, strict=True)) for line in lines]
    return {line["NODE"]: line for line in shown}


def test_the_node_that_was_asked_is_marked() -> None:
    shown = rows(Cluster(me=node("b"), peers=(node("a"), node("c"))))
    assert {id: line[""] for id, line in shown.items()} == {"b": "*", "a": "", "c": ""}


def test_machines_are_told_as_far_as_they_are_known() -> None:
    board = node("board", kind="rockchip", chip="RK3588", temperature=47.4, npu_load=0.346)
    shown = rows(Cluster(me=node("pc"), peers=(board,)))
    assert shown["board"]["DEVICE"] == "RK3588"
    assert shown["board"]["FREE MEMORY"] == "3.1 GB of 8.0 GB"
    assert shown["board"]["TEMPERATURE"] == "47 °C"
    assert shown["board"]["NPU LOAD"] == "35%"
    assert shown["pc"]["DEVICE"] == "4 CPU cores"
    assert (shown["pc"]["TEMPERATURE"], shown["pc"]["NPU LOAD"]) == ("-", "-")


def test_what_no_node_knows_has_no_column() -> None:
    (line,) = rows(Cluster(me=node("a"))).values()
    assert "TEMPERATURE" not in line
    assert "NPU LOAD" not in line


def test_models_and_requests_are_told() -> None:
    loaded = (
        resident("m", running=2, waiting=1),
        resident("n", "loading"),
        resident("elsewhere", bytes=0, running=1, waiting=3),
    )
    shown = rows(Cluster(me=node("a", loaded=loaded, waiting=2), peers=(node("b", leaving=True),)))
    assert shown["a"]["LOADED"] == "m, n (loading)"
    assert (shown["a"]["RUNNING"], shown["a"]["WAITING"]) == ("3", "5")
    line = shown["b (shutting down)"]
    assert (line["LOADED"], line["RUNNING"], line["WAITING"]) == ("-", "0", "0")


def test_a_node_is_where_the_marked_one_reaches_it() -> None:
    me = node("a", addresses=("10.0.0.1",))
    peer = node("b", addresses=("192.168.1.2", "10.0.0.2"))
    shown = rows(Cluster(me=me, peers=(peer,)))
    assert shown["a"]["WHERE"] == "10.0.0.1:52415"
    assert shown["b"]["WHERE"] == "10.0.0.2:52415"
