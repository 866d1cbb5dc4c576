"""A model that stands for a board's: it takes the time, and costs next to nothing else."""

import itertools
from collections.abc import Iterator

import msgspec

from bench.client import chat
from bench.cluster_load import Question
from bench.cluster_nodes import Nodes
from exo.chat import Text
from exo.engines.scripted import Script

MODEL = "board"
_TOKENS = 32
_PACE = 0.06  # Qwen2.5-1.5B on the RK3588, by the vendor's figures
_STEPS = tuple(Text(f" word-{number:02}") for number in range(_TOKENS))
_TEXT = "".join(step.text for step in _STEPS)

# Enough that a board always has one to go on with: two that choose the same board at once leave none idle.
CLIENTS_EACH = 6
SUBJECT = (
    "A model of each stands for a board's: one request at a time, and for each answer "
    f"{_TOKENS} tokens, one every {_PACE * 1e3:g} ms (`dummy` engine), so that many nodes fit on one "
    "machine; what they cost beside that is real. Clients ask something else each time, and again as soon as "
    f"they have the answer, whose text is checked; there are {CLIENTS_EACH} for each node."
)
"""For the method."""


def add(nodes: Nodes) -> None:
    """One more node, with the model in memory soon."""
    script = msgspec.json.encode(Script(steps=_STEPS, pace=_PACE))
    nodes.add("--inference-engine", "dummy", "--preload", MODEL, models={f"{MODEL}.script.json": script})


def questions() -> Iterator[Question]:
    """Another conversation each time: no node has read it before."""
    for number in itertools.count():
        request = chat(MODEL, f"What is {number} + {number * 7 % 1000}?", stream=True)
        yield Question(request, _TOKENS, _TEXT)
