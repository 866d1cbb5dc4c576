"""A bar in the terminal for a download of several files, and lines where there is no terminal."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from exo.cards import Progress
from exo.cli.tables import size

_WIDTH = 24
# A terminal over a slow line is not to be the brake.
_SECONDS = 0.1


class Bar:
    def __init__(self, model: str, out: TextIO) -> None:
        self._model = model
        self._out = out
        self._files: dict[str, Progress] = {}
        self._began = time.monotonic()
        self._drawn = (0.0, -1)
        self._before: dict[str, int] = {}

    @property
    def files(self) -> dict[str, int]:
        """Bytes that each file has when it is whole."""
        return {name: file.total for name, file in self._files.items()}

    @property
    def done(self) -> int:
        """Bytes that are here."""
        return sum(file.done for file in self._files.values())

    @property
    def total(self) -> int:
        """Bytes of the files that are known so far."""
        return sum(file.total for file in self._files.values())

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 0.0

    def step(self, step: Progress) -> None:
        """Shows how far it is now."""
        known = self._files.get(step.file)
        # A file is announced with nothing done; its first step after that is what was here before.
        if known and step.file not in self._before:
            self._before[step.file] = step.done
        self._files[step.file] = step
        if self._out.isatty():
            now, percent = time.monotonic(), int(100 * self.share)
            if now - self._drawn[0] >= _SECONDS or percent != self._drawn[1]:
                self._drawn = now, percent
                self.draw()
        elif step != known and step.done == step.total and step.total:
            print(f"{step.file}: {size(step.total)}", file=self._out, flush=True)

    def draw(self) -> None:
        self._out.write("\r" + self.line(shutil.get_terminal_size().columns - 1) + "\x1b[K")
        self._out.flush()

    def line(self, columns: int) -> str:
        """What is drawn, in so many columns at most."""
        full = round(self.share * _WIDTH)
        seconds = time.monotonic() - self._began
        speed = (self.done - sum(self._before.values())) / seconds if seconds > 0 else 0.0
        files = len(self._files)
        whole = sum(file.done == file.total for file in self._files.values())
        bar = f"[{'#' * full}{'.' * (_WIDTH - full)}] {self.share:4.0%}"
        figures = f"{size(self.done)} of {size(self.total)}  {size(round(speed))}/s  {whole} of {files} files"
        return f"{self._model}  {bar}  {figures}"[:columns]


@contextmanager
def shown(model: str, out: TextIO) -> Iterator[Bar]:
    """Leaves the last line of it where it is."""
    bar = Bar(model, out)
    try:
        yield bar
    finally:
        if out.isatty():
            bar.draw()
            print(file=out)
