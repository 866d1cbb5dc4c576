"""OpenAI's dialect without I/O: a server's side (`requests`, `answers`), a client's (`client`, `chunks`).

Types are apart from both: `request_types` are what clients send, `answer_types` what they get.
"""

from exo.wire.openai.answers import (
    ChatStream,
    CompletionStream,
    chat_answer,
    completion_answer,
    embeddings_answer,
    model_answer,
    models_answer,
)
from exo.wire.openai.calls import ChatCall, CompletionCall, EmbedCall
from exo.wire.openai.chunks import ChunkReader
from exo.wire.openai.client import (
    decode_embeddings_answer,
    decode_models,
    encode_chat,
    encode_completion,
    encode_embeddings,
)
from exo.wire.openai.errors import decode_error, error_answer
from exo.wire.openai.figures import total_usage
from exo.wire.openai.requests import decode_chat, decode_completion, decode_embeddings

__all__ = [
    "ChatCall",
    "ChatStream",
    "ChunkReader",
    "CompletionCall",
    "CompletionStream",
    "EmbedCall",
    "chat_answer",
    "completion_answer",
    "decode_chat",
    "decode_completion",
    "decode_embeddings",
    "decode_embeddings_answer",
    "decode_error",
    "decode_models",
    "embeddings_answer",
    "encode_chat",
    "encode_completion",
    "encode_embeddings",
    "error_answer",
    "model_answer",
    "models_answer",
    "total_usage",
]
