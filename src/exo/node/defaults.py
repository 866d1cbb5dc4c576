"""What a request leaves open, filled in. Pure."""

import msgspec

from exo.cards import ModelCard
from exo.chat import ChatRequest, Message, filled
from exo.settings import Defaults


def complete(request: ChatRequest, card: ModelCard, defaults: Defaults) -> ChatRequest:
    """Fills in what the request leaves open, from the model's card and then the node's defaults, and caps its
    answer's length."""
    ours = msgspec.structs.replace(
        card.sampling,
        temperature=defaults.temperature if card.sampling.temperature is None else card.sampling.temperature,
    )
    sampling = filled(request.sampling, ours)
    if (most := defaults.most_tokens(card.id)) is not None:
        sampling = msgspec.structs.replace(sampling, max_tokens=min(sampling.max_tokens or most, most))
    messages, thinking = request.messages, request.thinking
    system = card.system or defaults.system_prompt
    if system and messages and messages[0].role != "system":
        messages = (Message("system", system), *messages)
    if thinking is None and messages and not (request.json_schema or request.grammar):
        thinking = card.thinking
    return msgspec.structs.replace(
        request, model=card.id, sampling=sampling, messages=messages, thinking=thinking
    )
