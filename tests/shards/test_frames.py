from pathlib import Path

import pytest

from exo.cards import Span
from exo.chat import Sampling
from exo.errors import BadRequest, ContextLengthExceeded, EngineFailed
from exo.shards import frames
from exo.shards.frames import (
    Begin,
    Done,
    Draw,
    Drawn,
    Failed,
    Free,
    FromWorker,
    Hidden,
    Odds,
    Open,
    Opened,
    Progress,
    Step,
    ToWorker,
)

TO_WORKER: list[ToWorker] = [
    Open(engine="e", folder=Path("/models/a"), span=Span(1, 3), ends=False, slots=2, context=64),
    Begin(id=1, slot=0, sampling=Sampling(seed=-(2**63), logit_bias={3: -1.5}), form="x", prompt=(1, 2)),
    Step(id=2, slot=1, position=5, tokens=(7, 8), want="token"),
    Step(id=3, slot=1, position=7, want="last"),
    Draw(id=4, slot=0),
    Free(id=5, slot=0),
]
FROM_WORKER: list[FromWorker] = [
    Progress(0.25),
    Opened(896, 1 << 40),
    Hidden(3),
    Drawn(4, 17, Odds(-0.5, ((17, -0.5), (3, -float("inf")))), complete=True),
    Done(5),
    Failed("bad_request", "no", "grammar", 6),
    Failed("engine_failed", "no"),
]


@pytest.mark.parametrize("message", TO_WORKER)
def test_what_the_worker_is_told_arrives(message: ToWorker) -> None:
    frame = frames.encode(message)
    header, payload = frames.lengths(frame[: frames.HEAD.size])
    assert (header, payload) == (len(frame) - frames.HEAD.size, 0)
    assert frames.decode_to_worker(frame[frames.HEAD.size :]) == message


@pytest.mark.parametrize("message", FROM_WORKER)
def test_what_the_worker_says_arrives(message: FromWorker) -> None:
    frame = frames.encode(message, payload_bytes=1 << 20)
    assert frames.lengths(frame[: frames.HEAD.size]) == (len(frame) - frames.HEAD.size, 1 << 20)
    assert frames.decode_from_worker(frame[frames.HEAD.size :]) == message


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.", frames.HEAD.pack(frames.MOST_HEADER + 1, 0), frames.HEAD.pack(1, 1 << 40)]
)
def test_what_is_no_frame_is_refused(head: bytes) -> None:
    with pytest.raises(EngineFailed, match="is no frame"):
        frames.lengths(head[: frames.HEAD.size])


def test_a_failure_keeps_its_kind() -> None:
    failed = Failed.of(ContextLengthExceeded("too long", param="prompt"), 3)
    assert failed.id == 3
    error = failed.error()
    assert isinstance(error, ContextLengthExceeded)
    assert (error.message, error.param) == ("too long", "prompt")
    assert isinstance(Failed.of(BadRequest("no")).error(), BadRequest)


def test_a_foreign_failure_is_named() -> None:
    error = Failed.of(ZeroDivisionError("by zero")).error()
    assert isinstance(error, EngineFailed)
    assert error.message == "ZeroDivisionError: by zero"
