import logging
import shutil
from pathlib import Path

import gguf
import pytest

from exo.errors import Forbidden, ModelNotFound
from exo.store.catalogue import BUNDLED, Catalogue

DEMO = BUNDLED / "exo-demo" / "model.gguf"


def test_finds_the_bundled_model() -> None:
    card, path = Catalogue(BUNDLED)["exo-demo"]
    assert path == DEMO
    assert (card.format, card.architecture, card.context) == ("gguf", "qwen2", 2048)
    assert card.bytes == DEMO.stat().st_size
    # 6 layers of 2 KV heads, 32 wide, keys and values, 2 bytes each
    assert card.memory == card.bytes + 2048 * 6 * 2 * 32 * 2 * 2


def test_says_what_the_header_says_of_the_weights(tmp_path: Path) -> None:
    card = Catalogue(BUNDLED)["exo-demo"][0]
    assert (card.parameters, card.quantization, card.capabilities) == (1_200_000, "F32", ("completion",))
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
