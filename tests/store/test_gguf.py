import contextlib
import struct
import tempfile
from pathlib import Path

import pytest
from gguf import LlamaFileType
from hypothesis import given
from hypothesis import strategies as st

from exo.errors import EngineFailed
from exo.store import gguf
from exo.store.catalogue import BUNDLED

DEMO = BUNDLED / "exo-demo" / "model.gguf"


def test_reads_what_the_model_is() -> None:
    facts = gguf.read(DEMO)
    assert facts["general.architecture"] == "qwen2"
    assert facts["qwen2.context_length"] == 2048
    assert facts["qwen2.block_count"] == 6
    assert facts["tokenizer.ggml.tokens"] == 512, "an array appears as its length"
    assert "<|im_start|>" in str(facts["tokenizer.chat_template"])


def test_names_every_type_of_weights_that_llama_cpp_does() -> None:
    for kind in LlamaFileType:
        if kind is not LlamaFileType.GUESSED:
            name = kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
            assert gguf.quantization({"general.file_type": kind.value}) == name
    assert gguf.quantization({}) == gguf.quantization({"general.file_type": 999}) == ""


@pytest.mark.parametrize(
    ("label", "parameters"),
    [("1.5B", 1_500_000_000), ("494M", 494_000_000), ("30B-A3B", 30 * 10**9), ("8x7B", 0), ("", 0), ("x", 0)],
)
def test_counts_weights_by_the_label_where_nothing_else_does(label: str, parameters: int) -> None:
    assert gguf.parameters({"general.size_label": label}) == parameters
    assert gguf.parameters({"general.size_label": label, "general.parameter_count": 5}) == 5


def test_stops_before_the_vocabulary() -> None:
    facts = gguf.read(DEMO, before="tokenizer.")
    assert facts["qwen2.context_length"] == 2048
    assert not [key for key in facts if key.startswith("tokenizer.")]


def test_gives_tokens_by_id() -> None:
    facts = gguf.read(DEMO)
    eos = int(facts["tokenizer.ggml.eos_token_id"])
    assert gguf.tokens(DEMO, {eos, 999_999}) == {eos: "<|im_end|>"}


@given(st.binary(max_size=200))
def test_any_bytes_are_a_model_or_a_named_failure(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + data)
        file.flush()
        with contextlib.suppress(EngineFailed):
            gguf.read(Path(file.name))


@pytest.mark.parametrize("cut", range(0, 2000, 97))
def test_a_cut_header_is_a_named_failure(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(DEMO.read_bytes()[:cut])
    with pytest.raises(EngineFailed, match=r"cut\.gguf: not a complete GGUF file"):
        gguf.read(path)


@pytest.mark.parametrize("version", [1, 4])
def test_an_unknown_version_is_refused(tmp_path: Path, version: int) -> None:
    path = tmp_path / "new.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", version, 0, 0))
    with pytest.raises(EngineFailed, match=f"its version is {version}"):
        gguf.read(path)
