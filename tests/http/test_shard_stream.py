import pytest

from exo.http.shard_stream import encode, to_host
from exo.shards.frames import HEAD, Step

STEP = Step(id=1, slot=0, position=0, want="none")


@pytest.mark.parametrize("size", [0, 1, 64 << 10, (64 << 10) + 1, 1 << 20, (1 << 20) + 1, 5 << 20])
def test_the_pieces_of_a_frame_are_the_frame_and_none_is_large(size: int) -> None:
    payload = (bytes(range(256)) * (size // 256 + 1))[:size]
    pieces = encode(STEP, payload)
    frame = b"".join(pieces)
    header, length = HEAD.unpack(frame[: HEAD.size])
    end = HEAD.size + header
    assert to_host.decode(frame[HEAD.size : end]) == STEP
    assert length == size
    assert frame[end:] == payload
    # A small one is written in one go, a large one so that its first part is on its way early.
    assert all(pieces)
    assert max(map(len, pieces)) <= 1 << 20
    assert (len(pieces) == 1) == (size <= 64 << 10)
