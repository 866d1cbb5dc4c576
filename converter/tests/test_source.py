"""What a model says of itself: folders of the hub and GGUF files, whole and damaged."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLED
from ggufs import write_gguf

from rkllm_convert import fetch, source
from rkllm_convert.errors import BadInput, NotReady


def folder(path: Path, **config: Any) -> Path:
    shutil.copytree(BUNDLED, path)
    (path / "model.gguf").unlink()
    found = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**found, **config}))
    return path


def test_a_folder_is_described_by_its_configuration_and_its_weights(tmp_path: Path) -> None:
    found = source.read(folder(tmp_path / "Tiny"))
    assert (found.kind, found.name, found.architecture) == ("huggingface", "Tiny", "qwen2")
    assert (found.layers, found.context, found.thinking) == (6, 2048, "on request")
    assert found.kv_bytes == 6 * 2 * 2 * 32 * 2
    # As the model's makers count it: embeddings are there once.
    assert found.parameters == 1_248_384


def test_the_hubs_cache_says_which_repository_and_commit_it_is(tmp_path: Path) -> None:
    commit = "c0ffee" + "0" * 34
    path = folder(tmp_path / "models--Qwen--Qwen2.5-1.5B-Instruct" / "snapshots" / commit)
    found = source.read(path)
    assert (found.repository, found.revision) == ("Qwen/Qwen2.5-1.5B-Instruct", commit)
    assert found.name == "Qwen2.5-1.5B-Instruct"
    assert source.fingerprint(found) == f"Qwen/Qwen2.5-1.5B-Instruct@{commit}"


def test_a_folder_that_the_hubs_command_has_filled_knows_its_commit(tmp_path: Path) -> None:
    path = folder(tmp_path / "Tiny")
    noted = path / ".cache" / "huggingface" / "download"
    noted.mkdir(parents=True)
    (noted / "config.json.metadata").write_text("abcdef" + "1" * 34 + "\netag\n1700000000.0\n")
    assert source.read(path).revision == "abcdef" + "1" * 34


def test_a_models_fingerprint_changes_with_any_of_its_files(tmp_path: Path) -> None:
    path = folder(tmp_path / "Tiny")
    before = source.fingerprint(source.read(path))
    assert source.fingerprint(source.read(path)) == before
    (path / "tokenizer_config.json").write_text("{}")
    assert source.fingerprint(source.read(path)) != before


def test_weights_that_are_quantised_already_are_told_of(tmp_path: Path) -> None:
    path = folder(tmp_path / "Tiny", quantization_config={"quant_method": "awq", "bits": 4})
    assert source.read(path).quantized == "awq in 4 bits"


def test_a_template_is_found_in_either_place(tmp_path: Path) -> None:
    path = folder(tmp_path / "Tiny")
    (path / "chat_template.jinja").unlink()
    (path / "tokenizer_config.json").write_text("{}")
    assert source.read(path).template == ""
    several = [{"name": "rag", "template": "no"}, {"name": "default", "template": "<think>"}]
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    found = source.read(path)
    assert (found.template, found.thinking) == ("<think>", "always")


def test_a_gguf_file_is_described_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "Tiny-1B-q4_0.gguf"
    write_gguf(path, file_type=2, template="{{ enable_thinking }}")
    found = source.read(path)
    assert (found.kind, found.name, found.quantized) == ("gguf", "Tiny-1B", "type 2")
    assert (found.architecture, found.layers, found.context) == ("qwen2", 6, 8192)
    assert (found.parameters, found.thinking) == (1024 * 1001, "on request")
    assert found.kv_bytes == 6 * 2 * 2 * 32 * 2


@pytest.mark.parametrize("length", [0, 3, 4, 20, 100, 300])
def test_a_gguf_file_that_ends_too_early_is_refused(tmp_path: Path, length: int) -> None:
    whole, cut = tmp_path / "whole.gguf", tmp_path / "cut.gguf"
    write_gguf(whole, file_type=1)
    cut.write_bytes(whole.read_bytes()[:length])
    with pytest.raises(BadInput, match="cannot be read as GGUF"):
        source.read(cut)


def test_counts_that_cannot_be_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "evil.gguf"
    path.write_bytes(b"GGUF" + (3).to_bytes(4, "little") + b"\xff" * 16)
    with pytest.raises(BadInput, match="beyond belief"):
        source.read(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: (path / "model.safetensors").unlink(), "has no weights"),
        (
            lambda path: (path / "model.safetensors").write_bytes(b"version https://git-lfs"),
            "no safetensors file",
        ),
        (lambda path: (path / "config.json").write_text("{"), "no JSON"),
        (lambda path: (path / "config.json").write_text("[]"), "no object"),
        (lambda path: (path / "config.json").unlink(), "no model"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path, change: Any, says: str) -> None:
    path = folder(tmp_path / "Tiny")
    change(path)
    with pytest.raises(BadInput, match=says):
        source.read(path)


def test_a_folder_of_gguf_files_wants_one_to_be_named(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", file_type=1)
    with pytest.raises(BadInput, match=r"name one of them, as .*a\.gguf"):
        source.read(tmp_path)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere", "nowhere", "a/b/c", "../a"])
def test_a_path_that_is_not_there_is_not_taken_for_the_hub(name: str) -> None:
    with pytest.raises(BadInput, match="is not there"):
        fetch.find(name)


def test_a_hub_that_cannot_be_reached_is_told_with_the_remedy() -> None:
    with pytest.raises(NotReady, match=r"user/tiny cannot be fetched: .*HF_ENDPOINT"):
        fetch.find("user/tiny")
