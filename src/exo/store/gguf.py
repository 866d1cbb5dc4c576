"""Reads the header of a GGUF file: what the model is, without loading it.

Layout (GGUF versions 2 and 3, little-endian; ggml's `docs/gguf.md`): magic, u32 version, u64 tensor count,
u64 pair count, then pairs of key (u64 length and UTF-8), u32 type and value. Our own reader, because the
`gguf` package brings numpy and reads whole vocabularies: cards are made at start, on a small board.
"""

import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

from exo.errors import EngineFailed

Value: TypeAlias = int | float | bool | str

# GGUF value type -> struct format, for the types that are one number.
_NUMBERS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_LONGEST_STRING = 16 << 20


def read(path: Path, *, before: str | None = None) -> dict[str, Value]:
    """The file's metadata, with an array's length in place of the array.

    Stops at the first key that starts with `before`: writers put `tokenizer.` last, and its arrays of
    100,000s of strings take longer to skip than everything else takes to read. Raises `EngineFailed`
    naming the file where it is missing, not GGUF, of an unknown version, or cut short.
    """
    with _opened(path) as file:
        return {key: _value(file, kind) for key, kind in _keys(file, before)}


def tokens(path: Path, ids: Collection[int]) -> dict[int, str]:
    """The text of those tokens of `ids` that the vocabulary has. Raises as `read` does."""
    with _opened(path) as file:
        for key, kind in _keys(file, None):
            if key == "tokenizer.ggml.tokens" and kind == _ARRAY:
                _, count = struct.unpack("<IQ", file.read(12))
                vocabulary = (_string(file) for _ in range(count))
                return {id: text for id, text in enumerate(vocabulary) if id in ids}
            _value(file, kind)
    return {}


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except (OSError, ValueError, struct.error) as error:
        raise EngineFailed(f"{path}: not a complete GGUF file: {error}") from error


def _keys(file: BinaryIO, before: str | None) -> Iterator[tuple[str, int]]:
    """Keys and value types; the caller reads each value before it asks for the next key."""
    magic, version, _, count = struct.unpack("<4sIQQ", file.read(24))
    if magic != b"GGUF":
        raise ValueError(f"it begins with {magic!r} instead of b'GGUF'")
    if version not in (2, 3):
        raise ValueError(f"its version is {version}; 2 and 3 are known")
    for _ in range(count):
        key = _string(file)
        if before and key.startswith(before):
            return
        yield key, _number(file, "<I")


def _value(file: BinaryIO, kind: int) -> Value:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        return _skip_array(file)
    return _number(file, _layout(kind))


def _layout(kind: int) -> str:
    if kind not in _NUMBERS:
        raise ValueError(f"it has a value of unknown type {kind}")
    return _NUMBERS[kind]


def _number(file: BinaryIO, layout: str) -> int:
    value: int = struct.unpack(layout, file.read(struct.calcsize(layout)))[0]
    return value


def _string(file: BinaryIO) -> str:
    length = _number(file, "<Q")
    if length > _LONGEST_STRING:
        raise ValueError(f"it has a string of {length} bytes")
    data = file.read(length)
    if len(data) < length:
        raise ValueError("it ends inside a string")
    return data.decode()


def _skip_array(file: BinaryIO) -> int:
    """Leaves an array behind, and returns how long it was."""
    kind, count = struct.unpack("<IQ", file.read(12))
    if kind == _STRING:
        for _ in range(count):
            file.seek(_number(file, "<Q"), 1)
    elif kind == _ARRAY:
        for _ in range(count):
            _skip_array(file)
    else:
        file.seek(count * struct.calcsize(_layout(kind)), 1)
    return int(count)
