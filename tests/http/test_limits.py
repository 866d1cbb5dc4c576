"""Limits over HTTP: how much a key or an address may ask, and what clients are told of it."""

import asyncio
import json
from pathlib import Path

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.chat import Text
from exo.engines.scripted import Fail, Hang
from exo.http.guard import duration
from exo.http.headers import hop
from tests.http.house import BODY, CHAT, House, status

SECRET = b"0123456789abcdef"


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


# Keys


async def test_a_key_has_so_many_requests_and_is_served_again_in_time(house: House) -> None:
    kid, other = house.add("kid", requests_per_minute=2), house.add("other", requests_per_minute=2)
    async with house.serving() as client:
        assert [await status(client, kid) for _ in range(4)] == [200, 200, 429, 429]
        assert await status(client, other) == 200
        async with client.post(CHAT, json=BODY, headers=kid) as answer:
            error = (await answer.json())["error"]
            assert answer.headers["Retry-After"] == "30"
        assert (error["code"], error["type"]) == ("rate_limit_exceeded", "rate_limit_error")
        assert "'kid' may send 2 requests a minute" in error["message"]
        assert "30 s" in error["message"]
        house.clock.now += 29
        assert await status(client, kid) == 429
        house.clock.now += 1
        assert [await status(client, kid) for _ in range(2)] == [200, 429]
    assert house.counted("exo_key_requests_total", key="kid", status="success") == 3
    assert house.counted("exo_key_requests_total", key="kid", status="limited") == 5
    assert house.counted("exo_errors_total", type="rate_limit_exceeded", model="unknown") == 5


async def test_what_only_reads_does_not_count(house: House) -> None:
    kid = house.add("kid", requests_per_minute=1)
    async with house.serving() as client:
        for _ in range(5):
            assert await status(client, kid, "/v1/models", verb="GET") == 200
        assert await status(client, kid) == 200
        assert await status(client, kid) == 429
        assert await status(client, kid, "/v1/models", verb="GET") == 200
    assert house.counted("exo_key_requests_total", key="kid", status="success") == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_key_has_so_many_tokens_of_prompts_and_answers(house: House, stream: bool) -> None:
    """An answer of this model has three: one that is read, and two that are written."""
    kid = house.add("kid", tokens_per_minute=4)
    async with house.serving() as client:
        assert [await status(client, kid, body={**BODY, "stream": stream}) for _ in range(3)] == [
            200,
            200,
            429,
        ]
        async with client.post(CHAT, json=BODY, headers=kid) as answer:
            message = (await answer.json())["error"]["message"]
            assert answer.headers["Retry-After"] == "45"
        assert "'kid' has had its 4 tokens a minute" in message
        house.clock.now += 45
        assert await status(client, kid) == 200
    assert house.counted("exo_key_tokens_total", key="kid", kind="prompt") == 3
    assert house.counted("exo_key_tokens_total", key="kid", kind="completion") == 6


async def test_embeddings_take_tokens_too(house: House) -> None:
    kid = house.add("kid", tokens_per_minute=3)
    async with house.serving() as client:
        body = {"model": "m", "input": "hi"}
        assert [await status(client, kid, "/v1/embeddings", body) for _ in range(2)] == [200, 429]
    assert house.counted("exo_key_tokens_total", key="kid", kind="prompt") == 3


async def test_an_answer_that_is_left_has_taken_what_was_said(tmp_path: Path) -> None:
    """Else whoever hangs up before the end would have all he likes."""
    house = House(tmp_path, Text("one"), Text(" two"), Text(" three"), Hang())
    kid = house.add("kid", tokens_per_minute=4)
    async with house.serving() as client:
        body = {**BODY, "stream": True}
        async with client.post(CHAT, json=body, headers=kid, timeout=aiohttp.ClientTimeout(60)) as answer:
            while b"three" not in await answer.content.readline():
                pass
        while not house.counted("exo_key_requests_total", key="kid", status="cancelled"):
            await asyncio.sleep(0)
        assert house.counted("exo_key_tokens_total", key="kid", kind="completion") == 3
        assert (house.counted("exo_key_tokens_total", key="kid", kind="prompt") or 0) >= 1
        assert await status(client, kid) == 429


async def test_a_failure_is_counted_as_one(tmp_path: Path) -> None:
    for steps in ((Fail("broken"),), (Text("so far"), Fail("broken"))):
        house = House(tmp_path / str(len(steps)), *steps)
        kid = house.add("kid")
        async with house.serving() as client:
            await status(client, kid, body={**BODY, "stream": True})
            await status(client, kid, body={"model": "x"})
        assert house.counted("exo_key_requests_total", key="kid", status="error") == 2
        assert house.counted("exo_key_requests_total", key="kid", status="success") == 0


