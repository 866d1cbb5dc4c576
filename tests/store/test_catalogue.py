import asyncio
import json
import logging
import os
import shutil
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gguf
import pytest

from exo.cards import Progress
from exo.errors import BadRequest, Forbidden, ModelNotFound, NotReady
from exo.store.catalogue import BUNDLED, Catalogue
from tests import checkpoints

from .mirror import Mirror

DEMO = BUNDLED / "exo-demo" / "model.gguf"
FOLDER = DEMO.parent
INDEX = "model.safetensors.index.json"
# Keys and values of 6 layers, 2 KV heads, 32 wide, for each byte of a number.
KV = 6 * 2 * 32 * 2


def test_finds_the_bundled_model() -> None:
    card, path = Catalogue(BUNDLED)["exo-demo"]
    assert path == DEMO
    assert (card.format, card.architecture, card.context) == ("gguf", "qwen2", 2048)
    assert card.bytes == DEMO.stat().st_size
    # 6 layers of 2 KV heads, 32 wide, keys and values, 2 bytes each
    assert card.memory == card.bytes + 2048 * 6 * 2 * 32 * 2 * 2


def test_says_what_the_header_says_of_the_weights(tmp_path: Path) -> None:
    card = Catalogue(BUNDLED)["exo-demo"][0]
    assert (card.parameters, card.quantization, card.capabilities) == (
        1_200_000,
        "F32",
        ("completion", "thinking", "tools"),
    )
    write_header(tmp_path / "e.gguf", pooling_type=1, file_type=15, parameter_count=7)
    card = Catalogue(tmp_path)["e"][0]
    assert (card.parameters, card.quantization, card.capabilities) == (7, "Q4_K_M", ("embedding",))


def test_a_header_with_words_for_numbers_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_string("bert.context_length", "long")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert not Catalogue(tmp_path)


def write_header(path: Path, *, pooling_type: int, file_type: int, parameter_count: int) -> None:
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(512)
    writer.add_uint32("bert.pooling_type", pooling_type)
    writer.add_file_type(file_type)
    writer.add_uint64("general.parameter_count", parameter_count)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def test_memory_counts_a_cache_for_each_slot_and_the_context_is_capped() -> None:
    card = Catalogue(BUNDLED, context=512, slots=4)["exo-demo"][0]
    assert card.context == 512
    assert card.memory == card.bytes + 4 * 512 * 6 * 2 * 32 * 2 * 2


def test_finds_files_and_folders_by_their_names(tmp_path: Path) -> None:
    shutil.copy(DEMO, tmp_path / "plain.gguf")
    (tmp_path / "Named").mkdir()
    shutil.copy(DEMO, tmp_path / "Named" / "whatever-q8_0.gguf")
    (tmp_path / "played.script.json").write_text('{"steps": []}')
    (tmp_path / "notes.txt").write_text("no model")
    assert sorted(Catalogue(tmp_path)) == ["Named", "plain", "played"]


def test_looks_again_when_asked(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "not there yet")
    assert not catalogue
    (tmp_path / "not there yet").mkdir()
    shutil.copy(DEMO, tmp_path / "not there yet" / "new.gguf")
    catalogue.scan()
    assert [card.id for card in catalogue.cards] == ["new"]
    (tmp_path / "not there yet" / "new.gguf").unlink()
    catalogue.scan()
    assert not catalogue


def test_a_later_folder_wins(tmp_path: Path) -> None:
    shutil.copy(DEMO, tmp_path / "exo-demo.gguf")
    assert Catalogue(BUNDLED, tmp_path)["exo-demo"][1] == tmp_path / "exo-demo.gguf"


def test_a_file_that_is_no_model_is_logged_once_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.gguf").write_text("nothing of the kind")
    with caplog.at_level(logging.WARNING):
        catalogue = Catalogue(tmp_path)
        catalogue.scan()
    assert not catalogue
    assert len(caplog.records) == 1
    assert "broken.gguf" in caplog.text


