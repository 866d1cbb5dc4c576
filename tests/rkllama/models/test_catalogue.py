import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from exo.cards import Progress, Recipe
from exo.chat import Sampling
from exo.errors import BadRequest, ExoError, ModelNotFound, NotFound
from rkllama.models.catalogue import DEFAULT_CONTEXT, Models
from rkllama.models.modelfile import read
from tests.store.mirror import Mirror


def put(folder: Path, name: str, *files: str, modelfile: str = "") -> Path:
    own = folder / name
    own.mkdir()
    for file in files:
        (own / file).write_bytes(b"x" * 1000)
    if modelfile:
        (own / "Modelfile").write_text(modelfile)
    return own


def test_a_folder_with_one_file_is_a_model_called_after_it(tmp_path: Path) -> None:
    own = put(tmp_path, "Qwen2.5-1.5B", "Qwen2.5-1.5B-rk3588-w8a8_g128-opt-1.rkllm")
    models = Models(tmp_path)
    card, file = models["Qwen2.5-1.5B"]
    assert list(models) == ["Qwen2.5-1.5B"]
    assert file == own / "Qwen2.5-1.5B-rk3588-w8a8_g128-opt-1.rkllm"
    assert (card.format, card.bytes, card.quantization, card.context) == (
        "rkllm",
        1000,
        "w8a8_g128",
        DEFAULT_CONTEXT,
    )
    assert card.memory > card.bytes


def test_the_modelfile_says_what_requests_leave_open(tmp_path: Path) -> None:
    put(
        tmp_path,
        "Demo",
        "a.rkllm",
        "b.rkllm",
        modelfile="FROM=b.rkllm\nSYSTEM='Be brief.'\nTEMPERATURE=0.2\nENABLE_THINKING=no\nNUM_CTX=1024\n",
    )
    card, file = Models(tmp_path)["Demo"]
    assert file.name == "b.rkllm"
    assert (card.system, card.sampling, card.thinking, card.context) == (
        "Be brief.",
        Sampling(temperature=0.2),
        False,
        1024,
    )


def test_what_is_no_model_is_named_once_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "two", "a.rkllm", "b.rkllm")
    put(tmp_path, "broken", "a.rkllm", modelfile="TEMPERATURE=hot\n")
    put(tmp_path, "lost", modelfile="FROM=nowhere\n")
    put(tmp_path, "empty")
    put(tmp_path, ".hidden", "a.rkllm")
    put(tmp_path, "good", "a.rkllm")
    with caplog.at_level(logging.WARNING):
        models = Models(tmp_path)
        models.scan()
    assert list(models) == ["good"]
    assert len(caplog.records) == 3
    assert "holds a.rkllm, b.rkllm: name one in its Modelfile with FROM" in caplog.text
    assert "TEMPERATURE=hot" in caplog.text
    assert "FROM=nowhere is neither a file in its folder nor a model" in caplog.text


def test_a_folder_that_is_not_there_yet_holds_nothing(tmp_path: Path) -> None:
    models = Models(tmp_path / "later")
    assert not models
    (tmp_path / "later").mkdir()
    put(tmp_path / "later", "new", "a.rkllm")
    models.scan()
    assert list(models) == ["new"]


def test_a_limit_that_was_learnt_is_on_the_card_until_the_file_changes(tmp_path: Path) -> None:
    own = put(tmp_path, "Demo", "a.rkllm")
    models = Models(tmp_path)
    models.learn("Demo", 512)
    assert models["Demo"][0].context == 512
    (own / "a.rkllm").unlink()
    (own / "b.rkllm").write_bytes(b"y")
    models.scan()
    assert models["Demo"][0].context == DEFAULT_CONTEXT


