"""Whether llama.cpp runs on this machine, and models of it as their owner wants them."""

import ctypes
import importlib.util
import secrets
import sys
from functools import partial
from pathlib import Path

from exo.cards import ModelCard
from exo.engine import LoadedModel
from exo.engines.llamacpp.marks import marks_of
from exo.engines.llamacpp.model import LlamaCppModel
from exo.engines.llamacpp.server import default_threads, start_server
from exo.store import gguf


class LlamaCppEngine:
    formats = frozenset({"gguf"})

    def __init__(self, *, slots: int = 4, context: int | None = None, threads: int | None = None) -> None:
        self._slots = slots
        self._context = context
        self._threads = threads

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("xllamacpp") is None:
            return "the package xllamacpp is not installed; pip install xllamacpp"
        if sys.platform == "linux":
            try:
                ctypes.CDLL("libgomp.so.1")
            except OSError:
                return "the system's libgomp.so.1 is missing; apt install libgomp1"
        return None

    async def load(self, card: ModelCard, files: Path) -> LoadedModel:
        facts = gguf.read(files)
        marks = marks_of(files, facts)
        context = min(card.context, self._context or card.context)
        threads = self._threads or default_threads(card)
        key = secrets.token_urlsafe()
        start = partial(start_server, files, slots=self._slots, context=context, threads=threads, key=key)
        model = LlamaCppModel(card, facts, marks, start, key, slots=self._slots, context=context)
        await model.start()
        return model
