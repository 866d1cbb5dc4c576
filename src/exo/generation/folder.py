"""What a Hugging Face folder says of the text around a conversation: the chat template, and how a text
begins.

As transformers and huggingface.co lay such folders out: `chat_template.jinja` or the `chat_template` of
`tokenizer_config.json`; `add_bos_token` there, or else the post-processor of `tokenizer.json`.
"""

from pathlib import Path
from typing import TypeVar

import msgspec

from exo.errors import EngineFailed

_CONFIG, _TEMPLATE, _TOKENIZER = "tokenizer_config.json", "chat_template.jinja", "tokenizer.json"

T = TypeVar("T")


class Texts(msgspec.Struct, frozen=True):
    """`template` is "" where the model has none; `bos` and `eos` are the tokens that begin and end a text, as
    it names them. `begins` is what every prompt starts with: `bos`, or nothing."""

    template: str
    bos: str
    eos: str
    begins: str


class _Token(msgspec.Struct):
    content: str


class _Template(msgspec.Struct):
    name: str
    template: str


class _ConfigFile(msgspec.Struct):
    chat_template: str | list[_Template] | None = None
    bos_token: str | _Token | None = None
    eos_token: str | _Token | None = None
    add_bos_token: bool | None = None


class _Special(msgspec.Struct):
    id: str


class _Piece(msgspec.Struct):
    SpecialToken: _Special | None = None


class _Processor(msgspec.Struct):
    type: str = ""
    single: list[_Piece] | None = None
    processors: "list[_Processor] | None" = None


class _TokenizerFile(msgspec.Struct):
    post_processor: _Processor | None = None


def texts(folder: Path) -> Texts:
    """Reads them; every file may be missing. Raises `EngineFailed` naming a file that cannot be used."""
    config = _decoded(folder / _CONFIG, _ConfigFile) if (folder / _CONFIG).is_file() else _ConfigFile()
    bos, eos = _text(config.bos_token), _text(config.eos_token)
    adds = config.add_bos_token
    if adds is None:
        adds = bos != "" and (folder / _TOKENIZER).is_file() and _post_processed(folder / _TOKENIZER, bos)
    return Texts(_template(folder, config), bos, eos, bos if adds else "")


def _template(folder: Path, config: _ConfigFile) -> str:
    path = folder / _TEMPLATE
    if path.is_file():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise EngineFailed(f"{path} cannot be read: {error}") from error
    if isinstance(config.chat_template, str):
        return config.chat_template
    named = {each.name: each.template for each in config.chat_template or ()}
    return named.get("default", "")


def _post_processed(path: Path, bos: str) -> bool:
    """Whether the tokenizer itself puts `bos` before a text."""
    processor = _decoded(path, _TokenizerFile).post_processor or _Processor()
    for each in [processor] if processor.processors is None else processor.processors:
        if each.type == "TemplateProcessing":
            first = each.single[0].SpecialToken if each.single else None
            return first is not None and first.id == bos
    return False


def _decoded(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, ValueError, RecursionError) as error:
        raise EngineFailed(f"{path} cannot be used: {error}") from error


def _text(token: str | _Token | None) -> str:
    return token.content if isinstance(token, _Token) else token or ""
