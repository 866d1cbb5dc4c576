"""`exo plan` of a running node."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from click.testing import CliRunner, Result

from exo.cli.plan import plan
from tests.cluster.shard_nodes import DEMO, ShardNode


@pytest.fixture
async def pair() -> AsyncIterator[tuple[ShardNode, ShardNode]]:
    """Two nodes, neither of which could hold the model alone."""
    whole = (await ShardNode("x").planner.plan(DEMO)).parts[0].bytes
    a, b = ShardNode("a", memory=whole * 2 // 3), ShardNode("b", memory=whole // 2)
    a.peers, b.peers = [b], [a]
    for node in (a, b):
        await node.start()
    yield a, b
    for node in (a, b):
        await node.stop()


async def run(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, plan, arguments, catch_exceptions=False)


async def test_a_plan_is_a_table(pair: tuple[ShardNode, ShardNode]) -> None:
    shown = await run(DEMO, "--url", pair[1].url)
    assert shown.exit_code == 0
    head, a, b, speed = shown.output.splitlines()
    assert head.split() == ["NODE", "LAYERS", "TAKES", "MAY", "USE", "FITS"]
    assert a.split()[:4] == ["a", "0-2", "of", "6"]
    assert b.split()[:4] == ["b", "3-5", "of", "6"]
    assert a.endswith("yes")
    assert "guessed" in speed


async def test_a_split_by_hand_that_does_not_fit_ends_with_status_1(
    pair: tuple[ShardNode, ShardNode],
) -> None:
    shown = await run(DEMO, "--split", f"{DEMO}=b:0-4,a:5-5", "--url", pair[0].url)
    assert shown.exit_code == 1
    assert shown.output.splitlines()[1].endswith("no")
    assert "layers 0-4 take about" in shown.output


async def test_as_json(pair: tuple[ShardNode, ShardNode]) -> None:
    shown = await run(DEMO, "--json", "--url", pair[0].url)
    assert [part["node"] for part in json.loads(shown.output)["parts"]] == ["a", "b"]
