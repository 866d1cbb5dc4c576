"""The server's side of a model's process: starts it, talks to it, and says what it died of.

Theory of operation. One task reads frames and one reads the log, for as long as the process lives. A run's
frames go to that run's queue; the run ends with `Done` or `Failed`, or with the process. Whoever leaves a
run early sends `Abort` and waits until the worker says that the runtime is idle, so that the next run never
meets the one before; a runtime that does not become idle in time is taken for stuck, and killed.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Mapping
from pathlib import Path
from typing import Any, Self

from exo.errors import EngineFailed, ExoError, NotReady
from exo.shards.frames import Failed
from rkllama.process import frames
from rkllama.process.frames import Abort, Done, Load, Loaded, Run, Said
from rkllama.vendor.asks import AnyAsk, Event, Finished, Options
from rkllama.vendor.diagnosis import Facts, explain, facts

log = logging.getLogger(__name__)

# Lines of a process's output that are kept for its diagnosis.
_LOG_LINES = 200
# Seconds a process gets to end by itself once its connection is closed.
_LAST_BREATH = 2.0


class ModelProcess:
    """A model loaded in a process of its own. Make one with `start`; it does one run at a time."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        abort_seconds: float,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._abort_seconds = abort_seconds
        self._first_lines: list[str] = []
        self._log: deque[str] = deque(maxlen=_LOG_LINES)  # since the run under way began
        self._log_marked = asyncio.Event()
        self._frames: asyncio.Queue[frames.FromWorker | None] = asyncio.Queue()
        self._runs = 0
        self._busy = False
        self._stopping = False
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._read_log()), loop.create_task(self._read_frames())]

    @classmethod
    async def start(
        cls,
        options: Options,
        library: Path,
        *,
        release: str | None = None,
        environment: Mapping[str, str] | None = None,
        abort_seconds: float = 10.0,
    ) -> Self:
        """Starts a process and loads the model there: seconds to a minute.

        `abort_seconds` is how long an aborted run may take to end. Raises what the runtime's log explains,
        or `EngineFailed`; no process is left then, nor when this is cancelled.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "rkllama.process.worker",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env=environment,
                # Ctrl-C is for the server, which lets answers end.
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        model = cls(process, reader, writer, abort_seconds)
        try:
            await model._load(Load(options, library, release))
        except BaseException:
            await model.stop()
            raise
        return model

    def __repr__(self) -> str:
        state = "dead" if not self.alive else "busy" if self._busy else "idle"
        return f"<ModelProcess {self._process.pid} {state} after {self._runs} runs>"

    @property
    def alive(self) -> bool:
        """Whether the process could still do a run."""
        return self._process.returncode is None and not self._stopping

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def facts(self) -> Facts:
        """What the runtime has printed of itself and of the model file."""
        return facts(self._first_lines)

    @property
    def memory(self) -> int | None:
        """Bytes of the process that are in memory, the library's and the model's shared pages among them;
        None once it is dead. NPU memory is the driver's, and counts only as far as it is mapped there."""
        if not self.alive:
            return None
        try:
            resident = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):  # it died just now, and nobody has noticed yet
            return None
        # A process that is dead and not yet waited for has none.
        return resident * os.sysconf("SC_PAGE_SIZE") or None

    async def run(self, ask: AnyAsk) -> AsyncGenerator[Event | Finished, None]:
        """Events as they come, then `Finished`. Closed early, it returns when the runtime is idle.

        Raises `NotReady` while another run is under way, what the runtime failed with, or what the process
        died of.
        """
        if self._busy:
            raise NotReady("the NPU runtime is busy with this model, and does one thing at a time")
        if not self.alive:
            raise self._cause_of_death()
        self._busy = True
        self._runs += 1
        self._log.clear()
        id, over = self._runs, False
        try:
            await self._send(Run(id, ask))
            while not over:
                message = await self._next()
                over = isinstance(message, Done)
                yield self._content(message)
        except ExoError:
            over = True
            raise
        finally:
            try:
                if not over:
                    await _to_the_end(self._abort(id))
            finally:
                self._busy = False

    def abort(self) -> None:
        """Has the run under way stop early; its events go on to their `Finished`."""
        if self._busy:
            self._writer.write(frames.encode(Abort(self._runs)))

    async def stop(self) -> None:
        """Ends the process, whatever it is doing, and frees the NPU's memory. May be called again."""
        self._stopping = True
        self._writer.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_BREATH):
                await self._process.wait()
        self._kill()
        await self._process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _load(self, load: Load) -> None:
        await self._send(load)
        message = await self._next()
        if not isinstance(message, Loaded):
            raise EngineFailed(f"the model's process answered a load with {type(message).__name__}")
        self.release = message.release
        self.samples_per_run = message.samples_per_run

    def _content(self, message: frames.FromWorker) -> Event | Finished:
        match message:
            case Said(_, event):
                return event
            case Done(_, finished):
                return finished
            case _:
                raise EngineFailed(f"the model's process said {type(message).__name__} in a run")

    async def _abort(self, id: int) -> None:
        """Tells the runtime to stop and waits until it has; kills a process that does not stop in time."""
        try:
            async with asyncio.timeout(self._abort_seconds):
                await self._send(Abort(id))
                while not isinstance(await self._next(), Done):
                    pass
        except TimeoutError:
            log.error("the NPU runtime did not stop within %g s; ending its process", self._abort_seconds)
            self._kill()
            await self._process.wait()
        except ExoError as error:
            log.warning("an aborted run failed: %s", error.message)

    async def _send(self, message: frames.ToWorker) -> None:
        # What a dead process cannot be told is noticed by reading from it.
        with contextlib.suppress(ConnectionError):
            self._writer.write(frames.encode(message))
            await self._writer.drain()

    async def _next(self) -> frames.FromWorker:
        """The next frame that is no failure; raises that, or what the process died of."""
        message = await self._frames.get()
        if message is None:
            self._frames.put_nowait(None)
            await asyncio.wait([self._tasks[0]])
            await self._process.wait()
            raise self._cause_of_death()
        if isinstance(message, Failed):
            await self._log_marked.wait()
            self._log_marked.clear()
            raise explain(self._log) or message.error()
        return message

    def _cause_of_death(self) -> ExoError:
        if explained := explain(self._log):
            return explained
        code = self._process.returncode
        if self._stopping:
            how = "was stopped"
        elif code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit status {code}"
        last = f"; the last it said: {self._log[-1]}" if self._log else ""
        return EngineFailed(f"the process of the NPU runtime {how}{last}")

    def _kill(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _read_frames(self) -> None:
        try:
            while True:
                head = await self._reader.readexactly(frames.LENGTH.size)
                body = await self._reader.readexactly(*frames.LENGTH.unpack(head))
                self._frames.put_nowait(frames.decode_from_worker(body))
        except (ValueError, RecursionError) as error:
            # Nothing that comes behind it could be told apart.
            log.error("the process of the NPU runtime says what is none of its messages: %s", error)
            self._kill()
            self._frames.put_nowait(None)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._frames.put_nowait(None)

    async def _read_log(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            text = line.decode(errors="replace").rstrip()
            if text == frames.LOG_MARK:
                self._log_marked.set()
                continue
            self._log.append(text)
            if len(self._first_lines) < _LOG_LINES:
                self._first_lines.append(text)
            log.debug("[%d] %s", self._process.pid, text)
        self._log_marked.set()


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Does it all, and is cancelled after that: a run that was left would be met by the next one."""
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled:
        raise cancelled
