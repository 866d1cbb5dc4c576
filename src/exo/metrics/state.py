"""What a node says of itself, as figures: the machine, the models in memory, the requests on them.

Made when they are asked for, so nothing here wakes up by itself. `node.local` reads what changes on the
machine once a second at most.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from exo.devices import npu_frequency
from exo.nodes import Device, Node

PARTS = "parts"
"""Stands for layers of models that this node holds for others, each of which has a name of its own."""


class StateCollector(Collector):
    """Figures of the node's state as it is when they are asked for, and of the disk where its models are.

    What the machine does not tell, or not to this process (the NPU's load is root's to read), is left out.
    """

    def __init__(
        self, state: Callable[[], Node], disk: Path | None, root: Path, label: Callable[[str], str]
    ) -> None:
        """`label` gives what a model is called in labels."""
        self._state, self._disk, self._root, self._label = state, disk, root, label

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is to be collected would have to be read."""
        return ()

    def collect(self) -> Iterable[Metric]:
        node = self._state()
        info = GaugeMetricFamily(
            "exo_node_info", "1, and what the node is.", labels=["id", "version", "kind", "chip"]
        )
        info.add_metric([node.id, node.version, node.device.kind, node.device.chip], 1)
        yield info
        yield GaugeMetricFamily(
            "exo_memory_budget_bytes", "What all models together may take.", value=node.budget
        )
        yield from _models(node, self._label)
        yield from _machine(node.device, npu_frequency(self._root))
        yield from self._space()

    def _space(self) -> Iterable[Metric]:
        if disk := _usage(self._disk):
            size, free = disk
            yield GaugeMetricFamily(
                "exo_disk_size_bytes", "The disk that models are downloaded to.", value=size
            )
            yield GaugeMetricFamily("exo_disk_free_bytes", "What of it this process could use.", value=free)


def _usage(folder: Path | None) -> tuple[int, int] | None:
    """Bytes of the disk with the folder, and those that are free; models need not have been downloaded yet,
    so the nearest folder around it that is there will do."""
    for each in (folder, *folder.parents) if folder else ():
        try:
            usage = shutil.disk_usage(each)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return usage.total, usage.free
    return None


def _models(node: Node, label: Callable[[str], str]) -> Iterable[Metric]:
    cards = {card.id for card in node.cards}
    here, memory, running, waiting = (Counter[str]() for _ in range(4))
    for resident in node.loaded:
        name = label(resident.model) if resident.model in cards else PARTS
        # What has no bytes is in another server's memory, where there may be any number.
        if resident.bytes:
            memory[name] += resident.bytes
            if resident.state != "loading" and name != PARTS:
                here[name] = 1
        if name != PARTS and (resident.bytes or resident.running or resident.waiting):
            running[name] += resident.running
            waiting[name] += resident.waiting
    yield _by_model("exo_model_info", "1 for each model in memory.", here)
    yield _by_model("exo_model_memory_bytes", "What each model takes.", memory)
    yield _by_model("exo_model_requests_running", "Requests that have one of the model's slots.", running)
    yield _by_model("exo_model_requests_waiting", "Requests that wait for one of its slots.", waiting)


def _by_model(name: str, what: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, what, labels=["model"])
    for model, value in values.items():
        family.add_metric([model], value)
    return family


def _machine(device: Device, npu_hertz: int | None) -> Iterable[Metric]:
    """What is not known is None, or 0 bytes."""
    figures = (
        ("exo_device_memory_bytes", "The machine's memory.", device.memory or None),
        ("exo_device_memory_free_bytes", "What of it could be used now.", device.free or None),
        ("exo_device_temperature_celsius", "Its hottest sensor.", device.temperature),
        ("exo_npu_load_ratio", "Load of the NPU, the mean of its cores, from 0 to 1.", device.npu_load),
        ("exo_npu_frequency_hertz", "The NPU's frequency.", npu_hertz),
    )
    return [GaugeMetricFamily(name, what, value=value) for name, what, value in figures if value is not None]