def test_a_folder_of_several_models_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "both").mkdir()
    for name in ("one.gguf", "two.gguf"):
        shutil.copy(DEMO, tmp_path / "both" / name)
    with caplog.at_level(logging.WARNING):
        assert not Catalogue(tmp_path)
    assert "both: it holds 2 .gguf files" in caplog.text


def test_deletes_a_file_or_a_folder_and_nothing_beside_it(tmp_path: Path) -> None:
    shutil.copy(DEMO, tmp_path / "plain.gguf")
    (tmp_path / "Named").mkdir()
    shutil.copy(DEMO, tmp_path / "Named" / "model.gguf")
    catalogue = Catalogue(BUNDLED, tmp_path)
    catalogue.delete("Named")
    assert sorted(catalogue) == ["exo-demo", "plain"]
    catalogue.delete("plain")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ModelNotFound):
        catalogue.delete("../exo-demo")
    with pytest.raises(Forbidden, match="came with this program"):
        catalogue.delete("exo-demo")
    assert DEMO.exists()


def put_checkpoint(folder: Path, *, gguf: bool = False, index: dict[str, str] | None = None) -> Path:
    """The bundled model's safetensors, in a folder made for them; with `index`, tensors to files."""
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", *(["model.gguf"] if gguf else [])):
        shutil.copy(FOLDER / name, folder / name)
    if index is not None:
        (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    return folder


def write_tensors(path: Path, header: dict[str, Any]) -> None:
    """A safetensors file of zeros."""
    written = json.dumps(header).encode()
    end = max(tensor["data_offsets"][1] for tensor in header.values())
    path.write_bytes(len(written).to_bytes(8, "little") + written + bytes(end))


def test_a_folder_of_safetensors_is_a_model_of_its_own_format(tmp_path: Path) -> None:
    folder = put_checkpoint(tmp_path / "Tiny")
    card, path = Catalogue(tmp_path, context=512, slots=2)["Tiny"]
    assert path == folder
    assert (card.format, card.architecture, card.context, card.layers) == ("safetensors", "qwen2", 512, 6)
    assert card.bytes == (folder / "model.safetensors").stat().st_size
    assert (card.parameters, card.quantization) == (1_248_384, "BF16")
    assert card.memory == 4 * 1_248_384 + 2 * 512 * KV * 4
    stored = Catalogue(tmp_path, context=512, width=None)["Tiny"][0]
    assert stored.memory == 2 * 1_248_384 + 512 * KV * 2


def test_a_folder_within_a_users_folder_has_a_name_of_two_parts(tmp_path: Path) -> None:
    put_checkpoint(tmp_path / "user" / "tiny")
    put_checkpoint(tmp_path / "user" / ".hidden")
    catalogue = Catalogue(tmp_path)
    assert list(catalogue) == ["user/tiny"]
    catalogue.delete("user/tiny")
    assert not catalogue
    assert (tmp_path / "user" / ".hidden").exists()
    shutil.rmtree(tmp_path / "user" / ".hidden")
    put_checkpoint(tmp_path / "user" / "again")
    catalogue.scan()
    catalogue.delete("user/again")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_two_formats_is_offered_in_the_first_that_is_wanted(tmp_path: Path) -> None:
    put_checkpoint(tmp_path / "Tiny", gguf=True)
    assert Catalogue(tmp_path)["Tiny"][0].format == "gguf"
    assert Catalogue(tmp_path, formats=("safetensors", "gguf"))["Tiny"][0].format == "safetensors"
    assert Catalogue(tmp_path, formats=("safetensors",))["Tiny"][0].format == "safetensors"
    assert Catalogue(tmp_path, formats=("script",))["Tiny"][0].format == "gguf"
    assert Catalogue(BUNDLED, formats=("safetensors",))["exo-demo"][1] == FOLDER
    with pytest.raises(Forbidden):
        Catalogue(BUNDLED, formats=("safetensors",)).delete("exo-demo")


def test_a_folder_that_lacks_what_its_index_names_is_for_shards_only(tmp_path: Path) -> None:
    index = {"model.norm.weight": "model.safetensors", "model.layers.0.x": "more.safetensors"}
    folder = put_checkpoint(tmp_path / "Tiny", index=index)
    catalogue = Catalogue(tmp_path)
    assert not catalogue
    assert catalogue.partial == {"Tiny": (None, folder)}
    write_tensors(
        folder / "more.safetensors",
        {"model.layers.0.x": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}},
    )
    catalogue.scan()
    assert list(catalogue) == ["Tiny"]
    assert catalogue.partial == {}
    (folder / "model.safetensors").unlink()
    catalogue.scan()
    catalogue.delete("Tiny")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_is_here_of_a_model_tells_how_large_it_is(tmp_path: Path, dtype: Any) -> None:
    shape: dict[str, Any] = {"layers": 3, "width": 32, "intermediate": 48, "heads": 2, "kv_heads": 2}
    checkpoints.write(tmp_path / "Tiny", **shape, dtype=dtype, split=True)
    whole = Catalogue(tmp_path).on_disk["Tiny"][0]
    for file in sorted((tmp_path / "Tiny").glob("*.safetensors"))[:2]:
        file.unlink()
    part, _ = Catalogue(tmp_path).partial["Tiny"]
    assert part
    told = ("memory", "parameters", "layers", "context", "quantization", "architecture")
    assert [getattr(part, name) for name in told] == [getattr(whole, name) for name in told]
    assert 0.9 * whole.bytes < part.bytes < whole.bytes


