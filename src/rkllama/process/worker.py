"""The process that holds one model in the vendor's runtime: `python -m rkllama.process.worker FD`.

FD is an inherited socket to the server, on which frames pass. The runtime may crash, leak, hang and print
to stdout; here that harms one model. One thread reads what the server sends, so that an abort is heard
while another runs the model. When the server is gone this process ends at once, without asking the runtime,
which may be what is stuck.

Prompts go to the model as they are: the server renders conversations. What a run may need besides the
runtime, numpy and llguidance, is imported by the first run that does, as a board's memory is for models.
"""

import ctypes
import os
import select
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

from exo.errors import EngineFailed
from exo.generation.vocabulary import Vocabulary
from exo.shards.frames import Failed
from rkllama.process import frames
from rkllama.process.embedding import embed
from rkllama.process.frames import Abort, Done, Load, Loaded, Run, Said
from rkllama.vendor.abi import Release
from rkllama.vendor.asks import Ask, Embed, Event, Finished
from rkllama.vendor.library import open_library
from rkllama.vendor.runtime import Runtime

# Seconds until an abort that found nothing to abort is tried again.
_AGAIN = 0.01


class Worker:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._runs: SimpleQueue[Run] = SimpleQueue()
        self._vocabularies: dict[Path, Vocabulary] = {}
        self._running = -1  # the run under way
        self._aborted = -1  # the last run that the server wants no more of; ids never come again

    def work(self) -> None:
        """Loads, and serves runs until the server is gone."""
        load = self._receive()
        if not isinstance(load, Load):
            raise EngineFailed(f"the server began with {type(load).__name__} instead of Load")
        try:
            release = Release.of(load.release) if load.release else None
            self._runtime = Runtime(open_library(load.library, release), load.options)
            if self._runtime.release >= Release.V1_2_0:
                self._runtime.set_chat_template("", "", "")
        except Exception as error:
            self._send(Failed.of(error))
            return
        self._send(Loaded(str(self._runtime.release), self._runtime.samples_per_run))
        threading.Thread(target=self._run_all, name="rkllm", daemon=True).start()
        while (message := self._receive()) is not None:
            if isinstance(message, Run):
                self._runs.put(message)
            elif isinstance(message, Abort):
                self._abort(message.id)

    def _abort(self, id: int) -> None:
        """Ends run `id`. It may be on its way to the runtime, or between two runs there, so it is told until
        it has heard or is over. No other run can begin meanwhile: this thread is the one to receive it.
        """
        self._aborted = id
        while self._running == id and not self._runtime.abort():
            more, _, _ = select.select([self._connection], [], [], _AGAIN)
            if more:  # which is the end of the connection, as nobody sends on while waiting for an abort
                return

    def _run_all(self) -> None:
        while True:
            run = self._runs.get()
            try:
                self._send(self._run(run))
            except ConnectionError:
                return  # the server is gone, which the other thread sees, too

    def _run(self, run: Run) -> Done | Failed:
        def on_event(event: Event) -> None:
            if self._aborted == run.id:
                # It came before the runtime had begun, when there was nothing to abort yet.
                self._runtime.abort()
            else:
                self._send(Said(run.id, event))

        self._running = run.id
        try:
            if self._aborted == run.id:
                return Done(run.id, Finished(aborted=True))
            return Done(run.id, self._answer(run, on_event))
        except ConnectionError:
            raise
        except Exception as error:
            return Failed.of(error, run.id)
        finally:
            self._running = -1

    def _answer(self, run: Run, on_event: Callable[[Event], None]) -> Finished:
        if isinstance(run.ask, Ask):
            return self._runtime.run(run.ask, on_event)
        if isinstance(run.ask, Embed):
            return embed(self._runtime, run.ask, on_event)
        from rkllama.process import stepwise

        vocabulary = self._vocabulary(run.ask.vocabulary)
        return stepwise.answer(self._runtime, run.ask, vocabulary, on_event, lambda: self._aborted == run.id)

    def _vocabulary(self, folder: Path) -> Vocabulary:
        if folder not in self._vocabularies:
            self._vocabularies[folder] = Vocabulary.read(folder)
        return self._vocabularies[folder]

    def _send(self, message: frames.FromWorker) -> None:
        if isinstance(message, Failed):
            os.write(sys.stdout.fileno(), f"{frames.LOG_MARK}\n".encode())
        with self._sending:
            self._connection.sendall(frames.encode(message))

    def _receive(self) -> frames.ToWorker | None:
        """The next message; None when the server is gone."""
        head = self._exactly(frames.LENGTH.size)
        if head is None:
            return None
        body = self._exactly(*frames.LENGTH.unpack(head))
        return None if body is None else frames.decode_to_worker(body)

    def _exactly(self, size: int) -> bytes | None:
        data = b""
        while len(data) < size:
            more = self._connection.recv(size - len(data))
            if not more:
                return None
            data += more
        return data


def _print_lines_at_once() -> None:
    """C's stdout holds back what it is told while it goes to a pipe; a crash would take the reason along."""
    libc = ctypes.CDLL(None)
    line_buffered = 1  # _IOLBF of glibc and musl
    libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, line_buffered, 0)


def main() -> None:
    _print_lines_at_once()
    connection = socket.socket(fileno=int(sys.argv[1]))
    status = 0
    try:
        Worker(connection).work()
    except ConnectionError:
        pass  # the server is gone in the middle of a message: the same as gone
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    # Not sys.exit: it would wait for a runtime that may never return.
    os._exit(status)


if __name__ == "__main__":
    main()
