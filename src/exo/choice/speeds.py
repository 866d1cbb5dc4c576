"""How fast models are: what a node measures of its own, and what is known or guessed of anybody's.

Without I/O and without a clock.
"""

from collections.abc import Collection, Mapping

import msgspec

from exo.chat import Finished
from exo.nodes import Kind, Node, Prefix, Speed

_WEIGHT = 0.2
"""Of the newest value in an exponential mean, once there are five."""

_OUTLIER = 3.0
"""Times the mean beyond which a value counts no more, once there are three. None can fall below zero, so
one outlier moves a mean by 40 % up or 20 % down at most."""

_LEAST_READ, _LEAST_WRITTEN = 16, 4
"""Tokens below which the time is that of starting rather than that of reading or writing."""

_CONVERSATIONS = 16
_ENDS = 8
"""The latest of each conversation: its next turn needs the last, an answer asked for anew those before."""

_ANSWER = 128.0
"""Tokens of an answer whose model has given none yet."""

_OTHERS_PROMPT = 128.0
"""Tokens that another request is taken to have read: no node says."""

_DISK = 300e6
"""Bytes per second of a load nobody has measured, besides a second for the start."""

_PER_GIGABYTE: Mapping[Kind, tuple[float, float]] = {
    "rockchip": (500.0, 25.0),
    "apple": (1_000.0, 80.0),
    "nvidia": (10_000.0, 400.0),
    "amd": (4_000.0, 200.0),
    "cpu": (60.0, 15.0),
}
"""Tokens per second read and written by a model of 10⁹ bytes that nobody like the node has run yet. Both go
down as its size goes up, decode because each token reads all weights once. Rockchip's are made of the
vendor's figures for Qwen2.5-1.5B w8a8 on the RK3588; the others are rules of thumb."""

_SMALLEST = 100e6
"""Bytes below which a smaller model is taken to be no faster."""


class Speeds:
    """What a node measures of its models, and the conversations they have in memory."""

    def __init__(self) -> None:
        self._means: dict[str, dict[str, _Mean]] = {}
        self._conversations: dict[str, list[tuple[int, ...]]] = {}

    def answered(self, model: str, finished: Finished, prompt_uncached: int) -> None:
        """Counts an answer, of whose prompt so many tokens came from no cache."""
        usage, timings = finished.usage, finished.timings
        if prompt_uncached >= _LEAST_READ and timings.prefill > 0:
            self._count(model, "prefill", prompt_uncached / timings.prefill)
        tokens = usage.completion_tokens
        if tokens < _LEAST_WRITTEN:
            return
        if timings.decode > 0:
            self._count(model, "decode", tokens / timings.decode)
        if usage.reasoning_tokens:
            self._count(model, "thought", usage.reasoning_tokens)
        # An answer cut short says only that it would have been longer than this.
        if finished.reason != "length" or tokens > self._mean(model, "answer"):
            self._count(model, "answer", tokens)

    def loaded(self, model: str, seconds: float) -> None:
        """Counts a load."""
        self._count(model, "load", seconds)

    def left(self, model: str) -> None:
        """Forgets the model's conversations: its memory is gone, and its KV cache with it."""
        self._conversations.pop(model, None)

    def remember(self, model: str, prefixes: tuple[int, ...]) -> None:
        """Keeps the conversation as read by the model. `prefixes` are as `routing.prefixes` gives them."""
        if not prefixes:
            return
        others = [ends for ends in self._conversations.get(model, []) if ends[-1] not in prefixes]
        self._conversations[model] = [*others, prefixes[-_ENDS:]][-_CONVERSATIONS:]

    def values(self) -> tuple[Speed, ...]:
        """The speeds of each model that has been measured."""
        return tuple(
            Speed(model=model, **{what: mean.value for what, mean in means.items()})
            for model, means in self._means.items()
        )

    def prefixes(self) -> tuple[Prefix, ...]:
        """The conversations of each model that has any, those longest ago first."""
        return tuple(
            Prefix(model, tuple(dict.fromkeys(hash for ends in conversations for hash in ends)))
            for model, conversations in self._conversations.items()
        )

    def _count(self, model: str, what: str, value: float) -> None:
        means = self._means.setdefault(model, {})
        means[what] = means.get(what, _Mean()).with_value(value)

    def _mean(self, model: str, what: str) -> float:
        return self._means.get(model, {}).get(what, _Mean()).value


