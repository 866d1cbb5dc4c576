"""The cheapest client there is: requests made beforehand, a kept-alive socket, and counting bytes.

It parses no JSON and no events while the clock runs, so what is measured is the node.
"""

import json
import selectors
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

_RECEIVE = 1 << 20
END_OF_CHUNKS = b"\r\n0\r\n\r\n"
_SECONDS = 120.0


def chat(model: str, content: str, **options: Any) -> bytes:
    """A whole chat request, ready to be sent."""
    return post(
        "/v1/chat/completions",
        {"model": model, "messages": [{"role": "user", "content": content}], **options},
    )


def post(path: str, body: Mapping[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json"
    return f"{head}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


class Stream(msgspec.Struct):
    """What one streamed answer brought: bytes, events, and the marks counted in it with their times.

    `first` and `last` are when the first and the last mark had come, on `time.perf_counter`'s clock, and
    `together` how many marks came with the first: those have no time of their own.
    """

    marks: int = 0
    together: int = 0
    first: float = 0.0
    last: float = 0.0
    events: int = 0
    bytes: int = 0

    @property
    def per_second(self) -> float:
        return (self.marks - self.together) / (self.last - self.first)


class Connection:
    """A kept-alive connection to a node on this machine."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        self.socket.close()

    def ask(self, request: bytes) -> bytes:
        """Sends a request and returns the body of its answer, which is not streamed. Raises unless 200."""
        self.socket.sendall(request)
        data = self._receive()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._receive()
        head = data[:end].lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r")[0])
        while len(data) < end + 4 + length:
            data += self._receive()
        if b" 200 " not in head.partition(b"\r")[0]:
            raise RuntimeError(data.decode(errors="replace"))
        return data[end + 4 :]

    def stream(self, request: bytes) -> None:
        """Sends a request whose answer is streamed, and reads all of it."""
        self.socket.sendall(request)
        data = self._receive()
        while not data.endswith(END_OF_CHUNKS):
            data = (data + self._receive())[-4096:]
        if b"data: [DONE]" not in data:
            raise RuntimeError(data.decode(errors="replace"))

    def read_until(self, mark: bytes, times: int = 1) -> bytes:
        """What comes until `mark` has come so many times, for a request that has been sent."""
        data = b""
        while data.count(mark) < times:
            data += self._receive()
        return data

    def metric(self, name: str) -> float:
        """The first value whose name begins with `name`."""
        lines = self.ask(get("/metrics")).decode().splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(name))

    def _receive(self) -> bytes:
        if data := self.socket.recv(_RECEIVE):
            return data
        raise ConnectionError("the node closed the connection")


def read_streams(connections: Sequence[Connection], requests: Sequence[bytes], mark: bytes) -> list[Stream]:
    """Sends a request on each connection and reads all answers, counting `mark` in each."""
    for connection, request in zip(connections, requests, strict=True):
        connection.socket.sendall(request)
    return receive_streams(connections, mark)


def receive_streams(connections: Sequence[Connection], mark: bytes) -> list[Stream]:
    """The same for requests that have been sent."""
    selector = selectors.DefaultSelector()
    readers = [_Reader(mark) for _ in connections]
    with selector:
        for connection, reader in zip(connections, readers, strict=True):
            selector.register(connection.socket, selectors.EVENT_READ, (connection.socket, reader))
        while selector.get_map():
            ready = selector.select(_SECONDS)
            if not ready:
                raise TimeoutError(f"nothing came for {_SECONDS:g} s")
            for key, _ in ready:
                sock, reader = key.data
                reader.read(sock.recv(_RECEIVE))
                if reader.over:
                    selector.unregister(sock)
    return [reader.stream for reader in readers]


class _Reader:
    """Counts in the bytes of one answer. What may be the beginning of a mark is looked at again."""

    def __init__(self, mark: bytes) -> None:
        self.stream = Stream()
        self.over = False
        self._mark = mark
        self._rests = {mark: b"", b"data: ": b""}
        self._tail = b""

    def read(self, data: bytes) -> None:
        now = time.perf_counter()
        if not data:
            raise ConnectionError("the node closed the connection")
        stream = self.stream
        if not stream.bytes and not data.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(data.decode(errors="replace"))
        stream.bytes += len(data)
        stream.events += self._count(b"data: ", data)
        if marks := self._count(self._mark, data):
            if not stream.marks:
                stream.first, stream.together = now, marks
            stream.marks += marks
            stream.last = now
        self._tail = (self._tail + data)[-64:]
        self.over = self._tail.endswith(END_OF_CHUNKS)
        if self.over and b"data: [DONE]" not in self._tail:
            raise RuntimeError(f"the answer broke off: {self._tail!r}")

    def _count(self, what: bytes, data: bytes) -> int:
        joined = self._rests[what] + data
        self._rests[what] = joined[-(len(what) - 1) :]
        return joined.count(what)
