"""The node's side of a shard's process: starts it, talks to it, and says what it died of.

Theory of operation. The process does what it is told in order of arrival, so any number of calls may be under
way: each waits for the reply with its own id. A call that is cancelled leaves its work to be done and the
reply to be dropped; `free` is answered behind all that came before it, so who awaits it knows that nothing of
a slot is under way any more.
"""

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol, Self

from exo.cards import Span
from exo.chat import Sampling
from exo.errors import EngineFailed, ExoError
from exo.shards.connection import Connection
from exo.shards.frames import Ask, Begin, Draw, Drawn, Free, Idle, Link, Open, Reply, Rested, Rows, Step

log = logging.getLogger(__name__)

# Lines of a process's output that are kept to say what it died of.
_LOG_LINES = 20
# Bytes of output that are read at once, and of the longest line.
_PIECE = 8 << 10
# Seconds a process gets to end by itself once its connection is closed.
_LAST_BREATH = 2.0
# Seconds without a reply after which a process is taken to be at work.
_BUSY = 1.0


class RunningShard(Protocol):
    """A span of a model's layers in a process here, or on another node. Calls are carried out in their order.

    Each raises a kind of `errors.ExoError`: what the shard failed with, or what it died of. A call that is
    cancelled may still be carried out, and disturbs no other.
    """

    @property
    def span(self) -> Span: ...

    @property
    def width(self) -> int:
        """Numbers in a token's hidden state."""
        ...

    @property
    def alive(self) -> bool:
        """Whether it could do another step."""
        ...

    async def forward(self, slot: int, position: int, hidden: bytes, *, rows: Rows = "all") -> bytes:
        """Hidden states through these layers, from `position` in `slot` on. They are float32, little-endian,
        of shape (tokens, width); so is what is returned, of as many `rows` as are wanted: b"" for "none"."""
        ...

    async def free(self, slot: int) -> None:
        """Lets go of what the slot holds; returns when no step of it is under way."""
        ...

    async def connect(self, lost: Callable[[ExoError], None]) -> socket.socket | None:
        """A connection to its process for the one with the first layers, which is then to ask there and not
        here; None where there can be none. `lost` is told when the shard is lost in a way that the
        connection does not show."""
        ...

    async def stop(self) -> None:
        """Ends it, whatever it is doing, and frees its memory. May be called again."""
        ...


