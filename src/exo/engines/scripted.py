"""An engine that plays a script: for tests, examples and benchmarks, and to show how an engine is written.

A script is a JSON file, `NAME.script.json`, among the models:

    {"steps": [{"type": "reasoning", "text": "Hm. "}, {"type": "text", "text": "Hello"}], "pace": 0.01}

Steps are deltas of `exo.chat`, or something that happens: `wait` sleeps, `hang` never returns, `fail`
raises a kind of error by its code, `die` ends the model as a crash of its process does. Each delta is played
`pace` seconds after the one before. Without a `finished` step the answer ends with "stop" and true counts,
one token a delta, one a word of the prompt.
"""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TypeAlias

import msgspec

from exo.cards import ModelCard
from exo.chat import ChatRequest, Delta, Finished, FinishReason, Reasoning, SoFar, Text, ToolCall, Usage
from exo.engine import LoadedModel, SpellRequest, check_tokens
from exo.errors import BY_CODE, ContextLengthExceeded, EngineFailed
from exo.text.channels import Channels


class Wait(msgspec.Struct, frozen=True, tag="wait"):
    seconds: float


class Hang(msgspec.Struct, frozen=True, tag="hang"):
    """Comes to no end by itself, as a wedged driver does; closing the answer still works."""


class Fail(msgspec.Struct, frozen=True, tag="fail"):
    message: str
    code: str = "engine_failed"


class Die(msgspec.Struct, frozen=True, tag="die"):
    """The answer fails, and so does every later one of this load."""


Step: TypeAlias = Text | Reasoning | ToolCall | Finished | Wait | Hang | Fail | Die


class Script(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to play. `repeat` plays the steps that many times over; `load` comes before a load ends."""

    steps: tuple[Step, ...]
    pace: float = 0.0
    repeat: int = 1
    slots: int = 1
    context: int = 4096
    load: tuple[Wait | Hang | Fail, ...] = ()


def read(path: Path) -> Script:
    """Reads a script file. Raises `EngineFailed` naming the file and what is wrong in it."""
    try:
        script = msgspec.json.decode(path.read_bytes(), type=Script)
    except (OSError, ValueError, RecursionError) as error:
        raise EngineFailed(f"{path}: not a script: {error}") from error
    for step in (*script.steps, *script.load):
        if isinstance(step, Fail) and step.code not in BY_CODE:
            raise EngineFailed(f"{path}: not a script: there is no kind of error called '{step.code}'")
    return script


class ScriptedModel:
    """A loaded script. `running` counts the answers under way: tests look at it after a hang-up."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.running = 0
        self.unloaded = False
        self.alive = True

    @property
    def slots(self) -> int:
        return self.script.slots

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        prompt = _words(request)
        if prompt >= self.script.context:
            raise ContextLengthExceeded(
                f"the prompt is {prompt} tokens long and the context holds {self.script.context}",
                param="messages" if request.messages else "prompt",
            )
        limit = min(request.sampling.max_tokens or self.script.context, self.script.context - prompt)
        self.running += 1
        try:
            async for delta in self._play(request, prompt, limit):
                yield delta
        finally:
            self.running -= 1

    async def _play(self, request: ChatRequest, prompt: int, limit: int) -> AsyncGenerator[Delta, None]:
        channels = Channels(stop=request.stop)
        tokens = reasoning = 0
        said = request.so_far or SoFar()
        skip = len(said.reasoning) + len(said.text)
        reason: FinishReason = "stop"
        for step in self.script.steps * self.script.repeat:
            if isinstance(step, Finished):
                yield step
                return
            if isinstance(step, Die) or not self.alive:
                self.alive = False
                raise EngineFailed("the model has died")
            if isinstance(step, (Wait, Hang, Fail)):
                await happen(step)
                continue
            if skip > 0 and isinstance(step, Text | Reasoning):
                skip -= len(step.text)
                continue
            if tokens == limit:
                reason = "length"
                break
            if self.script.pace:
                await asyncio.sleep(self.script.pace)
            tokens += 1
            if isinstance(step, Text):
                for delta in channels.feed(step.text, logprobs=step.logprobs):
                    yield delta
                if channels.stopped:
                    break
            else:
                reasoning += isinstance(step, Reasoning)
                if isinstance(step, ToolCall):
                    reason = "tool_calls"
                yield step
        for delta in channels.finish():
            yield delta
        yield Finished(reason, Usage(prompt, tokens, reasoning_tokens=reasoning), stop=channels.stop)

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        """There is no template, so a chat is its messages' texts, a line each; and a token is a byte, so that
        every text has its tokens, and tokens their text on whatever node."""
        texts = [message.content for message in request.messages] or [request.prompt or ""]
        return tuple("\n".join(texts).encode(errors="replace"))

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        check_tokens(request, 256)
        return tuple(bytes([token]) for token in request.tokens)

    async def unload(self) -> None:
        self.unloaded = True


class ScriptedEngine:
    formats = frozenset({"script"})

    def unavailable(self) -> str | None:
        return None

    async def load(self, card: ModelCard, files: Path) -> LoadedModel:
        script = read(files)
        for step in script.load:
            await happen(step)
        return ScriptedModel(script)


async def happen(event: Wait | Hang | Fail) -> None:
    """Lets it happen: returns after a wait, never after a hang, and raises a failure."""
    match event:
        case Wait(seconds):
            await asyncio.sleep(seconds)
        case Hang():
            await asyncio.Event().wait()
        case Fail(message, code):
            raise BY_CODE[code](message)


def _words(request: ChatRequest) -> int:
    texts = [message.content for message in request.messages] or [request.prompt or ""]
    return sum(len(text.split()) for text in texts)
