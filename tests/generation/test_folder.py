import json
from pathlib import Path
from typing import Any

import pytest

from exo.errors import EngineFailed
from exo.generation.folder import Texts, texts
from exo.store.catalogue import BUNDLED


def folder(path: Path, **files: Any) -> Path:
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def test_of_the_bundled_model() -> None:
    read = texts(BUNDLED / "exo-demo")
    assert read.template == (BUNDLED / "exo-demo" / "chat_template.jinja").read_text()
    assert (read.bos, read.eos, read.begins) == ("", "<|im_end|>", "")


def test_a_folder_may_say_nothing(tmp_path: Path) -> None:
    assert texts(tmp_path) == Texts("", "", "", "")


def test_tokens_are_strings_or_objects(tmp_path: Path) -> None:
    config = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>", "add_bos_token": True}
    assert texts(folder(tmp_path, tokenizer_config=config)) == Texts("", "<s>", "</s>", "<s>")


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("one", "one"),
        ([{"name": "tool_use", "template": "other"}, {"name": "default", "template": "one"}], "one"),
        ([{"name": "tool_use", "template": "other"}], ""),
        (None, ""),
    ],
)
def test_where_the_template_is(tmp_path: Path, template: Any, found: str) -> None:
    config = {"chat_template": template}
    assert texts(folder(tmp_path, tokenizer_config=config)).template == found
    (tmp_path / "chat_template.jinja").write_text("a file of its own")
    assert texts(tmp_path).template == "a file of its own"


TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
}
BARE = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}]}


@pytest.mark.parametrize(
    ("config", "processor", "begins"),
    [
        ({}, TEMPLATE, "<s>"),
        ({}, {"type": "Sequence", "processors": [{"type": "ByteLevel"}, TEMPLATE]}, "<s>"),
        ({}, {"type": "ByteLevel"}, ""),
        ({}, BARE, ""),
        ({}, None, ""),
        ({"add_bos_token": False}, TEMPLATE, ""),
        ({"add_bos_token": True}, None, "<s>"),
        ({"add_bos_token": True, "bos_token": None}, None, ""),
    ],
)
def test_how_a_prompt_begins(tmp_path: Path, config: Any, processor: Any, begins: str) -> None:
    made = folder(
        tmp_path, tokenizer_config={"bos_token": "<s>", **config}, tokenizer={"post_processor": processor}
    )
    assert texts(made).begins == begins


@pytest.mark.parametrize("content", ["", "[]", '{"bos_token": 1}', '{"chat_template": {}}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(EngineFailed, match=r"tokenizer_config\.json cannot be used: ."):
        texts(tmp_path)
