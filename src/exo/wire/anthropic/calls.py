"""What one HTTP call of Anthropic's dialect asks: the request, and in which form its answer is wanted."""

import msgspec

from exo.chat import ChatRequest


class MessagesCall(msgspec.Struct, frozen=True, kw_only=True):
    """An answer wanted. Without `shows_thinking` a thought is only said to have been there; with
    `edits_context` the answer says what of the conversation was cleared."""

    request: ChatRequest
    stream: bool
    shows_thinking: bool = True
    edits_context: bool = False
