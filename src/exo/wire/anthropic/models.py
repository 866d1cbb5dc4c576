"""What Anthropic's clients are told of the models that can be asked."""

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from exo.cards import ModelCard
from exo.wire.anthropic import answer_types as types

_encode = msgspec.json.Encoder().encode


def models_answer(cards: Sequence[ModelCard]) -> bytes:
    """All models, on one page whatever its size is asked to be."""
    data = [_model(card) for card in cards]
    ends = (data[0].id, data[-1].id) if data else (None, None)
    return _encode(types.AnthropicModels(data, *ends))


def model_answer(card: ModelCard) -> bytes:
    return _encode(_model(card))


def _model(card: ModelCard) -> types.AnthropicModel:
    created = datetime.fromtimestamp(card.created, UTC).isoformat().replace("+00:00", "Z")
    return types.AnthropicModel(card.id, card.id, created, card.context or None)
