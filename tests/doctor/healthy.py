"""The evidence of a machine on which all is well, and how a test makes it ill."""

from typing import Any

import msgspec

import exo
from exo.doctor.evidence import (
    Clock,
    Engine,
    Evidence,
    Memory,
    ModelFile,
    Multicast,
    Network,
    Peer,
    Port,
    RunningNode,
    Security,
    Server,
    Shelf,
    Software,
    Storage,
    Surroundings,
)
from exo.doctor.examine import examine
from exo.doctor.finding import Finding, Level

GB = 10**9

MODEL = ModelFile(
    id="qwen3-0.6b",
    path="/home/anna/.cache/exo/models/qwen3-0.6b.gguf",
    bytes=GB // 2,
    format="gguf",
    memory=GB,
    context=8192,
    quantization="Q4_K_M",
)
PEER = Peer(
    id="bob",
    url="http://192.168.1.3:52415",
    version=exo.__version__,
    addresses=("192.168.1.3",),
    ahead=0.4,
)
NODE = RunningNode(
    url="http://127.0.0.1:52415",
    asked_for=False,
    id="anna",
    version=exo.__version__,
    addresses=("192.168.1.2",),
    budget=6 * GB,
    requests=100,
    peers=(PEER,),
)
PORTS = (
    Port(number=52415, use="exo's API", option="--port", owner="exo (pid 7)", ours=True),
    Port(number=7447, use="other nodes", option="--cluster-port", owner="exo (pid 7)", ours=True),
    Port(number=7446, use="finding other nodes", protocol="udp", owner="exo (pid 7)", ours=True),
    Port(number=8080, use="rkllama", option="--port"),
)
SERVER = Server(
    url="http://localhost:8080",
    npu=True,
    dialect="openai",
    release="rkllama 0.1.0",
    models=("Qwen2.5-1.5B-Instruct",),
)
HEALTHY = Evidence(
    software=Software(
        python=(3, 11, 2),
        bits=64,
        prefix="/opt/exo",
        virtual=True,
        exo=exo.__version__,
        installed=exo.__version__,
    ),
    engines=(
        Engine(name="llamacpp", there=True, formats=("gguf",)),
        Engine(
            name="mlx", there=False, formats=("safetensors",), problem="mlx is not installed; pip install it"
        ),
        Engine(name="tinygrad", there=True, formats=("safetensors",)),
    ),
    storage=Storage(
        folder="/home/anna/.cache/exo", exists=True, free=50 * GB, total=100 * GB, free_files=10**6
    ),
    memory=Memory(
        total=8 * GB,
        usable=8 * GB,
        free=6 * GB,
        swap_total=2 * GB,
        swap_free=2 * GB,
        cores=8,
        cpus=8,
        budget=6 * GB,
        killed=(),
    ),
    ports=PORTS,
    network=Network(addresses=("192.168.1.2",), multicast=(Multicast("eth0", "192.168.1.2"),), firewall=""),
    node=NODE,
    clock=Clock(1_790_000_000.0, True),
    shelf=Shelf(models=(MODEL,)),
    security=Security(key=True, secret=True, certificates=False, root=False, open_at=("192.168.1.2",)),
    surroundings=Surroundings(open_files=65536),
)


def part(name: str, **changed: Any) -> Any:
    """One part of the healthy evidence with something else in it."""
    return msgspec.structs.replace(getattr(HEALTHY, name), **changed)


def ill(name: str, **changed: Any) -> Evidence:
    """The healthy evidence with something else in one part."""
    return msgspec.structs.replace(HEALTHY, **{name: part(name, **changed)})


def instead(**parts: Any) -> Evidence:
    """The healthy evidence with other parts."""
    return msgspec.structs.replace(HEALTHY, **parts)


def bad(evidence: Evidence) -> list[Finding]:
    return [finding for finding in examine(evidence) if finding.level != "ok"]


def only(evidence: Evidence) -> Finding:
    """The one finding that is not fine."""
    found = bad(evidence)
    assert len(found) == 1, found
    return found[0]


def says(evidence: Evidence, level: Level, subject: str, *parts: str) -> None:
    """The one finding that is not fine is of this level and subject, and has all `parts` in it."""
    finding = only(evidence)
    assert (finding.level, finding.subject) == (level, subject), finding
    for part in parts:
        assert part in f"{finding.says} {finding.remedy}", finding