async def test_clients_are_told_how_they_stand_as_openai_tells_it(house: House) -> None:
    kid, free = house.add("kid", requests_per_minute=3, tokens_per_minute=120), house.add("free")
    async with house.serving() as client:
        async with client.post(CHAT, json={**BODY, "stream": True}, headers=kid) as answer:
            told = {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit")}
            await answer.read()
        assert told == {
            "x-ratelimit-limit-requests": "3",
            "x-ratelimit-remaining-requests": "2",
            "x-ratelimit-reset-requests": "20s",
            "x-ratelimit-limit-tokens": "120",
            "x-ratelimit-remaining-tokens": "120",
            "x-ratelimit-reset-tokens": "0s",
        }
        async with client.post(CHAT, json=BODY, headers=kid) as answer:
            assert answer.headers["x-ratelimit-remaining-requests"] == "1"
            assert answer.headers["x-ratelimit-remaining-tokens"] == "114"
        async with client.post(CHAT, json={}, headers={**kid, "Origin": "http://localhost:1"}) as answer:
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
            assert "x-ratelimit-remaining-requests" in answer.headers["Access-Control-Expose-Headers"]
        async with client.post(CHAT, json=BODY, headers=kid) as answer:
            assert answer.status == 429
            assert answer.headers["x-ratelimit-remaining-requests"] == "0"
            assert answer.headers["x-ratelimit-reset-requests"] == "1m0s"
        async with client.post(CHAT, json=BODY, headers=free) as answer:
            assert not any(name.startswith("x-ratelimit") for name in answer.headers)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0s"),
        (0.0004, "1ms"),
        (0.012, "12ms"),
        (1, "1s"),
        (8.64, "8.64s"),
        (59.9996, "1m0s"),
        (61.5, "1m1.5s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
        (7384.25, "2h3m4.25s"),
    ],
)
def test_a_time_as_openai_writes_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@given(st.floats(0, 1e7))
def test_a_time_is_never_said_too_short(seconds: float) -> None:
    said, total = duration(seconds), 0.0
    for unit, factor in (("h", 3600.0), ("ms", 0.001), ("m", 60.0), ("s", 1.0)):
        head, found, rest = said.partition(unit)
        if found and head.replace(".", "").isdecimal():
            total, said = total + float(head) * factor, rest
    assert said == ""
    assert seconds - 1e-6 <= total < seconds + 0.0011


async def test_each_dialect_has_the_refusal_in_its_own_shape(house: House) -> None:
    kid = house.add("kid", requests_per_minute=1)
    said = {}
    async with house.serving() as client:
        await status(client, kid)
        for path in ("/v1/responses", "/v1/messages", "/api/chat", "/load_model", "/v1/load", "/tokenize"):
            async with client.post(path, json={}, headers=kid) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (429, "60")
                said[path] = json.loads(await answer.read())
    message = said["/api/chat"]["error"]
    assert "1 request a minute" in message
    for path in ("/v1/responses", "/v1/load", "/tokenize"):
        error = {"message": message, "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"}
        assert said[path] == {"error": error}
    assert said["/v1/messages"]["error"] == {"type": "rate_limit_error", "message": message}
    assert said["/load_model"] == {"error": message}


# Addresses, where there are no keys


async def test_without_keys_each_address_has_so_many_requests(house: House) -> None:
    async with house.serving(per_address=2) as client:
        assert [await status(client, {}) for _ in range(3)] == [200, 200, 429]
        async with client.post(CHAT, json=BODY) as answer:
            assert "127.0.0.1 may send 2 requests a minute" in (await answer.json())["error"]["message"]
            assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert await status(client, {"X-Forwarded-For": "192.0.2.9", "x-exo-client": "other"}) == 429
        house.clock.now += 30
        assert await status(client, {}) == 200
        kid = house.add("kid")
        house.clock.now += 1
        assert [await status(client, kid) for _ in range(5)] == [200] * 5, "a key has limits of its own"


async def test_a_node_is_not_counted_for_its_clients_unless_it_only_says_that_it_is_one(house: House) -> None:
    me = house.books.cluster().me
    house.peers = (msgspec.structs.replace(me, id="b", addresses=("127.0.0.1",)),)
    async with house.serving(per_address=1) as client:
        assert [await status(client, hop("b", None)) for _ in range(3)] == [200] * 3
        assert [await status(client, hop("c", None)) for _ in range(3)] == [200, 429, 429]
    house.peers = (msgspec.structs.replace(me, id="b", addresses=("192.0.2.1",)),)
    async with house.serving(per_address=1) as client:
        assert [await status(client, hop("b", None)) for _ in range(2)] == [200, 429]


async def test_the_clusters_secret_proves_a_node_and_nothing_less_does(house: House) -> None:
    async with house.serving(per_address=1, secret=SECRET) as client:
        assert [await status(client, hop("b", SECRET)) for _ in range(3)] == [200] * 3
        assert [await status(client, hop("b", b"guessed")) for _ in range(3)] == [401, 429, 429]
