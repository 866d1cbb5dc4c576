"""Which model on which node answers a request. Pure.

Theory of operation. For each node that can serve, the seconds until it would have finished are estimated, and
the least of them wins. They are the sum of

- the wait: those under way on the node beyond its free slots, each for the mean seconds of its model's
  answers. All models of a node compute on one chip, so a request for another model is ahead of this one too.
  What we have sent there ourselves counts where it is more than the node says, which may be a second old;
- the load of a model that is not in memory, and the swap: models that have to leave for it cost their own
  reload if they were used in the last minute, so two models that take turns end up on two nodes instead of
  evicting each other, and those that run have to finish first;
- prefill of what is not in the KV cache there, and decode.

With several slots a request is slowed by those that run beside it, by a third of its time each: four slots
give twice the tokens of one, as measured with llama.cpp on a CPU (181 tokens/s against 94). A GPU does
better, so this errs towards the node that is idle.

Nearly equal nodes are told apart by bonuses, never by comparing two of them, so a loser that goes away
changes nothing. This node, and one that has read the conversation before, count 5 % or 50 ms less. Others
count up to as much more, by a hash of conversation and node: each conversation has its own order of equal
nodes, the same wherever it enters. Where there is no conversation, each entry node has its own.
"""

import difflib
from collections.abc import Collection, Mapping
from hashlib import blake2b

import msgspec

from exo.cards import ModelCard
from exo.chat import ChatRequest
from exo.choice.conversation import conversation
from exo.choice.reasons import Costs
from exo.choice.speeds import Known
from exo.errors import ModelNotFound, NotReady, Overloaded
from exo.nodes import Cluster, Node, Residence, Speed

_HOP = 0.002
"""Seconds a peer costs more than this node: connecting, and 0.1-0.25 ms for each piece of the answer."""

_NEAR = 0.05
"""Both the share and the seconds by which two nodes are as good as equal."""

_WARM = 60.0
"""A model used within so many seconds is likely to be asked for again soon."""

_SLOTS = 4
"""Of a model that is not in memory; on the NPU it is one."""

_SLOWED = 1 / 3
"""By which share of its time a request beside slows this one, where there are several slots."""


