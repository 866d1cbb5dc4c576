"""What spoke most for the node that a request was sent to, in one word. Pure."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

Reason: TypeAlias = Literal["only", "failover", "queue", "loaded", "cached", "faster", "equal"]
"""No other node could answer; others had failed; the next best one had more ahead, had to load the model,
had not read the conversation, was slower; or it was about as good, and chance or nearness decided."""

_EQUAL = 0.05
"""Seconds that no one thing has to differ by for two nodes to be as good as equal, as in `routing`."""


class Costs(msgspec.Struct, frozen=True):
    """What a request's seconds on a node are made of, and how much of its prompt is cached there."""

    wait: float = 0.0
    load: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    cached: int = 0


def reason(nodes: Sequence[Costs], *, failed: bool = False) -> Reason:
    """Why the first of the nodes, which are best first, was taken. `failed` is whether other nodes had been
    tried before."""
    if failed:
        return "failover"
    if len(nodes) < 2:
        return "only"
    best, next_best = nodes[0], nodes[1]
    saved = _saved(best, next_best)
    most = max(saved, key=saved.__getitem__)
    return most if saved[most] > _EQUAL else "equal"


def _saved(best: Costs, other: Costs) -> dict[Reason, float]:
    """Seconds saved, by what saves them."""
    read = other.prefill - best.prefill
    cached = best.cached > other.cached
    return {
        "queue": other.wait - best.wait,
        "loaded": other.load - best.load,
        "cached": read if cached else 0.0,
        "faster": other.decode - best.decode + (0.0 if cached else read),
    }
