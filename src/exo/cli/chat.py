"""`exo run`: a chat in the terminal."""

import asyncio
import sys
from contextlib import AsyncExitStack, aclosing

import click

from exo import commandline
from exo.chat import ChatRequest, Message, Reasoning, Sampling, Text, ToolCall
from exo.cli import completion, options
from exo.engine import Responder
from exo.errors import ExoError


@click.command()
@click.argument("model", shell_complete=completion.here)
@click.argument("question", nargs=-1)
@options.url
@click.option("--system", help="System message for the conversation.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="How freely it chooses its words.")
@click.option("--think/--no-think", default=None, help="Switch a reasoning model's thinking on or off.")
def run(
    model: str,
    question: tuple[str, ...],
    url: str | None,
    system: str | None,
    temperature: float | None,
    think: bool | None,
) -> None:
    """Chat with MODEL; with a QUESTION, or one on standard input, answer it and exit.

    Asks the node at --url, or the one on this machine; where none runs, loads the model right here.
    Ctrl-C stops an answer, Ctrl-D ends the chat.
    """
    asked = " ".join(question)
    if not asked and not sys.stdin.isatty():
        asked = sys.stdin.read().strip()
    history = [Message("system", system)] if system else []

    def request(text: str) -> ChatRequest:
        history.append(Message("user", text))
        return ChatRequest(
            model=model, messages=tuple(history), sampling=Sampling(temperature=temperature), thinking=think
        )

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        responder = runner.run(_responder(url, stack))
        try:
            if asked:
                runner.run(_print_answer(responder, request(asked)))
                return
            while (line := _ask()) is not None:
                _answer_in_chat(runner, responder, request(line), history)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None
        finally:
            runner.run(stack.aclose())


def _answer_in_chat(
    runner: asyncio.Runner, responder: Responder, request: ChatRequest, history: list[Message]
) -> None:
    """One turn. A failed or stopped one leaves no trace in the history."""
    try:
        answer = runner.run(_print_answer(responder, request))
    except KeyboardInterrupt:
        history.pop()
        click.echo("\n(stopped)")
    except ExoError as error:
        history.pop()
        click.echo(f"Error: {error.message}", err=True)
    else:
        history.append(Message("assistant", answer))


def _ask() -> str | None:
    """The next line that is not empty; None at the end of input."""
    try:
        while not (line := input(">>> ").strip()):
            pass
    except (EOFError, KeyboardInterrupt):
        click.echo()
        return None
    return line


async def _responder(url: str | None, stack: AsyncExitStack) -> Responder:
    """The node asked for, the one on this machine, or one of our own until `stack` is closed."""
    from exo.http.remote import Remote

    remote = Remote(url or options.LOCAL_URL, key=commandline.key())
    stack.push_async_callback(remote.close)
    if url or await remote.alive():
        return remote
    from exo.assembly import local_node

    return await stack.enter_async_context(local_node(options.local_settings()))


async def _print_answer(responder: Responder, request: ChatRequest) -> str:
    """Prints deltas as they come, thoughts dimmed; returns the answer."""
    said: list[str] = []
    thinking = False
    async with aclosing(responder.respond(request)) as deltas:
        async for delta in deltas:
            match delta:
                case Reasoning(text):
                    thinking = True
                    click.echo(click.style(text, dim=True), nl=False)
                case Text(text):
                    click.echo("\n\n" + text if thinking else text, nl=False)
                    thinking = False
                    said.append(text)
                case ToolCall():
                    click.echo(f"[calls {delta.name}({delta.arguments})]")
            sys.stdout.flush()
    click.echo()
    return "".join(said)
