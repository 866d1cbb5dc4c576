"""What a chat writes: answers as they come, and what is said beside them.

A model's text, a server's messages and names are others' words. Control characters in them are shown, as
`\\x1b`, and drive nothing: not the cursor, the title, the clipboard or the keyboard of whoever reads.
"""

import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

from exo.chat import Delta, Finished, Reasoning, Text, ToolCall
from exo.text.harmless import harmless

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
_PASTES_MARKED, _PASTES_BARE = "\x1b[?2004h", "\x1b[?2004l"


class Terminal:
    """Standard output has the answers. What is said beside them, `say`, goes there too where somebody reads
    it, and else to standard error. `environment` is the process'."""

    def __init__(self, environment: Mapping[str, str], out: TextIO, err: TextIO) -> None:
        self._out, self._err = out, err
        self._beside = out if out.isatty() else err
        dumb = environment.get("TERM") == "dumb"
        self._colors = not (environment.get("NO_COLOR") or dumb)
        self._pastes = self._beside.isatty() and not dumb

    def say(self, text: str, *, dim: bool = False) -> None:
        """A line beside the answers."""
        self._line(self._beside, text, dim)

    def note(self, text: str, *, dim: bool = False) -> None:
        """A line for whoever reads standard error."""
        self._line(self._err, text, dim)

    def fail(self, message: str) -> None:
        self._line(self._err, f"Error: {message}")

    def put(self, text: str) -> None:
        """A line that is the answer."""
        self._line(self._out, text)

    def answer(self) -> "Printer":
        return Printer(self._out, dim=self._colors and self._out.isatty())

    @contextmanager
    def typing_unread(self) -> Iterator[None]:
        """Nothing that is typed shows before it is read, so that it is not mixed with an answer: it comes at
        the next prompt. A paste is one there, too, for the prompt it is meant for has it marked as such.

        That macOS' terminals keep what was typed meanwhile could not be tried.
        """
        file = sys.stdin.fileno()
        before = termios.tcgetattr(file)
        mode = termios.tcgetattr(file)
        mode[3] &= ~(termios.ECHO | termios.ICANON)
        termios.tcsetattr(file, termios.TCSANOW, mode)
        try:
            yield
        finally:
            if self._pastes:
                _write(self._beside, _PASTES_BARE)
            termios.tcsetattr(file, termios.TCSANOW, before)

    def mark_pastes(self) -> None:
        """To be called where an answer begins: a prompt ends by having pastes come bare."""
        if self._pastes:
            _write(self._beside, _PASTES_MARKED)

    def _line(self, to: TextIO, text: str, dim: bool = False) -> None:
        shown = harmless(text)
        dim = dim and self._colors and to.isatty()
        _write(to, f"{_DIM}{shown}{_PLAIN}\n" if dim else f"{shown}\n")


class Printer:
    """Prints the deltas of one answer as they come: thoughts, dimmed where that can be, a blank line, the
    answer; a call whole, on a line of its own."""

    def __init__(self, out: TextIO, *, dim: bool) -> None:
        self._out, self._dim = out, dim
        self._thinking = False
        self._line_open = False
        self._call: ToolCall | None = None
        self._return = ""  # a carriage return at the end: what comes next tells whether it ends a line

    def show(self, delta: Delta) -> None:
        match delta:
            case Reasoning(text):
                self._end_call()
                self._thinking = True
                self._print(text, dim=self._dim)
            case Text(text):
                self._end_call()
                self._print("\n\n" + text if self._thinking else text)
                self._thinking = False
            case ToolCall() if self._call and self._call.index == delta.index:
                whole = self._call.arguments + delta.arguments
                self._call = ToolCall(delta.index, self._call.id, self._call.name, whole)
            case ToolCall():
                self._end_call()
                self._call = delta
            case Finished():
                pass

    def end(self) -> None:
        """The answer is over, whole or not: what comes next begins a line."""
        self._end_call()
        if self._return:
            self._return = ""
            self._print("\\x0d")
        if self._line_open:
            self._print("\n")

    def _end_call(self) -> None:
        if call := self._call:
            self._call = None
            self._print(("\n" if self._line_open else "") + f"[calls {call.name}({call.arguments})]\n")
            self._thinking = False

    def _print(self, text: str, *, dim: bool = False) -> None:
        text = self._return + text
        self._return = "\r" if text.endswith("\r") else ""
        shown = harmless(text.removesuffix("\r"))
        if shown:
            self._line_open = not shown.endswith("\n")
            _write(self._out, f"{_DIM}{shown}{_PLAIN}" if dim else shown)


def _write(to: TextIO, text: str) -> None:
    """At once; what the terminal's encoding does not have is shown by its number."""
    encoding = to.encoding or "utf-8"
    to.write(text.encode(encoding, "backslashreplace").decode(encoding))
    to.flush()
