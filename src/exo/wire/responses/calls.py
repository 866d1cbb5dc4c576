"""What one HTTP call of the Responses dialect asks, and what is kept of its answer."""

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from exo.chat import ChatRequest
from exo.wire.responses.request_types import ResponsesBody, Summary


class KeptResponse(msgspec.Struct, frozen=True):
    """A response as it is kept to be gone on with: JSON, as that takes less memory than objects.

    `answer` is the response itself. `turns` are lists of items, the conversation up to and with it: what was
    sent and what was answered in turn, so the last two are its own. Those before are the very objects that
    the responses before have.
    """

    answer: bytes
    turns: tuple[bytes, ...]


Find: TypeAlias = Callable[[str], KeptResponse]
"""The kept response with an id; raises `NotFound` for one that is not kept, saying why and what to do."""


class ResponseCall(msgspec.Struct, frozen=True):
    """An answer wanted to `request`. `turns` is the conversation it stands for, as in `KeptResponse`, and
    `asked` the body, whose settings the answer repeats."""

    request: ChatRequest
    asked: ResponsesBody
    turns: tuple[bytes, ...]

    @property
    def stream(self) -> bool:
        return bool(self.asked.stream)

    @property
    def store(self) -> bool:
        return self.asked.store is not False

    @property
    def summary(self) -> Summary | None:
        """The kind of summary that thoughts are wanted as, if any."""
        form = self.asked.reasoning
        return (form.summary or form.generate_summary) if form else None
