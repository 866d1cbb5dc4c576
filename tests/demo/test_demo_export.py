"""The shipped files agree with each other to the bit, and say what engines need to hear."""

import filecmp
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter, TokenType

from demo import template
from demo.export import GGUF_FILE, from_gguf, from_hf, to_gguf, to_hf

SHIPPED = Path(__file__).parents[2] / "src/exo/store/bundled/exo-demo"
HF_FILES = sorted(path.name for path in SHIPPED.iterdir() if path.name != GGUF_FILE)


@pytest.fixture(scope="module")
def gguf() -> GGUFReader:
    return GGUFReader(SHIPPED / GGUF_FILE)


def value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    assert field is not None, key
    return field.contents()


def same(one: Path, other: Path) -> list[str]:
    return sorted(filecmp.cmpfiles(one, other, HF_FILES, shallow=False)[0])


def test_everything_ships() -> None:
    assert HF_FILES == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_shipped_gguf_gives_the_shipped_folder(tmp_path: Path) -> None:
    from_gguf(SHIPPED / GGUF_FILE, tmp_path)
    assert same(SHIPPED, tmp_path) == HF_FILES


def test_there_and_back_changes_no_bit(tmp_path: Path) -> None:
    to_gguf(SHIPPED, tmp_path / GGUF_FILE)
    from_gguf(tmp_path / GGUF_FILE, tmp_path / "back")
    assert same(SHIPPED, tmp_path / "back") == HF_FILES


def test_reading_and_writing_a_folder_changes_no_bit(tmp_path: Path) -> None:
    to_hf(from_hf(SHIPPED), tmp_path)
    assert same(SHIPPED, tmp_path) == HF_FILES


def test_every_weight_is_there_once_in_full(gguf: GGUFReader) -> None:
    package = from_hf(SHIPPED)
    assert len(gguf.tensors) == len(package.weights) == 2 + 12 * 6
    assert sum(tensor.n_elements for tensor in gguf.tensors) == 1_248_384
    embedding = next(t.data for t in gguf.tensors if t.name == "token_embd.weight")
    assert embedding.dtype == np.float32
    assert embedding.shape == (512, 128)
    wide = package.weights["model.embed_tokens.weight"].astype(np.uint32) << 16
    assert np.array_equal(embedding.view(np.uint32), wide)


def test_the_gguf_tells_an_engine_how_to_talk(gguf: GGUFReader) -> None:
    tokens = value(gguf, "tokenizer.ggml.tokens")
    types = dict(zip(tokens, value(gguf, "tokenizer.ggml.token_type"), strict=True))
    control = [token for token in tokens if types[token] == TokenType.CONTROL]
    marked = [token for token in tokens if types[token] == TokenType.USER_DEFINED]
    assert control == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert marked == tokens[-6:]
    assert {"<think>", "<tool_call>"} < set(marked)
    assert value(gguf, "tokenizer.ggml.pre") == "qwen2"
    assert tokens[value(gguf, "tokenizer.ggml.eos_token_id")] == "<|im_end|>"
    assert tokens[value(gguf, "tokenizer.ggml.eot_token_id")] == "<|im_end|>"
    assert value(gguf, "tokenizer.ggml.add_bos_token") is False
    assert value(gguf, "tokenizer.chat_template") == template.PATH.read_text(encoding="utf-8")
    assert value(gguf, "general.name") == "exo-demo"
    assert value(gguf, "general.license") == "apache-2.0"
    assert value(gguf, "qwen2.context_length") == 2048


def test_the_folder_tells_an_engine_the_same() -> None:
    config, generation, tokenizer = (
        json.loads((SHIPPED / name).read_text(encoding="utf-8"))
        for name in ("config.json", "generation_config.json", "tokenizer_config.json")
    )
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["rope_theta"] == 10000.0
    assert config["tie_word_embeddings"] is True
    assert config["eos_token_id"] == generation["eos_token_id"][0] == 505
    assert tokenizer["eos_token"] == "<|im_end|>"
    assert tokenizer["chat_template"] == template.PATH.read_text(encoding="utf-8")


def test_weights_that_would_be_rounded_are_refused(tmp_path: Path) -> None:
    original = GGUFReader(SHIPPED / GGUF_FILE)
    writer = GGUFWriter(tmp_path / GGUF_FILE, "qwen2")
    for name, field in original.fields.items():
        if not name.startswith(("GGUF.", "general.architecture")):
            contents = field.contents()
            kind, inner = field.types[0], field.types[-1]
            writer.add_key_value(name, contents, kind, inner if kind != inner else None)
    for tensor in original.tensors:
        writer.add_tensor(tensor.name, tensor.data * np.float32(1.001))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="bfloat16"):
        from_gguf(tmp_path / GGUF_FILE, tmp_path / "back")
    assert not (tmp_path / "back").exists()
