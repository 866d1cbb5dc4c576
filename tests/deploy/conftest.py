"""A cluster with an NPU server, real processes all, with traffic; and a Prometheus that scrapes it."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.deploy.board import BoardServer
from tests.deploy.prometheus import Prometheus, shipped
from tests.e2e.node import Node, eventually, text, write_script
from tests.page.member import free_port
from tests.rkllama.board import trees
from tests.rkllama.npu import put_model


class Member(Node):
    """A node of a cluster of this machine alone."""

    program = "tests.page.member"


class Cluster(NamedTuple):
    """Two nodes, and the NPU server behind the first one."""

    board: Member
    pc: Member
    npu: BoardServer

    def traffic(self) -> None:
        """Some requests of every kind: whole and streamed, passed on, to auto, and for what there is not."""
        for node in (self.board, self.pc):
            for model in ("exo-demo", "npu-demo", "auto"):
                reply = node.chat(model, f"What is 12 + {next(_NUMBERS) % 800}?", max_tokens=8)
                assert reply.status == 200, reply
            assert node.chat("nope").status == 404
        reply = self.pc.chat("mine", stream=True)
        assert reply.status == 200, reply


_NUMBERS = count()


@pytest.fixture(scope="session")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, build: Path, file_for: Callable[..., Path]
) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("monitored")
    machine = trees.write(home / "machine", trees.rk3588())
    put_model(home / "npu" / "models", file_for("1.2.3"), "npu-demo")
    write_script(home / "pc", "mine", [text("Hello"), text(", "), text("world")])
    with ExitStack() as stack:
        npu = BoardServer(home / "npu", build / "1.2.3" / "librkllmrt.so", env={"BOARD": str(machine)})
        stack.callback(npu.kill)
        board, pc = members(home, stack, RKLLM_SERVER_PORT=str(npu.port))
        yield Cluster(board, pc, npu)
        for node in (board, pc, npu):
            node.stop()


def members(home: Path, stack: ExitStack, *, key: str = "", **env: str) -> tuple[Member, Member]:
    """Two nodes that see each other, "board" and "pc"; `env` is the first one's."""
    ports = free_port(), free_port()
    name = f"monitored-{os.getpid()}-{ports[0]}"
    both = {"EXO_API_KEY": key} if key else {}
    nodes = []
    for id, (port, other) in {"board": ports, "pc": ports[::-1]}.items():
        find = ("--cluster-name", name, "--cluster-port", str(port), "--peer", f"127.0.0.1:{other}")
        own = {**both, **env} if id == "board" else both
        nodes.append(Member(home / id, "--node-id", id, *find, env=own))
        stack.callback(nodes[-1].kill)

    def has_peer(node: Member) -> bool:
        return bool(node.get("/v1/cluster", Authorization=f"Bearer {key}").json()["peers"])

    for node in nodes:
        eventually(lambda node=node: has_peer(node))  # type: ignore[misc]
    return nodes[0], nodes[1]


@pytest.fixture(scope="session")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """As it is shipped, told of the nodes by one of them."""
    folder = tmp_path_factory.mktemp("prometheus") / "own"
    with Prometheus(
        folder, shipped("prometheus.yml", **{"http://localhost:52415": cluster.pc.url})
    ) as running:
        yield running
