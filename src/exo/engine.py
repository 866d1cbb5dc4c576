"""The one verb, and what stands behind it.

Everything that answers a chat is a `Responder`: a loaded model, this node, a peer, the NPU server, the
whole cluster. Adding an engine means writing `Engine` and `LoadedModel` in one file of `engines/` (start
from `engines/scripted.py`) and one row in its table.
"""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Protocol, runtime_checkable

from exo.cards import ModelCard
from exo.chat import ChatRequest, Delta, Embeddings, EmbedRequest


class Responder(Protocol):
    def respond(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Answers one request.

        Yields at least one delta; `Finished` comes last, once, and only if the answer succeeded. A failure
        raises a kind of `errors.ExoError`, whatever broke underneath. Nothing is done before the first
        `__anext__`. Closing the generator, or cancelling the task that awaits it, at any point lets go of
        the hardware before it returns. Any number may run at once; how many make progress is the
        responder's business.
        """
        ...


@runtime_checkable
class Embedder(Protocol):
    async def embed(self, request: EmbedRequest) -> Embeddings:
        """Turns each text into a vector; raises a kind of `errors.ExoError` as `respond` does."""
        ...


class LoadedModel(Responder, Protocol):
    """A model in memory. The caller keeps at most `slots` requests running at once."""

    @property
    def slots(self) -> int:
        """How many requests it runs at once: 1 on the NPU, n with continuous batching."""
        ...

    @property
    def alive(self) -> bool:
        """Whether it can answer at all. One that cannot is taken out of memory, and loaded anew by the next
        request for it."""
        ...

    async def unload(self) -> None:
        """Frees the memory. The caller has no request running; a second call does nothing."""
        ...


class Engine(Protocol):
    @property
    def formats(self) -> frozenset[str]:
        """The `ModelCard.format`s it loads."""
        ...

    def unavailable(self) -> str | None:
        """Why this engine cannot run on this machine, and the remedy; None where it can. Cheap: it
        loads no weights, and is asked at start."""
        ...

    async def load(self, card: ModelCard, files: Path) -> LoadedModel:
        """Loads the model from `files`, its file or folder.

        Raises `EngineFailed` naming the file and the reason; nothing stays in memory then. Cancelling
        leaves nothing behind either. The caller never loads one card twice at a time.
        """
        ...
