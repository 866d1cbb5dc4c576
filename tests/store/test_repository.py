"""Whole models from a hub on this machine: which files they take, and that they are there or not."""

import asyncio
import errno
import json
import os
import random
import socket
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from exo.cards import Progress, Span
from exo.errors import BadRequest, EngineFailed, ExoError, Forbidden, NotFound, NotReady
from exo.store.catalogue import BUNDLED, Catalogue
from exo.store.partial import Partial
from exo.store.repository import Source, fetch_model, parse, remains
from tests import checkpoints

from .mirror import COMMIT, Mirror

DEMO = BUNDLED / "exo-demo"
ID = "user/tiny"


@pytest.fixture
def mirror(mirror: Mirror) -> Mirror:
    """Has the bundled model, without its GGUF file, and much that is of no use here."""
    mirror.files = {path.name: path.read_bytes() for path in DEMO.iterdir() if path.suffix != ".gguf"}
    mirror.files |= {
        "README.md": b"#",
        ".gitattributes": b"*",
        "onnx/model.onnx": b"x",
        "pytorch_model.bin": b"y",
    }
    return mirror


@pytest.fixture
def split(mirror: Mirror, tmp_path: Path) -> Mirror:
    """Has a model of four layers in five files."""
    folder = tmp_path / "made"
    checkpoints.write(folder, layers=4, width=64, intermediate=128, heads=2, kv_heads=2, split=True)
    mirror.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return mirror


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


async def fetched(mirror: Mirror, models: Path, file: str = "", **options: Any) -> list[Progress]:
    source = Source(ID, file)
    async with aclosing(fetch_model(source, models / source.id, endpoint=mirror.url, **options)) as steps:
        return [step async for step in steps]


async def begun(mirror: Mirror, models: Path, file: str) -> None:
    """Downloads until half of that file is here, and gives up."""
    mirror.held[file] = asyncio.Event()
    half = len(mirror.files[file]) // 3
    async with aclosing(fetch_model(Source(ID), models / ID, endpoint=mirror.url)) as steps:
        async for step in steps:
            if step.file == file and step.done > half:
                break
    mirror.held.pop(file).set()


def files(folder: Path) -> list[str]:
    """What is in a folder and below, hidden or not."""
    return sorted(path.name for path in folder.rglob("*"))


