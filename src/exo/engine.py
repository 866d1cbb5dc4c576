"""The one verb, and what stands behind it.

Everything that answers a chat is a `Responder`: a loaded model, this node, a peer, the NPU server, the
whole cluster. Adding an engine means writing `Engine` and `LoadedModel` in one file of `engines/` (start
from `engines/scripted.py`) and one row in its table.
"""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import msgspec

from exo.cards import ModelCard
from exo.chat import ChatRequest, Delta, Embeddings, EmbedRequest, Trace
from exo.errors import BadRequest


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


class SpellRequest(msgspec.Struct, frozen=True, kw_only=True):
    """These tokens of a model's vocabulary are wanted in writing. `id`, `client`, `via` and `trace` are as in
    `ChatRequest`."""

    model: str
    tokens: tuple[int, ...]
    id: str = ""
    client: str = ""
    via: str = ""
    trace: Trace = Trace()


@runtime_checkable
class Tokenizer(Protocol):
    """Counts and shows the tokens of a text without answering it: this takes none of a model's slots."""

    async def tokens(self, request: ChatRequest, *, begin: bool = True) -> tuple[int, ...]:
        """The prompt as the model would read it: `messages` through the template, up to the beginning of the
        answer, or `prompt` as it stands.

        What the engine begins every text with comes first; without `begin` it is left out before a `prompt`.
        However long it is, a prompt that does not fit into the context has its tokens, too. Raises a kind of
        `errors.ExoError` as `respond` does.
        """
        ...

    async def spell(self, request: SpellRequest) -> tuple[bytes, ...]:
        """What is written for each token, special ones as well; one may begin or end within a character.
        Joined they are the text. A server that does not tell tokens apart gives the whole text as one.

        Raises `BadRequest` naming a token beyond the vocabulary, and else as `respond` does.
        """
        ...


def spelled(pieces: Sequence[bytes]) -> str:
    """The text of `pieces`; what is no whole character is U+FFFD."""
    return b"".join(pieces).decode(errors="replace")


def check_tokens(request: SpellRequest, vocabulary: int) -> None:
    """Raises `BadRequest` naming the first token that is not among so many."""
    for place, token in enumerate(request.tokens):
        if not 0 <= token < vocabulary:
            raise BadRequest(
                f"tokens[{place}]: token {token} is not in the vocabulary of '{request.model}', which has "
                f"{vocabulary}",
                param=f"tokens[{place}]",
            )


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