class Route(msgspec.Struct, frozen=True):
    """Where a request goes, the reasons in plain words, and the seconds it is expected to take until it has
    finished. What loading an evicted model again would cost is among them."""

    node: Node
    card: ModelCard
    why: tuple[str, ...]
    seconds: float = 0.0
    costs: Costs = Costs()


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What routing has to know of a request.

    `prompt` is its tokens, `answer` at most those of its answer. `prefixes` are hashes of the beginnings of
    its conversation, longest last, and `prefix_tokens` the tokens up to each. All tokens are estimates.
    """

    model: str
    prompt: int = 0
    answer: int | None = None
    prefixes: tuple[int, ...] = ()
    prefix_tokens: tuple[int, ...] = ()


def asked(request: ChatRequest) -> Asked:
    """What routing has to know of the request."""
    whole = conversation(request)
    return Asked(
        model=request.model,
        prompt=whole.tokens,
        answer=request.sampling.max_tokens,
        prefixes=tuple(beginning.hash for beginning in whole.beginnings),
        prefix_tokens=tuple(beginning.tokens for beginning in whole.beginnings),
    )


def prefixes(request: ChatRequest) -> tuple[int, ...]:
    """Hashes of the conversation's beginnings, longest last, by which a node says what it has read. They have
    63 bits, and are the same in every process."""
    return tuple(beginning.hash for beginning in conversation(request).beginnings)


def choose(
    asked: Asked | str,
    cluster: Cluster,
    *,
    sent: Mapping[str, int] = {},
    counted: Mapping[str, int] = {},
    without: Collection[str] = (),
) -> Route:
    """Picks the node that answers; the model's id is matched exactly.

    `sent` is how many requests of ours are under way on each node, by its id, and `counted` how many were
    when the node said what it says. Where that is not known, what it says counts or what we have sent,
    whichever is more. Nodes in `without` are not considered.

    Raises `ModelNotFound` naming the nearest ids, or how to add a model where there is none; `NotReady`
    saying why none of the nodes that have it can serve it; and `Overloaded` if their queues are full, to
    come back after the shortest wait.

    Given only a model's id, which is to do something with the model, it finds a node that has it though none
    could answer now.
    """
    if isinstance(asked, str):
        places = _places(Asked(model=asked), cluster, sent, counted, without)
        return min(places, key=lambda place: (place.unable != "", place.full, place.score)).route
    return explain(asked, cluster, sent=sent, counted=counted, without=without)[0]


def explain(
    asked: Asked,
    cluster: Cluster,
    *,
    sent: Mapping[str, int] = {},
    counted: Mapping[str, int] = {},
    without: Collection[str] = (),
) -> tuple[Route, ...]:
    """All nodes that could answer, the one that `choose` picks first. Raises what `choose` does."""
    places = _places(asked, cluster, sent, counted, without)
    able = [place for place in places if not place.unable]
    if not able:
        memory = any(not place.route.node.leaving for place in places)
        remedy = "; choose a smaller model, fewer --slots or less --context, or raise --memory"
        raise NotReady(
            f"no {'other ' if without else ''}node can serve model '{asked.model}' now: "
            + "; ".join(place.unable for place in places)
            + (remedy if memory else ""),
            param="model" if memory else None,
        )
    free = sorted((place for place in able if not place.full), key=lambda place: place.score)
    if not free:
        names = ", ".join(sorted(place.route.node.id for place in able))
        raise Overloaded(
            f"the queues of all nodes that serve model '{asked.model}' are full: {names}",
            retry_after=max(1.0, min(place.wait for place in able)),
        )
    return tuple(place.route for place in free)


class _Ours(msgspec.Struct, frozen=True):
    """Our own requests on a node: under way now, and those among what it says, where that is known."""

    now: int
    then: int | None


class _Place(msgspec.Struct, frozen=True):
    """A node that has the model. `score` is what it is compared by: seconds, and the id to make it unique.
    `wait` is the seconds until a slot is free; `unable` says why the node cannot serve it, if it cannot."""

    route: Route
    score: tuple[float, str]
    wait: float
    full: bool
    unable: str


def _places(
    asked: Asked,
    cluster: Cluster,
    sent: Mapping[str, int],
    counted: Mapping[str, int],
    without: Collection[str],
) -> list[_Place]:
    nodes = (cluster.me, *cluster.peers)
    holders = [(node, card) for node in nodes for card in node.cards if card.id == asked.model]
    if not holders:
        known = {card.id for node in nodes for card in node.cards}
        raise ModelNotFound(missing(asked.model, sorted(known)), param="model")
    left = [(node, card) for node, card in holders if node.id not in without]
    if not left:
        tried = ", ".join(sorted(node.id for node, _ in holders))
        raise NotReady(f"no other node has model '{asked.model}' than {tried}")
    # Nodes in `without` lend their speeds all the same: they are no slower for being left out.
    speeds = Known(nodes)
    there = {node.id for node in nodes}
    ours = {node.id: _Ours(sent.get(node.id, 0), counted.get(node.id)) for node in nodes}
    return [_place(asked, node, card, cluster.me, speeds, ours[node.id], there) for node, card in left]


def _place(
    asked: Asked, node: Node, card: ModelCard, me: Node, known: Known, ours: _Ours, there: Collection[str]
) -> _Place:
    here = node.id == me.id
    resident = next((r for r in node.loaded if r.model == card.id and r.state != "leaving"), None)
    slots = (resident.slots if resident else 0) or (1 if card.format == "rkllm" else _SLOTS)
    speed, source = known.speed(node, card.id, card.bytes)

    ahead, work = _under_way(node, card, known, ours)
    slowed = 1.0 + _SLOWED * (slots - 1)
    queue = work / ahead * (ahead - slots + 1) / slots * slowed if ahead >= slots else 0.0
    wait, load, memory_words = _into_memory(node, card, resident, speed, known, queue)

    cached = _cached(asked, node) if resident and resident.state == "ready" else 0
    uncached = max(0, asked.prompt - cached)
    slow = 1.0 + _SLOWED * min(ahead, slots - 1)
    prefill = slow * uncached / speed.prefill
    tokens = known.answer(card.id) if asked.answer is None else min(asked.answer, known.answer(card.id))
    decode = slow * tokens / speed.decode

    seconds = wait + load + prefill + decode + (0.0 if here else _HOP)
    words = [
        f"{node.id}{' (here)' if here else ''}: {_ahead(ahead, queue)}",
        *memory_words,
        f"reads {uncached:,} tokens in {prefill:.1f} s" + (f", {cached:,} are cached" if cached else ""),
        f"writes {tokens:,.0f} tokens in {decode:.1f} s",
    ]
    if source:
        words.append(source)
    return _Place(
        route=Route(node, card, tuple(words), seconds, Costs(wait, load, prefill, decode, cached)),
        score=(_score(seconds, here or cached > 0, _key(asked, me), node.id), node.id),
        wait=wait,
        full=_waiting(node, card, resident, ours.now - slots) >= node.queue,
        unable=_unable(node, card, resident) or _without_a_part(node, card, there),
    )


def _waiting(node: Node, card: ModelCard, resident: Residence | None, ours: int) -> int:
    """Requests in the queue that one for the model would join, at least `ours` for it."""
    if card.memory == 0:
        return max(resident.waiting if resident else 0, ours)
    return max(node.waiting, ours - sum(r.slots for r in node.loaded if r.model != card.id))


def _unable(node: Node, card: ModelCard, resident: Residence | None) -> str:
    if node.leaving:
        return f"{node.id} is shutting down"
    # Another server's model takes no memory.
    if resident or card.memory <= node.budget or card.memory == 0:
        return ""
    takes, may = card.memory / 1e6, node.budget / 1e6
    return f"{node.id} may use {may:,.0f} MB and the model takes about {takes:,.0f} MB"


def _without_a_part(node: Node, card: ModelCard, there: Collection[str]) -> str:
    """Why the node cannot answer for a model that is split; "" where it can, or the model is whole."""
    if not card.split:
        return ""
    first = card.split[0].node
    if first != node.id:
        return f"{node.id} has no more than a part of it, for {first}"
    gone = [share for share in card.split if share.node not in there]
    return f"{gone[0].node}, which has layers {gone[0].span} of it for {node.id}, is not here" if gone else ""


def _under_way(node: Node, card: ModelCard, known: Known, ours: _Ours) -> tuple[int, float]:
    """Requests on the node, and the seconds of work they are. Other servers' models, and what they compute
    on, are apart from the node's own."""
    elsewhere = card.memory == 0
    turn = known.turn(node, card.id, card.bytes)
    beside = [r for r in node.loaded if (r.bytes == 0) == elsewhere]
    # Some wait for models that are not in memory; the queue is kept strictly then.
    strangers = 0 if elsewhere else max(0, node.waiting - sum(r.waiting for r in beside))
    ahead, work = strangers, strangers * turn
    for r in beside:
        if count := r.running + r.waiting:
            ahead += count
            work += count * (turn if r.model == card.id else known.turn(node, r.model, r.bytes))
    if ours.then is None:
        return max(ahead, ours.now), max(work, ours.now * turn)
    others = max(0, ahead - ours.then)
    return others + ours.now, (work * others / ahead if others else 0.0) + ours.now * turn


