"""Governors: planned, written, remembered, restored; and what goes wrong on the way."""

import stat
from collections.abc import Mapping
from pathlib import Path

import pytest

from exo.errors import Forbidden, NotFound, NotReady
from rkllama.board.facts import read_board
from rkllama.board.tune import (
    STATE,
    Outcome,
    Write,
    apply,
    left_alone,
    plan,
    plan_revert,
    require_root,
    revert,
)
from tests.rkllama.board import trees

POLICY = f"{trees.CPUS}/policy4/scaling_governor"
NPU, DDR = f"{trees.NPU}/governor", f"{trees.DDR}/governor"


def governors(root: Path) -> Mapping[str, str]:
    """What each governor is now, by its file."""
    files = sorted((root / "sys").rglob("*governor"))
    return {f"/{file.relative_to(root)}": file.read_text().strip() for file in files if file.is_file()}


def state_of(root: Path) -> Path:
    return root / STATE.lstrip("/")


def tuned(root: Path) -> tuple[Outcome, ...]:
    return apply(plan(read_board(root)), root, state_of(root))


def failures(outcomes: tuple[Outcome, ...]) -> list[str]:
    return [outcome.write.path for outcome in outcomes if outcome.error is not None]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return trees.write(tmp_path, trees.rk3588("ondemand"))


def test_the_plan_is_every_governor_of_cpu_npu_and_memory(root: Path) -> None:
    assert plan(read_board(root)) == (
        Write("CPU 0-3 governor", f"{trees.CPUS}/policy0/scaling_governor", "ondemand", "performance"),
        Write("CPU 4-5 governor", POLICY, "ondemand", "performance"),
        Write("CPU 6-7 governor", f"{trees.CPUS}/policy6/scaling_governor", "ondemand", "performance"),
        Write("NPU governor", NPU, "ondemand", "performance"),
        Write("DDR governor", DDR, "ondemand", "performance"),
    )
    assert left_alone(read_board(root)) == ()


def test_nothing_is_planned_for_a_board_at_full_speed(tmp_path: Path) -> None:
    board = read_board(trees.write(tmp_path, trees.rk3588()))
    assert plan(board) == ()
    assert left_alone(board) == ()


def test_a_governor_that_the_kernel_lacks_is_not_written(root: Path) -> None:
    trees.write(root, {f"{trees.DDR}/available_governors": "dmc_ondemand userspace"})
    board = read_board(root)
    assert DDR not in [write.path for write in plan(board)]
    (sentence,) = left_alone(board)
    for part in ("DDR governor", "ondemand", "no performance", "dmc_ondemand, userspace"):
        assert part in sentence


def test_a_governor_that_cannot_be_read_is_named(root: Path) -> None:
    (root / NPU.lstrip("/")).unlink()
    (sentence,) = left_alone(read_board(root))
    assert NPU in sentence


def test_it_is_done_and_undone(root: Path) -> None:
    before = governors(root)
    assert failures(tuned(root)) == []
    after = governors(root)
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {write.path for write in plan_revert(root, state_of(root))}
    assert {after[path] for path in changed} == {"performance"}
    assert failures(revert(root, state_of(root))) == []
    assert governors(root) == before
    assert not state_of(root).exists()


def test_the_first_values_survive_any_number_of_times(root: Path) -> None:
    before = governors(root)
    tuned(root)
    trees.write(root, {NPU: "powersave"})
    assert [outcome.write for outcome in tuned(root)] == [
        Write("NPU governor", NPU, "powersave", "performance")
    ]
    tuned(root)
    revert(root, state_of(root))
    assert governors(root) == before


def test_a_refused_write_is_told_and_the_others_stay(root: Path) -> None:
    refusing = root / NPU.lstrip("/")
    writes = plan(read_board(root))
    refusing.unlink()
    refusing.symlink_to("/dev/full")  # takes nothing, and says so
    outcomes = apply(writes, root, state_of(root))
    assert failures(outcomes) == [NPU]
    (error,) = [outcome.error for outcome in outcomes if outcome.error]
    assert NPU in error
    assert governors(root)[DDR] == governors(root)[POLICY] == "performance"
    assert NPU not in [write.path for write in plan_revert(root, state_of(root))]


def test_a_write_without_effect_is_told(root: Path) -> None:
    deaf = root / NPU.lstrip("/")
    writes = plan(read_board(root))
    deaf.unlink()
    deaf.symlink_to("/dev/null")  # takes everything, and keeps nothing
    assert failures(apply(writes, root, state_of(root))) == [NPU]


def test_no_file_is_made_that_the_kernel_does_not_have(root: Path) -> None:
    writes = plan(read_board(root))
    (root / NPU.lstrip("/")).unlink()
    assert failures(apply(writes, root, state_of(root))) == [NPU]
    assert NPU not in governors(root)


def test_what_could_not_be_restored_stays_remembered(root: Path) -> None:
    tuned(root)
    restored = root / DDR.lstrip("/")
    restored.unlink()
    assert failures(revert(root, state_of(root))) == [DDR]
    assert [write.path for write in plan_revert(root, state_of(root))] == [DDR]
    restored.write_text("performance")
    assert failures(revert(root, state_of(root))) == []
    assert governors(root)[DDR] == "ondemand"


def test_the_state_is_roots_alone_and_leaves_nothing_beside_it(root: Path) -> None:
    tuned(root)
    assert stat.S_IMODE(state_of(root).stat().st_mode) == 0o600
    assert list(state_of(root).parent.iterdir()) == [state_of(root)]


def test_nothing_is_changed_when_nothing_can_be_remembered(root: Path) -> None:
    before = governors(root)
    (root / "run").write_text("no folder")
    with pytest.raises(NotReady, match=r"tune\.json"):
        tuned(root)
    assert governors(root) == before


def test_values_are_remembered_before_they_are_changed(root: Path) -> None:
    """Else a crash in between would lose them."""
    writes = plan(read_board(root))
    governor = root / writes[0].path.lstrip("/")
    governor.unlink()
    governor.symlink_to(state_of(root))  # can only be written if the state is there by then
    assert failures(apply(writes[:1], root, state_of(root))) == []


def test_nothing_to_revert(root: Path) -> None:
    with pytest.raises(NotFound, match="Nothing to revert"):
        revert(root, state_of(root))


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b"\xff",
        b'{"/sys/class/devfreq/dmc/governor": 1}',
        b'{"/etc/passwd": "root"}',
        b'{"/sys/class/devfreq/../../../etc/governor": "root"}',
        b'{"/sys/class/devfreq/dmc/governor": "a b"}',
        b'{"/sys/class/devfreq/dmc/governor": ""}',
    ],
)
def test_a_state_that_could_not_be_ours_is_not_followed(root: Path, content: bytes) -> None:
    before = governors(root)
    state_of(root).parent.mkdir(parents=True)
    state_of(root).write_bytes(content)
    with pytest.raises(NotReady, match="damaged"):
        revert(root, state_of(root))
    with pytest.raises(NotReady, match="damaged"):
        tuned(root)
    assert governors(root) == before
    assert state_of(root).read_bytes() == content


def test_only_root_may() -> None:
    require_root(0)
    with pytest.raises(Forbidden, match="sudo rkllama tune"):
        require_root(1000)


def test_a_write_reads_as_old_and_new() -> None:
    assert str(Write("DDR governor", DDR, "dmc_ondemand", "performance")) == (
        "DDR governor: dmc_ondemand -> performance"
    )
