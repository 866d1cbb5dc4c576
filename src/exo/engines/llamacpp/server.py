"""llama.cpp's server, as this process starts it."""

import ctypes
import secrets
import socket
import sys
from pathlib import Path
from typing import Any

from exo.cards import ModelCard
from exo.errors import EngineFailed
from exo.store import gguf

PREFILL_STEP = 128
"""Tokens of prefill between two chances to cancel, or for another slot to decode."""
# Below this size a second thread costs more in hand-overs than it computes.
_ONE_THREAD_BYTES = 64 << 20


def default_threads(card: ModelCard) -> int | None:
    """CPU threads for a model when its owner sets none; None is llama.cpp's own choice."""
    return 1 if card.bytes < _ONE_THREAD_BYTES else None


def start_server(
    path: Path,
    *,
    slots: int,
    context: int,
    threads: int | None,
    embeddings: bool = False,
    key: str | None = None,
) -> Any:
    """Starts one of llama.cpp's servers in this process. Blocks while the weights are read. Its port on this
    machine's own address wants to see `key`, or else one that nobody has."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames = [_loopback()]
    params.api_keys = [key or secrets.token_urlsafe()]
    params.verbosity = -1
    params.warmup = False
    params.n_parallel = slots
    params.n_ctx = slots * context
    # Else up to 8 GiB of former prompts stay in memory beside the slots, which nobody planned for.
    params.cache_ram_mib = 0
    params.n_batch = params.n_ubatch = PREFILL_STEP
    if threads:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    if embeddings:
        params.embedding = True
        params.n_parallel, params.n_ctx = 1, context
        # Texts are read whole, in one step.
        params.n_batch = params.n_ubatch = context
        if not _says_how_to_pool(path):
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise EngineFailed(
            f"{path}: llama.cpp cannot load it ({error}); the file may be cut short, of an architecture "
            "this release does not know, or too large for the free memory"
        ) from error
    # Its loop starts some time after the constructor returns, and never ends if the destructor comes before.
    server.handle_completions({"prompt": "", "n_predict": 0, "stream": False})
    return server


def give_back() -> None:
    """Hands memory that was freed to the system. glibc else keeps it in its arenas, of which threads have
    different ones, and the next server has other threads: with each one more of it stays."""
    if sys.platform == "linux":
        # Of another libc there is nothing of the name.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _loopback() -> str:
    """This machine's own address, which on one with IPv6 alone is no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("127.0.0.1", 0))
        except OSError:
            return "::1"
    return "127.0.0.1"


def _says_how_to_pool(path: Path) -> bool:
    """Whether the file is of a model made for embeddings, which has a way of its own."""
    return any(key.endswith(".pooling_type") for key in gguf.read(path, before="tokenizer."))
