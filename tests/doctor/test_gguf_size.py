"""How large a GGUF file has to be, next to files that the format's own package writes."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.doctor.gather.gguf_size import BLOCKS, layout
from exo.errors import EngineFailed
from exo.store.catalogue import BUNDLED

MODEL = BUNDLED / "exo-demo" / "model.gguf"


def test_the_sizes_of_types_are_ggmls() -> None:
    theirs = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: theirs[kind] for kind in BLOCKS} == BLOCKS


def test_a_whole_file_has_all_its_bytes() -> None:
    found = layout(MODEL)
    size = MODEL.stat().st_size
    assert found.bytes <= size < found.bytes + 32, "but for what fills up the last tensor"
    assert found.template
    assert found.tensors == len(gguf.GGUFReader(MODEL).tensors)


def test_types_of_values_and_weights_are_all_walked_over(tmp_path: Path) -> None:
    path = tmp_path / "all.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    writer.add_uint8("a", 1)
    writer.add_float64("b", 1.0)
    writer.add_bool("c", True)
    writer.add_array("d", ["x", "yz", "ünd"])
    writer.add_array("e", [1, 2, 3])
    writer.add_array("f", [1.5, 2.5])
    writer.add_tensor("one", np.zeros((3, 5), dtype=np.float32))
    writer.add_tensor("two", np.zeros(7, dtype=np.float16))
    q8 = gguf.quantize(np.zeros((4, 64), dtype=np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("three", q8, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = layout(path)
    last = max(gguf.GGUFReader(path).tensors, key=lambda tensor: int(tensor.data_offset))
    assert found.bytes == last.data_offset + last.n_bytes
    assert (found.tensors, found.template) == (3, False)


def judged(path: Path) -> str:
    """Whether all is there that has to be, or why that cannot be told."""
    try:
        return "whole" if layout(path).bytes <= path.stat().st_size else "cut"
    except EngineFailed as error:
        return error.message


@given(st.integers(min_value=24, max_value=MODEL.stat().st_size - 64))
def test_a_file_that_is_cut_anywhere_is_found_to_be(
    tmp_path_factory: pytest.TempPathFactory, at: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "cut.gguf"
    path.write_bytes(MODEL.read_bytes()[:at])
    assert judged(path) in ("cut", f"{path}: it ends within its header, or that is damaged")


@given(st.binary(max_size=400))
def test_rubbish_is_refused_with_the_files_name(
    tmp_path_factory: pytest.TempPathFactory, rubbish: bytes
) -> None:
    path = tmp_path_factory.mktemp("rubbish") / "rubbish.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" + b"\x01" * 16 + rubbish)
    assert judged(path).startswith(f"{path}: ")


def test_a_tensor_of_absurd_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "absurd.gguf"
    header = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0)
    path.write_bytes(header + struct.pack("<Q1sI", 1, b"t", 2**32 - 1) + bytes(64))
    assert "header" in judged(path)


def test_an_alignment_of_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "zero.gguf"
    name = b"general.alignment"
    pair = struct.pack(f"<Q{len(name)}sII", len(name), name, 4, 0)
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + pair)
    assert "header" in judged(path)
