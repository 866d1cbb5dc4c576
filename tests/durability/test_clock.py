"""A clock that is set while a node serves, as on a board without a battery that gets the time from a network.

What a node measures and waits for goes by the monotonic clock. The wall clock is for people alone.
"""

import ast
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import lan, runtime
from tests.cluster.machines import Lan
from tests.durability.bare import Bare
from tests.e2e.node import Wire, chat_body, raw_chat, text, wait, write_script

__all__ = ["lan", "runtime"]

SOURCES = Path(__file__).parents[2] / "src"
YEARS = 10 * 365 * 86400
# Files that read the wall clock, to say when something was, or to read a date that others wrote.
SAY_WHEN = {
    "exo/cli/cluster.py",
    "exo/cli/key.py",
    "exo/doctor/gather/https.py",
    "exo/doctor/gather/machine.py",
    "exo/doctor/gather/others.py",
    "exo/generation/templates.py",
    "exo/http/app.py",
    "exo/http/ollama_routes.py",
    "exo/http/openai_routes.py",
    "exo/http/responses_routes.py",
    "exo/http/rkllama_routes.py",
    "exo/cluster/certificates.py",
    # Until when a certificate is valid, which is a matter of dates.
    "exo/http/pem.py",
    "exo/http/tls.py",
    # When a span of a trace began.
    "exo/residency/residency.py",
    "exo/traces/phases.py",
    "exo/terminal/recent.py",
}
_WALL = {
    ("time", "time"),
    ("time", "time_ns"),
    ("datetime", "now"),
    ("datetime", "utcnow"),
    ("date", "today"),
}


class Clock:
    """The wall clock of programs with `environment`."""

    def __init__(self, folder: Path) -> None:
        self._library, self._file = folder / "clock.so", folder / "seconds"
        source = Path(__file__).with_name("clock.c")
        build = ["cc", "-shared", "-fPIC", "-O1", "-o", str(self._library), str(source), "-ldl"]
        subprocess.run(build, check=True)
        self.set(0)

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "CLOCK_FILE": str(self._file)}

    def set(self, seconds: int) -> None:
        """It is so much later than it is, or earlier."""
        beside = self._file.with_suffix(".new")
        beside.write_text(str(seconds))
        os.replace(beside, self._file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.mark.parametrize("jump", [YEARS, -YEARS], ids=["forwards", "backwards"])
def test_answers_waits_and_residents_do_not_mind(tmp_path: Path, clock: Clock, jump: int) -> None:
    """With limits of a few seconds, all of which the jump would be past."""
    write_script(tmp_path, "slow", [text("one"), wait(1), text(" two")])
    flags = ("--timeout", "20", "--idle-unload", "20", "--grace", "5")
    with Bare(tmp_path, 'exec "$@"', *flags, env=clock.environment) as node:
        created = node.request("POST", "/v1/chat/completions", chat_body("slow"))[1]["created"]
        with Wire(node) as wire:  # type: ignore[arg-type] # it takes its port and nothing else
            wire.send(raw_chat("slow", stream=True))
            wire.until(b"one")
            clock.set(jump)
            assert b" two" in wire.until(b"[DONE]")
        later = node.request("POST", "/v1/chat/completions", chat_body("slow"))[1]["created"]
        assert abs(later - created - jump) < 60, "the clock did not jump for this process"
        (resident,) = node.request("GET", "/v1/cluster")[1]["me"]["loaded"]
        assert resident["state"] == "ready"
        assert 0 <= resident["idle"] < 20
        assert 0 < resident["expires_in"] <= 20
        node.answers()
        assert node.ends() == 0


@pytest.mark.parametrize("jump", [YEARS, -YEARS], ids=["forwards", "backwards"])
def test_a_node_whose_clock_jumps_stays_in_its_cluster(lan: Lan, clock: Clock, jump: int) -> None:
    lan.machine("jumps", scripts={"hello": [text("Hello")]}, env=clock.environment)
    stays = lan.machine("stays", "--inference-engine", "dummy")
    lan.start()
    views = list(peers(stays.exo.get, 3.0, lambda: clock.set(jump)))
    assert set(views) == {("jumps",)}, views
    assert stays.exo.ask("hello") == "Hello"


def peers(get: Callable[..., object], seconds: float, act: Callable[[], None]) -> Iterator[tuple[str, ...]]:
    """What a node lists from when something is done, for longer than a state lives."""
    act()
    until = time.monotonic() + seconds + 1.5
    while time.monotonic() < until:
        said = json.loads(get("/v1/cluster").body)  # type: ignore[attr-defined]
        yield tuple(peer["id"] for peer in said["peers"])


def test_only_what_says_when_something_was_reads_the_wall_clock() -> None:
    """Whoever adds a file here has looked that nothing is decided by it."""
    found = {
        str(path.relative_to(SOURCES))
        for path in SOURCES.rglob("*.py")
        if any(_reads_the_wall_clock(node) for node in ast.walk(ast.parse(path.read_text())))
    }
    assert found - SAY_WHEN == set()


def _reads_the_wall_clock(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    owner = node.func.value
    name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
    return (name, node.func.attr) in _WALL