def test_a_model_is_made_of_another_ones_file(tmp_path: Path) -> None:
    own = put(
        tmp_path, "Demo", "a.rkllm", modelfile="TEMPERATURE=0.2\nTOP_K=5\nHUGGINGFACE_PATH=Qwen/Qwen2.5\n"
    )
    models = Models(tmp_path)
    models.create("brief", Recipe(base="Demo", system="Be brief.", sampling=Sampling(temperature=0.9)))
    card, file = models["brief"]
    assert file == own / "a.rkllm"
    assert (card.system, card.sampling) == ("Be brief.", Sampling(temperature=0.9, top_k=5))
    assert models.entry("brief").modelfile.hub == "Qwen/Qwen2.5"
    assert read(tmp_path / "brief" / "Modelfile").source == "Demo"
    models.create("briefer", Recipe(base="brief", system="Be very brief."))
    assert models["briefer"][0].sampling.temperature == 0.9
    with pytest.raises(BadRequest, match="is what brief, briefer is made of"):
        models.delete("Demo")
    for name in ("brief", "briefer", "Demo"):
        models.delete(name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../out", "/etc", "", ".hidden", "a/b", "a\\b", "a\0b", "x" * 200, "a\n"])
def test_a_name_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    (tmp_path / "models").mkdir()
    put(tmp_path / "models", "Demo", "a.rkllm")
    models = Models(tmp_path / "models")
    with pytest.raises(BadRequest):
        models.create(name, Recipe(base="Demo"))
    with pytest.raises(ModelNotFound):
        models.delete(name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["Demo", "a.rkllm", "models"]


def test_a_name_is_taken_once_and_a_base_has_to_be_there(tmp_path: Path) -> None:
    put(tmp_path, "Demo", "a.rkllm")
    models = Models(tmp_path)
    with pytest.raises(BadRequest, match="there is a model 'Demo' already"):
        models.create("Demo", Recipe(base="Demo"))
    with pytest.raises(ModelNotFound, match="'nowhere'"):
        models.create("new", Recipe(base="nowhere"))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def pulled(models: Models, name: str) -> list[Progress]:
    return [progress async for progress in models.pull(name)]


@pytest.mark.parametrize(
    "name",
    ["user/repo", "user/repo/file.gguf", "../repo/a.rkllm", "user/repo/../a.rkllm", "/user/repo/a.rkllm"],
)
async def test_what_is_downloaded_is_named_in_full(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequest, match=r"user|\.rkllm"):
        await pulled(Models(tmp_path), name)
    assert names_in(tmp_path) == []


async def test_a_failed_download_leaves_nothing(tmp_path: Path, unused_tcp_port: int) -> None:
    models = Models(tmp_path, hub=f"http://127.0.0.1:{unused_tcp_port}")
    with pytest.raises(ExoError, match=r"127\.0\.0\.1") as failed:
        await pulled(models, "user/repo/a.rkllm")
    assert not isinstance(failed.value, NotFound)
    assert names_in(tmp_path) == []


@pytest.fixture
async def mirror(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mirror]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    mirror = Mirror()
    mirror.large = False
    async with mirror.running():
        yield mirror


async def test_a_download_brings_what_lies_beside_the_weights(mirror: Mirror, tmp_path: Path) -> None:
    mirror.files = {"npu/Demo-w8a8.rkllm": b"weights", "tokenizer.json": b"{}", "README.md": b"hello"}
    models = Models(tmp_path, hub=mirror.url)
    steps = await pulled(models, "user/tiny/npu/Demo-w8a8.rkllm")
    assert (steps[-1].file, steps[-1].done) == ("tokenizer.json", 2)
    assert names_in(tmp_path / "Demo-w8a8") == ["Demo-w8a8.rkllm", "Modelfile", "tokenizer.json"]
    assert models["Demo-w8a8"][0].quantization == "w8a8"
    assert models.entry("Demo-w8a8").modelfile.hub == "user/tiny"
    with pytest.raises(BadRequest, match="already; delete it first"):
        await pulled(models, "user/tiny/npu/Demo-w8a8.rkllm")


async def test_a_download_that_broke_off_is_no_model_and_is_taken_up_again(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.files = {"Demo.rkllm": b"weights" * 1000}
    models = Models(tmp_path, hub=mirror.url)
    async with aclosing(models.pull("user/tiny/Demo.rkllm")) as steps:
        await anext(steps)
    models.scan()
    assert not models
    await pulled(models, "user/tiny/Demo.rkllm")
    assert list(models) == ["Demo"]
