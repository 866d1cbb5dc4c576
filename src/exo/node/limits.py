"""What the owner of a node should know of the limits he has set for its models. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from exo.cards import ModelCard
from exo.choice import routing
from exo.settings import Defaults
from exo.store import families
from exo.text.thoughts import opens_thoughts

MAX_TOKENS_FOR = "--max-generate-tokens-for"
SILENCE_FOR = "--chatgpt-api-response-timeout-for"

_THOUGHT = 1024
"""Tokens that a model which thinks should have: on one board the first exo's DeepSeek-R1-1.5B wrote 596 a
question on average, so that less cuts many answers off before they begin."""


def too_tight(card: ModelCard, defaults: Defaults) -> str | None:
    """Why a model that thinks may come to no answer under the cap for all models; None where nothing is
    wrong. A cap of its own is taken for what its owner wants."""
    most = defaults.max_tokens
    if most is None or most >= _THOUGHT or card.id in defaults.max_tokens_for or not _thinks(card):
        return None
    return (
        f"model '{card.id}' thinks before it answers, and --max-generate-tokens {most} counts both: its "
        f"thought may use up all {most} tokens; {MAX_TOKENS_FOR} {card.id}=4096 allows more"
    )


def without_effect(given: Mapping[str, Mapping[str, float]], known: Sequence[str]) -> Iterator[str]:
    """Says of each limit that is for none of the `known` models that it waits for one to come. `given` is by
    flag and model's id."""
    for flag, values in given.items():
        for model, value in values.items():
            if model not in known:
                yield f"{flag} {model}={value:g} has no effect yet: {routing.missing(model, sorted(known))}"


def _thinks(card: ModelCard) -> bool:
    """Whether the model thinks where a request does not say, as far as its card and its name tell."""
    known = families.built_in(card.id)
    capabilities = (*card.capabilities, *(known.capabilities if known else ()))
    return card.thinking is not False and ("thinking" in capabilities or opens_thoughts(card.id))
