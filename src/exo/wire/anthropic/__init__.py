"""Anthropic's dialect without I/O, a server's side: bodies to values (`requests`), values to answers.

Types are apart from both: `request_types` are what clients send, `answer_types` what they get.
"""

from exo.wire.anthropic.answers import SIGNATURE, count_answer, message_answer
from exo.wire.anthropic.calls import MessagesCall
from exo.wire.anthropic.errors import error_answer
from exo.wire.anthropic.events import MessageStream
from exo.wire.anthropic.models import model_answer, models_answer
from exo.wire.anthropic.requests import decode_count_tokens, decode_messages

VERSION_HEADER = "anthropic-version"
"""Is on every request of Anthropic's clients: which release of the API they speak."""

__all__ = [
    "SIGNATURE",
    "VERSION_HEADER",
    "MessageStream",
    "MessagesCall",
    "count_answer",
    "decode_count_tokens",
    "decode_messages",
    "error_answer",
    "message_answer",
    "model_answer",
    "models_answer",
]
