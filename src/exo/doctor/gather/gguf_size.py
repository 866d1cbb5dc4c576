"""How large a GGUF file has to be, and what stands behind its vocabulary.

`store.gguf` stops before the vocabulary, as cards are made at start. To learn where the weights end one has
to get behind it, and past the list of tensors: so this walks over a memory-mapped file, which skips 100,000
strings in a few hundredths of a second. Layout as in ggml's `docs/gguf.md`; sizes of types as in ggml's
`ggml-common.h` (blocks of so many weights, in so many bytes).
"""

import mmap
import struct
from pathlib import Path

import msgspec

from exo.errors import EngineFailed

# GGUF value type -> bytes, of those that have a fixed size.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_U32, _STRING, _ARRAY = 4, 8, 9
_ALIGNMENT = 32
_MOST_DIMENSIONS = 4

BLOCKS = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
    40: (64, 36),
    41: (128, 18),
}
"""By ggml's type: weights of a block, and its bytes. Of a type that is missing here only the beginning of a
tensor is counted."""


class Layout(msgspec.Struct, frozen=True):
    """`bytes` the file has to have at least. `template`: a chat template is in it."""

    bytes: int
    template: bool
    tensors: int


def layout(path: Path) -> Layout:
    """Of a file whose header `store.gguf` has read. Raises `EngineFailed` where the file ends before that."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _layout(data)
    except (ValueError, struct.error) as error:
        raise EngineFailed(f"{path}: it ends within its header, or that is damaged") from error
    except (OSError, KeyError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it has a value of unknown type {error}"
        raise EngineFailed(f"{path}: {why}") from error


def _layout(data: mmap.mmap) -> Layout:
    _, _, tensors, pairs = struct.unpack_from("<4sIQQ", data, 0)
    at, template, alignment = 24, False, _ALIGNMENT
    for _ in range(pairs):
        key, at = _string(data, at)
        (kind,) = struct.unpack_from("<I", data, at)
        if key == b"general.alignment" and kind == _U32:
            (alignment,) = struct.unpack_from("<I", data, at + 4)
        template = template or key == b"tokenizer.chat_template"
        at = _behind(data, at + 4, kind)
    ends = []
    for _ in range(tensors):
        _, at = _string(data, at)
        (rank,) = struct.unpack_from("<I", data, at)
        if rank > _MOST_DIMENSIONS:
            raise ValueError(f"a tensor has {rank} dimensions")
        *shape, kind, offset = struct.unpack_from(f"<{rank}QIQ", data, at + 4)
        at += 4 + 8 * rank + 12
        ends.append(offset + _bytes(shape, kind))
    if not alignment:
        raise ValueError("tensors are aligned to 0 bytes")
    begin = -(-at // alignment) * alignment
    return Layout(begin + max(ends, default=0), template, tensors)


def _bytes(shape: list[int], kind: int) -> int:
    weights = 1
    for each in shape:
        weights *= each
    block, size = BLOCKS.get(kind, (1, 0))
    return -(-weights // block) * size


def _string(data: mmap.mmap, at: int) -> tuple[bytes, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    if end > len(data):
        raise ValueError("a string goes on behind its end")
    return data[at + 8 : end], end


def _behind(data: mmap.mmap, at: int, kind: int) -> int:
    """Where the value that begins at `at` ends."""
    if kind == _STRING:
        return at + 8 + int(struct.unpack_from("<Q", data, at)[0])
    if kind != _ARRAY:
        return at + _SIZES[kind]
    kind, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if kind in _SIZES:
        return at + int(count) * _SIZES[kind]
    length = struct.Struct("<Q").unpack_from
    for _ in range(count):
        at = at + 8 + int(length(data, at)[0]) if kind == _STRING else _behind(data, at, kind)
    return at
