"""The process that holds a shard: `python -m exo.shards.worker FD LINKS`.

FD is an inherited socket to the node, on which frames pass, and LINKS one through which connections to other
workers come. A library may crash, leak, print and spin threads; here that harms one shard, and its memory is
given back for certain. One thread does everything, in order of arrival, as handing over from thread to thread
costs more than it would gain. So the process ends when the connection does, at the latest after the step
under way; the node kills what takes longer, and on Linux the kernel does when the node has died.
"""

import ctypes
import importlib
import math
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import msgspec
import numpy as np

from exo.errors import BadRequest, EngineFailed
from exo.generation.vocabulary import Vocabulary
from exo.shards import frames
from exo.shards.drawing import Drawing
from exo.shards.frames import (
    Ask,
    Begin,
    Done,
    Draw,
    Failed,
    Free,
    Idle,
    Open,
    Opened,
    Progress,
    Reply,
    Rested,
    Step,
)
from exo.shards.link import Link
from exo.shards.rest import Arrived, Rest
from exo.shards.shard import Hidden, Shard

# The least step of progress that is told.
_A_LITTLE = 0.01


Replied: TypeAlias = tuple[Reply, Hidden | None]
"""None in its place: the reply comes later, from elsewhere."""


class Worker:
    def __init__(self, connection: socket.socket, links: socket.socket) -> None:
        self._connection, self._links = connection, links
        self._sources = selectors.DefaultSelector()
        self._sources.register(connection, selectors.EVENT_READ)
        self._linked: list[Link] = []
        self._rest = Rest()
        self._linked_at = -math.inf
        """When another worker has last asked for something."""
        self._answers: dict[int, Drawing] = {}  # by slot
        self._vocabulary: Vocabulary | None = None

    def work(self) -> None:
        """Loads, and does what it is told until the node is gone."""
        first = self._receive()
        if first is None:
            return
        if not isinstance(first[0], Open):
            raise EngineFailed(f"the node began with {type(first[0]).__name__} instead of Open")
        self._open = first[0]
        try:
            self._shard = self._load(self._open)
        except Exception as error:
            self._send(Failed.of(error))
            return
        self._send(Opened(self._shard.width, self._shard.bytes))
        while True:
            for source, events in self._sources.select():
                if isinstance(source.data, Link):
                    self._attend(source.data, events)
                elif not self._serve():
                    return

    def _serve(self) -> bool:
        """Does one thing that the node asks for. Whether the node is still there."""
        if (received := self._receive()) is None:
            return False
        message, payload = received
        if isinstance(message, Open):
            raise EngineFailed("the node said Open twice")
        if replied := self._done(message, payload):
            self._send(*replied)
        return True

    def _done(self, message: Ask, payload: bytearray) -> Replied | None:
        try:
            return self._do(message, payload)
        except Exception as error:
            return Failed.of(error, message.id), None

    # Other workers

    def _add_link(self) -> None:
        _, (fd, *_), _, _ = socket.recv_fds(self._links, 1, 1)
        link = Link(socket.socket(fileno=fd))
        self._linked.append(link)
        self._sources.register(link, selectors.EVENT_READ, link)
        if self._open.ends:
            self._rest.add(link)

    def _attend(self, link: Link, events: int) -> None:
        """Takes what has come over a link, and sends what there is room for."""
        try:
            if events & selectors.EVENT_WRITE:
                link.flush()
            for header, payload in link.receive() if events & selectors.EVENT_READ else ():
                if self._open.ends:
                    self._take_reply(link, header, payload)
                else:
                    self._serve_worker(link, header, payload)
        except (ConnectionError, EngineFailed, msgspec.DecodeError) as error:
            self._lose(link, error)
        self._watch()

    def _take_reply(self, link: Link, header: bytes, payload: bytearray) -> None:
        for ended in self._rest.take(link, header, payload):
            if not isinstance(ended, Arrived):
                self._send(ended)
            elif replied := self._done(Draw(id=ended.id, slot=ended.slot), ended.hidden):
                self._send(*replied)

    def _serve_worker(self, link: Link, header: bytes, payload: bytearray) -> None:
        """Does what the first layers' worker asks for, which may be no more than another node's."""
        message = frames.decode_from_first(header)
        try:
            frames.check(
                message,
                len(payload),
                width=self._shard.width,
                slots=self._open.slots,
                context=self._open.context,
            )
        except BadRequest as error:
            replied: Replied | None = (Failed.of(error, message.id), None)
        else:
            replied = self._done(message, payload)
        if replied:
            reply, hidden = replied
            link.send(reply, None if hidden is None else _bytes_of(hidden))
        self._linked_at = time.monotonic()

    def _watch(self) -> None:
        """While something is unsent, room for it is waited for, too."""
        for link in self._linked:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if link.unsent else 0)
            if self._sources.get_key(link).events != events:
                self._sources.modify(link, events, link)

    @contextmanager
    def _over_links(self) -> Iterator[None]:
        """Where the links are lost over it, the node is told so of all that was under way."""
        try:
            yield
        except ConnectionError as error:
            self._lose(None, error)
        self._watch()

    def _lose(self, link: Link | None, error: Exception) -> None:
        """The first layers' worker can do nothing with the other links once one is lost."""
        for lost in [*self._linked] if self._open.ends or link is None else [link]:
            if lost in self._linked:
                self._linked.remove(lost)
                self._sources.unregister(lost)
                lost.close()
        for failed in self._rest.lose(error) if self._open.ends else ():
            self._send(failed)

    def _load(self, open: Open) -> Shard:
        module = importlib.import_module(open.engine)
        if not hasattr(module, "open_shard"):
            raise EngineFailed(f"{open.engine} is no engine of layers: it has no open_shard")
        shard: Shard = module.open_shard(
            open.folder,
            open.span,
            ends=open.ends,
            slots=open.slots,
            context=open.context,
            dtype=open.dtype,
            threads=open.threads,
            cache=open.cache,
            progress=self._teller(),
        )
        return shard

    def _teller(self) -> Callable[[float], None]:
        told = 0.0

        def tell(done: float) -> None:
            nonlocal told
            if done >= told + _A_LITTLE:
                told = done
                self._send(Progress(done))

        return tell

    def _do(self, message: Ask, payload: bytearray) -> Replied | None:
        match message:
            case Step() if self._rest and message.want == "token":
                self._step_through(message)
                return None
            case Step():
                return self._step(message, payload)
            case Draw(id=id, slot=slot):
                return self._answer(slot).draw(id, self._shard.logits(self._hidden(payload)[-1:])), None
            case Begin(id=id, slot=slot):
                self._answers[slot] = Drawing(message, self._open.vocabulary, self._vocabulary_for(message))
                return Done(id), None
            case Free(id=id, slot=slot):
                self._answers.pop(slot, None)
                self._shard.free(slot)
                awaited = True
                with self._over_links():
                    awaited = self._rest.free(message)
                return None if awaited else (Done(id), None)
            case frames.Link(id=id):
                self._add_link()
                return Done(id), None
            case Idle(id=id):
                return Rested(id, time.monotonic() - self._linked_at), None

    def _step_through(self, step: Step) -> None:
        """Through the layers here, and on to the others: the reply comes from there."""
        hidden = self._shard.forward(step.slot, step.position, self._shard.embed(step.tokens))
        with self._over_links():
            self._rest.send(step, _bytes_of(hidden))

    def _step(self, step: Step, payload: bytearray) -> Replied:
        shard, slot = self._shard, step.slot
        if step.tokens and step.want in ("token", "none"):
            wanted = step.want == "token"
            logits = shard.read(slot, step.position, step.tokens, wanted=wanted)
            return (Done(step.id) if logits is None else self._answer(slot).draw(step.id, logits)), None
        hidden = shard.embed(step.tokens) if step.tokens else self._hidden(payload)
        out = shard.forward(slot, step.position, hidden)
        if step.want == "none":
            return Done(step.id), None
        return frames.Hidden(step.id), out if step.want == "all" else out[-1:]

    def _answer(self, slot: int) -> Drawing:
        if slot not in self._answers:
            raise EngineFailed(f"no answer has begun in slot {slot}")
        return self._answers[slot]

    def _vocabulary_for(self, begin: Begin) -> Vocabulary | None:
        """Only a form needs the tokens themselves, and they take time and memory."""
        if begin.form is not None and self._vocabulary is None:
            self._vocabulary = Vocabulary.read(self._open.folder)
        return self._vocabulary

    def _hidden(self, payload: bytearray) -> Hidden:
        width = self._shard.width
        if not payload or len(payload) % (4 * width):
            raise EngineFailed(f"{len(payload)} bytes are no hidden states of {width} numbers each")
        return np.frombuffer(payload, "<f4").reshape(-1, width)

    def _send(self, message: frames.FromWorker, hidden: Hidden | None = None) -> None:
        if hidden is None:
            self._connection.sendall(frames.encode(message))
            return
        payload = _bytes_of(hidden)
        head = frames.encode(message, len(payload))
        if len(payload) <= frames.SMALL:
            self._connection.sendall(head + payload)
        else:
            self._connection.sendall(head)
            self._connection.sendall(payload)

    def _receive(self) -> tuple[frames.ToWorker, bytearray] | None:
        """The next message and its payload; None when the node is gone."""
        if (head := self._exactly(frames.HEAD.size)) is None:
            return None
        header_bytes, payload_bytes = frames.lengths(bytes(head))
        header, payload = self._exactly(header_bytes), self._exactly(payload_bytes)
        if header is None or payload is None:
            return None
        return frames.decode_to_worker(bytes(header)), payload

    def _exactly(self, size: int) -> bytearray | None:
        """So many bytes from the node, and none of what comes behind them: that would not be waited for."""
        whole = bytearray(size)
        rest = memoryview(whole)
        while rest:
            if not (received := self._connection.recv_into(rest)):
                return None
            rest = rest[received:]
        return whole


def _bytes_of(hidden: Hidden) -> memoryview:
    return np.ascontiguousarray(hidden, "<f4").data.cast("B")


def _die_with_parent() -> None:
    """On Linux: the kernel kills this process when the node's has ended, however it did."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG, see prctl(2)
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def main() -> None:
    _die_with_parent()
    connection, links = (socket.socket(fileno=int(each)) for each in sys.argv[1:])
    try:
        Worker(connection, links).work()
    except ConnectionError:
        pass  # the node is gone in the middle of a message: the same as gone
    except Exception:
        traceback.print_exc()
        sys.exit(1)


if __name__ == "__main__":
    main()