@pytest.mark.parametrize(
    ("spoilt", "content", "says"),
    [
        ("config.json", '{"model_type": "gpt_neox"}', "its architecture is 'gpt_neox'"),
        ("config.json", "nothing of the kind", "config.json"),
        ("model.safetensors", "cut short", "not a complete safetensors file"),
        (INDEX, "nothing of the kind", "not an index"),
    ],
)
def test_a_folder_that_is_no_model_is_logged_once_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoilt: str, content: str, says: str
) -> None:
    folder = put_checkpoint(tmp_path / "Tiny")
    put_checkpoint(tmp_path / "Whole")
    (folder / spoilt).write_text(content)
    with caplog.at_level(logging.WARNING):
        catalogue = Catalogue(tmp_path)
        catalogue.scan()
    assert list(catalogue) == ["Whole"]
    assert len(caplog.records) == 1
    assert says in caplog.text


def test_a_quantized_checkpoint_counts_what_was_packed(tmp_path: Path) -> None:
    folder = put_checkpoint(tmp_path / "Tiny")
    config = json.loads((folder / "config.json").read_text())
    config["quantization"] = {"bits": 4, "group_size": 64}
    (folder / "config.json").write_text(json.dumps(config))
    header = {
        "w.weight": {"dtype": "U32", "shape": [8, 16], "data_offsets": [0, 512]},
        "w.scales": {"dtype": "BF16", "shape": [8, 2], "data_offsets": [512, 544]},
        "w.biases": {"dtype": "BF16", "shape": [8, 2], "data_offsets": [544, 576]},
        "n.weight": {"dtype": "BF16", "shape": [8], "data_offsets": [576, 592]},
    }
    write_tensors(folder / "model.safetensors", header)
    card = Catalogue(tmp_path, context=1)["Tiny"][0]
    assert (card.quantization, card.parameters) == ("4bit", 8 * 16 * 8 + 8)
    assert card.memory == 592 + KV * 4


# Downloads


@pytest.fixture
def hub(mirror: Mirror) -> Mirror:
    """Has the bundled model in both formats."""
    mirror.files = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    return mirror


async def pulled(catalogue: Catalogue, name: str) -> list[Progress]:
    async with aclosing(catalogue.pull(name)) as steps:
        return [step async for step in steps]


