"""A snapshot of a real node."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from exo.assembly import Parts, tied_together
from exo.cards import Progress
from exo.chat import ChatRequest, Message
from exo.cluster.reach import reachable_at
from exo.metrics import Answer
from exo.settings import HttpSettings, Settings, TlsSettings
from exo.store.catalogue import BUNDLED
from exo.terminal.gather import Gatherer, access, urls
from exo.terminal.recent import Log, Requests

LOCAL = HttpSettings(host="127.0.0.1", port=52415)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    settings = Settings(
        http=LOCAL, node_id="here", folders=(BUNDLED, tmp_path), memory=10**9, engine="llamacpp"
    )
    async with tied_together(settings) as made:
        yield made


@pytest.fixture
async def gatherer(parts: Parts) -> AsyncIterator[Gatherer]:
    log, requests = Log(lambda: None), Requests(lambda: None)
    yield Gatherer(parts, parts.node, LOCAL, log, requests)
    log.close()
    requests.close()


async def test_a_node_that_does_nothing_stands_still(gatherer: Gatherer) -> None:
    snapshot = gatherer.snapshot(0.0, stopping=False)
    assert snapshot.cluster.me.id == "here"
    assert (snapshot.problem, snapshot.under_way, snapshot.moving) == ("", 0, False)


async def test_tokens_are_counted_as_they_come(parts: Parts, gatherer: Gatherer) -> None:
    question = ChatRequest(model="exo-demo", messages=(Message("user", "What is 145 + 278?"),))
    gatherer.snapshot(0.0, stopping=False)
    with Answer(parts.metrics, "exo-demo") as meter:
        async for delta in parts.node.respond(question):
            meter.delta(delta)
        during = gatherer.snapshot(1.0, stopping=False)
    assert during.rates["exo-demo"] > 5
    assert (during.under_way, during.moving) == (1, True)
    assert gatherer.snapshot(9.0, stopping=False).rates == {}
    assert not gatherer.snapshot(10.0, stopping=False).moving


async def test_a_download_is_told_with_its_speed_and_its_failure(parts: Parts, gatherer: Gatherer) -> None:
    go_on, broken = asyncio.Event(), asyncio.Event()

    async def steps() -> AsyncGenerator[Progress, None]:
        yield Progress("f", 0, 1000)
        yield Progress("f", 100, 1000)
        await go_on.wait()
        yield Progress("f", 600, 1000)
        await broken.wait()
        yield Progress("f", 600, 1000)

    downloads = parts.shelf.downloads
    await downloads.start("user/model", "user/model", steps)
    gatherer.snapshot(0.0, stopping=False)
    go_on.set()
    while downloads["user/model"].done < 600:
        await asyncio.sleep(0)
    snapshot = gatherer.snapshot(2.0, stopping=False)
    (download,) = snapshot.downloads
    assert (download.done, download.total, download.rate, download.failure) == (600, 1000, 250.0, "")
    assert snapshot.moving


def test_a_node_is_opened_at_what_it_listens_on() -> None:
    assert urls(LOCAL) == ("http://127.0.0.1:52415",)
    assert urls(HttpSettings(host="::1", port=1)) == ("http://[::1]:1",)
    *others, last = urls(HttpSettings(host="0.0.0.0", port=1))
    assert last == "http://localhost:1"
    assert sorted(others) == sorted(f"http://{each}:1" for each in reachable_at("0.0.0.0"))


def test_keys_of_a_file_close_it_too(tmp_path: Path) -> None:
    http = HttpSettings(host="0.0.0.0", keys=tmp_path / "keys.json")
    assert access(http) == "open"
    (tmp_path / "keys.json").touch()
    assert access(http) == "key"


def test_it_says_for_whom_it_is_open() -> None:
    assert access(LOCAL) == "here"
    assert access(HttpSettings(host="0.0.0.0")) == "open"
    files = TlsSettings(certificate=Path("a"), key=Path("b"))
    assert access(HttpSettings(tls=files)) == "open"
    assert access(HttpSettings(tls=replace(files, client_ca=Path("c")))) == "certificate"
    assert urls(HttpSettings(host="127.0.0.1", port=1, tls=files)) == ("https://127.0.0.1:1",)
    assert access(HttpSettings(host="192.168.1.2")) == "open"
    assert access(HttpSettings(host="0.0.0.0", key="k")) == "key"
