"""The soak's cluster: three nodes on machines of their own, one of them before an NPU server.

- `llama` has the bundled model by llama.cpp, and by layers in a process of their own; its clients ask it
- `script` has the scripted engine, and `llama` a script of it, too: so that one can go on for the other
- `npu` has no engine of its own, but `rkllama` over the stand-in runtime
"""

import itertools
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bench.cluster_nodes import Machines, Process, free_ports
from bench.npu_board import RELEASE, Board
from bench.soak_asks import BOARD, DEMO, EXTRAS, FLOOD, LAYERS, NARROW, NPU
from exo.chat import Text
from exo.engines.scripted import Script
from exo.store.catalogue import BUNDLED

LLAMA, SCRIPT, NPU_NODE, NPU_SERVER = "llama", "script", "npu", "rkllama"
NODES = (LLAMA, SCRIPT, NPU_NODE)
NPU_FAULTS = ("crash-decode:4", "hang-decode:4", "corrupt-ids:3", "crash-prefill", "matmul-failed:3")
"""What the stand-in can be told; which of them it is changes each time that the NPU server starts."""

_PORT = 52415
# The bundled model twice by llama.cpp and once by layers, and no more.
_MEMORY = "70MB"
_DEFECT = re.compile(r"Traceback|defect of|was never retrieved|was never awaited|was destroyed but")
# Longer than what an answer of the stand-in ever takes; what hangs longer is ended.
_MODELFILE = "TEMPERATURE=0\nTIMEOUT=5\n"
_GONE = 30.0
_FAULT = Path("fault")

_BOARD = Script(steps=tuple(Text(f" word-{number:02}") for number in range(32)), pace=0.06, slots=8)
_NARROW = Script(steps=(Text("as"), Text(" ever")), pace=0.2)
_FLOOD = Script(steps=(Text("0123456789" * 20),), repeat=8000, slots=8)


class SoakCluster:
    """The processes, on `machines`, by name; started with `start`. `board` has the runtime."""

    def __init__(self, machines: Machines, board: Board) -> None:
        self.machines = machines
        self.key = os.urandom(8).hex()
        self._board = board
        self._faults = itertools.cycle(NPU_FAULTS)
        self._port = _PORT if machines.apart else free_ports(1)[0]
        self._npu_port, *self._cluster_ports = free_ports(4)
        secrets = {"EXO_API_KEY": self.key, "EXO_CLUSTER_SECRET": os.urandom(16).hex()}
        self.processes: dict[str, Process] = {
            LLAMA: self._node(
                *(LLAMA, "--memory", _MEMORY, "--auto-quick", DEMO, "--auto-reasoning", DEMO),
                environment=secrets,
            ),
            SCRIPT: self._node(
                SCRIPT, "--inference-engine", "dummy", "--max-waiting", "8", environment=secrets
            ),
            NPU_NODE: self._node(
                *(NPU_NODE, "--inference-engine", "rkllm"),
                environment={**secrets, "RKLLM_SERVER_PORT": str(self._npu_port)},
            ),
            NPU_SERVER: self._npu_server(),
        }
        self.npu_fault = ""
        self._put_models()

    @property
    def url(self) -> str:
        """Of the node that clients ask."""
        return f"http://{self.machines.address(0)}:{self._port}"

    @property
    def homes(self) -> list[Path]:
        return [process.home for process in self.processes.values()]

    def start(self) -> None:
        for name in (NPU_SERVER, *NODES):
            self.restart(name)

    def restart(self, name: str) -> None:
        """Starts it; the NPU server with another fault that its runtime can be told to have."""
        process = self.processes[name]
        if name == NPU_SERVER:
            self.npu_fault = next(self._faults)
            # It is reached from its own machine only: that it answers is seen at the node before it.
            process.start(STANDIN_FAULT=self.npu_fault)
        else:
            process.start()
            process.connect(self._port).close()

    def number(self, name: str) -> int:
        return 2 if name == NPU_SERVER else NODES.index(name)

    def defects(self) -> dict[str, int]:
        """Lines of each log that no healthy process writes, by the process' name."""
        return {name: len(_DEFECT.findall(process.log)) for name, process in self.processes.items()}

    def keep_logs(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, process in self.processes.items():
            shutil.copy(process.home / "log", folder / f"{name}.log")

    def break_npu(self) -> None:
        """The runtime has its fault once, as soon as it can."""
        (self.processes[NPU_SERVER].home / _FAULT).touch()

    def stop(self) -> dict[str, int | None]:
        """Ends all as their owner would: their exit statuses, None for one that did not end."""
        for process in self.processes.values():
            process.terminate()
        return {name: process.ended(_GONE) for name, process in self.processes.items()}

    def _node(self, name: str, *flags: str, environment: Mapping[str, str]) -> Process:
        number = NODES.index(name)
        discovery: tuple[str, ...] = ("--discovery-module", "udp")
        if not self.machines.apart:
            # The first one knows the second, all others the first.
            other = self._cluster_ports[0 if number else 1]
            discovery = ("--discovery-module", "none", "--peer", f"127.0.0.1:{other}")
            discovery += ("--cluster-port", str(self._cluster_ports[number]))
        return self.machines.process(
            number,
            *(sys.executable, "-m", "exo.main"),
            *("--host", self.machines.address(number), "--port", str(self._port)),
            *("--node-id", name, "--cluster-name", f"soak-{os.getpid()}", *discovery, *flags),
            environment=environment,
        )

    def _npu_server(self) -> Process:
        """In its home, where it runs, are its models and what has its runtime fail."""
        process = self.machines.process(
            NODES.index(NPU_NODE),
            *(sys.executable, "-m", "rkllama.main", "--host", "127.0.0.1", "--port", str(self._npu_port)),
            *("--target_platform", "rk3588", "--models", "models"),
            environment={
                "RKLLM_LIB_PATH": str(self._board.library(RELEASE)),
                "STANDIN_FAULT_ONCE": str(_FAULT),
            },
        )
        folder = process.home / "models" / NPU
        shutil.copytree(self._board.model_file(RELEASE).parent, folder)
        (folder / "Modelfile").write_text(_MODELFILE, encoding="ascii")
        return process

    def _put_models(self) -> None:
        demo, llama = BUNDLED / "exo-demo", self.processes[LLAMA].home / "models"
        (llama / LAYERS).mkdir(parents=True)
        for file in demo.iterdir():
            if file.suffix != ".gguf":
                shutil.copy(file, llama / LAYERS)
        for extra in EXTRAS:
            (llama / f"{extra}.gguf").symlink_to(demo / "model.gguf")
        scripts: dict[str, Script] = {BOARD: _BOARD, NARROW: _NARROW, FLOOD: _FLOOD}
        for node, name in ((LLAMA, BOARD), *((SCRIPT, each) for each in scripts)):
            folder = self.processes[node].home / "models"
            folder.mkdir(exist_ok=True)
            (folder / f"{name}.script.json").write_bytes(msgspec.json.encode(scripts[name]))
