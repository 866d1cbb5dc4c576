"""An engine that says again what it was told, a word at a time."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from exo.cards import ModelCard
from exo.chat import ChatRequest, Delta, Finished, Text, Usage
from exo.engine import LoadedModel


class Parrot:
    """It takes the place of llama.cpp for GGUF files, where it is asked for by name."""

    formats = frozenset({"gguf"})

    def __init__(self, *, slots: int) -> None:
        self._slots = slots

    def unavailable(self) -> str | None:
        return None

    async def load(self, card: ModelCard, files: Path) -> LoadedModel:
        # A real engine loads `files` here, in a thread or a process; where it cannot, it raises
        # `EngineFailed` with the reason.
        return ParrotModel(self._slots)


class ParrotModel:
    alive = True

    def __init__(self, slots: int) -> None:
        self.slots = slots

    async def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        said = request.prompt if request.prompt is not None else request.messages[-1].content
        words = said.split()
        for index, word in enumerate(words):
            await asyncio.sleep(0)  # where a real engine would wait for its hardware
            yield Text(word if index == 0 else f" {word}")
        yield Finished("stop", Usage(len(words), len(words)))

    async def unload(self) -> None:
        pass
