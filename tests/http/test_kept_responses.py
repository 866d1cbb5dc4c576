"""The responses a node keeps: bounded by number and bytes, the longest unused forgotten first."""

import pytest

from exo.errors import NotFound
from exo.http.kept_responses import KeptResponses
from exo.wire.responses import KeptResponse


def kept_response(size: int, *before: KeptResponse) -> KeptResponse:
    """One of `size` bytes of its own, that goes on from another."""
    turns = before[0].turns if before else ()
    return KeptResponse(bytes(size - 20), (*turns, bytes(bytearray(10)), bytes(bytearray(10))))


def test_the_longest_unused_are_forgotten_first() -> None:
    kept = KeptResponses(most=2)
    for name in ("a", "b"):
        kept.keep(name, kept_response(100))
    kept.get("a")
    kept.keep("c", kept_response(100))
    assert len(kept) == 2
    kept.get("a")
    with pytest.raises(NotFound, match="'b' is not kept"):
        kept.get("b")


def test_bytes_are_bounded_and_those_shared_count_once() -> None:
    kept = KeptResponses(most_bytes=1000)
    last = kept_response(100)
    kept.keep("0", last)
    for i in range(1, 40):
        last = kept_response(100, last)
        kept.keep(str(i), last)
        assert kept.bytes <= 1000
    # Ten answers of 80 bytes would fit, but not beside all turns of the conversation, of 20 bytes each.
    assert 1 <= len(kept) < 10
    kept.forget("39")
    kept.keep("alone", kept_response(400))
    kept.keep("large", kept_response(1001))
    kept.get("alone")
    kept.forget("alone")
    assert (len(kept), kept.bytes) == (0, 0)


def test_a_long_conversation_costs_its_turns_and_not_their_square() -> None:
    kept = KeptResponses()
    last = kept_response(100)
    kept.keep("0", last)
    for i in range(1, 100):
        last = kept_response(100, last)
        kept.keep(str(i), last)
    assert (len(kept), kept.bytes) == (100, 100 * 100)
