"""Carries hostile requests out against a server on this machine, many at a time, and tells what became of
each, and of the server."""

import asyncio
import contextlib
import re
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from aiohttp import ClientSession

from bench.hostile_http import Attack

BOUND = 30.0
"""Seconds in which a request has to end, whatever it is: other programs share this machine."""

BOUND_STALLED = 60.0
"""The same for one that is never sent whole: a node waits half a minute for it."""

KEPT = 4
"""Files that may have been opened for good since: a library's that is used for the first time."""

_AT_ONCE = 12
_RECEIVE = 1 << 16
# How long a connection that was answered is looked at for a second answer.
_QUIET = 0.05
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_GIVEN_AWAY = re.compile(rb"Traceback|defect of exo|/site-packages/|File \"")
# In which whatever is a request to the server has an answer.
_ANSWERED = 0.3
_PATIENCE = 1.0
_SETTLING = 20.0
_SHOWN = 2000


class Outcome(msgspec.Struct, frozen=True):
    """What became of an attack. `statuses` are of all answers; none is a connection that was closed.
    `fault` says what should not have been, and upon what; "" where nothing is."""

    kind: str
    statuses: tuple[int, ...]
    seconds: float
    fault: str


class Held(msgspec.Struct, frozen=True):
    """What a process has: open files, child processes, threads, and resident bytes."""

    files: int
    children: int
    threads: int
    memory: int


async def carry_out(port: int, attacks: Iterable[Attack], beside: Sequence[Attack] = ()) -> list[Outcome]:
    """All of them, some at a time, in their order; those `beside` all at once and from the beginning."""
    waiting, outcomes = iter(attacks), list[Outcome]()

    async def work() -> None:
        for attack in waiting:
            outcomes.append(await _timed(port, attack, client))

    async with ClientSession(f"http://127.0.0.1:{port}") as client:
        _, stalled = await asyncio.gather(
            asyncio.gather(*(work() for _ in range(_AT_ONCE))),
            asyncio.gather(*(_timed(port, attack, client, BOUND_STALLED) for attack in beside)),
        )
    return [*outcomes, *stalled]


async def _timed(port: int, attack: Attack, client: ClientSession, bound: float = BOUND) -> Outcome:
    began, said, statuses = time.perf_counter(), b"", tuple[int, ...]()
    try:
        async with asyncio.timeout(bound):
            said = await (_ask(client, attack) if attack.by_client else _one(port, attack))
    except TimeoutError:
        fault = f"no end after {bound:g} s"
    else:
        statuses = tuple(int(status) for status in _STATUS.findall(said))
        fault = _fault(attack, statuses, said)
    seconds = time.perf_counter() - began
    told = f"{attack.kind}: {fault}: {b''.join(attack.pieces)[:_SHOWN]!r}" if fault else ""
    return Outcome(attack.kind, statuses, seconds, told)


def _fault(attack: Attack, statuses: Sequence[int], said: bytes) -> str:
    # What is busy or not there yet says so, and what of HTTP there is not; a model that fails is a fault.
    if wrong := [status for status in statuses if status >= 500 and status not in (501, 503, 505)]:
        return f"status {wrong[0]}"
    if len([status for status in statuses if status >= 200]) > attack.answers:
        return f"statuses {statuses}"
    if found := _GIVEN_AWAY.search(said):
        return f"an answer with {found[0].decode()!r}"
    return ""


async def _ask(client: ClientSession, attack: Attack) -> bytes:
    """What came back to the client, put as the server has put it."""
    head, _, body = attack.pieces[0].partition(b"\r\n\r\n")
    method, path, _ = head.split(b" ", 2)
    headers = {"Content-Type": "application/json"}
    async with client.request(method.decode(), path.decode(), data=body, headers=headers) as answer:
        return b"HTTP/1.1 %d \r\n\r\n" % answer.status + await answer.read()


async def _one(port: int, attack: Attack) -> bytes:
    """What came back. The server may end the connection at any time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await _converse(reader, writer, attack)
    except (ConnectionError, asyncio.IncompleteReadError):
        return b""
    finally:
        writer.transport.abort()


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, attack: Attack) -> bytes:
    sending = asyncio.create_task(_send(writer, attack))
    try:
        match attack.ending:
            case "leave":
                # Some answers never come to so many bytes.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PATIENCE):
                        await sending
                        return await _read(reader, attack.after)
                return b""
            case "half-close":
                await asyncio.wait([sending])
                return await _read(reader)
            case "shut":
                said = await _read_one(reader, _ANSWERED)
                await asyncio.wait([sending], timeout=_PATIENCE)
                if not writer.transport.is_closing():
                    writer.write_eof()
                return said + await _read(reader)
            case _:
                return await _read_one(reader)
    finally:
        sending.cancel()
        await asyncio.wait([sending])
        if not sending.cancelled():
            sending.exception()  # the server may well not have waited for all of it


async def _send(writer: asyncio.StreamWriter, attack: Attack) -> None:
    for piece in attack.pieces:
        writer.write(piece)
        await writer.drain()
        if attack.pause:
            await asyncio.sleep(attack.pause)
    if attack.ending == "half-close":
        writer.write_eof()


async def _read(reader: asyncio.StreamReader, most: int = 1 << 30) -> bytes:
    """To the end of the connection, or so many bytes."""
    said = bytearray()
    try:
        while len(said) < most and (data := await reader.read(_RECEIVE)):
            said += data
    except ConnectionError:
        # It was reset behind an answer to what it did not read.
        pass
    return bytes(said)


async def _read_one(reader: asyncio.StreamReader, patience: float = BOUND_STALLED) -> bytes:
    """To the end of the connection, as the request asks for; what is kept open is looked at a little longer
    than its answer, and what says nothing for so many seconds no longer."""
    said = bytearray()
    try:
        async with asyncio.timeout(patience):
            while data := await reader.read(_RECEIVE):
                said += data
                if _whole(said):
                    async with asyncio.timeout(_QUIET):
                        said += await reader.read(_RECEIVE)
                    break
    except (ConnectionError, TimeoutError):
        pass
    return bytes(said)


def _whole(said: bytearray) -> bool:
    head, end, body = bytes(said).partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if length:
        return len(body) >= int(length[1])
    return bool(end) and body.endswith(b"0\r\n\r\n")


def held(pid: int) -> Held:
    process = Path(f"/proc/{pid}")
    status = (process / "status").read_text(encoding="ascii")
    figures = dict(re.findall(r"(?m)^(Threads|VmRSS):\s+(\d+)", status))
    tasks = [task / "children" for task in (process / "task").iterdir()]
    children = sum(len(task.read_text(encoding="ascii").split()) for task in tasks if task.exists())
    files = len(list((process / "fd").iterdir()))
    return Held(files, children, int(figures["Threads"]), int(figures["VmRSS"]) << 10)


def settled(pid: int, before: Held) -> Held:
    """What the process holds once it has let go of what was asked for, or after a while."""
    until = time.perf_counter() + _SETTLING
    while time.perf_counter() < until:
        now = held(pid)
        if now.files <= before.files + KEPT and now.children <= before.children:
            return now
        time.sleep(0.05)
    return held(pid)
