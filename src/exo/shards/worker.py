"""The process that holds a shard: `python -m exo.shards.worker FD`.

FD is an inherited socket to the node, on which frames pass. A library may crash, leak, print and spin
threads; here that harms one shard, and its memory is given back for certain. One thread does everything, in
order of arrival, as handing over from thread to thread costs more than it would gain. So the process ends
when the connection does, at the latest after the step under way; the node kills what takes longer, and on
Linux the kernel does when the node has died.
"""

import ctypes
import importlib
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from io import BufferedReader

import numpy as np

from exo.errors import EngineFailed
from exo.generation.sampler import Logits, Sampler, logprobs
from exo.generation.vocabulary import Vocabulary
from exo.shards import frames
from exo.shards.frames import (
    Ask,
    Begin,
    Done,
    Draw,
    Drawn,
    Failed,
    Free,
    Odds,
    Open,
    Opened,
    Progress,
    Reply,
    Step,
)
from exo.shards.shard import Hidden, Shard

# The least step of progress that is told.
_A_LITTLE = 0.01


class Worker:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._incoming = BufferedReader(socket.SocketIO(connection, "r"), frames.SMALL)
        self._answers: dict[int, _Answer] = {}  # by slot
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
        while (received := self._receive()) is not None:
            message, payload = received
            if isinstance(message, Open):
                raise EngineFailed("the node said Open twice")
            try:
                reply, hidden = self._do(message, payload)
            except Exception as error:
                reply, hidden = Failed.of(error, message.id), None
            self._send(reply, hidden)

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

    def _do(self, message: Ask, payload: bytearray) -> tuple[Reply, Hidden | None]:
        match message:
            case Step():
                return self._step(message, payload)
            case Draw(id=id, slot=slot):
                return self._answer(slot).draw(id, self._shard.logits(self._hidden(payload)[-1:])), None
            case Begin(id=id, slot=slot):
                self._answers[slot] = _Answer(message, self._open.vocabulary, self._vocabulary_for(message))
                return Done(id), None
            case Free(id=id, slot=slot):
                self._answers.pop(slot, None)
                self._shard.free(slot)
                return Done(id), None

    def _step(self, step: Step, payload: bytearray) -> tuple[Reply, Hidden | None]:
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

    def _answer(self, slot: int) -> "_Answer":
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
        payload = np.ascontiguousarray(hidden, "<f4").data.cast("B")
        head = frames.encode(message, len(payload))
        if len(payload) <= frames.SMALL:
            self._connection.sendall(head + payload)
        else:
            self._connection.sendall(head)
            self._connection.sendall(payload)

    def _receive(self) -> tuple[frames.ToWorker, bytearray] | None:
        """The next message and its payload; None when the node is gone."""
        head = self._incoming.read(frames.HEAD.size)
        if len(head) < frames.HEAD.size:
            return None
        header_bytes, payload_bytes = frames.lengths(head)
        header = self._incoming.read(header_bytes)
        payload = bytearray(payload_bytes)
        if len(header) < header_bytes or self._incoming.readinto(payload) < payload_bytes:
            return None
        return frames.decode_to_worker(header), payload


class _Answer:
    """How the tokens of one answer are drawn."""

    def __init__(self, begin: Begin, size: int, vocabulary: Vocabulary | None) -> None:
        self._sampler = Sampler(begin.sampling, vocabulary=size, prompt=begin.prompt)
        self._size, self._top = size, begin.logprobs
        self._form = None
        if begin.form is not None and vocabulary is not None:
            from exo.generation.form import Form

            self._form, self._ends = Form(begin.form, vocabulary), vocabulary.ends

    def draw(self, id: int, row: Logits) -> Drawn:
        logits, form = self._of_vocabulary(row), self._form
        token = self._sampler.draw(logits, form.allowed() if form else None)
        complete = form is not None and token not in self._ends and form.completed_by(token)
        if self._top is None:
            return Drawn(id, token, complete=complete)
        chosen, top = logprobs(logits, token, self._top)
        return Drawn(id, token, Odds(chosen, tuple(top)), complete)

    def _of_vocabulary(self, row: Logits) -> Logits:
        """`row` without what pads it; what it lacks cannot be drawn."""
        if (likeliest := int(row.argmax())) >= self._size:
            raise EngineFailed(
                f"the model says token {likeliest}, but its tokenizer.json has only {self._size}: that is "
                "another model's, or the weights are damaged"
            )
        if row.size >= self._size:
            return row[: self._size]
        return np.concatenate((row, np.full(self._size - row.size, -np.inf, np.float32)))


def _die_with_parent() -> None:
    """On Linux: the kernel kills this process when the node's has ended, however it did."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG, see prctl(2)
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def main() -> None:
    _die_with_parent()
    connection = socket.socket(fileno=int(sys.argv[1]))
    try:
        Worker(connection).work()
    except ConnectionError:
        pass  # the node is gone in the middle of a message: the same as gone
    except Exception:
        traceback.print_exc()
        sys.exit(1)


if __name__ == "__main__":
    main()
