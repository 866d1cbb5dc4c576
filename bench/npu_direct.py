"""The NPU runtime in a process without a server: what the NPU server's figures are compared with.

`python -m bench.npu_direct FD LIBRARY MODEL` is that process. It loads the model when first asked for a run,
and answers over FD, as the runtime prints to stdout.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from bench.server import inherited
from exo.chat import Sampling
from rkllama.asking import RUNTIME_DEFAULTS
from rkllama.vendor.abi import Release
from rkllama.vendor.asks import Ask, Event, Finished, Options, Prompt, Token, Waiting
from rkllama.vendor.library import open_library
from rkllama.vendor.runtime import Runtime

_SECONDS = 120.0


class Wanted(msgspec.Struct, frozen=True):
    """A run to make. With `abort_after`, another thread aborts it after so many tokens."""

    prompt: str
    max_tokens: int
    abort_after: int | None = None


class Run(msgspec.Struct, frozen=True):
    """What a run was like, in seconds from its call: to the first and the last token, and to its end.

    `inside` is what the runtime itself says of prefill and decode, from release 1.2.1. `stopping` is from the
    call of abort to the end of an aborted run.
    """

    text: str
    tokens: int
    first: float
    last: float
    seconds: float
    inside: float | None = None
    stopping: float | None = None

    @property
    def per_second(self) -> float:
        """Tokens a second, from the first one to the last one."""
        return (self.tokens - 1) / (self.last - self.first)


class DirectRuntime:
    """The vendor's runtime in a process of its own, used as the NPU server's worker uses it."""

    def __init__(self, library: Path, model: Path, environment: Mapping[str, str]) -> None:
        self._library, self._model, self._environment = library, model, environment

    def __enter__(self) -> Self:
        ours, theirs = socket.socketpair()
        ours.settimeout(_SECONDS)
        self._log = tempfile.TemporaryFile()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "bench.npu_direct",
                    str(theirs.fileno()),
                    str(self._library),
                    str(self._model),
                ],
                env={**inherited(os.environ), **self._environment},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )
        self._socket, self._lines = ours, ours.makefile("rb")
        self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._socket.close()  # which ends it
        try:
            self._process.wait(_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()
            self._log.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, prompt: str, max_tokens: int, *, abort_after: int | None = None) -> Run:
        """Makes a run and returns when it has ended; the first one loads the model before."""
        wanted = Wanted(prompt, max_tokens, abort_after)
        self._socket.sendall(msgspec.json.encode(wanted) + b"\n")
        return msgspec.json.decode(self._read(), type=Run)

    def _read(self) -> bytes:
        if line := self._lines.readline():
            return line
        self._log.seek(0)
        raise RuntimeError(f"the runtime's process ended; its log:\n{self._log.read().decode()[-2000:]}")


def _load(library: Path, model: Path) -> Runtime:
    # As the server loads a model with TEMPERATURE=0 in its Modelfile.
    sampling = msgspec.structs.replace(RUNTIME_DEFAULTS, temperature=0.0)
    runtime = Runtime(open_library(library), Options(model=model, max_context_len=2048, sampling=sampling))
    if runtime.release >= Release.V1_2_0:
        runtime.set_chat_template("", "", "")
    return runtime


def _make(runtime: Runtime, wanted: Wanted) -> Run:
    sampling = Sampling(temperature=0) if runtime.samples_per_run else None
    ask = Ask(inputs=(Prompt(wanted.prompt),), sampling=sampling, max_tokens=wanted.max_tokens)
    moments: list[float] = []
    texts: list[bytes] = []
    due = threading.Event()

    def on_event(event: Event) -> None:
        moments.append(time.perf_counter())
        texts.append(event.text if isinstance(event, Token) else b"")
        assert isinstance(event, Token | Waiting), "a run that generates"
        if len(moments) == wanted.abort_after:
            due.set()

    def answer() -> tuple[Finished, float]:
        return runtime.run(ask, on_event), time.perf_counter()

    began = time.perf_counter()
    if wanted.abort_after is None:
        (finished, ended), stopping = answer(), None
    else:
        (finished, ended), asked = _aborted(runtime, answer, due)
        stopping = ended - asked
    perf = finished.perf
    return Run(
        text=b"".join(texts).decode(),
        tokens=len(moments),
        first=moments[0] - began,
        last=moments[-1] - began,
        seconds=ended - began,
        inside=perf.prefill_seconds + perf.generate_seconds if perf else None,
        stopping=stopping,
    )


def _aborted(
    runtime: Runtime, answer: Callable[[], tuple[Finished, float]], due: threading.Event
) -> tuple[tuple[Finished, float], float]:
    """What `answer` returns, aborted when `due`, and when that was asked for."""
    asked: list[float] = []

    def abort() -> None:
        due.wait()
        asked.append(time.perf_counter())
        runtime.abort()

    aborting = threading.Thread(target=abort)
    aborting.start()
    try:
        result = answer()
    finally:
        due.set()
        aborting.join()
    if not result[0].aborted:
        raise RuntimeError("the run ended before it was aborted")
    return result, asked[0]


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    library, model = Path(sys.argv[2]), Path(sys.argv[3])
    runtime: Runtime | None = None
    with connection.makefile("rwb") as stream:
        stream.write(b"\n")
        stream.flush()
        for line in stream:
            runtime = runtime or _load(library, model)
            made = _make(runtime, msgspec.json.decode(line, type=Wanted))
            stream.write(msgspec.json.encode(made) + b"\n")
            stream.flush()
    if runtime:
        runtime.destroy()


if __name__ == "__main__":
    main()
