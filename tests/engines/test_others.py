"""Engines of other packages: which are imported, and what becomes of broken ones."""

import logging
from collections.abc import Callable
from importlib.metadata import EntryPoint

import pytest

from exo.engine import Engine
from exo.engines import EngineOptions, others
from exo.engines.scripted import ScriptedEngine
from exo.errors import EngineFailed

OPTIONS = EngineOptions()


class _Odd(ScriptedEngine):
    formats = frozenset({"safetensors"})


class _Unable(_Odd):
    def unavailable(self) -> str | None:
        return "there is no such hardware here"


def odd(options: EngineOptions) -> Engine:
    return _Odd()


def unable(options: EngineOptions) -> Engine:
    return _Unable()


def broken(options: EngineOptions) -> Engine:
    raise RuntimeError("the wheel came off")


def nonsense(options: EngineOptions) -> str:
    return "engine"


@pytest.fixture
def offer(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has another package offer engines of these names."""

    def these(**values: str) -> None:
        points = [
            EntryPoint(name, value if ":" in value else f"{__name__}:{value}", others.GROUP)
            for name, value in values.items()
        ]
        monkeypatch.setattr(others, "entry_points", lambda group: points)

    return these


def test_names_are_told_without_an_import_and_ours_cannot_be_replaced(offer: Callable[..., None]) -> None:
    offer(mine="there_is_no_such_module:engine", dummy="odd")
    assert others.names() == ["mine"]
    assert list(others.needed((), OPTIONS)) == []
    with pytest.raises(EngineFailed, match="no engine 'dummy'"):
        others.make("dummy", OPTIONS)


def test_the_one_that_is_named_is_made(offer: Callable[..., None]) -> None:
    offer(bad="broken", mine="odd")
    assert isinstance(others.make("mine", OPTIONS), _Odd)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("broken", "the wheel came off"),
        ("nonsense", "'str' object has no attribute 'formats'"),
        ("missing", "missing"),
        ("there_is_no_such_module:engine", "No module named"),
    ],
)
def test_a_broken_one_names_its_package_and_harms_no_other(
    offer: Callable[..., None], caplog: pytest.LogCaptureFixture, value: str, says: str
) -> None:
    offer(bad=value, mine="odd")
    with pytest.raises(EngineFailed, match=rf"an unnamed package: its engine 'bad' cannot be used: .*{says}"):
        others.make("bad", OPTIONS)
    with caplog.at_level(logging.WARNING):
        assert [name for name, _ in others.needed({"safetensors"}, OPTIONS)] == ["mine"]
    assert len(caplog.records) == 1


def test_only_what_loads_the_format_on_this_machine_is_needed(offer: Callable[..., None]) -> None:
    offer(mine="odd", yours="unable")
    assert [name for name, _ in others.needed({"safetensors", "script"}, OPTIONS)] == ["mine"]
    assert list(others.needed({"gguf"}, OPTIONS)) == []