class _Mean(msgspec.Struct, frozen=True):
    """An exponential mean of `count` values; the plain one of the first few."""

    value: float = 0.0
    count: int = 0

    def with_value(self, value: float) -> "_Mean":
        if self.count >= 3:
            value = min(value, _OUTLIER * self.value)
        count = self.count + 1
        return _Mean(self.value + max(_WEIGHT, 1 / count) * (value - self.value), count)


class Known:
    """The speeds that `nodes` say, and guesses where they say none: as the fastest of the same chip, else of
    the same kind, else as typical of the kind. A guess is optimistic, so that a new node is tried."""

    def __init__(self, nodes: Collection[Node]) -> None:
        self._measured = {(node.id, speed.model): speed for node in nodes for speed in node.speeds}
        self._fastest: dict[tuple[str, str, str], Speed] = {}
        answers: dict[str, list[float]] = {}
        thoughts: dict[str, list[float]] = {}
        for node in nodes:
            for speed in node.speeds:
                for chip in {node.device.chip, ""}:
                    alike = (node.device.kind, chip, speed.model)
                    self._fastest[alike] = _faster(self._fastest.get(alike, speed), speed)
                if speed.answer:
                    answers.setdefault(speed.model, []).append(speed.answer)
                if speed.thought:
                    thoughts.setdefault(speed.model, []).append(speed.thought)
        self._answers, self._thoughts = _means(answers), _means(thoughts)

    def answer(self, model: str) -> float:
        """Mean tokens of the model's answers, which do not depend on the node."""
        return self._answers.get(model, _ANSWER)

    def thought(self, model: str) -> float | None:
        """Mean tokens of the model's thoughts, where it has had any."""
        return self._thoughts.get(model)

    def speed(self, node: Node, model: str, size: int) -> tuple[Speed, str]:
        """The speed on the node of the model, which has `size` bytes, and in words where the guess is from if
        its decode was not measured. No speed is 0; `answer` is not set."""
        kind, chip = node.device.kind, node.device.chip
        tried = [
            (self._measured.get((node.id, model)), ""),
            (self._fastest.get((kind, chip, model)), f"speed guessed from other {chip or kind} nodes"),
            (self._fastest.get((kind, "", model)), f"speed guessed from other {kind} nodes"),
            (_typical(kind, model, size), f"speed guessed, as is typical of {kind}"),
        ]
        known = [(speed, source) for speed, source in tried if speed]
        return Speed(
            model=model,
            prefill=next(speed.prefill for speed, _ in known if speed.prefill),
            decode=next(speed.decode for speed, _ in known if speed.decode),
            load=next(speed.load for speed, _ in known if speed.load),
        ), next(source for speed, source in known if speed.decode)

    def turn(self, node: Node, model: str, size: int) -> float:
        """Mean seconds for which a request for the model has one of its slots on the node."""
        speed, _ = self.speed(node, model, size)
        return _OTHERS_PROMPT / speed.prefill + self.answer(model) / speed.decode


def _means(values: Mapping[str, list[float]]) -> Mapping[str, float]:
    return {model: sum(each) / len(each) for model, each in values.items()}


def _faster(one: Speed, other: Speed) -> Speed:
    return Speed(
        model=one.model,
        prefill=max(one.prefill, other.prefill),
        decode=max(one.decode, other.decode),
        load=min(one.load or other.load, other.load or one.load),
    )


def _typical(kind: Kind, model: str, size: int) -> Speed:
    prefill, decode = _PER_GIGABYTE[kind]
    gigabytes = max(size, _SMALLEST) / 1e9
    load = 1.0 + size / _DISK
    return Speed(model=model, prefill=prefill / gigabytes, decode=decode / gigabytes, load=load)
