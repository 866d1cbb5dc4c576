"""A script in a process of its own, in the Python that has the toolkit, whose output is read as it comes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import IO, Any, Callable, Iterator, Mapping

from rkllm_convert.errors import NotReady
from rkllm_convert.log import Progress, Reader

_CHUNK = 1 << 12


def watch(
    python: str,
    script: Path,
    job: Mapping[str, Any],
    folder: Path,
    log: Path,
    on_progress: Callable[[Progress], None],
) -> tuple[int, Reader]:
    """Runs `script` on a job, in `folder`, and keeps its output in `log`. Its exit status, negative for a
    signal, and what was read in the output. Interrupted, it ends the process and all that it has started.
    Raises `NotReady` for a Python that cannot be run."""
    if os.sep in python:
        python = os.path.abspath(python)  # and no link followed, which an environment's Python may be
    file = folder / "job.json"
    file.write_text(json.dumps(job), encoding="utf-8")
    # Python 3.12 wants it for the toolkit's dependencies, by the vendor's README.
    environment = {"BUILD_CUDA_EXT": "0", "PYTHONUNBUFFERED": "1", **os.environ}
    reader = Reader()
    try:
        running = subprocess.Popen(
            [python, str(script), str(file)],
            cwd=str(folder),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise NotReady(f"{python} cannot be run: {error.strerror}. Name a Python with --python.") from error
    assert running.stdout is not None
    try:
        with log.open("wb", buffering=0) as kept, running.stdout as output:
            for line in _lines(output, kept):
                progress = reader.feed(line)
                if progress:
                    on_progress(progress)
        # Its number stays its own until it is waited for, so that no other group is killed below.
        os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOWAIT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        status = running.wait()
    return status, reader


def ending(status: int) -> str:
    """How a process ended, in words."""
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def _lines(output: IO[bytes], kept: IO[bytes]) -> Iterator[str]:
    """Lines as they come; a progress bar ends its own with a carriage return."""
    rest = b""
    while True:
        chunk = os.read(output.fileno(), _CHUNK)
        kept.write(chunk)
        pieces = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        rest = pieces.pop()
        if not chunk:
            pieces.append(rest)
        for piece in pieces:
            if piece.strip():
                yield piece.decode("utf-8", errors="replace")
        if not chunk:
            return