def weights(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.safetensors"))


async def test_a_model_comes_whole_and_without_what_it_does_not_need(mirror: Mirror, models: Path) -> None:
    steps = await fetched(mirror, models)
    assert sorted(os.listdir(models / ID)) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert all((models / ID / name).read_bytes() == mirror.files[name] for name in os.listdir(models / ID))
    assert os.listdir(models / "user") == ["tiny"]
    last = {step.file: step for step in steps}
    assert all(step.done == step.total == len(mirror.files[step.file]) for step in last.values())
    assert Progress("model.safetensors", 0, len(mirror.files["model.safetensors"])) in steps
    assert Catalogue(models)[ID][0].format == "safetensors"


async def test_all_files_are_of_one_commit(mirror: Mirror, models: Path) -> None:
    await fetched(mirror, models)
    assert {seen.path.split("/")[4] for seen in mirror.seen if "/resolve/" in seen.path} == {COMMIT}
    assert {seen.agent for seen in mirror.seen} == {"exo-rkllama"}


async def test_a_span_takes_only_the_files_that_hold_its_layers(split: Mirror, models: Path) -> None:
    await fetched(split, models, span=Span(1, 3), ends=False)
    part = "model-0000{}-of-00005.safetensors".format
    assert weights(models / ID) == [part(3), part(4)]
    catalogue = Catalogue(models)
    assert not catalogue
    assert list(catalogue.partial) == [ID]
    before = len(split.downloads())
    await fetched(split, models, span=Span(0, 1), ends=True)
    assert weights(models / ID) == [part(1), part(2), part(3), part(4)]
    assert len(split.downloads()) == before + 2
    await fetched(split, models)
    assert weights(models / ID) == [part(number) for number in range(1, 6)]
    assert len(split.downloads()) == before + 3
    assert list(Catalogue(models)) == [ID]


async def test_files_come_side_by_side_but_not_more_than_wanted(split: Mirror, models: Path) -> None:
    events = {name: asyncio.Event() for name in split.files if name.endswith(".safetensors")}
    split.held = dict(events)
    download = asyncio.create_task(fetched(split, models, parallel=2))
    while split.at_once < 2:
        await asyncio.sleep(0)
    looked_at = {
        seen.path for seen in split.seen if seen.path.endswith(".safetensors") and "/of/" not in seen.path
    }
    assert len(looked_at) == 2
    for event in events.values():
        event.set()
    await download
    assert split.most_at_once == 2


async def test_an_index_names_what_is_taken_where_there_is_more(split: Mirror, models: Path) -> None:
    split.files["consolidated.safetensors"] = b"the maker's own format"
    await fetched(split, models)
    assert "consolidated.safetensors" not in weights(models / ID)


@pytest.mark.parametrize("file", ["tiny-q8_0.gguf", "more/tiny-q8_0.gguf"])
async def test_a_gguf_file_is_a_model_of_its_own(mirror: Mirror, models: Path, file: str) -> None:
    mirror.files[file] = (DEMO / "model.gguf").read_bytes()
    mirror.files["other.gguf"] = b"x"
    assert parse(f"{ID}:{file}") == parse(f"{ID}/{file}") == Source(ID, file)
    await fetched(mirror, models, file)
    assert os.listdir(models / f"{ID}:tiny-q8_0.gguf") == ["tiny-q8_0.gguf"]
    catalogue = Catalogue(models)
    assert [card.format for card in catalogue.cards] == ["gguf"]
    assert list(catalogue) == [f"{ID}:tiny-q8_0.gguf"]


async def test_the_first_wanted_format_is_taken_and_an_only_gguf_file_needs_no_name(
    mirror: Mirror, models: Path
) -> None:
    mirror.files["model.gguf"] = (DEMO / "model.gguf").read_bytes()
    await fetched(mirror, models)
    assert os.listdir(models / ID) == ["model.gguf"]
    await fetched(mirror, models, formats=("safetensors", "gguf"))
    assert "model.gguf" not in os.listdir(models / ID)


async def test_of_several_gguf_files_none_is_taken_by_itself(mirror: Mirror, models: Path) -> None:
    for name in ("a-Q8_0.gguf", "a-Q4_K_M.gguf", "b-00001-of-00002.gguf"):
        mirror.files[name] = b"x"
    with pytest.raises(
        BadRequest, match=r"3 GGUF files; name one, as in user/tiny:a-Q4_K_M.gguf; .*a-Q8_0.gguf"
    ):
        await fetched(mirror, models)
    with pytest.raises(NotFound, match=r"'a-Q4.gguf' is not in user/tiny; there is a-Q4_K_M.gguf"):
        await fetched(mirror, models, "a-Q4.gguf")
    with pytest.raises(BadRequest, match="one part of a model"):
        await fetched(mirror, models, "b-00001-of-00002.gguf")
    assert files(models) == []


async def test_what_is_here_and_right_is_not_downloaded_again(mirror: Mirror, models: Path) -> None:
    await fetched(mirror, models)
    before = len(mirror.downloads())
    await fetched(mirror, models)
    assert len(mirror.downloads()) == before
    mirror.files["tokenizer.json"] = b"{}"
    await fetched(mirror, models)
    assert len(mirror.downloads()) == before + 1
    assert (models / ID / "tokenizer.json").read_bytes() == b"{}"
    assert os.listdir(models / "user") == ["tiny"]


async def test_what_has_come_is_kept_for_the_next_time_and_is_no_model(mirror: Mirror, models: Path) -> None:
    mirror.files["model.safetensors"] *= 2  # more than one write to the disk
    await begun(mirror, models, "model.safetensors")
    assert os.listdir(models / "user") == [".tiny.partial"]
    assert remains(models / "user") == {"tiny": models / "user" / ".tiny.partial"}
    assert not Catalogue(models)
    before = len(mirror.downloads())
    steps = await fetched(mirror, models)
    again = mirror.downloads()[before:]
    assert [seen.path.rpartition("/")[2] for seen in again] == ["model.safetensors"]
    assert again[0].range > "bytes=1"
    assert any(0 < step.done < step.total for step in steps)
    assert remains(models / "user") == {}
    assert list(Catalogue(models)) == [ID]


async def test_a_connection_that_is_lost_is_taken_up_again(mirror: Mirror, models: Path) -> None:
    mirror.cuts = [100, 1000, 10, 50_000]
    await fetched(mirror, models)
    assert (models / ID / "model.safetensors").read_bytes() == mirror.files["model.safetensors"]


@pytest.mark.parametrize("large", [True, False])
async def test_a_wrong_checksum_installs_nothing(mirror: Mirror, models: Path, large: bool) -> None:
    mirror.large = large
    mirror.tag = ("0" * 64)[: 64 if large else 40]
    with pytest.raises(EngineFailed, match="checksum"):
        await fetched(mirror, models)
    assert files(models) == []


async def test_a_model_that_is_here_stays_as_it_is_when_its_newer_one_fails(
    mirror: Mirror, models: Path
) -> None:
    await fetched(mirror, models)
    mirror.files["tokenizer.json"] = b"{}"
    mirror.tag = "0" * 64
    with pytest.raises(EngineFailed, match="checksum"):
        await fetched(mirror, models)
    assert (models / ID / "tokenizer.json").read_bytes() == (DEMO / "tokenizer.json").read_bytes()
    assert list(Catalogue(models)) == [ID]


async def test_a_disk_that_cannot_hold_all_of_it_is_told_before_the_first_file(
    split: Mirror, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"rfilename": name, "size": 10**15} for name in split.files]
    split.info = {"id": ID, "sha": COMMIT, "siblings": rows}
    with pytest.raises(NotReady, match=r"are still to come .* make room"):
        await fetched(split, models)
    assert split.downloads() == []
    assert files(models) == []


