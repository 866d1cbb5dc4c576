"""Limits of one model where another node answers."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from exo.chat import Sampling
from exo.settings import Defaults
from tests.cluster.test_dispatch import Cluster, Machine, request
from tests.doubles import answer, finished


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Machine, Machine]]:
    """Two nodes, of which the second one has the model."""
    cluster = Cluster(tmp_path)
    a, b = await cluster.add("a", "b")
    await b.put("m")
    yield a, b
    async with AsyncExitStack() as stack:
        for machine in cluster.machines:
            stack.push_async_callback(machine.residency.close)
            stack.push_async_callback(machine.stop)
            stack.push_async_callback(machine.node.close)


@pytest.mark.parametrize(
    ("asked", "answering", "gets"),
    [
        (Defaults(max_tokens=2, max_tokens_for={"m": 4}), Defaults(), 4),
        (Defaults(), Defaults(max_tokens=2, max_tokens_for={"m": 4}), 4),
        (Defaults(max_tokens_for={"m": 3}), Defaults(max_tokens_for={"m": 5}), 3),
        (Defaults(max_tokens_for={"m": 5}), Defaults(max_tokens_for={"m": 3}), 3),
        (Defaults(max_tokens_for={"m": 5}), Defaults(max_tokens=1), 1),
    ],
)
async def test_the_caps_of_both_nodes_hold(
    pair: tuple[Machine, Machine], asked: Defaults, answering: Defaults, gets: int
) -> None:
    a, b = pair
    a.here._defaults, b.here._defaults = asked, answering
    end = finished(await answer(a.node, request(sampling=Sampling(max_tokens=6))))
    assert (end.reason, end.usage.completion_tokens) == ("length", gets)
