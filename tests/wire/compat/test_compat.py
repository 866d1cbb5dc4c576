"""What nodes of two releases say to each other: each reads the other, or says why not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import exo
from exo.cluster import states
from exo.cluster.states import StateCodec
from exo.errors import BadRequest
from tests.wire.compat.samples import SAMPLES, Sample, file, releases

NEW = "a_field_of_the_future"
RECORDED = [(release, name) for release in releases() for name in SAMPLES]


def test_this_release_has_left_its_samples() -> None:
    """`python -m tests.wire.compat.samples` writes them."""
    assert exo.__version__ in [release.name for release in releases()]


@pytest.mark.parametrize(("release", "name"), RECORDED, ids=lambda each: getattr(each, "name", each))
def test_what_a_release_said_is_read_as_it_was_meant(release: Path, name: str) -> None:
    path = file(release, name)
    # A message that came later has no sample of an earlier release.
    if path.exists() or release.name == exo.__version__:
        assert SAMPLES[name].read(path.read_bytes()) == SAMPLES[name].value


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if not sample.strict])
def test_a_field_that_a_later_release_adds_is_skipped(name: str) -> None:
    sample = SAMPLES[name]
    if name == "state-signed":  # its state is the other one's, and nobody else could sign it
        return
    assert sample.read(_with_new_fields(name, sample)) == sample.value


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if sample.strict])
def test_what_a_request_asks_for_and_this_release_does_not_know_is_refused_by_name(name: str) -> None:
    """So it is never left out in silence: a later release sends such a field where it is asked for alone."""
    sample = SAMPLES[name]
    with pytest.raises(BadRequest, match=NEW):
        sample.read(json.dumps({**json.loads(sample.sent), NEW: 1}).encode())


def test_a_state_of_before_there_were_numbers_is_of_the_first_protocol() -> None:
    def forget(state: dict[str, Any]) -> None:
        del state["protocol"], state["oldest"]

    state = StateCodec("exo", None).decode(_changed(forget))
    assert (state.protocol, state.oldest) == (1, 1)


def test_a_model_of_a_kind_that_came_later_is_left_out_and_its_node_is_not() -> None:
    def add(state: dict[str, Any]) -> None:
        (card,) = state["node"]["cards"]
        state["node"]["cards"] = [{**card, "id": "new", "format": "of-the-future"}, card]

    value = SAMPLES["state"].value
    assert StateCodec("exo", None).decode(_changed(add)) == value


def test_a_node_that_is_too_new_is_left_out_with_the_remedy() -> None:
    """Whatever else of its state has changed by then."""

    def change(state: dict[str, Any]) -> None:
        state.update(protocol=9, oldest=8, hears="of another shape")
        state["node"] = {"version": "7.0", "whatever": 1}

    with pytest.raises(BadRequest) as refused:
        StateCodec("exo", None).decode(_changed(change))
    assert refused.value.message == (
        f"it is 7.0 and speaks protocol 9, and this node, {exo.__version__}, works with "
        f"{states.PROTOCOL} at most: upgrade this one"
    )


def test_a_node_that_is_too_old_is_left_out_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "OLDEST", 3)
    with pytest.raises(BadRequest, match=r"0\.1\.0 and speaks protocol 1, .* 3 or later: upgrade that node"):
        StateCodec("exo", None).decode(SAMPLES["state"].sent)


def test_a_newer_node_that_still_works_with_this_one_is_welcome() -> None:
    def change(state: dict[str, Any]) -> None:
        state.update(protocol=2, oldest=1)

    assert StateCodec("exo", None).decode(_changed(change)).node == SAMPLES["state"].value.node


def _changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The state of the samples, otherwise."""
    mark, body = SAMPLES["state"].sent[:1], SAMPLES["state"].sent[1:]
    state = msgspec.msgpack.decode(body)
    change(state)
    return mark + msgspec.msgpack.encode(state)


def _with_new_fields(name: str, sample: Sample) -> bytes:
    """With one more in every object; what is a mapping by itself is left as it is."""
    if sample.form == "json":
        return json.dumps(_more(json.loads(sample.sent))).encode()
    mark = sample.sent[:1] if name == "state" else b""
    return mark + msgspec.msgpack.encode(_more(msgspec.msgpack.decode(sample.sent[len(mark) :])))


def _more(value: Any) -> Any:
    if isinstance(value, list):
        return [_more(each) for each in value]
    if not isinstance(value, dict):
        return value
    mappings = ("hears", "logit_bias")
    return {NEW: {"nested": [1]}} | {
        key: each if key in mappings else _more(each) for key, each in value.items()
    }
