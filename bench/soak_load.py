"""The soak's clients: they ask, check every answer, hang up, read slowly, and note what came of it all."""

import asyncio
import contextlib
import json
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import aiohttp
import msgspec

from bench import soak_asks
from bench.soak_asks import Ask, Failed, Said, Wrong

# Seconds of silence after which a client leaves: longer than any fault lasts.
_SILENCE, _WHOLE = 60.0, 180.0
_HUNG_UP = 0.15  # share of the streams
# Its socket takes so few bytes that the rest waits at the node.
_SMALL_BUFFER = 4096
_SIP, _SIPS_PAUSE = 8192, 0.01


class Loss(msgspec.Struct, frozen=True):
    """A request that was not answered: in which time, on `time.monotonic`'s clock, why in a word or two, and
    all that is known of it. Some are excused by a fault at that time, and others by nothing."""

    ask: str
    began: float
    ended: float
    kind: str
    message: str
    excusable: bool


class Load:
    """Requests to one node's API, and what came of them."""

    def __init__(self, url: str, key: str, seed: int) -> None:
        self._url, self._headers = url, {"Authorization": f"Bearer {key}"}
        self._random = random.Random(seed)
        self._known: dict[str, Said] = {}
        self._session: aiohttp.ClientSession | None = None
        self.sent, self.whole, self.left = Counter[str](), Counter[str](), Counter[str]()
        self.losses: list[Loss] = []

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Connections are kept and used again, as clients do."""
        timeout = aiohttp.ClientTimeout(total=_WHOLE, sock_read=_SILENCE)
        async with aiohttp.ClientSession(
            self._url, headers=self._headers, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)
        ) as self._session:
            yield

    async def learn(self, asks: Sequence[Ask]) -> None:
        """Takes the answers of a quiet cluster for the right ones. Raises what one fails with."""
        for ask in asks:
            self._known[ask.key] = await self.said(ask)

    async def said(self, ask: Ask) -> Said:
        """One answer. Raises `Failed`, `Wrong` or what aiohttp raises."""
        assert self._session is not None, "only while connected"
        async with self._session.post(ask.path, json=ask.body) as response:
            body = await response.read()
            if response.status != 200:
                raise soak_asks.failure(response.status, body)
            return ask.read(body)

    async def busy(self) -> str:
        """What runs or waits on the nodes, as the one that is asked knows it; "" for nothing."""
        assert self._session is not None, "only while connected"
        async with self._session.get("/v1/cluster") as response:
            said = json.loads(await response.read())
        nodes = [said["me"], *said["peers"]]
        running = sum(each["running"] + each["waiting"] for node in nodes for each in node["loaded"])
        waiting = sum(node["waiting"] for node in nodes)
        return f"{running} running and {waiting} waiting" if running or waiting else ""

    async def ask(self, ask: Ask) -> bool:
        """One request, whose answer is checked and counted; whether it was the right one."""
        began = time.monotonic()
        self.sent[ask.name] += 1
        try:
            said = await self.said(ask)
            right = self._known.setdefault(ask.key, said)
            if not soak_asks.same(said, right):
                raise Wrong(f"wrong text: {said!r} and not {right!r}")
        except Exception as error:  # what was not foreseen is one more that nothing excuses
            self._note(ask, began, error)
            return False
        self.whole[ask.name] += 1
        return True

    async def hang_up(self, ask: Ask) -> None:
        """The same, and leaves at some time: before the answer, within it, or as it ends."""
        self.sent[ask.name] += 1
        self.left[ask.name] += 1
        with contextlib.suppress(TimeoutError, aiohttp.ClientError, Failed):
            async with asyncio.timeout(self._random.choice((0.0, 0.01, 0.05, 0.2))):
                await self.said(ask)

    async def read_slowly(self, ask: Ask) -> None:
        """A stream whose reader takes less than the node could give."""
        began = time.monotonic()
        self.sent[ask.name] += 1
        timeout = aiohttp.ClientTimeout(total=_WHOLE, sock_read=_SILENCE)
        connector = aiohttp.TCPConnector(socket_factory=_narrow_socket, force_close=True)
        try:
            async with (
                aiohttp.ClientSession(
                    self._url, headers=self._headers, timeout=timeout, connector=connector
                ) as session,
                session.post(ask.path, json=ask.body) as response,
            ):
                gathered = bytearray()
                while sip := await response.content.read(_SIP):
                    gathered += sip
                    await asyncio.sleep(_SIPS_PAUSE)
                if response.status != 200:
                    raise soak_asks.failure(response.status, bytes(gathered))
                said = ask.read(bytes(gathered))
                if not soak_asks.same(said, self._known.setdefault(ask.key, said)):
                    raise Wrong("wrong text")
        except Exception as error:
            self._note(ask, began, error)
        else:
            self.whole[ask.name] += 1

    async def converse(self, asks: Sequence[Ask], pause: Callable[[], float]) -> None:
        """One client, until it is cancelled."""
        while True:
            ask = self._random.choice(asks)
            if ask.name.endswith("streamed") and self._random.random() < _HUNG_UP:
                await self.hang_up(ask)
            else:
                await self.ask(ask)
            await asyncio.sleep(pause())

    def _note(self, ask: Ask, began: float, error: Exception) -> None:
        kind, excusable = _sort(error)
        message = f"{type(error).__name__}: {error}"
        self.losses.append(Loss(ask.name, began, time.monotonic(), kind, message[:400], excusable))


# By exo's code. One that is missing here is a failure that must not be.
_EXCUSABLE = {
    "overloaded": "the queue is full",
    "engine_failed": "the engine failed",
    "connection_lost": "the connection to a node was lost",
    "not_ready": "not ready",
    "timeout": "no answer in time",
    "model_not_found": "no node has the model",
}
# Ollama's and Anthropic's dialects, and events of Responses, have names of their own for them.
_BY_STATUS = {
    404: "model_not_found",
    429: "overloaded",
    502: "engine_failed",
    503: "not_ready",
    504: "timeout",
}


def _sort(error: Exception) -> tuple[str, bool]:
    match error:
        case Failed(status=200):
            return "the stream ends with an error event", error.code != "internal_error"
        case Failed():
            code = error.code if error.code in _EXCUSABLE else _BY_STATUS.get(error.status, "")
            return _EXCUSABLE.get(code, f"status {error.status}"), code in _EXCUSABLE
        case Wrong():
            return str(error).partition(":")[0], False
        case TimeoutError():
            return "the client waited no longer", True
        case aiohttp.ClientError() | ConnectionError():
            return "the client's connection broke", True
        case _:
            return type(error).__name__, False


def _narrow_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    made = socket.socket(info[0], info[1], info[2])
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
    return made
