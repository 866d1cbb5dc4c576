"""Hostile clients: what they send is all right, but not when or how, or they do not wait for what comes."""

import json
from collections.abc import Mapping
from random import Random

from bench.hostile_http import CHAT, CHUNKED, Attack, Maker, conversation, request


def half_closed(random: Random) -> Attack:
    """All right, but that the client says at once that it sends nothing more."""
    body = conversation(random.choice(["hello", "exo-demo"]), stream=random.random() < 0.5, max_tokens=4)
    return Attack(kind="half-closed", pieces=(request(body=body),), ending="half-close")


def leaving(random: Random) -> Attack:
    """Hangs up at any moment of an answer."""
    path, body = random.choice(
        [
            (CHAT, conversation("hangs", stream=True)),
            (CHAT, conversation("hangs")),
            (CHAT, conversation("exo-demo", stream=True, max_tokens=60)),
            (CHAT, conversation("exo-demo", max_tokens=60, n=3)),
            ("/api/chat", conversation("exo-demo")),
            ("/v1/messages", conversation("exo-demo", stream=True, max_tokens=60)),
            ("/v1/responses", json.dumps({"model": "exo-demo", "input": "hi", "stream": True}).encode()),
            ("/v1/embeddings", json.dumps({"model": "exo-demo", "input": ["hi"] * 20}).encode()),
        ]
    )
    method, path = random.choice(
        [("POST", path)] * 6 + [("GET", "/v1/cluster/events"), ("GET", "/modelpool")]
    )
    after = random.choice([0, 1, 200, 500, 1500])
    # What hangs says no more than its first words.
    sent = request(method, path, body if method == "POST" else b"")
    return Attack(
        kind="leaving", pieces=(sent,), ending="leave", after=min(after, 200) if b"hangs" in body else after
    )


def slow(random: Random) -> Attack:
    """A byte now and then, for a second at most."""
    whole = request(body=conversation())
    cuts = sorted(random.sample(range(1, len(whole)), 9))
    pieces = tuple(whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True))
    count = random.randrange(2, len(pieces) + 1)
    pause = random.uniform(0, 0.1)
    return Attack(kind="slow", pieces=pieces[:count], pause=pause, ending=random.choice(["shut", "leave"]))


def pipelined(random: Random) -> Attack:
    """Many at once on one connection, of which the client waits for no answer."""
    one = b"GET /v1/models HTTP/1.1\r\nHost: h\r\n\r\n"
    bad = random.choice([b"", b"\0", b"GET", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n"])
    count = random.choice([2, 30, 300])
    return Attack(
        kind="pipelined", pieces=(one * count + bad,), ending="leave", after=1000, answers=count + 1
    )


def stalled() -> list[Attack]:
    """Clients that never send all of a request, or a byte now and then, for minutes."""
    head = request(body=b"", length=b"100000")
    begun = (b"", b"GET", b"GET / HTTP/1.1\r\nHost: h\r\n", head, head + b"{", b"\x16\x03\x01\x02\x00")
    chunk = request("POST", CHAT, b"5\r\n{", CHUNKED, length=b"")
    silent = [Attack(kind="stalled", pieces=(sent,)) for sent in (*begun, chunk)]
    drops = [(b"GET / HTTP/1.1\r\nx: ",), (head,), (chunk, b"    \r\n", b"5\r\n")]
    slow = [Attack(kind="stalled", pieces=(*sent, *[b"1"] * 60), pause=2.0) for sent in drops]
    return silent + slow


MAKERS: Mapping[Maker, int] = {
    half_closed: 3,
    leaving: 5,
    slow: 2,
    pipelined: 1,
}
"""As `hostile_http.MAKERS`."""
