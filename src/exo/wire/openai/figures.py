"""The numbers beside an answer: its usage, its timings, its tokens' probabilities."""

import math
from collections.abc import Sequence

import msgspec
from msgspec import UnsetType

from exo.chat import Alternative, Finished, Timings, TokenLogprob, Usage
from exo.wire.openai import answer_types as types

_UNLIKELIEST = -9999.0  # what OpenAI says for a probability of zero, whose logarithm JSON cannot hold


def total_usage(usages: Sequence[Usage], n: int = 1) -> Usage:
    """The usage of one HTTP answer whose choices come in groups of `n` to one prompt.

    A prompt counts once for all its choices, and as cached only as far as it was for each of them.
    """
    groups = [usages[i : i + n] for i in range(0, len(usages), n)]
    return Usage(
        prompt_tokens=sum(max(usage.prompt_tokens for usage in group) for group in groups),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
        cached_tokens=sum(min(usage.cached_tokens for usage in group) for group in groups),
    )


def completion_usage(usage: Usage) -> types.CompletionUsage:
    return types.CompletionUsage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=types.CachedTokens(usage.cached_tokens),
        completion_tokens_details=types.ReasoningTokens(usage.reasoning_tokens),
    )


def engine_timings(finished: Finished) -> types.EngineTimings | UnsetType:
    """Left out where the engine cannot tell."""
    if finished.timings == Timings():
        return msgspec.UNSET
    usage, timings = finished.usage, finished.timings
    return types.EngineTimings(
        cache_n=usage.cached_tokens,
        prompt_n=usage.prompt_tokens - usage.cached_tokens,
        prompt_ms=round(timings.prefill * 1e3, 3),
        predicted_n=usage.completion_tokens,
        predicted_ms=round(timings.decode * 1e3, 3),
    )


def chat_logprobs(logprobs: Sequence[TokenLogprob]) -> types.ChatLogprobs:
    return types.ChatLogprobs(
        [
            types.ChosenLogprob(
                each.chosen.token,
                _finite(each.chosen),
                each.chosen.bytes,
                [types.TopLogprob(other.token, _finite(other), other.bytes) for other in each.top],
            )
            for each in logprobs
        ]
    )


def text_logprobs(logprobs: Sequence[TokenLogprob], offset: int) -> types.TextLogprobs:
    offsets = []
    for each in logprobs:
        offsets.append(offset)
        offset += len(each.chosen.token)
    return types.TextLogprobs(
        tokens=[each.chosen.token for each in logprobs],
        token_logprobs=[_finite(each.chosen) for each in logprobs],
        top_logprobs=[
            {other.token: _finite(other) for other in (*each.top, each.chosen)} for each in logprobs
        ],
        text_offset=offsets,
    )


def _finite(alternative: Alternative) -> float:
    return alternative.logprob if math.isfinite(alternative.logprob) else _UNLIKELIEST