class ShardProcess:
    """A `RunningShard` in a process of this machine. Make one with `start`."""

    def __init__(
        self,
        open: Open,
        process: asyncio.subprocess.Process,
        connection: Connection,
        links: socket.socket,
    ) -> None:
        self._open = open
        self._process = process
        self._connection = connection
        self._links = links
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._ids = self._under_way = 0
        self._used = asyncio.get_running_loop().time()
        self._stopping = False
        self._reading = asyncio.create_task(self._read_log())
        self._watching = asyncio.create_task(self._watch())
        self.width = 0
        self.bytes = 0
        """Its weights in memory."""

    @classmethod
    async def start(cls, open: Open, *, progress: Callable[[float], None] = lambda done: None) -> Self:
        """Starts a process and loads the span there; `progress` is told from 0 to 1 how far that has come.

        Raises `EngineFailed` naming the reason; no process is left then, nor when this is cancelled.
        """
        environment: Mapping[str, str] = importlib.import_module(open.engine).ENVIRONMENT
        with contextlib.ExitStack() as failed, contextlib.ExitStack() as theirs:
            ours, its_connection = socket.socketpair()
            theirs.enter_context(its_connection)
            links, its_links = socket.socketpair()
            theirs.enter_context(its_links)
            failed.enter_context(links)
            connection = await Connection.over(ours, progress)
            failed.callback(connection.close)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-u",  # so that a crash takes nothing along that was printed
                "-m",
                "exo.shards.worker",
                str(its_connection.fileno()),
                str(its_links.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=[its_connection.fileno(), its_links.fileno()],
                env={**environment, **os.environ},  # the owner knows better
                # Ctrl-C is for the node, which lets answers end.
                start_new_session=True,
            )
            failed.pop_all()
        shard = cls(open, process, connection, links)
        try:
            connection.send(open)
            opened = await connection.opened
        except BaseException:
            await shard.stop()
            raise
        shard.width, shard.bytes = opened.width, opened.bytes
        shard._used = asyncio.get_running_loop().time()
        return shard

    def __repr__(self) -> str:
        state = "alive" if self.alive else "dead"
        return f"<ShardProcess {self._process.pid} layers {self.span} {state} after {self._ids} calls>"

    @property
    def span(self) -> Span:
        return self._open.span

    @property
    def alive(self) -> bool:
        return not (self._stopping or self._connection.lost or self._process.returncode is not None)

    async def idle(self) -> float:
        """Seconds since the last call, or the start, and since another process has asked for anything; 0
        while something is under way."""
        since = asyncio.get_running_loop().time() - self._used
        if self._under_way:
            return 0.0
        if not self.alive:
            return since
        try:
            async with asyncio.timeout(_BUSY):
                reply, _ = await self._connection.ask(Idle(id=self._next_id()), b"")
        except TimeoutError:
            return 0.0
        except ExoError:  # it has ended meanwhile
            return since
        assert isinstance(reply, Rested)
        return min(since, reply.seconds)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def forward(self, slot: int, position: int, hidden: bytes, *, rows: Rows = "all") -> bytes:
        step = Step(id=self._next_id(), slot=slot, position=position, want=rows)
        return (await self._ask(step, hidden))[1]

    async def free(self, slot: int) -> None:
        await self._ask(Free(id=self._next_id(), slot=slot))

    async def connect(self, lost: Callable[[ExoError], None]) -> socket.socket:
        ours, theirs = socket.socketpair()
        try:
            await self.link(theirs)
        except BaseException:
            ours.close()
            raise
        return ours

    async def link(self, connection: socket.socket) -> None:
        """Hands a connection to the process of another shard over to this one's: see `frames.Link`."""
        with connection:
            socket.send_fds(self._links, [b"\0"], [connection.fileno()])
        await self._ask(Link(id=self._next_id()))

    def give_up(self, error: ExoError) -> None:
        """Fails all calls, those under way and those to come, with `error`: what it waits for itself, from
        another process, will not come."""
        self._connection.give_up(lambda: type(error)(error.message, param=error.param))

    # Only for a shard with `ends`

    async def begin(
        self,
        slot: int,
        sampling: Sampling,
        *,
        form: str | None = None,
        logprobs: int | None = None,
        prompt: tuple[int, ...] = (),
    ) -> None:
        """A new answer in `slot`, as `frames.Begin` says. `BadRequest` for what cannot be drawn so."""
        begin = Begin(
            id=self._next_id(), slot=slot, sampling=sampling, form=form, logprobs=logprobs, prompt=prompt
        )
        await self._ask(begin)

    async def embed(self, slot: int, position: int, tokens: tuple[int, ...]) -> bytes:
        """The hidden states of `tokens` behind the span's last layer, as `forward` has them."""
        step = Step(id=self._next_id(), slot=slot, position=position, tokens=tokens)
        return (await self._ask(step))[1]

    async def draw(self, slot: int, hidden: bytes) -> Drawn:
        """The next token of the answer in `slot`, from what the model's last layer gave for the last one."""
        reply, _ = await self._ask(Draw(id=self._next_id(), slot=slot), hidden)
        return _drawn(reply)

    # Only for a shard that is the whole model, or linked to the rest of it

    async def read(self, slot: int, position: int, tokens: tuple[int, ...]) -> None:
        """Tokens of a prompt, from `position` in `slot` on."""
        await self._ask(Step(id=self._next_id(), slot=slot, position=position, tokens=tokens, want="none"))

    async def next(self, slot: int, position: int, tokens: tuple[int, ...]) -> Drawn:
        """Reads tokens, and draws the one behind them."""
        step = Step(id=self._next_id(), slot=slot, position=position, tokens=tokens, want="token")
        reply, _ = await self._ask(step)
        return _drawn(reply)

    async def stop(self) -> None:
        self._stopping = True
        self._connection.close()
        self._links.close()
        await asyncio.shield(self._watching)

    def _next_id(self) -> int:
        self._ids += 1
        return self._ids

    async def _ask(self, message: Ask, payload: bytes = b"") -> tuple[Reply, bytes]:
        if not self.alive:
            await asyncio.shield(self._watching)
            raise self._cause_of_death()
        self._under_way += 1
        try:
            return await self._connection.ask(message, payload)
        finally:
            self._under_way -= 1
            self._used = asyncio.get_running_loop().time()

    async def _watch(self) -> None:
        """Waits for the end of the process, and tells those who wait for a reply."""
        await self._connection.closed.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_BREATH):
                await self._process.wait()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        # What it has started, a compiler say, may hold its output open.
        await asyncio.wait([self._reading], timeout=_LAST_BREATH)
        self._reading.cancel()
        self._connection.fail(self._cause_of_death)

    def _cause_of_death(self) -> ExoError:
        if self._connection.error:
            return self._connection.error
        code, remedy = self._process.returncode, ""
        if self._stopping:
            how = "was stopped"
        elif code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                remedy = " (if nobody did that, the machine has run out of memory)"
        else:
            how = f"ended with exit status {code}"
        last = f"; the last it said: {self._log[-1]}" if self._log else ""
        return EngineFailed(
            f"the process with layers {self.span} of {self._open.folder.name} {how}{remedy}{last}"
        )

    async def _read_log(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        # Not by readline: a bar of progress may draw one line for minutes.
        while piece := await self._process.stdout.read(_PIECE):
            *lines, rest = (rest + piece).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                self._say(line)
            rest = rest[-_PIECE:]
        self._say(rest)

    def _say(self, line: bytes) -> None:
        if text := line.decode(errors="replace").rstrip():
            self._log.append(text)
            log.debug("[%d] %s", self._process.pid, text)


def _drawn(reply: Reply) -> Drawn:
    if isinstance(reply, Drawn):
        return reply
    raise EngineFailed(f"a shard's process answered with {type(reply).__name__} instead of a token")
