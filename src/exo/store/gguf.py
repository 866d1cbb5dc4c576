"""Reads the header of a GGUF file: what the model is, without loading it.

Layout (GGUF versions 2 and 3, little-endian; ggml's `docs/gguf.md`): magic, u32 version, u64 tensor count,
u64 pair count, then pairs of key (u64 length and UTF-8), u32 type and value. Our own reader, because the
`gguf` package brings numpy and reads whole vocabularies: cards are made at start, on a small board.
"""

import re
import struct
from collections.abc import Collection, Iterator, Mapping
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
# What `general.file_type` says of most of the weights: llama.cpp's `enum llama_ftype`, named as its tools do.
_FILE_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMBT])(?:-A.+)?")
_SIZE_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_LONGEST_STRING = 16 << 20


def read(path: Path, *, before: str | None = None) -> dict[str, Value]:
    """The file's metadata, with an array's length in place of the array.

    Stops at the first key that starts with `before`: writers put `tokenizer.` last, and its arrays of
    100,000s of strings take longer to skip than everything else takes to read. Raises `EngineFailed`
    naming the file where it is missing, not GGUF, of an unknown version, or cut short.
    """
    with _opened(path) as file:
        return {key: _value(file, kind) for key, kind in _keys(file, before)}


def quantization(facts: Mapping[str, Value]) -> str:
    """The weights' type, "Q4_K_M"; "" where the header does not say, or names one that is not known here."""
    return _FILE_TYPES.get(int(facts.get("general.file_type", -1)), "")


def parameters(facts: Mapping[str, Value]) -> int:
    """How many weights: exactly where the header counts them, else as its label rounds them ("1.5B"), else 0.

    Labels of experts ("8x7B") give 0: what they share is counted once, and no one says how much that is.
    """
    if count := int(facts.get("general.parameter_count", 0)):
        return count
    label = _SIZE.fullmatch(str(facts.get("general.size_label", "")))
    return round(float(label[1]) * _SIZE_UNITS[label[2]]) if label else 0


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
