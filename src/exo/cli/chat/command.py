"""The command: one question, or a chat at a prompt."""

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import click

from exo import commandline
from exo.cli import completion, options
from exo.errors import ExoError

if TYPE_CHECKING:
    from exo.cli.chat.asked import Asked
    from exo.cli.chat.conversation import Saved
    from exo.cli.chat.terminal import Terminal


@click.command()
@click.argument("model", required=False, shell_complete=completion.here)
@click.argument("question", nargs=-1)
@options.url
@click.option("--system", help="System message for the conversation.")
@click.option("--temperature", type=commandline.Number(0, 2), help="How freely it chooses its words.")
@click.option("--think/--no-think", default=None, help="Switch a reasoning model's thinking on or off.")
@click.option("--stats", is_flag=True, help="Say below each answer what it took, and which node gave it.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer to a QUESTION, whole, as JSON.")
@click.option("--no-history", is_flag=True, help="Neither read nor keep what is typed: no EXO_HOME/history.")
def run(
    model: str | None,
    question: tuple[str, ...],
    url: str | None,
    system: str | None,
    temperature: float | None,
    think: bool | None,
    stats: bool,
    as_json: bool,
    no_history: bool,
) -> None:
    """Chat with MODEL; with a QUESTION, or one on standard input, answer it and exit.

    Standard input that is no terminal goes behind the QUESTION, after an empty line. Without a MODEL it is
    `auto` where that is offered, else the only or the bundled one. Asks the node at --url, or the one on this
    machine; where none runs, loads the model right here.

    In a chat /help shows the commands. Ctrl-C stops an answer, Ctrl-D ends the chat.
    """
    from exo.cli.chat.conversation import Conversation, Saved
    from exo.cli.chat.settings import Settings
    from exo.cli.chat.terminal import Terminal

    _check_text(*question, system)
    terminal = Terminal(os.environ, sys.stdout, sys.stderr)
    start = Saved(Conversation(system or ""), model or "", Settings(temperature=temperature, think=think))
    typed = sys.stdin is not None and sys.stdin.isatty()
    try:
        asked = " ".join(question) if typed else _with_input(" ".join(question))
        if not asked and (as_json or not (typed or model)):
            raise click.UsageError(
                "there is no question: give a MODEL and a QUESTION, or one on standard input"
            )
        if not asked and not typed:
            terminal.note("(no question: standard input is empty)")
            return
        with asyncio.Runner() as runner:
            stack = AsyncExitStack()
            try:
                there = runner.run(_there(url, stack))
                if asked:
                    _answer(runner, there, start, asked, terminal, stats=stats, as_json=as_json)
                else:
                    _chat(runner, there, start, terminal, stats=stats, history=not no_history)
            finally:
                runner.run(stack.aclose())
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None
    except ExoError as error:
        raise _shown(error) from error


def _check_text(*arguments: str | None) -> None:
    """A shell passes on any bytes, and no request can carry what is no UTF-8."""
    for argument in arguments:
        try:
            (argument or "").encode()
        except UnicodeEncodeError as error:
            raise click.UsageError(f"{argument!r} is no text: {error.reason}") from error


def _with_input(question: str) -> str:
    """The question, and what comes on standard input below it."""
    data = sys.stdin.buffer.read() if sys.stdin else b""
    try:
        return "\n\n".join(filter(None, (question, data.decode().strip())))
    except UnicodeDecodeError as error:
        raise click.UsageError(f"standard input is no text: {error}") from error


async def _there(url: str | None, stack: AsyncExitStack) -> "Asked":
    from exo.cli.chat.asked import asked

    return await asked(url, stack)


def _answer(
    runner: asyncio.Runner,
    there: "Asked",
    start: "Saved",
    question: str,
    terminal: "Terminal",
    *,
    stats: bool,
    as_json: bool,
) -> None:
    from exo.chat import ChatRequest
    from exo.cli.chat.answering import Answer, print_answer, stats_line, to_json
    from exo.cli.chat.asked import default_model

    model = start.model
    if not model:
        model = runner.run(default_model(there))
        terminal.note(f"({model})")
    request = ChatRequest(
        model=model,
        messages=start.conversation.messages(question),
        sampling=start.settings.sampling,
        thinking=start.settings.think,
    )
    answer, printer = Answer(), terminal.answer()
    try:
        runner.run(print_answer(there, request, answer, (lambda delta: None) if as_json else printer.show))
    finally:
        printer.end()
    if as_json:
        terminal.put(to_json(model, answer, runner.run(there.origin())))
    elif stats:
        terminal.note(stats_line(answer.figures(), runner.run(there.origin())), dim=True)


def _chat(
    runner: asyncio.Runner,
    there: "Asked",
    start: "Saved",
    terminal: "Terminal",
    *,
    stats: bool,
    history: bool,
) -> None:
    from exo.cli.chat.asked import check_offered, default_model
    from exo.cli.chat.chatting import Chat
    from exo.cli.chat.history import History

    models = runner.run(there.models())
    model = start.model or runner.run(default_model(there))
    check_offered(model, models)
    terminal.say(f"{model} {there.where}. /help shows commands, Ctrl-D ends.")
    kept = History(options.home() / "history") if history else None
    Chat(there, model, models, start, terminal, kept, stats=stats).run(runner)


def _shown(error: ExoError) -> click.ClickException:
    from exo.cli.chat.asked import explained
    from exo.text.harmless import harmless

    return click.ClickException(harmless(explained(error)))
