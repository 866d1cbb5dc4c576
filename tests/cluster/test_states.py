import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.cluster.states import State, StateCodec
from exo.errors import BadRequest, ExoError, Unauthorized
from tests.cluster.node import node

STATE = State(incarnation="1", sequence=7, hears={"b": "2"}, node=node("a", waiting=3))
SECRET = b"the cluster's"


@pytest.mark.parametrize("secret", [None, SECRET])
def test_a_state_comes_back_as_it_was(secret: bytes | None) -> None:
    codec = StateCodec("home", secret)
    assert codec.decode(codec.encode(STATE)) == STATE


@pytest.mark.parametrize(
    ("sender", "receiver", "why"),
    [
        (StateCodec("home", b"another"), StateCodec("home", SECRET), "another cluster secret"),
        (StateCodec("home", None), StateCodec("home", SECRET), "not signed"),
        (StateCodec("home", SECRET), StateCodec("home", None), "no cluster secret"),
        (StateCodec("work", SECRET), StateCodec("home", SECRET), "another cluster secret"),
    ],
)
def test_a_state_of_somebody_elses_cluster_is_refused(
    sender: StateCodec, receiver: StateCodec, why: str
) -> None:
    with pytest.raises(Unauthorized, match=why):
        receiver.decode(sender.encode(STATE))


@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_signed_state_of_which_one_bit_was_changed_is_refused(at: int, bit: int) -> None:
    codec = StateCodec("home", SECRET)
    sealed = bytearray(codec.encode(STATE))
    sealed[at % len(sealed)] ^= 1 << bit
    with pytest.raises(ExoError):
        codec.decode(bytes(sealed))


def test_fields_that_a_newer_version_adds_do_no_harm() -> None:
    codec = StateCodec("home", None)
    newer = msgspec.to_builtins(STATE)
    newer["mood"] = "good"
    newer["node"]["speed"] = {"exo-demo": 12.5}
    newer["node"]["device"]["colour"] = "blue"
    assert codec.decode(b"\x00" + msgspec.msgpack.encode(newer)) == STATE


@given(st.binary(max_size=80))
def test_whatever_comes_is_read_or_refused(payload: bytes) -> None:
    for secret in (None, SECRET):
        with pytest.raises((BadRequest, Unauthorized)):
            StateCodec("home", secret).decode(payload)


def test_a_form_of_the_future_is_named_as_such() -> None:
    with pytest.raises(BadRequest, match="form this version does not know"):
        StateCodec("home", None).decode(b"\x02whatever")


def test_a_state_that_lacks_what_this_version_needs_is_refused() -> None:
    older = msgspec.to_builtins(STATE)
    del older["node"]["url"]
    with pytest.raises(BadRequest, match="cannot be read by this version"):
        StateCodec("home", None).decode(b"\x00" + msgspec.msgpack.encode(older))
