"""Calibration data: which prompts, in whose template, and what is kept after a break."""

import json
import os
import sys
from pathlib import Path

import pytest
import standin_transformers
from conftest import BUNDLED, HERE, ROOT, Bench

from rkllm_convert import calibrate, source
from rkllm_convert.convert import convert
from rkllm_convert.errors import BadInput, ToolkitFailed
from rkllm_convert.log import Progress


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The stand-ins for transformers and torch are what children import."""
    installed = standin_transformers.install(tmp_path / "libraries")
    path = os.pathsep.join(map(str, (installed, HERE, ROOT)))
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("TRANSFORMERS_STANDIN_RECORD", str(tmp_path / "generated.jsonl"))
    return path


def generate(folder: Path, texts: list[str], progress: list[Progress] | None = None) -> list[dict[str, str]]:
    content = calibrate.generate(
        sys.executable,
        source.read(BUNDLED),
        texts,
        folder,
        device="cpu",
        dtype="float32",
        on_progress=(progress if progress is not None else []).append,
    )
    rows: list[dict[str, str]] = json.loads(content)
    return rows


def test_prompts_are_the_same_for_a_seed_and_even_over_the_kinds() -> None:
    kinds = calibrate.prompts()
    first = calibrate.chosen(16, 0)
    assert first == calibrate.chosen(16, 0)
    assert first != calibrate.chosen(16, 1)
    assert all(sum(text in first for text in texts) == 2 for texts in kinds.values())
    assert calibrate.chosen(20, 0)[:16] == first
    # As written down once: the order must not depend on a Python's version.
    assert first[0] == PINNED


PINNED = "What is 145 + 278?"


def test_there_are_many_prompts_of_several_kinds_and_none_twice() -> None:
    kinds = calibrate.prompts()
    texts = [text for listed in kinds.values() for text in listed]
    assert len(kinds) == 8
    assert len(texts) == len(set(texts)) == 64
    assert sorted(calibrate.chosen(64, 3)) == sorted(texts)


@pytest.mark.parametrize("count", [-1, 65])
def test_a_count_of_prompts_that_there_are_not_is_refused(count: int) -> None:
    with pytest.raises(BadInput, match="Give 1 to 64"):
        calibrate.chosen(count, 0)


def test_rows_are_in_the_models_own_template_with_its_own_answers(tmp_path: Path) -> None:
    progress: list[Progress] = []
    rows = generate(tmp_path, ["What is 1 + 1?", "What is 2 + 2?"], progress)
    thought, quick = rows
    assert set(thought) == {"input", "target"}
    assert thought["input"] == "<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    # A model that thinks on request does so for every other prompt.
    assert quick["input"].endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    # Only what was generated, without the prompt and without special tokens.
    assert [row["target"] for row in rows] == ["answer 1", "answer 2"]
    assert progress == [Progress("Answering prompts", 1, 2), Progress("Answering prompts", 2, 2)]


def test_answers_are_greedy_and_no_special_token_is_put_in_twice(tmp_path: Path) -> None:
    generate(tmp_path, ["Hello"])
    (call,) = map(json.loads, (tmp_path / "generated.jsonl").read_text().splitlines())
    assert call == {
        "max_new_tokens": 128,
        "do_sample": False,
        "add_special_tokens": False,
        "dtype": "float32",
    }


def test_rows_that_are_written_are_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["one", "two", "three"]
    monkeypatch.setenv("TRANSFORMERS_STANDIN_DIES_AT", "2")
    with pytest.raises(ToolkitFailed, match=r"ended with signal SIGKILL.*log"):
        generate(tmp_path, texts)
    monkeypatch.delenv("TRANSFORMERS_STANDIN_DIES_AT")
    kept = (tmp_path / "calibration.jsonl").read_text().splitlines()
    assert len(kept) == 1
    (tmp_path / "calibration.jsonl").write_text(kept[0] + "\n" + '{"input": "half a r')
    rows = generate(tmp_path, texts)
    assert [row["input"].split("\n")[1] for row in rows] == [f"{text}<|im_end|>" for text in texts]
    assert rows[0] == json.loads(kept[0])
    assert len((tmp_path / "generated.jsonl").read_text().splitlines()) == 4  # one, (two,) two, three


def test_the_data_goes_into_the_toolkit_and_onto_the_card(
    bench: Bench, libraries: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{bench.folder / 'toolkit'}{os.pathsep}{libraries}")
    folder = convert(bench.conversion(calibrate=5, seed=7), bench.say)
    noted = json.loads((folder / "card.json").read_text())["calibration"]
    assert (noted["rows"], noted["seed"], len(noted["sha256"])) == (5, 7, 64)
    built = dict(bench.calls())["build"]
    assert Path(built["dataset"]).name == "calibration.json"
    assert [each.done for each in bench.progress if each.doing == "Answering prompts"] == [1, 2, 3, 4, 5]


def test_other_prompts_begin_anew(bench: Bench, libraries: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another seed's run has left is no beginning of this one's."""
    monkeypatch.setenv("PYTHONPATH", f"{bench.folder / 'toolkit'}{os.pathsep}{libraries}")
    bench.fault("build:returns:no")
    with pytest.raises(ToolkitFailed):
        convert(bench.conversion(calibrate=2, seed=1), bench.say)
    rows = bench.out / ".demo.partial" / "calibration.jsonl"
    before = rows.read_text()
    with pytest.raises(ToolkitFailed):
        convert(bench.conversion(calibrate=2, seed=2), bench.say)
    assert rows.read_text() != before
    assert len(rows.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[", "cannot be read"),
        ("{}", "is no list"),
        ("[]", "is no list"),
        ('[{"input": "a", "target": "b"}, {"input": "a"}]', "row 2"),
        ('[{"input": "a", "target": ""}]', "row 1"),
        ('[{"prompt": "a", "answer": "b"}]', "row 1"),
        ('[{"input": "a", "target": 1}]', "row 1"),
    ],
)
def test_a_dataset_that_the_toolkit_could_not_read_is_refused_at_once(
    tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "data.json"
    path.write_text(content)
    with pytest.raises(BadInput, match=says):
        calibrate.read(path)
