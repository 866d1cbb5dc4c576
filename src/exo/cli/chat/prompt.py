"""The line that is typed: edited, gone back to, completed. One file knows prompt_toolkit.

It is that and not the standard library's readline for the sake of pastes, which have to be one message, and
of wide characters: on macOS readline is libedit, which does not tell a paste from typing.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from exo.cli.chat import commands

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import Output


class Interrupted(Exception):
    """Ctrl-C at the prompt."""


class Prompt:
    """Asks on the terminal. `history` has what Up goes back to, the oldest first; `models` gives the names
    that may be completed now."""

    def __init__(self, history: Sequence[str], models: Callable[[], Sequence[str]]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import InMemoryHistory
        from prompt_toolkit.shortcuts import CompleteStyle

        self._session = PromptSession[str](
            ">>> ",
            prompt_continuation=lambda width, line, wraps: "" if wraps else "... ",
            multiline=False,
            history=InMemoryHistory(history),
            completer=_completer(models),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            key_bindings=_enter(),
            enable_suspend=True,
            interrupt_exception=Interrupted,
            output=_output(),
        )

    async def ask(self) -> str:
        """What was typed. Raises `Interrupted`, and `EOFError` at Ctrl-D."""
        typed = await self._session.prompt_async()
        # A terminal may send what is no UTF-8, which no request can carry.
        return typed.encode(errors="replace").decode()


def _output() -> "Output | None":
    from prompt_toolkit.output import create_output
    from prompt_toolkit.output.vt100 import Vt100_Output
    from prompt_toolkit.utils import is_dumb_terminal

    if is_dumb_terminal():
        return None  # prompt_toolkit has a plain way of its own then, and only then
    output = create_output(always_prefer_tty=True)
    if isinstance(output, Vt100_Output):
        # Asking a terminal where its cursor is serves menus, which there are none of; one that does not
        # answer would be warned of.
        output.enable_cpr = False
    return output


def _enter() -> "KeyBindings":
    """Enter sends, unless the message goes on."""
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import has_focus
    from prompt_toolkit.key_binding import KeyBindings

    bindings = KeyBindings()

    @bindings.add("enter", filter=has_focus(DEFAULT_BUFFER))
    def send(event: "KeyPressEvent") -> None:
        buffer = event.current_buffer
        if buffer.document.is_cursor_at_the_end and buffer.text.endswith("\\"):
            # Taken away here, and not when it is read: in what is pasted, a backslash is part of it.
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif commands.is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    return bindings


def _completer(models: Callable[[], Sequence[str]]) -> "Completer":
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    files = PathCompleter(expanduser=True)

    class OfCommands(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
            typed = document.text_before_cursor
            word, space, argument = typed.partition(" ")
            if space and word in ("/save", "/load"):
                yield from files.get_completions(Document(argument), complete_event)
            for each, begun in commands.completions(typed, models()):
                yield Completion(each, start_position=-len(begun))

    return OfCommands()
