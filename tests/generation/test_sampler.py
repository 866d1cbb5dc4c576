import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from exo.chat import Sampling
from exo.errors import BadRequest, EngineFailed
from exo.generation.sampler import WINDOW, Allowed, Logits, Sampler, Settled, logprobs

OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}

rows = st.integers(2, 50).flatmap(
    lambda size: arrays(np.float32, size, elements=st.floats(-30, 30, width=32), unique=True)
)
anything = st.builds(
    Sampling,
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0, 1, exclude_min=True),
    top_k=st.none() | st.integers(0, 60),
    min_p=st.none() | st.floats(0, 1),
    repeat_penalty=st.none() | st.floats(0.1, 3),
    presence_penalty=st.none() | st.floats(-2, 2),
    frequency_penalty=st.none() | st.floats(-2, 2),
    seed=st.none() | st.integers(-(2**63), 2**63),
)


def row(*values: float) -> Logits:
    return np.array(values, np.float32)


def sampler(size: int, prompt: tuple[int, ...] = (), **sampling: Any) -> Sampler:
    return Sampler(Sampling(**sampling), vocabulary=size, prompt=prompt)


def drawn(logits: Logits, times: int = 200, **sampling: Any) -> Counter[int]:
    """How often each token comes, without one answer's history."""
    return Counter(sampler(logits.size, seed=seed, **sampling).draw(logits) for seed in range(times))


def odds(logits: Logits) -> Any:
    powers = np.exp(logits.astype(np.float64) - logits.max())
    return powers / powers.sum()


@given(rows, anything, st.data())
def test_only_what_is_allowed_is_drawn(logits: Logits, sampling: Sampling, data: st.DataObject) -> None:
    allowed: Allowed = data.draw(arrays(np.bool_, logits.size).filter(lambda mask: bool(mask.any())))
    before = logits.copy()
    chooser = Sampler(sampling, vocabulary=logits.size)
    assert all(allowed[chooser.draw(logits, allowed)] for _ in range(5))
    assert (logits == before).all()


@given(rows, st.sampled_from([{"temperature": 0.0}, {"top_k": 1}, {"temperature": 0.0, "top_k": 5}]))
def test_greedy_is_the_likeliest(logits: Logits, sampling: dict[str, Any]) -> None:
    assert sampler(logits.size, **sampling).draw(logits) == logits.argmax()
    assert sampler(logits.size, temperature=1e-300).draw(logits) == logits.argmax()


def test_of_equals_greedy_takes_the_first() -> None:
    assert sampler(4, temperature=0).draw(row(1, 3, 3, 2)) == 1


@given(rows, st.integers(1, 60), st.integers(0, 2**32))
def test_top_k_leaves_the_k_likeliest(logits: Logits, top_k: int, seed: int) -> None:
    chooser = sampler(logits.size, temperature=2.0, **{**OFF, "top_k": top_k}, seed=seed)
    best = set(np.argsort(-logits)[:top_k].tolist())
    assert {chooser.draw(logits) for _ in range(5)} <= best


@given(rows, st.floats(0.01, 1), st.integers(0, 2**32))
def test_top_p_leaves_the_fewest_that_reach_p(logits: Logits, top_p: float, seed: int) -> None:
    chooser = sampler(logits.size, temperature=2.0, **{**OFF, "top_p": top_p}, seed=seed)
    order = np.argsort(-logits)
    # What the likelier ones add up to must leave room; a hair of it for rounding.
    before = np.concatenate(([0.0], np.cumsum(odds(logits)[order])[:-1]))
    left = set(order[before < top_p + 1e-9].tolist())
    assert {chooser.draw(logits) for _ in range(5)} <= left


@given(rows, st.floats(0, 1), st.integers(0, 2**32))
def test_min_p_leaves_what_is_likely_enough(logits: Logits, min_p: float, seed: int) -> None:
    chooser = sampler(logits.size, temperature=2.0, **{**OFF, "min_p": min_p}, seed=seed)
    shares = odds(logits)
    for _ in range(5):
        assert shares[chooser.draw(logits)] >= min_p * shares.max() * (1 - 1e-9)


def test_filters_look_before_the_temperature() -> None:
    """As in llama.cpp: a high temperature does not bring back what is unlikely."""
    logits = row(5, 4, 0)
    assert set(drawn(logits, temperature=2.0, **{**OFF, "min_p": 0.1})) == {0, 1}
    assert set(drawn(logits, temperature=100.0, **OFF)) == {0, 1, 2}


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_come_as_often_as_they_are_likely(temperature: float) -> None:
    logits = np.log(row(0.5, 0.3, 0.15, 0.05))
    expected = odds((logits / temperature).astype(np.float32))
    times = 4000
    counts = drawn(logits, times, temperature=temperature, **OFF)
    for token, share in enumerate(expected):
        # Five standard deviations; the seeds are fixed, so it holds always or never.
        assert abs(counts[token] / times - share) < 5 * math.sqrt(share * (1 - share) / times)