def _ahead(ahead: int, queue: float) -> str:
    if queue:
        return f"{ahead} ahead, {queue:.1f} s"
    return f"{ahead} beside it, a slot is free" if ahead else "nobody ahead"


def _into_memory(
    node: Node, card: ModelCard, resident: Residence | None, speed: Speed, known: Known, queue: float
) -> tuple[float, float, list[str]]:
    """Seconds until the model's turn, seconds its coming into memory costs, and both in words."""
    if resident and resident.state == "ready":
        return queue, 0.0, ["loaded"]
    if card.memory == 0:
        return queue, 0.0, ["another server keeps it"]
    if resident:
        # It began some time ago: half of it is left, on the average.
        return queue, speed.load / 2, [f"is being loaded, {speed.load / 2:.1f} s more"]
    wait, reloads, words = queue, 0.0, [f"loads in {speed.load:.1f} s"]
    for victim in _victims(node, card):
        reload = known.speed(node, victim.model, victim.bytes)[0].load
        busy = _is_busy(victim)
        if busy:
            turns = (victim.running + victim.waiting) / (victim.slots or 1)
            wait = max(wait, turns * known.turn(node, victim.model, victim.bytes))
        if busy or victim.idle is None or victim.idle < _WARM:
            reloads += reload
            words.append(
                f"{victim.model} has to {'finish and ' if busy else ''}leave, {reload:.1f} s to load it again"
            )
        else:
            words.append(f"{victim.model} has to leave")
    if wait > queue:
        words.append(f"waits {wait:.1f} s for memory")
    return wait, speed.load + reloads, words


def _victims(node: Node, card: ModelCard) -> list[Residence]:
    """What has to leave memory for the model: the least recently used idle ones, and busy ones only then."""
    staying = [r for r in node.loaded if r.state != "leaving"]
    need = card.memory - (node.budget - sum(r.bytes for r in staying))
    victims = []
    for r in sorted(staying, key=lambda r: (_is_busy(r), r.used, r.model)):
        if need <= 0:
            break
        victims.append(r)
        need -= r.bytes
    return victims


def _is_busy(resident: Residence) -> bool:
    return resident.running > 0 or resident.state == "loading"


def _cached(asked: Asked, node: Node) -> int:
    """Tokens of the prompt that are in the model's KV cache on the node."""
    hashes = {hash for prefix in node.prefixes if prefix.model == asked.model for hash in prefix.hashes}
    ends = zip(asked.prefixes, asked.prefix_tokens, strict=True)
    return min(asked.prompt, max((tokens for hash, tokens in ends if hash in hashes), default=0))


def _key(asked: Asked, me: Node) -> str:
    """What the order of equal nodes depends on."""
    return str(asked.prefixes[0]) if asked.prefixes else f"{asked.model}\n{me.id}"


def _score(seconds: float, favoured: bool, key: str, node: str) -> float:
    """Seconds as they are compared, growing with `seconds` for each node."""
    if favoured:
        return min(seconds / (1 + _NEAR), seconds - _NEAR)
    hash = blake2b(f"{key}\n{node}".encode(), digest_size=8).digest()
    return seconds + max(seconds * _NEAR, _NEAR) * int.from_bytes(hash) / 2**64


def missing(model: str, known: list[str]) -> str:
    """What to tell whoever asked for a model that is not among the `known` ones."""
    if len(model) > 80:
        model = model[:79] + "…"
    near = difflib.get_close_matches(model, known, n=3, cutoff=0.4)
    if near:
        return f"model '{model}' is not here; did you mean {' or '.join(near)}?"
    if known:
        return f"model '{model}' is not here; there is {', '.join(known[:10])}"
    return f"model '{model}' is not here, nor is any other; download one, or put it into the models folder"
