import json
from pathlib import Path
from typing import Any

import pytest

from exo.errors import EngineFailed
from exo.generation.vocabulary import Vocabulary
from exo.store.catalogue import BUNDLED

DEMO = BUNDLED / "exo-demo"
TOKENIZER = json.loads((DEMO / "tokenizer.json").read_text())


@pytest.fixture(scope="module")
def demo() -> Vocabulary:
    return Vocabulary.read(DEMO)


def folder(path: Path, tokenizer: Any = TOKENIZER, **files: Any) -> Path:
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return path


def renamed(**names: str) -> Any:
    """The demo's tokenizer with other names for its special tokens; None of them ends an answer by name."""
    added = [dict(token) for token in TOKENIZER["added_tokens"]]
    for token in added:
        token["content"] = names.get(str(token["id"]), token["content"])
    return {**TOKENIZER, "added_tokens": added}


def test_text_becomes_tokens_and_comes_back(demo: Vocabulary) -> None:
    assert demo.size == 512
    for text in ("What is 12 + 7?", "é€ 𝄞", "  two\n\nlines", '{"a": 1}'):
        ids = demo.encode(text)
        assert b"".join(map(demo.bytes_of, ids)) == text.encode()
    assert demo.encode("") == ()


def test_special_tokens_are_read_and_not_said(demo: Vocabulary) -> None:
    ids = demo.encode("<|im_start|>user\nHi<|im_end|>")
    assert (ids[0], ids[-1]) == (504, 505)
    assert demo.bytes_of(504) == demo.bytes_of(505) == b""
    assert demo.spelled(505) == b"<|im_end|>"


def test_tags_are_said(demo: Vocabulary) -> None:
    for tag in ("<think>", "</think>", "<tool_call>", "</tool_call>"):
        (id,) = demo.encode(tag)
        assert demo.bytes_of(id) == tag.encode()


def test_the_same_as_the_tokenizers_own_library(demo: Vocabulary) -> None:
    from tokenizers import Tokenizer

    own = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    for text in ("<|im_start|>user\nWhat is 145 + 278?<|im_end|>\n<think>", "é€ 𝄞 don't  stop\n\n"):
        assert list(demo.encode(text)) == own.encode(text, add_special_tokens=False).ids


def test_the_ends_are_those_of_the_generation_config(demo: Vocabulary) -> None:
    assert demo.ends == {503, 505}
    assert sorted(demo.tokenizer.eos_tokens) == [503, 505]


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"generation_config": {"eos_token_id": 503}}, {503}),
        ({"generation_config": {"eos_token_id": [503, 504]}}, {503, 504}),
        ({"tokenizer_config": {"eos_token": "<|im_end|>"}}, {505}),
        ({"tokenizer_config": {"eos_token": {"content": "<|im_end|>", "lstrip": False}}}, {505}),
        # A base model's generation_config with a chat model's tokenizer.
        (
            {"generation_config": {"eos_token_id": 503}, "tokenizer_config": {"eos_token": "<|im_end|>"}},
            {503, 505},
        ),
        ({}, {503, 505}),
        ({"generation_config": {"do_sample": True}, "tokenizer_config": {"eos_token": None}}, {503, 505}),
    ],
)
def test_where_the_ends_come_from(tmp_path: Path, files: dict[str, Any], ends: set[int]) -> None:
    assert Vocabulary.read(folder(tmp_path, **files)).ends == ends


@pytest.mark.parametrize(
    "name", ["<|eot_id|>", "<|end|>", "</s>", "<end_of_turn>", "<\uff5cend\u2581of\u2581sentence\uff5c>"]
)
def test_ends_with_a_well_known_name(tmp_path: Path, name: str) -> None:
    tokenizer = renamed(**{"503": "<one>", "505": name})
    assert Vocabulary.read(folder(tmp_path, tokenizer)).ends == {505}


@pytest.mark.parametrize("files", [{}, {"tokenizer_config": {"eos_token": "<nowhere>"}}])
def test_without_an_end_the_file_and_the_remedy_are_named(tmp_path: Path, files: dict[str, Any]) -> None:
    tokenizer = renamed(**{"503": "<one>", "505": "<two>"})
    with pytest.raises(EngineFailed, match=r"tokenizer\.json.*name it in .*generation_config\.json"):
        Vocabulary.read(folder(tmp_path, tokenizer, **files))


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=rf"{tmp_path} has no tokenizer\.json.*put the model's own there"):
        Vocabulary.read(tmp_path)


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"model": 1}', "{}"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 1}')
    with pytest.raises(EngineFailed, match=r"tokenizer\.json cannot be used: ."):
        Vocabulary.read(tmp_path)


def test_white_space_before_the_json_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("\n" + json.dumps(TOKENIZER, indent=1))
    assert Vocabulary.read(tmp_path).size == 512


def test_a_damaged_file_beside_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=r"generation_config\.json cannot be used"):
        Vocabulary.read(folder(tmp_path, generation_config={"eos_token_id": "two"}))


def test_special_tokens_numbered_with_gaps_are_refused(tmp_path: Path) -> None:
    """They would be loaded under other numbers than the model's."""
    added = [token for token in TOKENIZER["added_tokens"] if token["id"] != 504]
    with pytest.raises(EngineFailed, match=r"token 505 is not '<\|im_end\|>'"):
        Vocabulary.read(folder(tmp_path, {**TOKENIZER, "added_tokens": added}))


def test_an_end_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=r"600 is out of range"):
        Vocabulary.read(folder(tmp_path, generation_config={"eos_token_id": 600}))
