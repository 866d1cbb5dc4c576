"""The original NPU server's own dialect without I/O: a server's side (`requests`, `answers`), a client's
(`client`).

It has one loaded model, "the current one", that `/generate` goes to. An answer is one JSON object; streamed,
it is a row of them with blank lines between, sent as text/plain, each with the new text alone. Reasoning has
no place of its own, and stays in the text as `<think>…</think>`.
"""

from exo.wire.rkllama.answers import (
    DELETED,
    UNLOADED,
    GenerateStream,
    current_model_answer,
    error_answer,
    generate_answer,
    loaded_answer,
    message_answer,
    models_answer,
    welcome,
)
from exo.wire.rkllama.client import (
    AnswerReader,
    decode_current_model,
    decode_models,
    encode_generate,
    encode_load_model,
)
from exo.wire.rkllama.requests import (
    GenerateCall,
    LoadCall,
    decode_generate,
    decode_load_model,
    decode_pull,
    decode_rm,
    decode_unload_model,
)

__all__ = [
    "DELETED",
    "UNLOADED",
    "AnswerReader",
    "GenerateCall",
    "GenerateStream",
    "LoadCall",
    "current_model_answer",
    "decode_current_model",
    "decode_generate",
    "decode_load_model",
    "decode_models",
    "decode_pull",
    "decode_rm",
    "decode_unload_model",
    "encode_generate",
    "encode_load_model",
    "error_answer",
    "generate_answer",
    "loaded_answer",
    "message_answer",
    "models_answer",
    "welcome",
]
