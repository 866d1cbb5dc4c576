"""Keys over HTTP: who is answered, and what a key may do."""

import json
import logging
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from exo.admission import keyfile
from exo.admission.keys import OWN, Key, digest
from exo.cluster import certificates
from exo.http.headers import HOP_HEADER, hop
from exo.http.tls import client_context, server_context
from tests.http.house import BODY, CHAT, House, status
from tests.http.test_ollama_routes import HI

SECRET = b"0123456789abcdef"


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


# Who is answered


async def test_without_a_key_with_another_one_and_with_the_right_one(house: House) -> None:
    right = house.add("kid")
    async with house.serving() as client:
        for path in ("/v1/models", "/v1/cluster", "/metrics", "/nowhere"):
            async with client.get(path) as answer:
                assert answer.status == 401
                assert "wants its key: send" in await answer.text()
            async with client.get(path, headers={"Authorization": "Bearer kif"}) as answer:
                assert answer.status == 401
                assert "does not know" in await answer.text()
        assert await status(client, right) == 200
        assert await status(client, {"x-api-key": "kid"}, "/v1/messages", {**BODY, "max_tokens": 5}) == 200
        for path in ("/healthcheck", "/ready"):
            assert await status(client, {}, path, verb="GET") == 200


async def test_the_nodes_own_key_stays_one_beside_those_of_the_file(house: House) -> None:
    kid = house.add("kid")
    async with house.serving("own") as client:
        assert await status(client, kid) == 200
        assert await status(client, {"Authorization": "Bearer own"}) == 200
        assert await status(client, {"Authorization": "Bearer other", "x-api-key": "own"}) == 200
        assert await status(client, {"Authorization": "Bearer ", "x-api-key": ""}) == 401
    assert house.counted("exo_key_requests_total", key=OWN, status="success") == 2


async def test_keys_come_and_go_while_the_node_runs(house: House) -> None:
    async with house.serving() as client:
        assert await status(client, {}) == 200
        kid = house.add("kid")
        house.clock.now += 1
        assert await status(client, {}) == 401
        assert await status(client, kid) == 200
        keyfile.remove(house.file, "kid")
        assert await status(client, kid) == 200, "the file is looked at once a second"
        house.clock.now += 1
        assert await status(client, kid) == 401
        assert await status(client, {}) == 401, "nobody is let in by taking the last key away"


# What a key may do


OWNERS = [
    ("POST", "/api/pull", {"model": "x"}),
    ("POST", "/api/create", {"model": "new", "from": "m"}),
    ("DELETE", "/api/delete", {"model": "m"}),
    ("POST", "/v1/load", {"model": "m"}),
    ("POST", "/v1/spread", {"model": "m", "nodes": 1}),
    ("POST", "/load_model", {"model_name": "m"}),
    ("POST", "/unload_model", {"model_name": "m"}),
    ("DELETE", "/rm", {"model": "m"}),
]


@pytest.mark.parametrize(("verb", "path", "body"), OWNERS)
async def test_only_an_owners_key_changes_what_is_on_the_machine(
    house: House, verb: str, path: str, body: object
) -> None:
    kid, me = house.add("kid"), house.add("me", owner=True)
    async with house.serving("own") as client:
        async with client.request(verb, path, json=body, headers=kid) as answer:
            said = await answer.text()
            assert answer.status == 403
            assert "'kid' is not an owner's" in said
            assert "exo key add --owner" in said
        assert house.books.asked == []
        for owners in (me, {"Authorization": "Bearer own"}):
            assert await status(client, owners, path, body, verb) != 403


async def test_with_keys_this_machine_itself_is_no_owner(house: House) -> None:
    house.add("kid")
    async with house.serving() as client:
        assert await status(client, {}, "/api/delete", {"model": "m"}, "DELETE") == 401


async def test_without_keys_the_rules_are_as_they_were(house: House) -> None:
    async with house.serving() as client:
        assert await status(client, {}, "/api/delete", {"model": "m"}, "DELETE") == 200
        elsewhere = {"X-Forwarded-For": "192.0.2.1"}
        assert await status(client, elsewhere, "/api/delete", {"model": "m"}, "DELETE") == 403
        assert await status(client, elsewhere, "/api/chat", {**BODY, "keep_alive": -1}) == 200
    assert ("keep", ("m", None)) in house.books.asked


