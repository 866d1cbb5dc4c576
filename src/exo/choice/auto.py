"""Whether a quick model answers a request, or one that reasons: what "auto" means. Pure.

Theory of operation. A cascade, whose first word counts:

1. Whoever asks may say it: "auto:quick", "auto:reasoning", or `ChatRequest.thinking`. The name goes first.
2. Where no thought has room, nothing is gained: an answer in a fixed form (a schema, a grammar) keeps to it
   from its first token on, and a raw prompt is continued as it stands. Such requests are for the quick model.
3. A conversation that was raised to reasoning stays there for a while (`Raised`). None is ever lowered: a
   follow-up such as "and with five?" shows nothing of what it takes.
4. Otherwise the probability that thinking pays (`questions`) has to be beyond a threshold that rises with
   the seconds it costs: `threshold`. Within 0.05 above it we are unsure, and quick.

Then a model that cannot serve the request gives way to the other one. What it means to serve is
checked here as far as card and request tell; memory, queues and nodes are the caller's to know
(`Candidate.able`). The same request and candidates give the same pick in every process.
"""

import re
from collections.abc import Collection, Sequence
from typing import Literal, TypeAlias

import msgspec

from exo.cards import ModelCard
from exo.chat import ChatRequest
from exo.choice.conversation import conversation
from exo.choice.questions import likelihood
from exo.errors import BadRequest, ContextLengthExceeded

Kind: TypeAlias = Literal["quick", "reasoning"]
Wish: TypeAlias = Literal["", "quick", "reasoning"]

_PATIENCE = 60.0
"""Seconds that thinking may cost for each part by which the odds that it pays are above even."""

_UNSURE = 0.05
"""How far above the threshold a probability has to be."""

_THOUGHT = 500.0
"""Tokens of thought where nothing is known: on one board the first exo's DeepSeek-R1-1.5B wrote 596 tokens
for the questions that Qwen2.5-1.5B answered in 91."""

_TOY = 100e6
"""Parameters below which a model is not taken for either, as long as there is another one."""

_SIZE_IN_NAME = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z0-9])", re.IGNORECASE)


