"""What one HTTP call of the Ollama dialect asks: the request, and in which form its answer is wanted.

`keep_alive` is how long the model stays in memory afterwards: seconds, None for ever, UNSET for as long as
the node has it. `context` is how many tokens the model's context must hold at least, None where any will do.
"""

import msgspec
from msgspec import UnsetType

from exo.cards import Recipe
from exo.chat import ChatRequest, EmbedRequest


class AskCall(msgspec.Struct, frozen=True, kw_only=True):
    """An answer wanted, or with neither messages nor prompt in `request` only that its model be loaded: where
    `keep_alive` is 0, that it be unloaded."""

    request: ChatRequest
    stream: bool
    keep_alive: float | UnsetType | None
    context: int | None

    @property
    def asks(self) -> bool:
        return bool(self.request.messages or self.request.prompt)


class EmbedCall(msgspec.Struct, frozen=True, kw_only=True):
    """Vectors wanted; without texts, only that the model be loaded."""

    request: EmbedRequest
    keep_alive: float | UnsetType | None
    context: int | None


class PullCall(msgspec.Struct, frozen=True):
    model: str
    stream: bool


class CreateCall(msgspec.Struct, frozen=True):
    model: str
    recipe: Recipe
    stream: bool
