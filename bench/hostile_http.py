"""Hostile requests by what is wrong with them as HTTP: heads, lengths, chunks, encodings and other
protocols. What is wrong with bodies is in `hostile_bodies`, and with clients in `hostile_clients`.

Each maker takes a random generator and gives one `Attack`, the same one for the same seed.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from random import Random
from typing import Literal, TypeAlias

import msgspec

Ending: TypeAlias = Literal["read", "shut", "half-close", "leave"]

CHAT = "/v1/chat/completions"


class Attack(msgspec.Struct, frozen=True, kw_only=True):
    """`pieces` are sent one after the other, `pause` seconds apart. Then the client reads one answer
    ("read"), waits for one and then says that nothing more comes ("shut"), says so at once ("half-close"),
    or reads `after` bytes and is gone ("leave"). More than `answers` are one too many: the server has taken
    a part of the request for another one. `by_client` ones are sent by an HTTP client, over connections that
    it keeps."""

    kind: str
    pieces: tuple[bytes, ...]
    pause: float = 0.0
    ending: Ending = "read"
    after: int = 0
    answers: int = 1
    by_client: bool = False


Maker: TypeAlias = Callable[[Random], Attack]


def request(
    method: str = "POST", path: str = CHAT, body: bytes = b"", *headers: bytes, length: bytes | None = None
) -> bytes:
    """A request whose connection is over behind it. `length` is what it says of its body; b"" nothing."""
    head = [f"{method} {path} HTTP/1.1".encode(errors="surrogateescape"), b"Host: h", b"Connection: close"]
    said = str(len(body)).encode() if length is None else length
    head += [b"Content-Type: application/json", *headers] + ([b"Content-Length: " + said] if said else [])
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def conversation(model: str = "hello", **keys: object) -> bytes:
    """The body of a chat that is all right."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], **keys}).encode()


def chunked(body: bytes, size: int = 7) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


CHUNKED = b"Transfer-Encoding: chunked"


def cut_short(random: Random) -> Attack:
    """Ends anywhere: in the head, the body or a chunk."""
    body = conversation()
    whole = random.choice(
        [request(body=body), request("POST", CHAT, chunked(body), CHUNKED, length=b""), request("GET", "/")]
    )
    return Attack(kind="cut short", pieces=(whole[: random.randrange(len(whole))],), ending="shut")


def large_head(random: Random) -> Attack:
    line = b"x-%d: " % random.randrange(100)
    headers = random.choice(
        [
            [line + b"a" * random.choice([8_000, 9_000, 70_000, 1_000_000])],
            [b"x-%d: a" % number for number in range(random.choice([130, 500, 20_000]))],
            [b"a" * random.choice([9_000, 100_000]) + b": x"],
            [b"Cookie: " + b"a=b; " * random.choice([100, 30_000])],
        ]
    )
    path = random.choice(["/", "/v1/models/" + "a" * 7000, "/" + "a" * 100_000, "/?" + "a=b&" * 30_000])
    return Attack(kind="large head", pieces=(request("GET", path, b"", *headers, length=b""),))


def odd_header(random: Random) -> Attack:
    odd = random.choice(
        [
            b"no colon here", b": no name", b" : blank name", b"bad name: x", b"bad\x00name: x",
            b"name : x", b"x: a\x00b", b"x: a\rb", b"x: a\nb", b"x: a\n b", b"x: a\r\n b", b"\tx: a",
            b"x: \xff\xfe", "x: ü".encode(), b"x: \x01\x02", b"x:", b"Host: other", b"Host:", b"Host: a b",
            b"Host: [::1", b"Content-Type: ", b"Content-Type: ;;;=",
            b"Content-Type: application/json; charset=no",
            b"Accept-Encoding: \xff", b"Expect: 100-continue", b"Expect: the-unexpected", b"Range: bytes=0-",
            b"If-None-Match: \xff", b'If-None-Match: "' + b"a" * 5000 + b'"', b"Cookie: \x7f\xff=\x00",
            b"Connection: keep-alive, close, upgrade", b"Connection: \xff", b"Accept: " + b"*/*," * 1000,
        ]
    )  # fmt: skip
    return Attack(kind="odd header", pieces=(request("POST", CHAT, conversation(), odd),), ending="shut")