@given(rows, anything)
def test_a_seed_repeats_the_draws(logits: Logits, sampling: Sampling) -> None:
    def draws() -> list[int]:
        chooser = Sampler(sampling, vocabulary=logits.size)
        return [chooser.draw(logits) for _ in range(10)]

    first = draws()
    if sampling.seed is not None:
        assert draws() == first


def test_without_a_seed_answers_differ() -> None:
    logits = np.zeros(1000, np.float32)
    choosers = [sampler(1000, **OFF) for _ in range(3)]
    assert len({tuple(chooser.draw(logits) for _ in range(5)) for chooser in choosers}) == 3


def test_a_bias_adds_to_a_logit() -> None:
    assert sampler(3, temperature=0, logit_bias={2: 100.0}).draw(row(9, 8, 7)) == 2
    assert sampler(3, temperature=0, logit_bias={0: -100.0}).draw(row(9, 8, 7)) == 1
    assert 0 not in drawn(row(9, 8, 7), logit_bias={0: -100.0})
    assert sampler(3, temperature=0, logit_bias={0: -0.5}).draw(row(9, 8, 7)) == 0


@pytest.mark.parametrize("token", [-1, 3])
def test_a_bias_of_no_token_is_refused(token: int) -> None:
    with pytest.raises(BadRequest, match=f"token {token} is not in the vocabulary, which has 3") as refused:
        sampler(3, logit_bias={token: 1.0})
    assert refused.value.param == "logit_bias"


PENALTIES: dict[str, tuple[dict[str, Any], list[int]]] = {
    # A positive logit is divided, a negative one multiplied.
    "repeat": ({"repeat_penalty": 1.5}, [0, 1, 0, 0]),
    # Once, however often it has come.
    "presence": ({"presence_penalty": 1.5}, [0, 1, 0, 0]),
    # For each time it has come: 4, 3.1 > 4 - 1.5; 4 - 1.5 > 3.1 - 1.5; then 4 - 3 < 3.1 - 1.5.
    "frequency": ({"frequency_penalty": 1.5}, [0, 1, 0, 1]),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_look_at_what_was_drawn(name: str) -> None:
    penalties, expected = PENALTIES[name]
    chooser = sampler(3, temperature=0, **penalties)
    assert [chooser.draw(row(4, 3.1, -9)) for _ in range(4)] == expected


def test_a_repeated_token_with_a_negative_logit_becomes_unlikelier_too() -> None:
    chooser = sampler(2, temperature=0, repeat_penalty=2)
    assert [chooser.draw(row(-1, -1.5)) for _ in range(3)] == [0, 1, 0]


def test_penalties_look_at_the_prompt_and_only_so_far_back() -> None:
    logits = row(4, 3.9, 0)
    assert sampler(3, temperature=0, repeat_penalty=1.5).draw(logits) == 0
    assert sampler(3, (0,), temperature=0, repeat_penalty=1.5).draw(logits) == 1
    assert sampler(3, (0, *[2] * (WINDOW - 1)), temperature=0, repeat_penalty=1.5).draw(logits) == 1
    assert sampler(3, (0, *[2] * WINDOW), temperature=0, repeat_penalty=1.5).draw(logits) == 0


def test_what_is_left_open_is_as_in_llama_cpp() -> None:
    assert Settled.of(Sampling()) == Settled(0.8, 40, 0.95, 0.05, 1.0, 0.0, 0.0)
    assert Settled.of(Sampling(top_k=0, temperature=0)) == Settled(temperature=0, top_k=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("use", [lambda row: sampler(3).draw(row), lambda row: logprobs(row, 0, 2)])
def test_logits_that_are_no_numbers_are_named(bad: float, use: Callable[[Logits], object]) -> None:
    with pytest.raises(EngineFailed, match="no numbers"):
        use(row(1, bad, 2))
    with pytest.raises(EngineFailed, match="no numbers"):
        use(row(-math.inf, -math.inf, -math.inf))


def test_nothing_left_to_draw_is_named() -> None:
    with pytest.raises(EngineFailed, match="no token is left"):
        sampler(2).draw(row(1, 2), np.array([False, False]))
    with pytest.raises(EngineFailed, match="no token is left"):
        sampler(2).draw(row(1, -math.inf), np.array([False, True]))


@given(rows, st.data())
def test_logprobs_are_the_logarithm_of_the_softmax(logits: Logits, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, logits.size - 1))
    top = data.draw(st.integers(0, 60))
    chosen, best = logprobs(logits, token, top)
    expected = np.log(odds(logits))
    assert math.isclose(chosen, expected[token], abs_tol=1e-6)
    assert [id for id, _ in best] == np.argsort(-logits)[:top].tolist()
    assert all(math.isclose(value, expected[id], abs_tol=1e-6) for id, value in best)


def test_tokens_that_cannot_come_are_no_alternatives() -> None:
    chosen, best = logprobs(row(0, -math.inf, 0), 0, 3)
    assert math.isclose(chosen, math.log(0.5))
    assert [id for id, _ in best] == [0, 2]
