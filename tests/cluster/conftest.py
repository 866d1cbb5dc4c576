"""Hosts and node programs for the tests of this folder, and their end."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from exo.cluster.membership import Membership
from exo.cluster.settings import ClusterSettings
from exo.nodes import Node
from tests.cluster.hosts import Hosts, why_not
from tests.cluster.machines import Lan, Runtime
from tests.cluster.node import node
from tests.cluster.nodes import PATIENCE, NodeProgram


@cache
def _why_not() -> str | None:
    return why_not()


def _need_hosts() -> None:
    """Skips the test where there can be no hosts, except in CI."""
    if reason := _why_not():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def make_hosts() -> Iterator[Callable[..., Hosts]]:
    """Makes hosts that are gone after the test. Skips it where there can be none, except in CI."""
    _need_hosts()
    with ExitStack() as stack:
        yield lambda count, **options: stack.enter_context(Hosts(count, **options))


@pytest.fixture(scope="session")
def runtime(build: Path, file_for: Callable[..., Path]) -> Callable[[str], Runtime]:
    """The stand-in of a release, and a model file for it."""
    return lambda release: Runtime(build / release / "librkllmrt.so", file_for(release))


@pytest.fixture
def lan(make_hosts: Callable[..., Hosts], tmp_path: Path, runtime: Callable[[str], Runtime]) -> Iterator[Lan]:
    """A network for four machines. At the end all must stop well, have logged no defect and leave nothing."""
    with Lan(make_hosts(4), tmp_path, runtime) as lan:
        yield lan


@pytest.fixture(scope="module")
def lasting_lan(tmp_path_factory: pytest.TempPathFactory, runtime: Callable[[str], Runtime]) -> Iterator[Lan]:
    """The same for a whole file, whose tests leave it as they found it."""
    _need_hosts()
    with Hosts(4) as hosts, Lan(hosts, tmp_path_factory.mktemp("lan"), runtime) as lan:
        yield lan


@pytest.fixture
def start() -> Iterator[Callable[..., NodeProgram]]:
    """Starts node programs that are gone after the test."""
    programs: list[NodeProgram] = []

    def started(*arguments: object, **options: object) -> NodeProgram:
        programs.append(NodeProgram(*arguments, **options))  # type: ignore[arg-type]
        return programs[-1]

    yield started
    for program in programs:
        program.end()


class Member:
    """A `Membership` of this process, and what a test waits for on it."""

    def __init__(self, id: str, settings: ClusterSettings) -> None:
        self.id, self.waiting = id, 0
        self.views: list[list[str]] = []
        self.membership = Membership(settings, lambda: node(id, self.waiting), self._changed)
        self._news = asyncio.Event()

    def _changed(self, peers: Sequence[Node]) -> None:
        self.views.append([peer.id for peer in peers])
        self._news.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.membership.port}"

    @property
    def ids(self) -> list[str]:
        return [peer.id for peer in self.membership.peers]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Waits for its peers to change until this holds."""
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self._news.clear()
                await self._news.wait()

    async def hears_of(self, id: str, waiting: int) -> None:
        """Waits until it knows that so many requests wait at another node."""
        await self.until(lambda: (id, waiting) in {(peer.id, peer.waiting) for peer in self.membership.peers})

    async def sees(self, *ids: str) -> None:
        await self.until(lambda: self.ids == sorted(ids))


@pytest.fixture
async def join() -> AsyncIterator[Callable[..., object]]:
    """Makes members on this machine that only know each other by address, and closes them."""
    members: list[Member] = []

    async def joined(id: str, *known: Member, **fields: object) -> Member:
        peers = tuple(each.address for each in known)
        settings = ClusterSettings(**{"discovery": "none", "port": 0, "peers": peers, **fields})  # type: ignore[arg-type]
        members.append(Member(id, settings))
        await members[-1].membership.start()
        return members[-1]

    yield joined
    await asyncio.gather(*(member.membership.close() for member in members))
