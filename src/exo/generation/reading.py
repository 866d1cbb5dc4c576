"""What a model reads before it answers."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from exo.chat import ChatRequest, Usage
from exo.generation.templates import ChatTemplate
from exo.generation.writing import Ended, Piece, Run, answer


async def prompt_of(request: ChatRequest, template: ChatTemplate | None) -> str:
    """The text that an engine is asked to go on from first. Raises as `writing.answer` does.

    It is the very answer that is asked for it, with an engine that says nothing, so the two cannot differ.
    """
    runs: list[Run] = []

    async def silent(
        request: ChatRequest, run: Run, enough: Callable[[], bool]
    ) -> AsyncGenerator[Piece | Ended, None]:
        runs.append(run)
        yield Ended(cut=True, usage=Usage())

    async with aclosing(answer(request, template, silent, holds_calls=False)) as deltas:
        async for _ in deltas:
            pass
    return runs[0].prompt
