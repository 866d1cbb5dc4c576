"""Models by short names, ours and other packages'."""

import logging
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint

import pytest

from exo.store import families, repository
from exo.store.families import Known


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Has another package offer entry points."""

    def offer(*values: str) -> None:
        points = [EntryPoint(value.partition(":")[2], value, families.GROUP) for value in values]
        monkeypatch.setattr(families, "entry_points", lambda group: points if group == families.GROUP else [])
        families._others.cache_clear()

    yield offer
    families._others.cache_clear()


def mine() -> list[Known]:
    return [
        Known(id="mine", name="Mine", sources={"gguf": "me/mine"}, context=64),
        Known(id="phi-4", name="Not yours", sources={"gguf": "me/phi"}, context=64),
    ]


def broken() -> list[Known]:
    raise RuntimeError("the wheel came off")


def nonsense() -> list[str]:
    return ["phi-5"]


def test_every_model_has_a_source_that_can_be_downloaded() -> None:
    for known in families.everyone():
        assert known.sources, known
        assert known.context >= 4096
        for format, source in known.sources.items():
            assert format in ("gguf", "safetensors")
            assert bool(repository.parse(source).file) == (format == "gguf"), known


@pytest.mark.parametrize(
    "id",
    [
        "qwen-2.5-1.5b",
        "qwen-2.5-1.5b-4bit",
        "qwen3-0.6b",
        "llama-3.2-1b",
        "llama-3.3-70b",
        "deepseek-r1-distill-qwen-1.5b",
        "phi-3-mini",
        "phi-4",
        "gemma2-9b",
        "mistral-7b",
        "mistral-nemo",
    ],
)
def test_the_common_families_are_known(id: str) -> None:
    known = families.built_in(id)
    assert known is not None
    assert known.id == id


def test_ids_are_unlike() -> None:
    ids = [known.id for known in families.everyone()]
    assert len(ids) == len(set(ids))
    assert "qwen2.5-1.5b-rkllm" not in ids, "those are the NPU server's"


def test_what_a_model_can_do_is_told() -> None:
    assert families.built_in("qwen3-0.6b").capabilities == ("completion", "thinking", "tools")  # type: ignore[union-attr]
    assert families.built_in("mistral-7b").capabilities == ("completion", "tools")  # type: ignore[union-attr]
    assert families.built_in("gemma2-9b").capabilities == ("completion",)  # type: ignore[union-attr]


def test_other_packages_add_models_but_replace_none(other: Callable[..., None]) -> None:
    other(f"{__name__}:mine")
    assert families.find("mine") == mine()[0]
    assert families.find("phi-4") == families.built_in("phi-4")
    assert "mine" in {known.id for known in families.everyone()}


def test_another_package_is_loaded_only_when_something_is_not_known(other: Callable[..., None]) -> None:
    other("there_is_no_such_module:models")
    assert families.find("phi-4") is not None
    assert families.built_in("mine") is None


@pytest.mark.parametrize(
    ("value", "says"),
    [("broken", "the wheel came off"), ("nonsense", "Expected"), ("missing", "missing")],
)
def test_a_broken_package_is_logged_and_left_out(
    other: Callable[..., None], caplog: pytest.LogCaptureFixture, value: str, says: str
) -> None:
    other(f"{__name__}:{value}", f"{__name__}:mine")
    with caplog.at_level(logging.WARNING):
        assert families.find("mine") is not None
        assert families.find("else") is None
    assert len(caplog.records) == 1
    assert value in caplog.text
    assert says in caplog.text


def test_the_distribution_of_an_entry_point_is_named() -> None:
    from importlib.metadata import distribution

    (point, *_) = distribution("pytest").entry_points
    assert families.distribution(point).startswith("pytest ")
    assert families.distribution(EntryPoint("x", "y", "z")) == "an unnamed package"
