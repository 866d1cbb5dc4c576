"""What Ollama's clients are told of the models on a node, and of those in its memory."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from exo.cards import ModelCard
from exo.chat import Sampling
from exo.nodes import Residence
from exo.wire.ollama import answer_types as types

_encode = msgspec.json.Encoder().encode
_FOR_EVER = timedelta(days=36_525)
# Sampling's fields as Modelfiles name them; `logit_bias` has no name there.
_PARAMETERS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "max_tokens": "num_predict",
}


def rfc3339(seconds: float) -> str:
    """A time given in seconds since the epoch."""
    return _rfc3339(datetime.fromtimestamp(seconds, UTC))


def _rfc3339(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


def tags_answer(cards: Sequence[ModelCard]) -> bytes:
    """The models that can be asked for."""
    return _encode(
        types.OllamaModels(
            [
                types.OllamaModel(
                    card.id, card.id, rfc3339(card.created), card.bytes, _digest(card), _details(card)
                )
                for card in cards
            ]
        )
    )


def running_answer(loaded: Sequence[Residence], cards: Mapping[str, ModelCard], now: float) -> bytes:
    """The models in memory, and until when: a hundred years from now for those that may stay or are used."""
    return _encode(
        types.OllamaRunningModels(
            [_running(each, cards[each.model], now) for each in loaded if each.model in cards]
        )
    )


def show_answer(card: ModelCard) -> bytes:
    """All that is known of one model."""
    info: dict[str, str | int] = {"general.architecture": card.architecture} if card.architecture else {}
    if card.parameters:
        info["general.parameter_count"] = card.parameters
    if card.context:
        info[f"{card.architecture or 'general'}.context_length"] = card.context
    return _encode(
        types.OllamaShown(
            modelfile=_modelfile(card),
            parameters="\n".join(f"{name:<30} {value}" for name, value in _parameters(card.sampling)),
            template="",
            system=card.system,
            details=_details(card),
            model_info=info,
            capabilities=_capabilities(card),
            modified_at=rfc3339(card.created),
        )
    )


def _running(residence: Residence, card: ModelCard, now: float) -> types.OllamaRunning:
    left = _FOR_EVER if residence.expires_in is None else timedelta(seconds=max(0.0, residence.expires_in))
    return types.OllamaRunning(
        name=card.id,
        model=card.id,
        size=residence.bytes,
        digest=_digest(card),
        details=_details(card),
        expires_at=_rfc3339(datetime.fromtimestamp(now, UTC) + left),
        context_length=card.context,
    )


def _digest(card: ModelCard) -> str:
    """Changes when the model's file does; its contents are not read for it."""
    return hashlib.sha256(f"{card.id}\n{card.bytes}\n{card.created}".encode(errors="replace")).hexdigest()


def _details(card: ModelCard) -> types.OllamaDetails:
    return types.OllamaDetails(
        format=card.format,
        family=card.architecture,
        families=[card.architecture] if card.architecture else [],
        parameter_size=_size(card.parameters),
        quantization_level=card.quantization,
    )


def _size(parameters: int) -> str:
    for unit, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if parameters >= unit:
            return f"{parameters / unit:.1f}{letter}"
    return str(parameters) if parameters else ""


def _capabilities(card: ModelCard) -> list[str]:
    """A card that says whether its model thinks is one of a model that can."""
    thinking = [] if card.thinking is None else ["thinking"]
    return list(dict.fromkeys([*card.capabilities, *thinking]))


def _modelfile(card: ModelCard) -> str:
    lines = [f"FROM {card.id}", *(f"PARAMETER {name} {value}" for name, value in _parameters(card.sampling))]
    if card.system:
        lines.append(f'SYSTEM """{card.system}"""')
    return "\n".join(lines) + "\n"


def _parameters(sampling: Sampling) -> list[tuple[str, float]]:
    given = msgspec.structs.asdict(sampling)
    return [(name, given[field]) for field, name in _PARAMETERS.items() if given[field] is not None]