async def test_a_disk_that_is_full_on_the_way_is_told_and_installs_nothing(
    mirror: Mirror, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Partial.add

    def fill_up(ours: Partial, chunk: bytes) -> None:
        if "model.safetensors" in ours.path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        add(ours, chunk)

    monkeypatch.setattr(Partial, "add", fill_up)
    with pytest.raises(NotReady, match=r"cannot write to .*: the disk is full"):
        await fetched(mirror, models)
    assert not Catalogue(models)
    monkeypatch.setattr(Partial, "add", add)
    await fetched(mirror, models)
    assert list(Catalogue(models)) == [ID]


async def test_two_downloads_of_a_model_keep_out_of_each_others_way(mirror: Mirror, models: Path) -> None:
    steps = fetch_model(Source(ID), models / ID, endpoint=mirror.url)
    async with aclosing(steps):
        await anext(steps)
        with pytest.raises(NotReady, match="tiny is being downloaded already"):
            await fetched(mirror, models)
        async for _ in steps:
            pass
    assert list(Catalogue(models)) == [ID]


async def test_an_architecture_that_no_engine_knows_is_refused_before_its_weights_come(
    mirror: Mirror, models: Path
) -> None:
    mirror.files["config.json"] = json.dumps({"model_type": "gpt_neox"}).encode()
    with pytest.raises(
        EngineFailed, match=r"user/tiny cannot be used here: config.json: .*'gpt_neox'; known"
    ):
        await fetched(mirror, models)
    assert [seen.path for seen in mirror.downloads()] == ["/of/config.json"]
    assert files(models) == []


async def test_what_is_no_model_inside_is_thrown_away(mirror: Mirror, models: Path) -> None:
    mirror.files["model.safetensors"] = random.Random(1).randbytes(1000)
    with pytest.raises(EngineFailed, match=r"cannot be used here: model.safetensors: not a complete"):
        await fetched(mirror, models)
    mirror.files["bad.gguf"] = b"GGUF"
    with pytest.raises(EngineFailed, match=r"cannot be used here: bad.gguf: not a complete GGUF"):
        await fetched(mirror, models, "bad.gguf")
    assert files(models) == []


async def test_an_index_of_files_that_are_not_there_is_told(split: Mirror, models: Path) -> None:
    del split.files["model-00002-of-00005.safetensors"]
    with pytest.raises(EngineFailed, match=r"names model-00002-of-00005.safetensors, which is not there"):
        await fetched(split, models)
    assert files(models) == []


async def test_a_repository_without_a_model_says_what_there_is(mirror: Mirror, models: Path) -> None:
    mirror.files = {"README.md": b"", "model.onnx": b""}
    with pytest.raises(BadRequest, match=r"neither GGUF nor .*; there is README.md, model.onnx"):
        await fetched(mirror, models)


@pytest.mark.parametrize(
    ("refusal", "kind", "says"),
    [
        ((401, "GatedRepo"), Forbidden, "is gated: accept its terms .* HF_TOKEN"),
        ((401, "RepoNotFound"), NotFound, "no repository user/tiny on .*; if it is private, set HF_TOKEN"),
        ((404, ""), NotFound, "there is no user/tiny on"),
        ((500, ""), EngineFailed, "answered with status 500"),
    ],
)
async def test_refusals_say_what_to_do(
    mirror: Mirror, models: Path, refusal: tuple[int, str], kind: type[ExoError], says: str
) -> None:
    mirror.refuses = refusal
    with pytest.raises(kind, match=says):
        await fetched(mirror, models)
    assert files(models) == []


async def test_a_gated_model_comes_with_a_token(mirror: Mirror, models: Path) -> None:
    mirror.gated = "secret"
    with pytest.raises(Forbidden, match="user/tiny is gated"):
        await fetched(mirror, models)
    assert files(models) == []
    await fetched(mirror, models, token="secret")
    assert list(Catalogue(models)) == [ID]
    assert {seen.token for seen in mirror.seen if seen.path.startswith("/of/")} == {""}


@pytest.mark.parametrize("info", [[], {}, {"id": ID}, {"id": ID, "sha": COMMIT, "siblings": [{}]}])
async def test_what_is_no_hub_is_told(mirror: Mirror, models: Path, info: object) -> None:
    mirror.info = info
    with pytest.raises(EngineFailed, match="is no hub: it names neither version nor files of user/tiny"):
        await fetched(mirror, models)


async def test_without_a_network_or_offline_it_says_so(
    mirror: Mirror, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NotReady, match="HF_HUB_OFFLINE is set"):
        await fetched(mirror, models)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        mirror.url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(NotReady, match=f"cannot reach {mirror.url} for user/tiny"):
        await fetched(mirror, models)
    assert files(models) == []


async def test_a_folder_that_cannot_be_written_is_named(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotReady, match=f"cannot write to {tmp_path}/file/user: Not a directory"):
        await fetched(mirror, tmp_path / "file")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "tiny",
        "/tiny",
        "user/",
        "../tiny",
        "user/..",
        "user/tiny:",
        "user/tiny/",
        "user/tiny:../x.gguf",
        "user/tiny:x",
        "user/tiny/x.rkllm",
        "user/tiny/x.gguf:y.gguf",
        "user/tiny:a\\b.gguf",
        "user/.hidden",
        "user/tiny:/etc/x.gguf",
        "user/tiny:.gguf",
        "user/tiny?x",
        f"user/tiny:{'x' * 300}.gguf",
    ],
)
def test_a_name_that_may_lead_elsewhere_is_none(name: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse(name)
    assert refused.value.param == "model"


def test_names_of_models_on_the_hub() -> None:
    assert parse("user/tiny-1.5B") == Source("user/tiny-1.5B")
    assert parse("user/tiny-1.5B").id == "user/tiny-1.5B"
    assert parse("user/tiny:Q4/a.gguf").id == "user/tiny:a.gguf"
