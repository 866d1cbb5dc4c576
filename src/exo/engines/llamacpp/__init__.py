"""GGUF models on llama.cpp, in this process, through xllamacpp.

Theory of operation. xllamacpp runs llama.cpp's own server in threads of its own: continuous batching over
slots, prefix cache, samplers. We hand it a finished prompt and take raw text back, because templates,
reasoning, tool calls and stop strings are the same for every engine here (`templates`, `channels`). Its
calls block, so they are made in threads of ours (`threads`); what it reads and says is put into our values
in one place (`dialect`).

What is known of xllamacpp 2026.10 and guarded against here: it always opens an HTTP port on loopback
(locked with a random key), a bad file gives a RuntimeError without a reason (the header is checked first),
embeddings need a second server, tokens are told at that port only (`tokenizer`), constraints it cannot
compile are dropped (see `constraints` and `model`), biases of tokens beyond the vocabulary are, too, and a
server destroyed as soon as it is made waits for itself for ever.
"""

from exo.engines.llamacpp.engine import LlamaCppEngine
from exo.engines.llamacpp.model import LlamaCppModel
from exo.engines.llamacpp.server import default_threads, start_server

__all__ = ["LlamaCppEngine", "LlamaCppModel", "default_threads", "start_server"]
