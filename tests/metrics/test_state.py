"""What a node says of itself, as figures."""

from pathlib import Path

import pytest

from exo.devices import detect, now
from exo.metrics import Metrics
from exo.nodes import Device, Node, Residence
from tests.doubles import card
from tests.rkllama.board import trees

NOTHING = Path("/nowhere")


def resident(model: str, *, bytes: int = 100, state: str = "ready", running: int = 0) -> Residence:
    return Residence(model=model, state=state, bytes=bytes, slots=4, running=running, waiting=2 * running)


def node(
    *loaded: Residence, device: Device | None = None, cards: tuple[str, ...] = ("m", "n", "far")
) -> Node:
    return Node(
        id="a",
        url="",
        version="1.2",
        device=device or Device(name="a", cores=1, memory=0),
        cards=tuple(map(card, cards)),
        loaded=loaded,
        waiting=0,
        budget=1000,
    )


def watched(state: Node, disk: Path | None = None, root: Path = NOTHING) -> Metrics:
    metrics = Metrics("0", ())
    metrics.watch(lambda: state, disk, root)
    return metrics


def test_models_in_memory() -> None:
    metrics = watched(node(resident("m", running=1), resident("n", state="loading")))
    value = metrics.registry.get_sample_value
    assert value("exo_model_info", {"model": "m"}) == 1
    assert value("exo_model_info", {"model": "n"}) is None
    assert value("exo_model_memory_bytes", {"model": "n"}) == 100
    assert value("exo_model_requests_running", {"model": "m"}) == 1
    assert value("exo_model_requests_waiting", {"model": "m"}) == 2
    assert value("exo_memory_budget_bytes") == 1000
    assert value("exo_node_info", {"id": "a", "version": "1.2", "kind": "cpu", "chip": ""}) == 1


def test_layers_for_other_nodes_are_one_thing() -> None:
    """Each has a name of its own, which nobody could look for."""
    metrics = watched(node(resident("m, layers 0-3, for b"), resident("m, layers 4-7, for c")))
    value = metrics.registry.get_sample_value
    assert value("exo_model_memory_bytes", {"model": "parts"}) == 200
    assert value("exo_model_info", {"model": "parts"}) is None


def test_models_of_other_servers_are_there_while_they_are_asked() -> None:
    """Such a server may have any number."""
    asked, idle = resident("far", bytes=0, running=1), resident("n", bytes=0)
    metrics = watched(node(asked, idle))
    value = metrics.registry.get_sample_value
    assert value("exo_model_requests_running", {"model": "far"}) == 1
    assert value("exo_model_requests_running", {"model": "n"}) is None
    assert value("exo_model_info", {"model": "far"}) is None


def test_more_models_than_labels_are_summed_up() -> None:
    models = tuple(f"m{number}" for number in range(300))
    metrics = watched(node(*map(resident, models), cards=models))
    value = metrics.registry.get_sample_value
    assert value("exo_model_memory_bytes", {"model": "other"}) == 100 * 100
    assert metrics.exposition().decode().count("exo_model_memory_bytes{") == 201


def test_a_board(tmp_path: Path) -> None:
    root = trees.write(
        tmp_path, trees.rk3588() | {trees.LOAD: "NPU load:  Core0: 60%, Core1: 30%, Core2:  0%,\n"}
    )
    metrics = watched(node(device=now(detect(root), root)), root=root)
    value = metrics.registry.get_sample_value
    assert value("exo_npu_load_ratio") == pytest.approx(0.3)
    assert value("exo_npu_frequency_hertz") == int(trees.rk3588()[f"{trees.NPU}/cur_freq"])
    assert value("exo_device_temperature_celsius") == 51.769
    assert (value("exo_device_memory_bytes") or 0) > (value("exo_device_memory_free_bytes") or 0) > 0


def test_what_a_machine_does_not_tell_is_left_out() -> None:
    said = watched(node()).exposition().decode()
    for name in ("exo_npu_", "exo_device_", "exo_disk_"):
        assert name not in said


def test_the_disk_is_that_of_a_folder_that_is_still_to_be_made(tmp_path: Path) -> None:
    value = watched(node(), tmp_path / "home" / "models").registry.get_sample_value
    assert (value("exo_disk_size_bytes") or 0) >= (value("exo_disk_free_bytes") or 0) > 0


def test_a_folder_that_is_none_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = watched(node(), tmp_path / "file" / "models").exposition().decode()
    assert "exo_disk_" not in said


def test_figures_are_of_the_moment_they_are_asked_for() -> None:
    states = iter([node(), node(resident("m"))])
    metrics = Metrics("0", ())
    metrics.watch(lambda: next(states), None, NOTHING)
    assert b"exo_model_info{" not in metrics.exposition()
    assert b"exo_model_info{" in metrics.exposition()