@pytest.mark.parametrize(
    ("given", "kept"), [("10s", 10.0), (0, 0.0), ("5m", 300.0), ("30m", 300.0), ("8760h", 300.0)]
)
@pytest.mark.parametrize(
    ("path", "asks"),
    [("/api/chat", HI), ("/api/generate", {"prompt": "hi"}), ("/api/embed", {"input": "hi"})],
)
async def test_a_guest_keeps_a_model_no_longer_than_the_node_would(
    house: House, given: object, kept: float, path: str, asks: dict[str, Any]
) -> None:
    """Continue, for one, sends half an hour with each request."""
    kid = house.add("kid")
    async with house.serving(idle_seconds=300.0) as client:
        assert await status(client, kid, path, {"model": "m", "keep_alive": given, **asks}) == 200
    assert house.books.asked[-1] == ("keep", ("m", kept))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"keep_alive": -1, **HI}, "keep no model for ever"),
        ({"keep_alive": "-1m"}, "keep no model for ever"),
        ({"keep_alive": 0}, "unload no model"),
    ],
)
async def test_a_guest_neither_pins_nor_unloads(house: House, body: dict[str, Any], words: str) -> None:
    kid, me = house.add("kid"), house.add("me", owner=True)
    async with house.serving(idle_seconds=300.0) as client:
        async with client.post("/api/chat", json={"model": "m", **body}, headers=kid) as answer:
            said = await answer.json()
            assert answer.status == 403
        assert words in said["error"]
        assert "owner's key" in said["error"]
        assert house.books.asked == []
        assert await status(client, me, "/api/chat", {"model": "m", **body}) == 200
    seconds = None if body["keep_alive"] != 0 else 0.0
    assert house.books.asked[-1] == ("keep", ("m", seconds))


async def test_where_the_node_keeps_models_for_ever_a_guest_may_say_so(house: House) -> None:
    kid = house.add("kid")
    async with house.serving() as client:
        assert await status(client, kid, "/api/chat", {**BODY, "keep_alive": -1}) == 200
        assert await status(client, kid, "/api/chat", {"model": "m", "keep_alive": 0}) == 403


# Nodes, where there are keys


async def test_a_node_shows_an_owners_key_and_is_not_counted(house: House) -> None:
    kid = house.add("kid", requests_per_minute=1)
    async with house.serving("own") as client:
        own = {"Authorization": "Bearer own", HOP_HEADER: "b"}
        assert [await status(client, own) for _ in range(3)] == [200] * 3
        assert house.counted("exo_key_requests_total", key=OWN, status="success") == 0
        for _ in range(2):
            async with client.post(CHAT, json=BODY, headers={**kid, HOP_HEADER: "b"}) as answer:
                assert answer.status in (401, 429), "a guest is no node, and is counted as what he is"
        assert await status(client, {HOP_HEADER: "b"}) == 401
    assert house.counted("exo_key_requests_total", key="kid", status="error") == 1
    assert house.counted("exo_key_requests_total", key="kid", status="limited") == 1


async def test_a_guest_with_the_clusters_secret_is_no_node_either(house: House) -> None:
    kid = house.add("kid")
    async with house.serving("own", secret=SECRET) as client:
        async with client.post(
            "/v1/load", json={"model": "m"}, headers={**kid, **hop("b", SECRET)}
        ) as answer:
            assert answer.status == 401
            assert "'kid', which is no owner's" in await answer.text()
        own = {"Authorization": "Bearer own", **hop("b", SECRET)}
        assert await status(client, own, "/v1/load", {"model": "m"}) == 200


async def test_a_nodes_certificate_stands_for_a_key_but_not_for_an_owner(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.add("kid", requests_per_minute=1)
    ca = certificates.make_ca("home")
    files = certificates.install(certificates.make_node_certificate(ca, ["a"]), tmp_path / "a")
    theirs = certificates.install(certificates.make_node_certificate(ca, ["b"]), tmp_path / "b")
    async with house.serving(per_address=1, certified=True) as client:
        context = server_context(files.ca, files.certificate, files.key)
        runner = client.server.runner
        assert runner is not None
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        [port] = {address[1] for address in runner.addresses if address[1] != client.server.port}
        shown = client_context(theirs.ca, theirs.certificate, theirs.key)
        url = f"https://127.0.0.1:{port}"
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=shown)) as session:
            for _ in range(3):
                async with session.post(url + CHAT, json=BODY, headers=hop("b", None)) as answer:
                    assert answer.status == 200
            async with session.post(url + CHAT, json=BODY) as answer:
                assert answer.status == 401, "without a node that it speaks for, it is any client"
            async with session.delete(
                url + "/api/delete", json={"model": "m"}, headers=hop("b", None)
            ) as answer:
                assert answer.status == 403
        assert await status(client, hop("b", None)) == 401


# The access log


async def test_the_access_log_names_the_key_and_never_has_it(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    secret = "exo-this-is-the-key-itself"
    keyfile.add(house.file, Key(name="laptop", sha256=digest(secret)))
    async with house.serving() as client:
        assert await status(client, {"Authorization": f"Bearer {secret}"}) == 200
        assert await status(client, {"Authorization": f"Bearer {secret}x"}) == 401
    records = [json.loads(each.getMessage()) for each in caplog.records if each.name == "exo.access"]
    assert [each.get("key") for each in records] == ["laptop", None]
    assert secret not in caplog.text


async def test_what_can_happen_to_a_key_stands_at_nothing_before_it_does(house: House) -> None:
    kid = house.add("kid")
    async with house.serving() as client:
        assert await status(client, kid, "/metrics", verb="GET") == 200
        house.add("new")
        house.clock.now += 1
        assert await status(client, kid, "/metrics", verb="GET") == 200
    for name in ("kid", "new"):
        for outcome in ("success", "error", "limited", "cancelled"):
            assert house.counted("exo_key_requests_total", key=name, status=outcome) == 0
        for kind in ("prompt", "completion"):
            assert house.counted("exo_key_tokens_total", key=name, kind=kind) == 0
