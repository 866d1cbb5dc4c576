"""The header of a GGUF file: what the model is, without its tensors.

Layout (the format's public specification, version 2 and 3, little-endian): magic, version, number of tensors,
number of keys; then each key as a string, a type and a value; then each tensor's name, shape, type, offset.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from rkllm_convert.errors import BadInput

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# A damaged count must not be believed: no header has more keys, items or bytes in a string.
_MOST_KEYS, _MOST_ITEMS, _MOST_BYTES = 1 << 14, 1 << 22, 1 << 24


def read(path: Path) -> tuple[dict[str, Any], int]:
    """The keys, arrays only as their lengths, and how many parameters the tensors have together. Raises
    `BadInput` for what is no GGUF file."""
    try:
        with path.open("rb") as file:
            return _read(file)
    except (OSError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as GGUF: {error}. Download it again.") from error


def _read(file: BinaryIO) -> tuple[dict[str, Any], int]:
    if file.read(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version, tensors, count = _numbers(file, "<IQQ")
    if version not in (2, 3):
        raise ValueError(f"its version is {version}, and 2 and 3 are known")
    keys: dict[str, Any] = {}
    for _ in range(_bounded(count, _MOST_KEYS)):
        name = _text(file)
        keys[name] = _value(file, _numbers(file, "<I")[0])
    parameters = 0
    for _ in range(_bounded(tensors, _MOST_KEYS)):
        _text(file)
        size = 1
        for length in _numbers(file, f"<{_bounded(_numbers(file, '<I')[0], 8)}Q"):
            size *= length
        parameters += size
        _numbers(file, "<IQ")
    return keys, parameters


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind == _ARRAY:
        item, count = _numbers(file, "<IQ")
        length = _bounded(count, _MOST_ITEMS)
        if item in _SCALARS:
            file.seek(length * struct.calcsize("<" + _SCALARS[item]), 1)
        else:
            for _ in range(length):
                _value(file, item)
        return length
    if kind not in _SCALARS:
        raise ValueError(f"a value of type {kind} is not known")
    return _numbers(file, "<" + _SCALARS[kind])[0]


def _text(file: BinaryIO) -> str:
    length = _bounded(_numbers(file, "<Q")[0], _MOST_BYTES)
    raw = file.read(length)
    if len(raw) < length:
        raise ValueError("it ends too early")
    return raw.decode("utf-8")


def _numbers(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _bounded(count: int, most: int) -> int:
    if count > most:
        raise ValueError(f"a count of {count} is beyond belief")
    return count