def claims(random: Random) -> Attack:
    """Headers that this server believes something for: who asks, for whom, from where, with which key."""
    name = random.choice(
        [
            b"x-exo-hop", b"x-exo-proof", b"x-exo-client", b"x-request-id", b"Origin", b"Authorization",
            b"x-api-key", b"X-Forwarded-For", b"Forwarded", b"traceparent", b"anthropic-version",
            b"Access-Control-Request-Method",
        ]
    )  # fmt: skip
    value = random.choice(
        [
            b"", b"a" * 8000, b"\xff\xfe\x80", b"null", b"../../etc/passwd", b"127.0.0.1", b"Bearer ",
            b"Bearer \xc3\x28", b"http://localhost.evil.example", b"http://127.0.0.1:1@evil.example",
            b"%0d%0aSet-Cookie: a=b",
            b"\x1b[2J", b"{}", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"POST",
        ]
    )  # fmt: skip
    method, path = random.choice(
        [("POST", CHAT), ("OPTIONS", CHAT), ("GET", "/v1/models"), ("POST", "/quit")]
    )
    more = [b"x-exo-proof: " + value] if name == b"x-exo-hop" and random.random() < 0.5 else []
    sent = request(method, path, conversation(), name + b": " + value, *more)
    return Attack(kind="claims", pieces=(sent,))


def bad_chunks(random: Random) -> Attack:
    good = chunked(conversation())
    bad = random.choice(
        [
            b"zz\r\n{}\r\n0\r\n\r\n", b"-1\r\n{}\r\n0\r\n\r\n", b"+2\r\n{}\r\n0\r\n\r\n",
            b"0x2\r\n{}\r\n0\r\n\r\n",
            b"2 \r\n{}\r\n0\r\n\r\n", b" 2\r\n{}\r\n0\r\n\r\n", b"2\n{}\n0\n\n", b"2\r\n{}0\r\n\r\n",
            b"2\r\n{}}}\r\n0\r\n\r\n",
            b"ffffffffffffffff\r\n{}", b"1" + b"0" * 400 + b"\r\n{}", b"\r\n",
            b"7fffffffffffffff\r\n{}\r\n0\r\n\r\n",
            b"2;" + b"a" * 100_000 + b"\r\n{}\r\n0\r\n\r\n", b"2;a=\x00\r\n{}\r\n0\r\n\r\n",
            b"2;a\nb\r\n{}\r\n0\r\n\r\n",
            good[:-5] + b"0\r\n" + b"x: y\r\n" * 1000 + b"\r\n",
            good[:-5] + b"0\r\nContent-Length: 3\r\n\r\n",
            b"2_0\r\n{}\r\n0\r\n\r\n", b"\xb2\r\n{}\r\n0\r\n\r\n", b"0" * 10_000 + b"2\r\n{}\r\n0\r\n\r\n",
            chunked(conversation(), 1) + chunked(conversation()),
        ]
    )  # fmt: skip
    return Attack(kind="bad chunks", pieces=(request("POST", CHAT, bad, CHUNKED, length=b""),), ending="shut")


def wrong_length(random: Random) -> Attack:
    body = conversation()
    right = b"%d" % len(body)
    said = random.choice(
        [
            b"-1", b"+" + right, b"0x10", b"1e3", b"5, 5", b"5,6", right + b" ", b"\t" + right, b"1_0", b"",
            b"99999999999999999999999999", b"9" * 5000, b"NaN", b"\xc2\xb2", b"%d" % (len(body) + 9), b"0",
            b"%d" % (len(body) - 9), b"9223372036854775807", b"18446744073709551616", right + b"\x0b",
            right + b"\r\nContent-Length: 3", right + b"\r\nContent-Length: " + right,
        ]
    )  # fmt: skip
    head = request("POST", CHAT, b"", b"Content-Length: " + said, length=b"")
    return Attack(kind="wrong length", pieces=(head + body,), ending="shut")


