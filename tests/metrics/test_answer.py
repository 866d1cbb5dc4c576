"""What is counted of one answer."""

import pytest

from exo.chat import Finished, Text, Timings, Usage
from exo.metrics import Answer, Metrics

MODEL = {"model": "m"}


UNTOLD = Timings()


def measured(usage: Usage, timings: Timings = UNTOLD, *, hop: bool = False) -> Metrics:
    metrics = Metrics("0", ())
    with Answer(metrics, "m", hop=hop) as answer:
        answer.delta(Text("a"))
        answer.delta(Text("b"))
        answer.delta(Finished("stop", usage, timings))
    return metrics


def value(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(name, MODEL)


def test_speeds_are_the_engines_own() -> None:
    metrics = measured(Usage(120, 50, cached_tokens=20), Timings(prefill=0.5, decode=2.0))
    assert value(metrics, "exo_prefill_tokens_per_second") == 200
    assert value(metrics, "exo_tokens_per_second") == 25
    assert value(metrics, "exo_prefill_seconds_total") == 0.5
    assert value(metrics, "exo_decode_seconds_total") == 2
    assert value(metrics, "exo_prompt_cached_tokens_total") == 20


def test_a_prompt_that_was_cached_says_nothing_of_the_speed() -> None:
    metrics = measured(Usage(120, 50, cached_tokens=110), Timings(prefill=0.5, decode=2.0))
    assert value(metrics, "exo_prefill_tokens_per_second") is None


def test_where_the_engine_does_not_tell_the_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first token on, which is not counted."""
    times = iter([0.0, 1.0, 2.0, 5.0, 5.0])
    monkeypatch.setattr("exo.metrics.answer.time.perf_counter", lambda: next(times))
    metrics = measured(Usage(3, 9))
    assert value(metrics, "exo_tokens_per_second") == 2
    assert value(metrics, "exo_decode_seconds_total") == 4
    assert value(metrics, "exo_first_token_latency_seconds_sum") == 1
    assert value(metrics, "exo_inter_token_seconds_sum") == 1


@pytest.mark.parametrize(("hop", "requests", "tokens"), [(False, 0, 0), (True, 1, 7)])
def test_what_another_node_asked_for_is_counted_as_such(hop: bool, requests: int, tokens: int) -> None:
    metrics = measured(Usage(3, 7), hop=hop)
    assert value(metrics, "exo_tokens_generated_total") == 7
    assert value(metrics, "exo_hop_requests_total") == requests
    assert value(metrics, "exo_hop_tokens_total") == tokens
