"""A model of the size of a real small one, with random weights, made of the bundled model's header.

The bundled model decodes a token in a fraction of a millisecond, which no model that is of use does: what
a node adds to each token shows larger there than anywhere else. This one has the same tokenizer and chat
template, 104 million parameters, and Q8_0 weights (blocks of a 16-bit scale and 32 signed bytes).
Layout of the file: see `exo.store.gguf`.
"""

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

NAME = "random-104m"

_HIDDEN, _INTERMEDIATE, _LAYERS, _HEADS, _KV_HEADS = 768, 3072, 12, 12, 4
_SHAPE = {
    "qwen2.embedding_length": _HIDDEN,
    "qwen2.feed_forward_length": _INTERMEDIATE,
    "qwen2.block_count": _LAYERS,
    "qwen2.attention.head_count": _HEADS,
    "qwen2.attention.head_count_kv": _KV_HEADS,
    "general.file_type": 7,
}
_KV_WIDTH = _HIDDEN // _HEADS * _KV_HEADS
_U32, _STRING, _ARRAY = 4, 8, 9
_F32, _Q8_0 = 0, 8
_NUMBER_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_ALIGNMENT = 32
_SCALE = struct.pack("<e", 0.0003)  # of bytes spread evenly: a standard deviation of 0.02


class _Tensor(NamedTuple):
    name: str
    row: int
    rows: int
    kind: int

    @property
    def bytes(self) -> int:
        return self.row * self.rows * 4 if self.kind == _F32 else self.row * self.rows // 32 * 34


def write(path: Path, like: Path) -> None:
    """Writes the model to `path` with the vocabulary and the template of the Qwen2 model `like`."""
    with like.open("rb") as source, path.open("wb") as file:
        magic, version, _, pairs = struct.unpack("<4sIQQ", source.read(24))
        metadata = [_pair(source) for _ in range(pairs)]
        (vocabulary,) = (value for key, value in metadata if key == "qwen2.vocab_size")
        tensors = list(_tensors(struct.unpack("<I", vocabulary[-4:])[0]))
        file.write(struct.pack("<4sIQQ", magic, version, len(tensors), pairs))
        for key, value in metadata:
            file.write(_string(key) + (struct.pack("<II", _U32, _SHAPE[key]) if key in _SHAPE else value))
        offset = 0
        for tensor in tensors:
            dimensions = [tensor.row] if tensor.rows == 1 else [tensor.row, tensor.rows]
            layout = f"<I{len(dimensions)}QIQ"
            file.write(
                _string(tensor.name) + struct.pack(layout, len(dimensions), *dimensions, tensor.kind, offset)
            )
            offset += _padded(tensor.bytes)
        file.write(bytes(_padded(file.tell()) - file.tell()))
        source_of_weights = random.Random(0)
        for tensor in tensors:
            file.write(_weights(tensor, source_of_weights).ljust(_padded(tensor.bytes), b"\0"))


def _tensors(vocabulary: int) -> Iterator[_Tensor]:
    yield _Tensor("token_embd.weight", _HIDDEN, vocabulary, _Q8_0)
    for layer in (f"blk.{index}" for index in range(_LAYERS)):
        yield _Tensor(f"{layer}.attn_norm.weight", _HIDDEN, 1, _F32)
        for part, width in (("q", _HIDDEN), ("k", _KV_WIDTH), ("v", _KV_WIDTH)):
            yield _Tensor(f"{layer}.attn_{part}.weight", _HIDDEN, width, _Q8_0)
            yield _Tensor(f"{layer}.attn_{part}.bias", width, 1, _F32)
        yield _Tensor(f"{layer}.attn_output.weight", _HIDDEN, _HIDDEN, _Q8_0)
        yield _Tensor(f"{layer}.ffn_norm.weight", _HIDDEN, 1, _F32)
        yield _Tensor(f"{layer}.ffn_gate.weight", _HIDDEN, _INTERMEDIATE, _Q8_0)
        yield _Tensor(f"{layer}.ffn_up.weight", _HIDDEN, _INTERMEDIATE, _Q8_0)
        yield _Tensor(f"{layer}.ffn_down.weight", _INTERMEDIATE, _HIDDEN, _Q8_0)
    yield _Tensor("output_norm.weight", _HIDDEN, 1, _F32)


def _weights(tensor: _Tensor, source: random.Random) -> bytes:
    if tensor.kind == _F32:
        number = 1.0 if tensor.name.endswith("norm.weight") else 0.0
        return struct.pack("<f", number) * (tensor.row * tensor.rows)
    blocks = bytearray(source.randbytes(tensor.bytes))
    blocks[0::34] = _SCALE[:1] * (tensor.bytes // 34)
    blocks[1::34] = _SCALE[1:] * (tensor.bytes // 34)
    return bytes(blocks)


def _pair(file: BinaryIO) -> tuple[str, bytes]:
    """A key, and its value as it stands in the file, type and all."""
    key = file.read(struct.unpack("<Q", file.read(8))[0]).decode()
    kind = file.read(4)
    return key, kind + _value(file, struct.unpack("<I", kind)[0])


def _value(file: BinaryIO, kind: int) -> bytes:
    if kind == _STRING:
        length = file.read(8)
        return length + file.read(struct.unpack("<Q", length)[0])
    if kind == _ARRAY:
        head = file.read(12)
        inner, count = struct.unpack("<IQ", head)
        return head + b"".join(_value(file, inner) for _ in range(count))
    return file.read(_NUMBER_BYTES[kind])


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
