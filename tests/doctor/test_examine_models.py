"""Findings about model files."""

from typing import Any

import msgspec
import pytest

from exo.doctor.evidence import Leftover, Shelf, Unread
from exo.doctor.examine import examine
from exo.doctor.finding import Level
from tests.doctor.healthy import GB, HEALTHY, MODEL, bad, instead, says


def test_models_that_are_well_are_one_line() -> None:
    small = msgspec.structs.replace(MODEL, id="tiny", memory=1000)
    evidence = instead(shelf=Shelf(models=(small, MODEL)))
    (finding,) = [each for each in examine(evidence) if each.subject == "Models"]
    assert finding.says == ("qwen3-0.6b can be loaded, which takes 1.0 GB of 6.0 GB, and 1 that takes less")


def test_an_empty_shelf_is_fine() -> None:
    assert bad(instead(shelf=Shelf())) == []


@pytest.mark.parametrize(
    ("changed", "level", "parts"),
    [
        ({"problem": "its architecture is 'mamba'"}, "broken", ["'mamba'", "exo rm qwen3-0.6b"]),
        ({"missing": 300_000_000}, "broken", ["cut short: 0.3 GB of 0.8 GB", "exo rm"]),
        ({"lacking": ("a", "b", "c", "d")}, "note", ["a, b, c and others", "exo pull qwen3-0.6b"]),
        ({"tokenizer": False}, "broken", ["tokenizer.json"]),
        ({"template": False}, "note", ["no chat template", "instruct"]),
        ({"bytes": 7 * GB, "memory": 8 * GB}, "note", ["file alone takes 7.0 GB", "6.0 GB"]),
        ({"memory": 7 * GB}, "note", ["8192 tokens", "7.0 GB", "--slots 1"]),
    ],
)
def test_a_model_with_a_problem(changed: dict[str, Any], level: Level, parts: list[str]) -> None:
    model = msgspec.structs.replace(MODEL, **changed)
    says(instead(shelf=Shelf(models=(model,))), level, "Model qwen3-0.6b", *parts)


def test_a_model_for_embeddings_needs_no_chat_template() -> None:
    model = msgspec.structs.replace(MODEL, template=False, embeds=True)
    assert bad(instead(shelf=Shelf(models=(model,)))) == []


def test_without_a_node_the_budget_is_what_one_would_have() -> None:
    model = msgspec.structs.replace(MODEL, memory=7 * GB)
    evidence = instead(shelf=Shelf(models=(model,)), node=None)
    says(evidence, "note", "Model qwen3-0.6b", "6.0 GB")
    assert bad(msgspec.structs.replace(evidence, memory=None)) == [], "how much there is is not known"


def test_what_a_download_has_left() -> None:
    left = Shelf(leftovers=(Leftover("me/big", GB, under_way=False),))
    says(instead(shelf=left), "note", "Download me/big", "1.0 GB", "exo pull me/big", "exo rm me/big")
    assert bad(instead(shelf=Shelf(leftovers=(Leftover("me/big", GB, under_way=True),)))) == []


@pytest.mark.parametrize(
    ("path", "level", "subject"),
    [("/models/torn.gguf", "broken", "Model torn"), ("/models/notes.txt", "note", "Models")],
)
def test_what_is_no_model_is_named_with_the_reason(path: str, level: Level, subject: str) -> None:
    strangers = Shelf(strangers=(Unread(path, "not a complete GGUF file"),))
    says(instead(shelf=strangers), level, subject, path, "not a complete GGUF file")


def test_a_name_that_stands_for_two_models() -> None:
    says(instead(shelf=Shelf(twice=("qwen",))), "note", "Model qwen", "Rename")


def test_models_that_there_was_no_time_for_are_counted() -> None:
    says(instead(shelf=Shelf(unseen=3)), "note", "Models", "3 more")
    assert HEALTHY.shelf is not None
    assert HEALTHY.shelf.unseen == 0
