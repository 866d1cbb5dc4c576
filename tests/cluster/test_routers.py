"""Nodes of this machine that are clients of routers."""

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import click
import pytest

from exo.cli import clusters
from exo.cluster import membership
from exo.cluster.membership import Membership
from exo.cluster.session import Router
from exo.cluster.settings import ClusterSettings
from exo.errors import BadRequest, NotReady
from tests.cluster.conftest import Member
from tests.cluster.node import node
from tests.e2e.node import environment

Join = Callable[..., Awaitable[Member]]
Relay = Callable[..., Awaitable[Router]]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
async def relay() -> AsyncIterator[Relay]:
    """Starts a router on a port, which knows that of another one, and closes it."""
    routers: list[Router] = []

    async def started(port: int, *others: int) -> Router:
        addresses = [f"127.0.0.1:{other}" for other in others]
        routers.append(await asyncio.to_thread(Router, ClusterSettings(port=port), addresses))
        return routers[-1]

    yield started
    for router in routers:
        await asyncio.to_thread(router.close)


async def test_clients_of_two_routers_see_each_other_and_a_leave_at_once(join: Join, relay: Relay) -> None:
    one, two = free_port(), free_port()
    await relay(one)
    await relay(two, one)
    a = await join("a", routers=(f"127.0.0.1:{one}",))
    b = await join("b", routers=(f"127.0.0.1:{two}",))
    c = await join("c", routers=(f"127.0.0.1:{two}", f"127.0.0.1:{one}"))
    await asyncio.gather(a.sees("b", "c"), b.sees("a", "c"), c.sees("a", "b"))
    assert a.membership.port == 0
    b.waiting = 3
    await a.hears_of("b", 3)
    await c.membership.close()
    async with asyncio.timeout(1):
        await asyncio.gather(a.sees("b"), b.sees("a"))


async def test_the_next_router_takes_over(join: Join, relay: Relay) -> None:
    one, two = free_port(), free_port()
    first = await relay(one)
    await relay(two, one)
    a = await join("a", routers=(f"127.0.0.1:{one}", f"127.0.0.1:{two}"))
    b = await join("b", routers=(f"127.0.0.1:{two}",))
    await asyncio.gather(a.sees("b"), b.sees("a"))
    await asyncio.to_thread(first.close)
    # Whoever sees this one has gone there.
    c = await join("c", routers=(f"127.0.0.1:{two}",))
    async with asyncio.timeout(2):
        await asyncio.gather(a.sees("b", "c"), b.sees("a", "c"), c.sees("a", "b"))


async def test_a_node_is_alone_until_a_router_answers(
    join: Join, relay: Relay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(membership, "_RETRY", 0.1)
    port = free_port()
    early = await join("early", routers=(f"127.0.0.1:{port}",))
    async with asyncio.timeout(10):
        while f"the cluster cannot be joined by 127.0.0.1:{port}: " not in caplog.text:
            await asyncio.sleep(0.01)
    assert early.ids == []
    await relay(port)
    late = await join("late", routers=(f"127.0.0.1:{port}",))
    await asyncio.gather(early.sees("late"), late.sees("early"))


async def test_a_node_without_a_router_can_be_closed() -> None:
    alone = Membership(
        ClusterSettings(discovery="none", routers=(f"127.0.0.1:{free_port()}",)), lambda: node("a")
    )
    await alone.start()
    await alone.close()


async def test_a_port_that_is_taken_is_told(relay: Relay) -> None:
    port = free_port()
    await relay(port)
    with pytest.raises(NotReady, match=f"a router cannot listen on port {port}"):
        await relay(port)


def test_what_is_no_address_is_told() -> None:
    with pytest.raises(BadRequest, match="'a b' is no address"):
        Membership(ClusterSettings(discovery="none", routers=("a b",)), lambda: node("a"))


def test_with_a_router_nobody_else_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXO_HOME", str(tmp_path))

    def settings(host: str = "0.0.0.0", discovery: clusters.Discovery | None = None, *peers: str) -> object:
        return clusters.settings(
            host,
            name="exo",
            discovery=discovery,
            manual_file=None,
            port=7447,
            peers=peers,
            routers=("hub",),
            environment={},
        )

    assert settings() == ClusterSettings(discovery="none", routers=("hub",))
    with pytest.raises(click.UsageError, match="looks for nobody else"):
        settings("0.0.0.0", "udp")
    with pytest.raises(click.UsageError, match="looks for nobody else"):
        settings("0.0.0.0", None, "peer")
    with pytest.raises(click.UsageError, match="cannot reach"):
        settings("127.0.0.1")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_as_it_is_told_to(tmp_path: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-m", "exo.main", "cluster", "router", "--cluster-port", str(free_port())]
    with subprocess.Popen(command, env=environment(tmp_path), stderr=subprocess.PIPE, text=True) as router:
        assert router.stderr is not None
        assert "a router of clusters" in router.stderr.readline()
        router.send_signal(how)
        assert router.wait(30) == 0