async def test_a_download_is_a_model_when_it_ends(hub: Mirror, tmp_path: Path) -> None:
    catalogue = Catalogue(BUNDLED, tmp_path, hub=hub.url)
    await pulled(catalogue, "user/tiny")
    assert catalogue["user/tiny"][1] == tmp_path / "user" / "tiny" / "model.gguf"
    await pulled(catalogue, "user/tiny:model.gguf")
    assert sorted(catalogue) == ["exo-demo", "user/tiny", "user/tiny:model.gguf"]
    catalogue.delete("user/tiny:model.gguf")
    catalogue.delete("user/tiny")
    assert os.listdir(tmp_path) == []


def test_a_template_beside_the_weights_shows_what_the_model_can_do(tmp_path: Path) -> None:
    assert Catalogue(BUNDLED)["exo-demo"][0].capabilities == ("completion", "thinking", "tools")
    for name, template, capabilities in (
        ("plain", "{{ messages }}", ("completion",)),
        ("thinks", "{{ messages }}<think>", ("completion", "thinking")),
        ("calls", "{{ messages }}{{ tools }}", ("completion", "tools")),
        ("none", None, ("completion",)),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.gguf").write_bytes(DEMO.read_bytes())
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        assert Catalogue(tmp_path)[name][0].capabilities == capabilities
    (tmp_path / "bare.gguf").write_bytes(DEMO.read_bytes())
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}<think>")
    assert Catalogue(tmp_path)["bare"][0].capabilities == ("completion",)
    (tmp_path / "calls" / "chat_template.jinja").write_bytes(b"\xff")
    os.utime(tmp_path / "calls" / "model.gguf", (1, 1))
    assert "calls" not in {card.id for card in Catalogue(tmp_path).cards}


async def test_a_known_model_comes_in_the_format_that_is_wanted_and_under_its_own_name(
    hub: Mirror, tmp_path: Path
) -> None:
    hub.repository = "Qwen/Qwen3-0.6B"
    catalogue = Catalogue(tmp_path, hub=hub.url, formats=("safetensors", "gguf"))
    assert catalogue.remedy("qwen3-0.6b") == "; `exo pull qwen3-0.6b` downloads it"
    assert catalogue.remedy("qwen3-0.7b") == ""
    await pulled(catalogue, "qwen3-0.6b")
    card, path = catalogue["qwen3-0.6b"]
    assert (path, card.format) == (tmp_path / "qwen3-0.6b", "safetensors")
    assert card.capabilities == ("completion", "thinking", "tools")
    hub.repository, hub.files["Qwen3-0.6B-Q8_0.gguf"] = "Qwen/Qwen3-0.6B-GGUF", DEMO.read_bytes()
    await pulled(Catalogue(tmp_path, hub=hub.url), "qwen3-0.6b")
    catalogue.scan()
    assert catalogue["qwen3-0.6b"][0].format == "gguf"


async def test_what_is_on_its_way_is_seen_and_can_only_be_deleted_when_it_broke_off(
    hub: Mirror, tmp_path: Path
) -> None:
    catalogue = Catalogue(tmp_path, hub=hub.url)
    hub.held["model.gguf"] = asyncio.Event()
    assert await catalogue.start_pull("user/tiny") == "user/tiny"
    assert list(catalogue.downloads) == ["user/tiny"]
    with pytest.raises(NotReady, match="is being downloaded"):
        catalogue.delete("user/tiny")
    while not hub.at_once:
        await asyncio.sleep(0)
    await catalogue.downloads.close()
    hub.held["model.gguf"].set()
    assert not catalogue
    assert list(catalogue.unfinished) == ["user/tiny"]
    catalogue.delete("user/tiny")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["nobody-knows-it", "../x", "", "user/tiny:x.txt"])
async def test_only_names_of_models_are_downloaded(hub: Mirror, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequest):
        await pulled(Catalogue(tmp_path, hub=hub.url), name)
    assert hub.seen == []


@pytest.mark.parametrize("folders", [(), (BUNDLED,)])
async def test_a_node_without_a_folder_of_its_own_downloads_nothing(folders: tuple[Path, ...]) -> None:
    with pytest.raises(BadRequest, match="keeps no models"):
        await pulled(Catalogue(*folders), "user/tiny")
