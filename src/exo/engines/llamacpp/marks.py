"""The tokens that begin and end a text, as a GGUF file has them."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from exo.store import gguf


class Marks(NamedTuple):
    """Both as text; `added` is the one llama.cpp begins with by itself."""

    bos: str
    eos: str
    added: str


def marks_of(path: Path, facts: Mapping[str, gguf.Value]) -> Marks:
    """Those of the file at `path`, whose header says `facts`."""
    bos_id, eos_id = (int(facts.get(f"tokenizer.ggml.{name}_token_id", -1)) for name in ("bos", "eos"))
    texts = gguf.tokens(path, {bos_id, eos_id})
    bos = texts.get(bos_id, "")
    # Where the file does not say, llama.cpp adds it for SentencePiece vocabularies and not for BPE ones.
    adds = facts.get("tokenizer.ggml.add_bos_token", facts.get("tokenizer.ggml.model") == "llama")
    return Marks(bos, texts.get(eos_id, ""), bos if adds else "")
