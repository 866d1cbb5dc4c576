"""What is found in folders of models, with real files in them."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from exo.doctor.evidence import ModelFile, Shelf
from exo.doctor.gather.models import shelf
from exo.store.catalogue import BUNDLED

DEMO = BUNDLED / "exo-demo"


def look(folder: Path) -> Shelf:
    return shelf((BUNDLED, folder), 2048, 4)


def only(found: Shelf) -> ModelFile:
    (model,) = found.models
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def safetensors(into: Path) -> Path:
    """The bundled model's folder without its GGUF file."""
    shutil.copytree(DEMO, into, ignore=shutil.ignore_patterns("*.gguf"))
    return into


def test_nothing_is_found_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert look(tmp_path / "none") == Shelf()


def test_a_whole_gguf_file(folder: Path) -> None:
    shutil.copy(DEMO / "model.gguf", folder / "demo.gguf")
    model = only(look(folder))
    assert (model.id, model.format, model.problem, model.missing) == ("demo", "gguf", None, 0)
    assert (model.template, model.context) == (True, 2048)
    assert model.memory > model.bytes


def test_a_gguf_file_whose_weights_are_cut_short(folder: Path) -> None:
    whole = (DEMO / "model.gguf").read_bytes()
    (folder / "cut.gguf").write_bytes(whole[:-100_000])
    model = only(look(folder))
    assert model.problem is None
    assert 100_000 - 32 < model.missing <= 100_000


def test_a_gguf_file_that_ends_in_its_vocabulary(folder: Path) -> None:
    (folder / "cut.gguf").write_bytes((DEMO / "model.gguf").read_bytes()[:3000])
    problem = only(look(folder)).problem
    assert problem is not None
    assert "ends within its header" in problem


def test_a_folder_of_safetensors(folder: Path) -> None:
    where = safetensors(folder / "demo")
    model = only(look(folder))
    assert (model.format, model.problem, model.template, model.tokenizer) == ("safetensors", None, True, True)
    for name in ("tokenizer.json", "chat_template.jinja"):
        (where / name).unlink()
    (where / "tokenizer_config.json").write_text("{}")
    model = only(look(folder))
    assert (model.template, model.tokenizer) == (False, False)


def test_a_folder_that_lacks_what_its_index_names(folder: Path) -> None:
    where = safetensors(folder / "demo")
    index = '{"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}'
    (where / "model.safetensors.index.json").write_text(index)
    model = only(look(folder))
    assert model.lacking == ("model-2.safetensors",)
    assert model.bytes == (DEMO / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("notes.txt", b"hello", "it is no .gguf file"),
        ("junk.gguf", b"junk" * 20, "it begins with"),
        ("short.gguf", b"GGUF", "not a complete GGUF file"),
    ],
)
def test_what_is_no_model_is_told_with_the_reason(folder: Path, name: str, content: bytes, why: str) -> None:
    (folder / name).write_bytes(content)
    (stranger,) = look(folder).strangers
    assert stranger.what == str(folder / name)
    assert why in stranger.why


def test_folders_that_are_no_models(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "two").mkdir()
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(DEMO / "model.gguf", folder / "two" / name)
    where = safetensors(folder / "user" / "mamba")
    config = (where / "config.json").read_text().replace('"qwen2"', '"mamba"')
    (where / "config.json").write_text(config)
    torn = safetensors(folder / "torn")
    (torn / "model.safetensors").write_bytes((DEMO / "model.safetensors").read_bytes()[:-1000])
    found = {Path(each.what).name: each.why for each in look(folder).strangers}
    assert found.keys() == {"empty", "two", "mamba", "torn"}
    assert "no .gguf file is in it" in found["empty"]
    assert "holds 2 .gguf files" in found["two"]
    assert "'mamba'" in found["mamba"]
    assert "not a complete safetensors file" in found["torn"]


def test_a_file_and_a_folder_of_one_name(folder: Path) -> None:
    shutil.copy(DEMO / "model.gguf", folder / "demo.gguf")
    safetensors(folder / "demo")
    assert look(folder).twice == ("demo",)


def test_what_downloads_have_left_and_which_goes_on(folder: Path) -> None:
    for name in ("a", "b"):
        hidden = folder / "me" / f".{name}.partial"
        hidden.mkdir(parents=True)
        (hidden / ".model.gguf.0123.partial").write_bytes(bytes(1000))
    held = os.open(folder / "me" / ".b.partial", os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        left = look(folder).leftovers
    finally:
        os.close(held)
    assert [(each.id, each.bytes, each.under_way) for each in left] == [
        ("me/a", 1000, False),
        ("me/b", 1000, True),
    ]


def test_models_that_there_is_no_time_for_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(DEMO / "model.gguf", folder / "demo.gguf")
    monkeypatch.setattr("exo.doctor.gather.models._SECONDS", -1.0)
    assert look(folder) == Shelf(unseen=1)