class Pair(msgspec.Struct, frozen=True):
    """The models that "auto" chooses from, by id. They may be one model, which thinks on request."""

    quick: str
    reasoning: str


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two, as it could serve the request now.

    `seconds` are those it is expected to take without thoughts (`routing.Route.seconds`: swap, queue,
    prefill, decode), and `thinking_seconds` what thoughts add. A candidate that is not `able` is out, and
    `why` says what it lacks: memory anywhere, say. `switch` is whether its thinking can be switched on and
    off; None is as the card says, which does not tell a model that always thinks from one that does so on
    request.
    """

    card: ModelCard
    seconds: float = 0.0
    thinking_seconds: float = 0.0
    able: bool = True
    why: str = ""
    switch: bool | None = None


class Picked(msgspec.Struct, frozen=True):
    """What answers: the request's new `model` and `thinking` (None leaves it to the model), the `probability`
    that thinking pays, and the reasons in plain words."""

    model: str
    thinking: bool | None
    kind: Kind
    probability: float
    why: tuple[str, ...]


def pick(
    request: ChatRequest,
    wish: Wish,
    quick: Candidate,
    reasoning: Candidate,
    *,
    raised: bool,
) -> Picked:
    """Which of the two answers. `wish` is what the model's name says, `raised` what `Raised` knows.

    Raises `BadRequest` saying what each lacks if neither can; `ContextLengthExceeded`, which is one, if for
    both it is the length of the prompt.
    """
    likely = likelihood(request)
    extra = max(0.0, reasoning.seconds + reasoning.thinking_seconds - quick.seconds)
    wanted, why = _wanted(request, wish, raised, extra)
    if wanted is None:
        least = threshold(extra)
        wanted, why = _weighed(likely.probability, least, extra, likely.for_it, likely.against)
    candidates: dict[Kind, Candidate] = {"quick": quick, "reasoning": reasoning}
    tokens = conversation(request).tokens
    lacks = {kind: _lacks(request, tokens, candidate) for kind, candidate in candidates.items()}
    kind: Kind = wanted
    if lacks[wanted]:
        kind = "reasoning" if wanted == "quick" else "quick"
        why = (*why, f"but {candidates[wanted].card.id} cannot: {lacks[wanted]}")
    if lacks[kind]:
        raise _neither(tokens, tuple(candidates.values()), tuple(lacks.values()))
    chosen = candidates[kind]
    return Picked(chosen.card.id, _thinking(request, wanted, chosen), kind, likely.probability, why)


def threshold(extra: float) -> float:
    """The probability that thinking has to have where it costs `extra` seconds more: that of odds of one to
    one, and of one more for each minute. So 0.5 for nothing, 0.67 for a minute, 0.86 for five."""
    return 1.0 - 1.0 / (2.0 + extra / _PATIENCE)


def thinking_seconds(tokens_per_second: float, budget: int | None, usual: float = _THOUGHT) -> float:
    """Seconds that thoughts take at a speed: of `usual` tokens, as many as this model's take, or `budget`
    where that is less."""
    return (usual if budget is None else min(budget, usual)) / tokens_per_second


class Raised:
    """The conversations that were raised to reasoning, `most` of them at a time, each for so many `seconds`.

    A conversation is known by who asks and its messages up to the raised request's last one: its later turns
    begin with these. Clients that cut the beginning off are not recognised, nor is a raw prompt of less than
    1 KB. `now` is in seconds of any clock that only goes forward.
    """

    def __init__(self, most: int = 1000, seconds: float = 600.0) -> None:
        self._most = most
        self._seconds = seconds
        self._expiry: dict[tuple[str, int], float] = {}
        """By client and hash of the conversation, the first to expire first."""

    def __len__(self) -> int:
        return len(self._expiry)

    def holds(self, request: ChatRequest, now: float) -> bool:
        """Whether the request, or what it goes on from, was raised less than the time to live ago."""
        return self._holds(_keys(request), now)

    def remember(self, request: ChatRequest, now: float) -> None:
        """Notes that the request is answered with reasoning. Turns that only stay there do not prolong it."""
        keys = _keys(request)
        if not keys or self._holds(keys, now):
            return
        # What is noted anew has expired: it goes to the end, where the latest are.
        self._expiry.pop(keys[-1], None)
        self._expiry[keys[-1]] = now + self._seconds
        for key, expiry in list(self._expiry.items()):
            if len(self._expiry) <= self._most and expiry > now:
                break
            del self._expiry[key]

    def _holds(self, keys: Sequence[tuple[str, int]], now: float) -> bool:
        return any(self._expiry.get(key, now) > now for key in keys)


def _keys(request: ChatRequest) -> list[tuple[str, int]]:
    return [(request.client, each.hash) for each in conversation(request).beginnings]


def default_pair(cards: Sequence[ModelCard], *, always: Collection[str] = ()) -> Pair | None:
    """The pair where the owner names none; None where no model chats. `cards` are of those that could be
    loaded, `always` the ids of models that think whatever they are told.

    The largest that thinks is for reasoning, or the largest of all. The smallest that does not think is
    quick, if it is smaller; else the former without its thoughts, if it can leave them; else the smallest
    there is. Sizes are in parameters, else bytes; of models on other servers, which tell neither, as their
    name has it ("1.5b"). One of unknown size is taken only where there is no other, and so are toys.
    """
    known = {card.id: card for card in sorted(cards, key=lambda card: (card.id, _size(card)))}
    chat = [card for card in known.values() if "completion" in card.capabilities]
    chat = [card for card in chat if not 0 < _size(card) < _TOY] or chat
    if not chat:
        return None
    thinkers = [card for card in chat if _thinks(card) or card.id in always]
    best = max(thinkers or chat, key=_size)
    others = [card for card in chat if card not in thinkers]
    smaller = [card for card in others if _size_at_most(card) < _size_at_most(best)]
    if not smaller and best.id not in always:
        return Pair(best.id, best.id)
    return Pair(min(smaller or others or chat, key=_size_at_most).id, best.id)


def _wanted(
    request: ChatRequest, wish: Wish, raised: bool, extra: float
) -> tuple[Kind | None, tuple[str, ...]]:
    """What is decided before any probability, if anything is, and why."""
    if wish:
        return wish, (f"auto: {wish}, as asked",)
    if request.thinking is not None:
        kind: Kind = "reasoning" if request.thinking else "quick"
        return kind, (f"auto: {kind}, as thinking was asked {'for' if request.thinking else 'to be left'}",)
    if _is_fixed(request):
        return "quick", ("auto: quick, as a fixed form of answer leaves no room for thoughts",)
    if request.prompt is not None:
        return "quick", ("auto: quick, as a raw prompt is continued as it stands",)
    if raised:
        return "reasoning", ("auto: reasoning, as the conversation was before", _costs(extra))
    return None, ()


def _weighed(
    probability: float, least: float, extra: float, for_it: Sequence[str], against: Sequence[str]
) -> tuple[Kind, tuple[str, ...]]:
    kind: Kind = "reasoning" if probability > least + _UNSURE else "quick"
    words = for_it if kind == "reasoning" else against
    gain = f"{probability:.2f} of such questions gain from thinking" + (": " if words else "")
    why = f"auto: {kind}, as {'' if kind == 'reasoning' else 'only '}{gain}{', '.join(words)}"
    if kind == "reasoning":
        return kind, (why, _costs(extra))
    return kind, (why, f"more than {least + _UNSURE:.2f} would have to, as it {_costs(extra)}")


def _costs(extra: float) -> str:
    return f"costs about {extra:.0f} s more" if extra >= 0.5 else "costs no time"


def _lacks(request: ChatRequest, tokens: int, candidate: Candidate) -> str:
    """What keeps the candidate from serving the request, whose prompt has about so many tokens; "" where
    nothing does."""
    card = candidate.card
    if not candidate.able:
        return candidate.why or "it cannot serve now"
    if "completion" not in card.capabilities:
        return "it is not made to chat"
    if _is_too_long(tokens, card):
        return f"the prompt has about {tokens:,} tokens, and its context {card.context:,}"
    # A card that says of a model that it thinks was written by somebody who knew its tools, too. Of others
    # nothing is known.
    if request.tools and "thinking" in card.capabilities and "tools" not in card.capabilities:
        return "it is not made to call tools"
    return ""


def _is_too_long(tokens: int, card: ModelCard) -> bool:
    return 0 < card.context < tokens


def _is_fixed(request: ChatRequest) -> bool:
    return request.json_schema is not None or request.grammar is not None


def _neither(tokens: int, candidates: Sequence[Candidate], lacks: Sequence[str]) -> BadRequest:
    said = dict.fromkeys(
        f"{candidate.card.id}: {lack}" for candidate, lack in zip(candidates, lacks, strict=True)
    )
    too_long = all(each.able and _is_too_long(tokens, each.card) for each in candidates)
    kind = ContextLengthExceeded if too_long else BadRequest
    return kind(f"no model that 'auto' chooses from can answer this: {'; '.join(said)}", param="model")


def _thinking(request: ChatRequest, wanted: Kind, chosen: Candidate) -> bool | None:
    """What the request says of thinking stands. It is switched only where that is known to be possible: an
    engine refuses to switch what the model's template does not."""
    if request.thinking is not None or _is_fixed(request) or request.prompt is not None:
        return request.thinking
    switch = _thinks(chosen.card) if chosen.switch is None else chosen.switch
    return wanted == "reasoning" if switch else None


def _thinks(card: ModelCard) -> bool:
    return "thinking" in card.capabilities or card.thinking is not None


def _size(card: ModelCard) -> float:
    """Parameters, or something like it; 0 where unknown."""
    named = _SIZE_IN_NAME.search(card.id)
    return card.parameters or card.bytes or (float(named[1]) * 1e9 if named else 0.0)


def _size_at_most(card: ModelCard) -> float:
    return _size(card) or float("inf")
