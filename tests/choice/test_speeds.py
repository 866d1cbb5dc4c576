import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo.chat import Finished, FinishReason, Timings, Usage
from exo.choice.speeds import Known, Speeds
from exo.nodes import Device, Kind, Node, Prefix, Speed


def finished(
    tokens: int = 0, *, prefill: float = 0.0, decode: float = 0.0, reason: FinishReason = "stop"
) -> Finished:
    return Finished(reason, Usage(completion_tokens=tokens), Timings(prefill=prefill, decode=decode))


def only(speeds: Speeds) -> Speed:
    (speed,) = speeds.values()
    return speed


def test_an_answer_tells_both_speeds_and_its_length_and_a_load_its_seconds() -> None:
    speeds = Speeds()
    speeds.answered("m", finished(100, prefill=0.5, decode=10.0), 50)
    speeds.loaded("m", 6.0)
    assert only(speeds) == Speed(model="m", prefill=100.0, decode=10.0, load=6.0, answer=100.0)


def test_thoughts_are_counted_of_answers_that_have_any() -> None:
    speeds = Speeds()
    speeds.answered("m", finished(100, decode=1.0), 0)
    assert only(speeds).thought == 0.0
    thought = msgspec.structs.replace(finished(100, decode=1.0), usage=Usage(0, 100, reasoning_tokens=60))
    speeds.answered("m", thought, 0)
    assert only(speeds).thought == 60.0
    device = Device(name="", cores=1, memory=1)
    node = Node(
        id="a", url="", version="", device=device, cards=(), loaded=(), waiting=0, speeds=speeds.values()
    )
    assert Known([node]).thought("m") == 60.0
    assert Known([node]).thought("n") is None


def test_nothing_is_known_before_anything_was_measured() -> None:
    assert Speeds().values() == ()
    assert Speeds().prefixes() == ()


@pytest.mark.parametrize(
    ("end", "uncached", "known"),
    [
        (finished(3, prefill=1.0, decode=1.0), 15, {}),
        (finished(4, prefill=1.0, decode=1.0), 15, {"decode": 4.0, "answer": 4.0}),
        (finished(3, prefill=1.0, decode=1.0), 16, {"prefill": 16.0}),
        (finished(100), 100, {"answer": 100.0}),
    ],
    ids=["too few tokens", "enough written", "enough read", "an engine that cannot tell"],
)
def test_what_is_too_little_to_measure_by_is_not_counted(
    end: Finished, uncached: int, known: dict[str, float]
) -> None:
    speeds = Speeds()
    speeds.answered("m", end, uncached)
    assert speeds.values() == ((Speed(model="m", **known),) if known else ())


def test_an_answer_cut_short_never_lowers_the_mean_length() -> None:
    speeds = Speeds()
    speeds.answered("m", finished(100), 0)
    speeds.answered("m", finished(10, reason="length"), 0)
    assert only(speeds).answer == 100
    speeds.answered("m", finished(200, reason="length"), 0)
    assert only(speeds).answer == 150


@given(st.floats(0.001, 1e6), st.integers(5, 30))
def test_one_outlier_moves_a_mean_by_no_more_than_two_fifths(outlier: float, before: int) -> None:
    speeds = Speeds()
    for _ in range(before):
        speeds.loaded("m", 10.0)
    speeds.loaded("m", outlier)
    assert 8.0 <= only(speeds).load <= 14.0


@given(st.floats(0.5, 50.0))
def test_a_speed_that_changed_for_good_is_followed(now: float) -> None:
    speeds = Speeds()
    for seconds in [5.0] * 20 + [now] * 25:
        speeds.loaded("m", seconds)
    assert only(speeds).load == pytest.approx(now, rel=0.05)


def test_a_follow_up_takes_the_place_of_its_conversation() -> None:
    speeds = Speeds()
    speeds.remember("m", (1,))
    speeds.remember("m", (7,))
    speeds.remember("m", (1, 2, 3))
    assert speeds.prefixes() == (Prefix("m", (7, 1, 2, 3)),)


def test_what_is_remembered_is_bounded_and_the_latest() -> None:
    speeds = Speeds()
    for conversation in range(40):
        speeds.remember("m", tuple(range(conversation * 1000, conversation * 1000 + 300)))
    (prefix,) = speeds.prefixes()
    assert {hash // 1000 for hash in prefix.hashes} == set(range(24, 40))
    assert len(prefix.hashes) == 16 * 8
    assert prefix.hashes[-1] == 39_299


def test_a_model_that_left_memory_has_no_conversations_but_keeps_its_speed() -> None:
    speeds = Speeds()
    speeds.loaded("m", 2.0)
    speeds.remember("m", (1,))
    speeds.remember("other", (2,))
    speeds.remember("other", ())
    speeds.left("m")
    speeds.left("never was here")
    assert speeds.prefixes() == (Prefix("other", (2,)),)
    assert only(speeds).load == 2.0


def node(id: str, *speeds: Speed, kind: Kind = "rockchip", chip: str = "RK3588") -> Node:
    device = Device(name=id, cores=8, memory=8 << 30, kind=kind, chip=chip)
    return Node(id=id, url="", version="0", device=device, cards=(), loaded=(), waiting=0, speeds=speeds)


QUICK = Speed(model="m", prefill=300.0, decode=16.0)
SLOW = Speed(model="m", prefill=100.0, decode=8.0, load=5.0)
SMALL = Speed(model="m", prefill=90.0, decode=9.0, load=3.0)


def test_a_speed_is_the_nodes_own_before_that_of_its_chip_and_of_its_kind() -> None:
    known = Known([node("a", SLOW), node("b", QUICK), node("c", SMALL, chip="RK3576")])
    assert known.speed(node("a"), "m", 10**9) == (SLOW, "")
    alike = Speed(model="m", prefill=300.0, decode=16.0, load=5.0)
    assert known.speed(node("b"), "m", 10**9) == (alike, "")
    assert known.speed(node("new"), "m", 10**9) == (alike, "speed guessed from other RK3588 nodes")
    speed, source = known.speed(node("d", chip="RK3562"), "m", 10**9)
    assert (speed.decode, source) == (16.0, "speed guessed from other rockchip nodes")
    speed, source = known.speed(node("e", kind="cpu", chip="x"), "m", 10**9)
    assert (speed.decode, source) == (15.0, "speed guessed, as is typical of cpu")


def test_what_is_typical_of_a_board_is_near_the_vendors_figures() -> None:
    """Qwen2.5-1.5B w8a8 on the RK3588: 128 tokens read in 378 ms, 16.69 tokens written a second."""
    speed, _ = Known([]).speed(node("a"), "qwen", 1_540_000_000)
    assert speed.prefill == pytest.approx(128 / 0.378, rel=0.1)
    assert speed.decode == pytest.approx(16.69, rel=0.1)


def test_the_length_of_answers_is_the_models_whoever_gave_them() -> None:
    known = Known(
        [node("a", Speed(model="m", answer=90.0)), node("b", Speed(model="m", answer=110.0)), node("c", SLOW)]
    )
    assert known.answer("m") == 100.0
    assert known.answer("unheard of") == 128.0
