"""A model in parts: what opens a shard on another node, and plans as they are shown. Without I/O.

Steps of an open shard are as `exo.shards.frames` has them.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from exo.cards import Dtype, Span
from exo.choice.partition import Plan
from exo.errors import BadRequest, EngineFailed
from exo.wire.openai.request_types import ModelName


class OpenShard(Struct, frozen=True, kw_only=True, tag="open_shard"):
    """The first message: have these layers of a model in memory, `slots` KV caches of `context` tokens each.

    The model is one of the node's own, by its id. `engine` is which engine of layers is liked best ("mlx"),
    where the node has it. `dtype` is what it computes in; "auto" leaves that to the node.
    """

    model: ModelName
    span: Span
    slots: Annotated[int, Meta(ge=1, le=1024)]
    context: Annotated[int, Meta(ge=1)]
    dtype: Dtype = "auto"
    engine: str | None = None


class Beat(Struct, frozen=True, tag="beat"):
    """Says that the sender is there."""


class PartShown(Struct, frozen=True, kw_only=True):
    """A node's part: both layers are in it; `bytes` it takes of the `budget` that the node may use."""

    node: str
    first_layer: int
    last_layer: int
    bytes: int
    budget: int
    fits: bool


class PlanAnswer(Struct, frozen=True, kw_only=True):
    """Where a model's layers would go. The first part's node coordinates, and has what surrounds the layers.

    A model of 0 `layers` cannot be split. `exact` bytes are read off the tensors, others made of the model's
    card. Tokens per second are null where nothing is known, and `guessed` says what a guess is made of; it is
    empty for what was measured. Where the model cannot be loaded so, `problem` says why.
    """

    model: str
    layers: int
    parts: tuple[PartShown, ...]
    exact: bool
    prefill: float | None
    decode: float | None
    guessed: str = ""
    problem: str = ""


def check(open: OpenShard, layers: int) -> None:
    """Raises `BadRequest` for a span that is not one of a model with so many layers."""
    if not 0 <= open.span.start < open.span.end <= layers:
        raise BadRequest(
            f"'{open.model}' has {layers} layers; there are no layers {open.span} of it", param="span"
        )


def plan_answer(plan: Plan) -> bytes:
    return msgspec.json.encode(
        PlanAnswer(
            model=plan.model,
            layers=plan.layers,
            parts=tuple(_shown(plan)),
            exact=plan.exact,
            prefill=_rounded(plan.prefill),
            decode=_rounded(plan.decode),
            guessed=plan.guessed,
            problem=plan.problem,
        )
    )


def decode_plan_answer(body: bytes) -> PlanAnswer:
    """Raises `EngineFailed` for what is no plan."""
    try:
        return msgspec.json.decode(body, type=PlanAnswer)
    except (ValueError, RecursionError) as error:
        start = body[:200].decode(errors="replace")
        raise EngineFailed(f"the node's plan is not understood: {start or 'it is empty'}") from error


def _shown(plan: Plan) -> Sequence[PartShown]:
    return [
        PartShown(
            node=part.node,
            first_layer=part.span.start,
            last_layer=part.span.end - 1,
            bytes=part.bytes,
            budget=part.budget,
            fits=part.fits,
        )
        for part in plan.parts
    ]


def _rounded(speed: float | None) -> float | None:
    return None if speed is None else round(speed, 1)
