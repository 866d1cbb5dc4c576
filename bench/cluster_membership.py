"""What being in a cluster costs a node: CPU and memory of each of so many nodes that see each other."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import psutil

from bench import report
from bench.memory import memory_of
from bench.report import Figure, Report, Table
from exo.cluster.settings import ClusterSettings

_NODES = 16
# Seconds over which the CPU is measured, once all nodes see each other.
_SPAN = 20.0
_WANTED_CPU = 1.0
_WANTED_MEMORY = 30.0
# All that a node of this benchmark imports, and nothing done with it.
_BARE = "import sys, zenoh, psutil, tests.cluster.node; print(flush=True); sys.stdin.read()"


def measure(nodes: int = _NODES) -> Report:
    bare = _process("-c", _BARE)
    programs: list[subprocess.Popen[bytes]] = []
    try:
        assert bare.stdout is not None
        bare.stdout.readline()
        empty = memory_of(bare.pid)
        ids = [f"n{number:02}" for number in range(nodes)]
        programs += _joined(ids)
        joined = time.monotonic()
        complete = max(_sees(program, nodes - 1) for program in programs) - joined
        time.sleep(2.0)
        before = [_cpu(program.pid) for program in programs]
        started = time.monotonic()
        time.sleep(_SPAN)
        span = time.monotonic() - started
        loads = [
            100 * (_cpu(program.pid) - spent) / span for program, spent in zip(programs, before, strict=True)
        ]
        rss = [memory_of(program.pid)[0] for program in programs]
        unique = [memory_of(program.pid)[2] for program in programs]
    finally:
        for process in (bare, *programs):
            process.kill()
            process.wait()
    beyond = statistics.median(rss) - empty[0]
    rows = (
        ("CPU, % of one core", statistics.median(loads), max(loads)),
        ("RSS, MB", statistics.median(rss), max(rss)),
        ("RSS beyond the bare interpreter, MB", beyond, max(rss) - empty[0]),
        ("USS beyond the bare interpreter, MB", statistics.median(unique) - empty[2], max(unique) - empty[2]),
    )
    return Report(
        name=f"A node among {nodes} in a cluster",
        method=(
            f"{nodes} processes of this machine, each a node and nothing else, that know each other's "
            f"addresses. CPU over {_SPAN:g} s in which nothing happens but a state a second from each; "
            f"memory is beyond that of an interpreter with the same imports ({empty[0]:.1f} MB RSS)."
        ),
        tables=(Table(("", "median of the nodes", "the most"), rows),),
        figures=(
            Figure("cluster, CPU of a node", statistics.median(loads), _WANTED_CPU, "%", "at most"),
            Figure("cluster, memory of a node", beyond, _WANTED_MEMORY, "MB", "at most"),
        ),
        notes=(f"The last node to join and all others saw each other after {max(complete, 0.0):.2f} s.",),
    )


def _joined(ids: Sequence[str]) -> list[subprocess.Popen[bytes]]:
    """One after the other, each told of the first."""
    programs: list[subprocess.Popen[bytes]] = []
    peers: tuple[str, ...] = ()
    for id in ids:
        settings = ClusterSettings(discovery="none", port=0, peers=peers)
        program = _process("-m", "tests.cluster.node", id, msgspec.json.encode(settings).decode())
        programs.append(program)
        port = next(said["joined"] for said in _said(program) if "joined" in said)
        peers = peers or (f"127.0.0.1:{port}",)
    return programs


def _said(program: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    assert program.stdout is not None
    return map(json.loads, program.stdout)


def _sees(program: subprocess.Popen[bytes], count: int) -> float:
    """When it saw so many peers."""
    return float(next(said["at"] for said in _said(program) if len(said.get("peers", ())) == count))


def _process(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    report.main(measure, __doc__)
