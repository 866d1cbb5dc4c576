"""Ollama's dialect without I/O, a server's side: bodies to values (`requests`), values to answers.

Types are apart from both: `request_types` are what clients send, `answer_types` what they get.
"""

from exo.wire.ollama.answers import (
    CHAT,
    GENERATE,
    LINES,
    Form,
    embed_answer,
    embeddings_answer,
    error_answer,
    progress_answer,
    status_answer,
    version_answer,
)
from exo.wire.ollama.calls import AskCall, CreateCall, EmbedCall, PullCall
from exo.wire.ollama.models import rfc3339, running_answer, show_answer, tags_answer
from exo.wire.ollama.requests import (
    check_context,
    decode_chat,
    decode_create,
    decode_delete,
    decode_embed,
    decode_embeddings,
    decode_generate,
    decode_pull,
    decode_show,
)

API = "0.12.11"
"""The release of Ollama whose API is spoken: clients ask for it, to know what they may use."""

__all__ = [
    "API",
    "CHAT",
    "GENERATE",
    "LINES",
    "AskCall",
    "CreateCall",
    "EmbedCall",
    "Form",
    "PullCall",
    "check_context",
    "decode_chat",
    "decode_create",
    "decode_delete",
    "decode_embed",
    "decode_embeddings",
    "decode_generate",
    "decode_pull",
    "decode_show",
    "embed_answer",
    "embeddings_answer",
    "error_answer",
    "progress_answer",
    "rfc3339",
    "running_answer",
    "show_answer",
    "status_answer",
    "tags_answer",
    "version_answer",
]