def smuggled(random: Random) -> Attack:
    """Two readings of where the body ends, and a request of its own behind one of them."""
    inner = b"GET /v1/models/smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
    code = random.choice(
        [
            b"Transfer-Encoding: chunked", b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding : chunked",
            b"Transfer-Encoding: xchunked", b"Transfer-Encoding: chunked, identity",
            b"Transfer-Encoding: \x0bchunked",
            b"Transfer-Encoding: identity, chunked",
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: CHUNKED",
            b"Transfer-Encoding: chunked;q=1", b'Transfer-Encoding: "chunked"',
            b"X: y\nTransfer-Encoding: chunked",
            b"Transfer-Encoding: chunked\x00", b"Transfer_Encoding: chunked", b" Transfer-Encoding: chunked",
            b"Transfer-Encoding: \xd1\x81hunked", b"X: y\rTransfer-Encoding: chunked",
        ]
    )  # fmt: skip
    # By the length all of it is the body; by the chunks it ends at the zero.
    body = b"0\r\n\r\n" + inner
    version = random.choice([b"1.1", b"1.0"])
    head = b"POST /v1/chat/completions HTTP/%s\r\nHost: h\r\n" % version
    length = b"Content-Length: %d" % len(body)
    order = [length, code] if random.random() < 0.5 else [code, length]
    sent = head + b"\r\n".join(order) + b"\r\n\r\n" + body
    return Attack(kind="smuggling", pieces=(sent,), ending="shut")


def wrong_line(random: Random) -> Attack:
    """Methods, targets and versions."""
    line = random.choice(
        [
            b"BREW / HTTP/1.1", b"GET", b"GET /", b"GET  /  HTTP/1.1", b"get / HTTP/1.1",
            b"GET / HTTP/9.9", b"\x00GET / HTTP/1.1",
            b"GET / HTTP/1.1.1", b"GET / FTP/1.1", b"GET \xff HTTP/1.1", b"GET /%ff%fe HTTP/1.1",
            b"GET /%00 HTTP/1.1",
            b"GET * HTTP/1.1", b"OPTIONS * HTTP/1.1", b"CONNECT a:443 HTTP/1.1", b"TRACE / HTTP/1.1",
            b"GET // HTTP/1.1",
            b"GET http://evil.example/ HTTP/1.1", b"GET http://[::1/ HTTP/1.1",
            b"GET //evil.example HTTP/1.1",
            b"GET /../../etc/passwd HTTP/1.1", b"GET /page/..%2f..%2fmain.py HTTP/1.1",
            b"GET /page/%2e%2e/main.py HTTP/1.1",
            b"GET /v1/models/" + b"%2e%2e%2f" * 400 + b" HTTP/1.1", b"DELETE /models/..%2f..%2fetc HTTP/1.1",
            b"DELETE /v1/models/%00 HTTP/1.1", b"GET /v1/models/\xc3\xbc HTTP/1.1", b"GET /% HTTP/1.1",
            b"GET /%zz HTTP/1.1",
            b"GET /v1/route/explain?model=%ff&prompt_tokens=1e9 HTTP/1.1",
            b"GET /v1/route/explain?max_tokens=-1 HTTP/1.1",
            b"GET /v1/cluster/plan?model=hello&split=%00:0-1 HTTP/1.1",
            b"GET /v1/cluster/plan?split=a:9-1,b HTTP/1.1",
            b"GET /v1/route/explain?prompt_tokens=" + b"9" * 5000 + b" HTTP/1.1",
            b"GET /v1/responses/%2e%2e HTTP/1.1",
            b"GET /v1/cluster/plan?split=exo:0-99999999999999999999 HTTP/1.1",
            b"GET /v1/cluster/shard/link?shard=a HTTP/1.1",
            b"HEAD /v1/models HTTP/1.1", b"PUT /v1/models HTTP/1.1", b"PATCH /api/tags HTTP/1.1",
            b"PRI * HTTP/2.0",
            b"DELETE /v1/chat/completions HTTP/1.1",
            b"GET /v1/responses/a/input_items?limit=x&after=%ff HTTP/1.1",
            b"GET /v1/topology?a=b&a=b HTTP/1.1", b"GET /;a=b?c#d HTTP/1.1", b"GET \x7f HTTP/1.1",
            b"A" * 70_000,
        ]
    )  # fmt: skip
    sent = line + b"\r\nHost: h\r\nConnection: close\r\n\r\n"
    return Attack(kind="wrong line", pieces=(sent,), ending="shut")


