"""The chat at the prompt: messages are answered, commands obeyed, until its user ends it."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import msgspec

from exo.chat import ChatRequest
from exo.cli.chat import commands, settings
from exo.cli.chat.answering import Answer, print_answer, stats_line
from exo.cli.chat.asked import Asked, check_offered, explained
from exo.cli.chat.commands import Command
from exo.cli.chat.conversation import Conversation, Saved, Turn
from exo.cli.chat.files import Files
from exo.cli.chat.history import History
from exo.cli.chat.prompt import Interrupted, Prompt
from exo.cli.chat.terminal import Terminal
from exo.errors import BadRequest, ExoError

_STOPPED = "stopped"

T = TypeVar("T")


class Chat:
    """One chat. `models` are those that `there` offers, () where it does not say; `history` is None where
    none is kept."""

    def __init__(
        self,
        there: Asked,
        model: str,
        models: Sequence[str],
        start: Saved,
        terminal: Terminal,
        history: History | None,
        *,
        stats: bool,
    ) -> None:
        self._there = there
        self._model = model
        self._models = models
        self._conversation, self._settings = start.conversation, start.settings
        self._terminal = terminal
        self._history = history
        self._stats = stats
        self._files = Files()

    def run(self, runner: asyncio.Runner) -> None:
        """Until its user ends it. Ctrl-C ends what is under way, and not the chat."""
        prompt = Prompt(self._earlier(), lambda: self._models)
        interrupted = False
        # Between a prompt and an answer there is nothing to end.
        with self._terminal.typing_unread(), _at_interrupt(lambda *_: None):
            while True:
                try:
                    typed = runner.run(prompt.ask())
                except EOFError:
                    return
                except Interrupted:
                    if interrupted:
                        return
                    interrupted = True
                    self._terminal.say("(Ctrl-C again, or Ctrl-D, ends the chat)")
                    continue
                interrupted = False
                if typed.strip() and not self._goes_on(runner, typed):
                    return

    def _goes_on(self, runner: asyncio.Runner, typed: str) -> bool:
        """Does what was typed; whether the chat goes on."""
        self._remember(typed)
        try:
            said = commands.read(typed)
            if isinstance(said, str):
                if said:  # and not empty quotes
                    self._ask(runner, said)
            elif said.name == "/bye":
                return False
            elif said.name == "/retry":
                self._retry(runner)
            else:
                _run(runner, self._obey(said))
        except ExoError as error:
            self._terminal.fail(explained(error))
        except KeyboardInterrupt:
            self._terminal.say(f"({_STOPPED})")
        return True

    # Messages

    def _ask(self, runner: asyncio.Runner, question: str) -> None:
        """One turn. What came of an answer that was stopped, or failed, stays, and is marked."""
        request = ChatRequest(
            model=self._model,
            messages=self._conversation.messages(question),
            sampling=self._settings.sampling,
            thinking=self._settings.think,
        )
        answer, printer = Answer(), self._terminal.answer()
        failure: ExoError | None = None
        broken = ""
        self._terminal.mark_pastes()
        try:
            _run(runner, print_answer(self._there, request, answer, printer.show))
        except KeyboardInterrupt:
            broken = _STOPPED
        except ExoError as error:
            failure, broken = error, error.message
        printer.end()
        turn = Turn(question, answer.text, answer.reasoning, broken)
        self._conversation = self._conversation.told().with_turn(turn)
        if failure:
            raise failure
        if broken:
            self._terminal.say(f"({broken})")
        elif self._stats:
            origin = _run(runner, self._there.origin())
            self._terminal.say(stats_line(answer.figures(), origin), dim=True)

    def _retry(self, runner: asyncio.Runner) -> None:
        before, last = self._conversation.undone(), self._conversation.turns[-1]
        self._conversation = before
        self._ask(runner, last.question)

    # Commands

    async def _obey(self, command: Command) -> None:
        argument = command.argument
        match command.name:
            case "/help":
                self._terminal.say(commands.manual())
            case "/model" if argument:
                await self._switch(argument)
            case "/model" | "/models":
                await self._show_models()
            case "/system":
                self._system(argument)
            case "/set":
                self._set(argument)
            case "/think" | "/nothink":
                self._set(f"think {'on' if command.name == '/think' else 'off'}")
            case "/clear":
                self._conversation = Conversation(self._conversation.system)
                self._terminal.say("A new conversation.")
            case "/undo":
                self._conversation = self._conversation.undone()
                self._terminal.say(f"Taken back; {_count(self._conversation)} left.")
            case "/save":
                self._save(argument)
            case "/load":
                await self._load(argument)
            case "/stats":
                self._stats = not self._stats
                self._terminal.say(f"Figures are {'shown' if self._stats else 'not shown'} below answers.")
            case "/stop":
                await self._stop(argument or self._model)

    async def _show_models(self) -> None:
        self._models = await self._there.models()
        for model in self._models:
            self._terminal.say(f"{'*' if model == self._model else ' '} {model}")
        if self._model not in self._models:
            self._terminal.say(f"* {self._model}")

    async def _switch(self, model: str) -> None:
        self._models = await self._there.models()
        check_offered(model, self._models)
        self._model = model
        self._terminal.say(f"Now {model}.")

    def _system(self, text: str) -> None:
        if text:
            self._conversation = msgspec.structs.replace(
                self._conversation, system="" if text == "-" else text
            )
        self._terminal.say(self._conversation.system or "(no system message)")

    def _set(self, argument: str) -> None:
        name, *value = argument.split(None, 1)[:2] or [""]
        if value:
            self._settings = settings.changed(self._settings, name, value[0].strip())
        rows = settings.shown(self._settings, *filter(None, [name]))
        widths = [max(len(row[place]) for row in rows) for place in range(2)]
        for name, is_now, meaning in rows:
            self._terminal.say(f"{name.ljust(widths[0])}  {is_now.ljust(widths[1])}  {meaning}")

    def _save(self, file: str) -> None:
        self._files.save(file, Saved(self._conversation, self._model, self._settings))
        self._terminal.say(f"{_count(self._conversation)} saved in {file}.")

    async def _load(self, file: str) -> None:
        saved = self._files.load(file)
        self._conversation, self._settings = saved.conversation, saved.settings
        self._terminal.say(f"{_count(self._conversation)} loaded from {file}.")
        if saved.model and saved.model != self._model:
            await self._switch(saved.model)

    async def _stop(self, model: str) -> None:
        if model.partition(":")[0] == "auto":
            raise BadRequest(f"{model} chooses a model for each question: name the one that is to go")
        check_offered(model, await self._there.models())
        await self._there.unload(model)
        self._terminal.say(f"{model} leaves memory.")

    # What was typed in earlier chats

    def _earlier(self) -> list[str]:
        if self._history:
            try:
                return self._history.read()
            except OSError as error:
                self._keep_none(error)
        return []

    def _remember(self, typed: str) -> None:
        if self._history:
            try:
                self._history.add(typed)
            except OSError as error:
                self._keep_none(error)

    def _keep_none(self, error: OSError) -> None:
        self._history = None
        self._terminal.say(f"(no history is kept: {error.filename}: {error.strerror})")


def _run(runner: asyncio.Runner, work: Coroutine[Any, Any, T]) -> T:
    """Its result. Raises `KeyboardInterrupt` at Ctrl-C, once what it holds was let go of."""
    with _at_interrupt(signal.default_int_handler):
        return runner.run(work)


@contextmanager
def _at_interrupt(do: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, do)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _count(said: Conversation) -> str:
    questions = len(said.turns)
    return f"{questions} question{'' if questions == 1 else 's'}"
