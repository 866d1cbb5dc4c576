"""Several models from a file, and the recipes."""

import shutil
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from conftest import BUNDLED, Bench

from rkllm_convert import batch, estimates, table
from rkllm_convert.cli import app
from rkllm_convert.errors import BadInput
from rkllm_convert.source import Source

RECIPES = Path(__file__).parents[1] / "recipes"
# What the models' own config.json say: layers, heads of keys and values, their size; parameters.
SHAPES = {
    "qwen2.5-0.5b": (24, 2, 64, 494_033_000),
    "qwen2.5-1.5b": (28, 2, 128, 1_543_714_000),
    "qwen2.5-3b": (36, 2, 128, 3_085_939_000),
    "qwen2.5-7b": (28, 4, 128, 7_615_617_000),
    "qwen3-0.6b": (28, 8, 128, 596_050_000),
    "qwen3-1.7b": (28, 8, 128, 1_720_575_000),
    "qwen3-4b": (36, 8, 128, 4_022_468_000),
    "deepseek-r1-1.5b": (28, 2, 128, 1_777_088_000),
    "deepseek-r1-7b": (28, 4, 128, 7_615_617_000),
    "phi-3-mini": (32, 32, 96, 3_821_080_000),
    "llama-3.2-1b": (16, 8, 64, 1_235_814_000),
    "llama-3.2-3b": (28, 8, 128, 3_212_750_000),
}


def write(folder: Path, text: str) -> Path:
    path = folder / "models.yaml"
    path.write_text(text)
    return path


def run(bench: Bench, path: Path, *more: str) -> Result:
    return CliRunner().invoke(app, ["batch", str(path), "-o", str(bench.out), *more])


def test_all_models_of_a_file_are_converted_and_the_second_time_nothing_is(
    bench: Bench, tmp_path: Path
) -> None:
    path = write(
        tmp_path,
        f"""
        defaults: {{model: "{BUNDLED}", platform: rk3588}}
        models:
          - {{name: one}}
          - {{name: two, max_context: 1024, hybrid_rate: 0}}
        """,
    )
    done = run(bench, path)
    assert done.exit_code == 0, done.output
    assert sorted(each.name for each in bench.out.iterdir()) == ["one", "two"]
    before = len(bench.calls())
    assert before == 6
    assert run(bench, path).exit_code == 0
    assert len(bench.calls()) == before


def test_one_that_fails_holds_up_no_other(bench: Bench, tmp_path: Path) -> None:
    broken = shutil.copytree(BUNDLED, tmp_path / "broken")
    (broken / "tokenizer.json").unlink()
    path = write(
        tmp_path,
        f"models:\n  - {{model: {broken}, platform: rk3588}}\n  - {{model: {BUNDLED}, platform: rk3588}}\n",
    )
    done = run(bench, path)
    assert done.exit_code == 1
    assert "broken FAILED: The toolkit's export_rkllm raised" in done.output
    assert f"1 of 2 failed: {broken}" in done.output
    assert (bench.out / "exo-demo" / "card.json").exists()


def test_all_are_checked_before_the_first_is_begun(bench: Bench, tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"defaults: {{model: {BUNDLED}, platform: rk3588}}\n"
        "models: [{name: a}, {name: b, dtype: w4a16}]\n",
    )
    done = run(bench, path)
    assert done.exit_code == 1
    assert "Nearest: -q w8a8" in done.output
    assert bench.calls() == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "cannot be read"),
        ("models: 3", "no list of `models`"),
        ("models: [3]", "model 1: it is no mapping"),
        ("models: [{model: a, platform: rk3588, dtyp: w8a8}]", "`dtyp` is not known; did you mean dtype"),
        ("model: []\nmodels: []", "`model` is not known; did you mean models"),
        ("models: [{platform: rk3588}]", "`model` is missing"),
        ("models: [{model: a}]", "`platform` is missing"),
        ("models: [{model: a, platform: rk3588, calibrate: many}]", "has to be int"),
        ("models: [{model: a, platform: rk3588, calibrate: yes}]", "has to be int"),
        ("models: [{model: a, platform: rk3588, npu_cores: 1.5}]", "has to be int or nothing"),
        (
            "models: [{model: u/a, platform: rk3588}, {model: v/a, platform: rk3576}]",
            "a is there more than once",
        ),
        ("models: []", "has no model"),
    ],
)
def test_a_file_with_a_mistake_is_refused_by_its_place(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says.replace("`", ".")):
        batch.read(write(tmp_path, text))


def test_there_is_a_recipe_for_each_model() -> None:
    assert sorted(path.stem for path in RECIPES.glob("*.yaml")) == sorted(SHAPES)


def test_a_recipe_is_found_by_its_name_and_another_name_is_refused(tmp_path: Path) -> None:
    assert batch.find("qwen3-4b") == RECIPES / "qwen3-4b.yaml"
    own = write(tmp_path, "models: []")
    assert batch.find(str(own)) == own
    with pytest.raises(BadInput, match=r"neither a file nor a recipe\. There is deepseek-r1-1\.5b, "):
        batch.find("qwen")


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("platform", ["rk3588", "rk3576"])
def test_a_recipe_says_what_is_to_be_expected(name: str, platform: str) -> None:
    """Its figures are those that `rkllm-convert plan` would show."""
    (row,) = batch.read(RECIPES / f"{name}.yaml", platform)
    layers, heads, size, parameters = SHAPES[name]
    source = Source(
        kind="huggingface",
        path=Path(name),
        name=row.model.rpartition("/")[2],
        parameters=parameters,
        kv_bytes=layers * 2 * heads * size * 2,
    )
    dtype, context = row.request.dtype, row.request.max_context
    assert dtype == table.PLATFORMS[platform].dtypes[0]
    assert context == 4096
    found = estimates.board(source, platform, dtype, context)
    assert found.speed
    assert dict(row.expected) == {
        "memory_mb": found.memory_mb,
        "fits_8gb": found.fits,
        "tokens_per_second": found.speed.tokens_per_second,
        "basis": found.speed.basis,
    }


def test_the_recipes_models_have_the_names_that_exo_knows() -> None:
    from exo.http.upstream import NPU_MODELS

    ours = {yaml.safe_load(path.read_text())["defaults"]["name"] for path in RECIPES.glob("*.yaml")}
    assert set(NPU_MODELS.values()) - ours == {"Qwen2.5-1.5B"}  # the base model, which does not chat


@pytest.mark.parametrize("name", SHAPES)
def test_the_documents_table_says_what_the_recipe_says(name: str) -> None:
    text = (Path(__file__).parents[2] / "docs" / "MODELS.md").read_text()
    (line,) = [line for line in text.splitlines() if line.endswith(f"| `{name}` |")]
    cells = [cell.strip(" *≈") for cell in line.strip("|").split("|")]
    rows = batch.read(RECIPES / f"{name}.yaml", "rk3588") + batch.read(RECIPES / f"{name}.yaml", "rk3576")
    assert cells[0] == rows[0].request.name
    for row, (memory, fits, rate) in zip(rows, (cells[2:5], cells[5:8]), strict=True):
        assert memory == f"{row.expected['memory_mb']:,} MB"
        assert fits == row.expected["fits_8gb"]
        assert float(rate) == pytest.approx(row.expected["tokens_per_second"], abs=0.06)