def wrong_type(random: Random) -> Attack:
    """Other bodies than JSON, or JSON that claims to be something else."""
    path = random.choice(
        [CHAT, "/v1/messages", "/api/chat", "/v1/responses", "/api/generate", "/v1/embeddings"]
    )
    boundary = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nhello\r\n--b--\r\n'
    kind, body = random.choice(
        [
            (b"application/x-www-form-urlencoded", b"model=hello&messages=hi"),
            (b"multipart/form-data; boundary=b", boundary),
            (b"multipart/form-data", boundary),
            (b"text/xml", b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>'),
            (b"application/json; charset=utf-16", conversation().decode().encode("utf-16")),
            (b"application/json; charset=utf-7", conversation()),
            (b"text/plain", conversation()),
            (b"application/octet-stream", random.randbytes(3000)),
            (b"application/x-yaml", b"!!python/object/apply:os.system ['true']"),
            (b"application/x-pickle", b"cos\nsystem\n(S'true'\ntR."),
        ]
    )  # fmt: skip
    sent = request("POST", path, body).replace(b"Content-Type: application/json", b"Content-Type: " + kind)
    return Attack(kind="wrong type", pieces=(sent,))


@cache
def _bomb(packed: str) -> bytes:
    """40 MiB of blanks, packed."""
    blanks = bytes(1 << 20).replace(b"\0", b" ")
    if packed == "gzip":
        return gzip.compress(blanks * 40)
    raw = zlib.compressobj(9, zlib.DEFLATED, 15 if packed == "deflate" else -15)
    return b"".join([raw.compress(blanks) for _ in range(40)]) + raw.flush()


def compressed(random: Random) -> Attack:
    coding, body = random.choice(
        [
            (b"gzip", _bomb("gzip")),
            (b"deflate", _bomb("deflate")),
            (b"deflate", _bomb("raw")),
            (b"gzip", gzip.compress(conversation())[:-9]),
            (b"gzip", gzip.compress(gzip.compress(conversation()))),
            (b"gzip", gzip.compress(conversation()) + b"rubbish"),
            (b"gzip, gzip", gzip.compress(gzip.compress(conversation()))),
            (b"gzip", conversation()),
            (b"deflate", random.randbytes(2000)),
            (b"gzip", b"\x1f\x8b" + random.randbytes(2000)),
            (b"br", b"\xcf\xff\xff\x7f\xf8'\x00\xe2\xb1@ \xf7" + random.randbytes(500)),
            (b"zstd", b"\x28\xb5\x2f\xfd" + random.randbytes(500)),
            (b"zstd", b"\x28\xb5\x2f\xfd\xe0\xff\xff\xff\xff\xff\xff\xff\x7f"),
            (b"identity", conversation()),
            (b"\xff", conversation()),
            (b"compress", random.randbytes(100)),
        ]
    )
    return Attack(
        kind="compressed",
        pieces=(request("POST", CHAT, body, b"Content-Encoding: " + coding),),
        ending="shut",
    )


def another_protocol(random: Random) -> Attack:
    upgrade = b"GET %s HTTP/1.1\r\nHost: h\r\nConnection: Upgrade%s\r\nUpgrade: %s\r\n%s\r\n"
    websocket = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    path = random.choice([b"/", b"/v1/chat/completions", b"/v1/cluster/events", b"/v1/cluster/shard/link"])
    sent = random.choice(
        [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
            upgrade % (path, b", HTTP2-Settings", b"h2c", b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"),
            upgrade % (path, b"", b"websocket", websocket) + b"\x81\xfe" + random.randbytes(300),
            upgrade % (path, b"", b"websocket", websocket + b"Content-Length: 5\r\n") + b"hello",
            upgrade % (path, b"", b"exo-shard", b"x-exo-hop: a\r\n") + random.randbytes(64),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random.randbytes(500),
            b"\x05\x01\x00", b"SSH-2.0-OpenSSH_9.2\r\n", b"*1\r\n$4\r\nPING\r\n", b"EHLO a\r\n", b"\0" * 2000,
            random.randbytes(3000), b"\r\n" * 5000, b"\n" * 20_000, b"GET / HTTP/0.9\r\n\r\n",
        ]
    )  # fmt: skip
    # Behind an upgrade that is refused comes, as far as the server knows, the next request.
    return Attack(kind="another protocol", pieces=(sent,), ending="shut", answers=2)


MAKERS: Mapping[Maker, int] = {
    cut_short: 6,
    large_head: 3,
    odd_header: 6,
    claims: 5,
    bad_chunks: 6,
    wrong_length: 6,
    smuggled: 6,
    wrong_line: 6,
    wrong_type: 4,
    compressed: 3,
    another_protocol: 4,
}
"""What there is, and how often of each in a hundred or so."""
