"""What is counted as it happens, and that nobody can make labels without end."""

import asyncio
import re
import subprocess
from collections.abc import Callable

from aiohttp.test_utils import TestClient, TestServer

from exo.chat import Text
from exo.engine import Responder
from exo.http import ollama_routes, openai_routes, service_routes
from exo.http.app import build
from exo.http.desk import Desk
from exo.metrics import Metrics
from exo.settings import HttpSettings
from tests.deploy.prometheus import program
from tests.doubles import card, served
from tests.http.test_answers import END, Source


def node(metrics: Metrics, responder: Responder) -> TestClient:  # type: ignore[type-arg]
    desk = Desk(served(responder, card("m")), metrics, HttpSettings(), lambda: None)
    return TestClient(
        TestServer(build(desk, openai_routes.routes(), ollama_routes.routes(), service_routes.routes()))
    )


async def test_a_thousand_unknown_models_make_one_label() -> None:
    async with node(Metrics("0", ()), Source(Text("a"), END)) as client:

        async def ask(path: str, model: str) -> None:
            body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": False}
            async with client.post(path, json=body) as answer:
                assert answer.status == 404

        for path in ("/v1/chat/completions", "/api/chat"):
            for begin in range(0, 500, 50):
                await asyncio.gather(*(ask(path, f"{path}-{begin + each}") for each in range(50)))
        async with client.get("/metrics") as answer:
            said = await answer.text()
    assert set(re.findall(r'model="([^"]*)"', said)) == {"unknown"}
    assert 'exo_requests_total{model="unknown",status="error"} 1000.0' in said


def test_models_without_end_are_one_label_in_the_end() -> None:
    """Nodes of an open cluster can say that they have any."""
    metrics = Metrics("0", ())
    events: list[Callable[[str], None]] = [
        lambda model: metrics.started(model, 1.0),
        lambda model: metrics.loaded(model, 1.0),
        lambda model: metrics.unloaded(model, "evicted"),
        lambda model: metrics.chosen("quick", model),
        lambda model: metrics.routed(model, "only"),
    ]
    for number in range(1000):
        for event in events:
            event(f"m{number}")
    said = metrics.exposition().decode()
    assert len(set(re.findall(r'model="([^"]*)"', said))) == 201
    assert len(set(re.findall(r'to="([^"]*)"', said))) == 101
    assert metrics.registry.get_sample_value("exo_queue_seconds_count", {"model": "other"}) == 800


def test_what_can_happen_stands_at_nothing_before_it_does() -> None:
    """A counter that appears with 1 has not been seen to grow."""
    metrics = Metrics("0", ())
    metrics.started("m", 0.0)
    value = metrics.registry.get_sample_value
    for status in ("success", "error", "cancelled"):
        assert value("exo_requests_total", {"model": "m", "status": status}) == 0
    for why in ("evicted", "idle", "asked", "died"):
        assert value("exo_model_unloads_total", {"model": "m", "why": why}) == 0
    for when in ("before", "within"):
        assert value("exo_failovers_total", {"when": when}) == 0


async def test_in_turns_it_is_the_same_and_others_get_theirs() -> None:
    metrics = Metrics("0", ())
    metrics.started("m", 1.0)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    said = await metrics.exposition_in_turns()
    beside.cancel()
    names = [line for line in metrics.exposition().decode().splitlines() if not line.startswith("process_")]
    assert [line for line in said.decode().splitlines() if not line.startswith("process_")] == names
    assert turns > 10


def test_promtool_has_nothing_against_it() -> None:
    metrics = Metrics("0", ("x",))
    metrics.started("m", 1.0)
    metrics.refused("not_found")
    metrics.routed("a", "only")
    done = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=metrics.exposition(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
