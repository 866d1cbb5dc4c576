"""What stays in the KV cache when the context is full, and what is taken out of it by hand."""

import ctypes
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.standin.vendor import ERROR, FINISH, LOGITS, NORMAL, Event, Handle, Library

Start = Callable[..., Handle]
SUM = "What is 145 + 278?"


@pytest.fixture
def start(load: Callable[[str], Library], file_for: Callable[..., Path]) -> Start:
    return lambda release="1.3.0", **settings: load(release).start(file_for(release), **settings)


@pytest.fixture
def shifting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_WHEN_FULL", "shift")


@pytest.fixture
def ids(tokenizer: Tokenizer) -> list[int]:
    found: list[int] = tokenizer.encode(f"<|im_start|>user\n{SUM}<|im_end|>\n<|im_start|>assistant\n").ids
    assert len(found) < 30
    return found


def after_shift(context: Sequence[int], n_keep: int) -> list[int]:
    """The first `n_keep` and the newer half of the rest, by the definition."""
    rest = context[n_keep:]
    return [*context[:n_keep], *rest[(len(rest) + 1) // 2 :]]


def continued(fresh: Handle, context: Sequence[int], window: int, n_keep: int, count: int) -> list[int]:
    """What a window of that size gives, each token computed from the whole context by a roomy handle."""
    held, answer = list(context), []
    for _ in range(count):
        answer += fresh.ask(held, max_new_tokens=1)
        if len(held) == window:
            held = after_shift(held, n_keep)
        held.append(answer[-1])
    return answer


@pytest.mark.usefixtures("shifting")
@pytest.mark.parametrize("n_keep", [-1, 0, 8, 31])
def test_a_full_window_is_shifted_and_computed_anew(start: Start, ids: list[int], n_keep: int) -> None:
    """Positions and attention are those of the shorter context, over several shifts."""
    own = {"ignore_eos_token": True, "repeat_penalty": 1.3}
    with (
        start(max_context_len=32, n_keep=n_keep, max_new_tokens=60, **own) as handle,
        start(**own) as fresh,
    ):
        sizes: list[int] = []
        handle.on_event = lambda event: sizes.append(handle.cached()) or 0  # type: ignore[func-returns-value]
        kept = max(n_keep, 0)
        assert handle.ask(ids) == continued(fresh, ids, 32, kept, 60)
        shifts = sum(later < earlier for earlier, later in pairwise(sizes))
        assert shifts >= 3 or n_keep == 31, "there the newest position is replaced again and again"
        assert max(sizes) == 32
        after = len(after_shift([0] * 32, kept)) + 1
        assert all(after <= size for size in sizes[32 - len(ids) :])


@pytest.mark.usefixtures("shifting")
def test_what_is_kept_of_a_shifted_window_begins_the_next_prompt(start: Start, ids: list[int]) -> None:
    with start(max_context_len=32, n_keep=8, ignore_eos_token=True) as handle:
        answer = handle.ask(ids, max_new_tokens=33 - len(ids))
        held = [*after_shift([*ids, *answer[:-1]], 8), answer[-1]]
        assert handle.cached() == len(held)
        handle.run([*held, 20], mode=LOGITS)
        assert handle.events[-1].perf["prefill_tokens"] == 1


@pytest.mark.usefixtures("shifting")
def test_nothing_can_be_dropped_when_all_is_to_be_kept(start: Start, ids: list[int]) -> None:
    with start(max_context_len=32, n_keep=32, ignore_eos_token=True) as handle:
        assert len(ids) + len(handle.ask(ids)) == 33


@pytest.mark.usefixtures("shifting")
def test_only_an_abort_or_a_limit_ends_a_run_that_shifts(start: Start, ids: list[int]) -> None:
    with start(max_context_len=32, ignore_eos_token=True) as handle:
        assert len(handle.ask(ids, max_new_tokens=100)) == 100
        handle.on_event = lambda event: (
            handle.lib.rkllm_abort(handle.pointer) if len(handle.events) == 150 else 0
        )
        assert len(handle.ask(ids)) == 150


@pytest.mark.usefixtures("shifting")
def test_a_long_history_makes_room_for_the_next_prompt(start: Start, ids: list[int]) -> None:
    more = ids[-20:]
    with start("1.2.3", max_context_len=64, n_keep=5) as handle, start("1.2.3") as fresh:
        assert handle.run(ids * 2, mode=LOGITS, keep_history=1) == 0
        held = ids * 2
        while len(held) + len(more) > 64:
            held = after_shift(held, 5)
        assert handle.run(more, mode=LOGITS, keep_history=1) == 0
        assert handle.events[-1].perf["prefill_tokens"] == len(more)
        assert handle.cached() == len(held) + len(more)
        fresh.run([*held, *more], mode=LOGITS)
        rows = len(more) * 512
        assert handle.events[0].logits[0] == fresh.events[0].logits[0][-rows:]


@pytest.mark.usefixtures("shifting")
def test_a_prompt_too_long_for_what_must_be_kept_is_still_an_error(start: Start, ids: list[int]) -> None:
    with start("1.2.3", max_context_len=64, n_keep=20) as handle:
        assert handle.run(ids * 4) == -1
        assert handle.run(ids, mode=LOGITS, keep_history=1) == 0
        assert handle.run((ids * 3)[:45], mode=LOGITS, keep_history=1) == -1
        assert [event.state for event in handle.events] == [ERROR]
        assert handle.run((ids * 3)[:44], mode=LOGITS, keep_history=1) == 0
        assert handle.cached() == 64


@pytest.mark.usefixtures("shifting")
def test_each_slot_of_a_batch_shifts_by_itself(start: Start, ids: list[int]) -> None:
    own = {"max_context_len": 48, "n_keep": 4, "max_new_tokens": 60, "ignore_eos_token": True}
    prompts = [ids, ids[:9], ids + ids[:14]]
    with start(**own) as single, start(n_batch=3, **own) as handle:
        expected = [single.ask(prompt) for prompt in prompts]
        assert [len(answer) for answer in expected] == [60] * 3
        handle.ask(*prompts)
        assert [handle.tokens(slot) for slot in range(3)] == expected


def test_a_full_window_ends_the_run_otherwise(
    release: str, start: Start, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in ("", "end"):
        monkeypatch.setenv("STANDIN_WHEN_FULL", value)
        with start(release, max_context_len=32) as handle:
            assert len(ids) + len(handle.ask(ids)) == 33


def test_a_release_without_n_keep_keeps_none(
    start: Start, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN_WHEN_FULL", "shift")
    with start("1.1.4", max_context_len=32, max_new_tokens=40) as handle:
        shifted = handle.ask(ids)
    with start("1.2.3", max_context_len=32, max_new_tokens=40, n_keep=0) as handle:
        assert handle.ask(ids) == shifted
        assert len(shifted) > 33 - len(ids)


def test_nobody_knows_another_way_when_full(
    start: Start, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STANDIN_WHEN_FULL", "rotate")
    with pytest.raises(OSError, match="rkllm_init"):
        start()
    assert "STANDIN_WHEN_FULL=rotate is not understood" in capfd.readouterr().err


def clear_range(handle: Handle, begin: int, end: int) -> int:
    numbers = ctypes.c_int * 1
    return int(handle.lib.rkllm_clear_kv_cache(handle.pointer, 0, numbers(begin), numbers(end)))


def pause_at_first(event: Event) -> int:
    return int(event.state == NORMAL)


def test_a_range_of_a_paused_run_can_be_cleared(start: Start, ids: list[int]) -> None:
    """What follows moves up, as if it had always been there."""
    with start("1.2.3") as handle, start("1.2.3") as fresh:
        handle.on_event = pause_at_first
        assert handle.run(ids) == 0
        held = [*ids, *handle.tokens()]
        assert clear_range(handle, 4, 4) == 0, "an empty one changes nothing"
        assert handle.cached() == len(held)
        assert clear_range(handle, -1, 3) == -1
        assert clear_range(handle, 5, 3) == -1
        assert clear_range(handle, 3, 11) == 0
        del held[3:11]
        assert handle.cached() == len(held)
        handle.on_event = lambda event: 0
        assert handle.ask([20, 21]) == fresh.ask([*held, 20, 21])


def test_a_range_can_be_cleared_only_of_a_paused_run_without_history(
    start: Start, ids: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    with start("1.2.3") as handle:
        handle.ask(ids)
        held = handle.cached()
        assert clear_range(handle, 0, 3) == -1
        handle.on_event = pause_at_first
        assert handle.run(ids, keep_history=1) == 0
        assert handle.events[-1].state != FINISH
        assert clear_range(handle, 0, 3) == -1
        assert handle.cached() == len(ids) + 1 != held
        handle.on_event = lambda event: 0
    assert capfd.readouterr().err.count("while a run without history is paused") == 2
