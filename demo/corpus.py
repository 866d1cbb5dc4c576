"""The training text: conversations drawn from a seed, for ever, the same on every machine.

Pure Python and one `random.Random`, so that a corpus is its seed and nothing needs to be downloaded
or stored. Sums below 1000 make up most of it; the rest lets the toy be talked to. Pairs that
`held_out` names are nowhere asked or answered: the accuracy is measured on them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, NotRequired, TypedDict

from demo import phrases, tools
from demo.sums import LIMIT, addition, held_out, operand, subtraction, trained_pair

__all__ = ["Conversation", "Message", "conversations", "held_out"]


class Message(TypedDict):
    """A chat message in OpenAI's form."""

    role: str
    content: str
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[dict[str, Any]]]


@dataclass(frozen=True)
class Conversation:
    """Messages that end with an answer of the assistant, thought through first if `thinking`."""

    messages: list[Message]
    thinking: bool
    tools: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Turn:
    """A question and its answer; `value` is what "add 7 to that" refers to."""

    question: str
    thought: str
    answer: str
    value: int | None = None


def conversations(seed: int, mix: str = "broad") -> Iterator[Conversation]:
    """Endless conversations; the same for the same seed and mix of subjects."""
    rng = Random(seed)
    while True:
        yield conversation(rng, MIXES[mix])


def conversation(rng: Random, mix: "Mix") -> Conversation:
    """One conversation of up to four turns, on one or several subjects."""
    thinking = rng.random() < 0.4
    if rng.random() < 0.025:
        return _calling(rng, thinking, mix)
    # Earlier answers are learned too, without their thoughts: long chats teach answering at once.
    weights = (0.8, 0.1, 0.06, 0.04) if thinking else (0.5, 0.2, 0.15, 0.15)
    turns: list[Turn] = []
    for _ in range(rng.choices((1, 2, 3, 4), weights)[0]):
        turns.append(_turn(rng, turns[-1] if turns else None, mix))
    return Conversation([*_system(rng), *_messages(turns, thinking)], thinking)


def _messages(turns: list[Turn], thinking: bool) -> Iterator[Message]:
    for turn in turns:
        yield {"role": "user", "content": turn.question}
        reply: Message = {"role": "assistant", "content": turn.answer}
        if thinking and turn is turns[-1]:
            reply["reasoning_content"] = turn.thought
        yield reply


def _system(rng: Random) -> list[Message]:
    draw = rng.random()
    if draw < 0.6:
        return []
    if draw < 0.95:
        return [{"role": "system", "content": rng.choice(phrases.SYSTEM_PROMPTS)}]
    return [
        {
            "role": "system",
            "content": " ".join(rng.choices(phrases.WORDS, k=rng.randrange(3, 30))).capitalize() + ".",
        }
    ]


def _calling(rng: Random, thinking: bool, mix: "Mix") -> Conversation:
    """Tools on offer: a call, the answer after its result, or a question that needs none."""
    offered, question, call = tools.offer(rng)
    thought = f"I can call {call['name']}."
    messages: list[Message] = _system(rng)
    draw = rng.random()
    if draw < 0.25:
        return Conversation([*messages, *_messages([_turn(rng, None, mix)], thinking)], thinking, offered)
    messages.append({"role": "user", "content": question})
    messages.append(
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]}
    )
    if thinking:
        messages[-1]["reasoning_content"] = thought
    if draw < 0.5:
        returned, answer = tools.result(call, rng)
        messages += [
            {"role": "tool", "content": returned},
            {"role": "assistant", "content": answer},
        ]
        if thinking:
            messages[-1]["reasoning_content"] = "I have the answer."
    return Conversation(messages, thinking, offered)


def _turn(rng: Random, before: Turn | None, mix: "Mix") -> Turn:
    if before is not None and before.value is not None and rng.random() < 0.5:
        return _follow_up(rng, before.value)
    subject = rng.choices([subject for subject, _ in mix], [share for _, share in mix])[0]
    return subject(rng)


def _ask(rng: Random, question: str) -> str:
    """The same question as different people type it."""
    draw = rng.random()
    if draw < 0.04:
        return question[0].lower() + question[1:]
    if draw < 0.06:
        return f"Please {question[0].lower()}{question[1:]}"
    if draw < 0.08:
        return f"{question} Answer briefly."
    if draw < 0.1:
        return f"{question} Think step by step."
    if draw < 0.11:
        return f"{question}\n"
    return question


def _addition(rng: Random) -> Turn:
    a, b = trained_pair(rng)
    return Turn(_ask(rng, rng.choice(phrases.ADDITIONS).format(a=a, b=b)), *addition(a, b), a + b)


def _subtraction(rng: Random) -> Turn:
    a, b = trained_pair(rng)
    if a < b and rng.random() < 0.8:
        a, b = b, a
    return Turn(_ask(rng, rng.choice(phrases.SUBTRACTIONS).format(a=a, b=b)), *subtraction(a, b), a - b)


def _follow_up(rng: Random, value: int) -> Turn:
    """A second sum that leans on the first: "And 12 + 30?", or "Add 7 to that."."""
    a, b = trained_pair(rng)
    if rng.random() < 0.4 and 0 <= value < LIMIT and not held_out(value, c := operand(rng)):
        if rng.random() < 0.7:
            return Turn(rng.choice(phrases.ADD_TO_THAT).format(b=c), *addition(value, c), value + c)
        return Turn(rng.choice(phrases.TAKE_FROM_THAT).format(b=c), *subtraction(value, c), value - c)
    if rng.random() < 0.75:
        return Turn(rng.choice(phrases.MORE_ADDITIONS).format(a=a, b=b), *addition(a, b), a + b)
    a, b = max(a, b), min(a, b)
    return Turn(rng.choice(phrases.MORE_SUBTRACTIONS).format(a=a, b=b), *subtraction(a, b), a - b)


def _counting(rng: Random, near: float = 0.85) -> Turn:
    length = rng.randrange(2, 16) if rng.random() < near else rng.randrange(16, 62)
    start = rng.choices((1, rng.randrange(0, 30), rng.randrange(0, 940)), (0.3, 0.5, 0.2))[0]
    numbers = list(range(start, start + length))
    draw = rng.random()
    if draw < 0.15:
        numbers.reverse()
        asked = rng.choice(phrases.COUNTS_DOWN)
    else:
        asked = rng.choice(phrases.COUNTS_TO if start == 1 and draw < 0.6 else phrases.COUNTS)
    question = _ask(rng, asked.format(a=numbers[0], b=numbers[-1]))
    return Turn(question, f"From {numbers[0]} to {numbers[-1]}.", ", ".join(map(str, numbers)))


def _counting_far(rng: Random) -> Turn:
    """Where to stop is harder to see from afar."""
    return _counting(rng, near=0.5)


def _spelling(rng: Random) -> Turn:
    word = rng.choice(phrases.WORDS) if rng.random() < 0.5 else _made_up(rng)
    return Turn(
        _ask(rng, rng.choice(phrases.SPELLINGS).format(word=word)),
        "Letter by letter.",
        "-".join(word),
    )


def _made_up(rng: Random) -> str:
    """A word that nobody knows, so that spelling is learned and not remembered."""
    if rng.random() < 0.3:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randrange(2, 9)))
    return "".join(rng.choice(phrases.WORDS)[:3] for _ in range(rng.randrange(1, 4)))


def _repeating(rng: Random) -> Turn:
    words = [
        rng.choice(phrases.WORDS) if rng.random() < 0.8 else _made_up(rng) for _ in range(rng.randrange(1, 7))
    ]
    if rng.random() < 0.1:
        words[rng.randrange(len(words))] = str(rng.randrange(LIMIT))
    text = " ".join(words)
    if rng.random() < 0.2:
        text = text.capitalize()
    return Turn(rng.choice(phrases.REPEATS).format(text=text), "I repeat it.", text)


def _fixed(rng: Random) -> Turn:
    questions, thought, answer = rng.choice(phrases.FIXED)
    return Turn(rng.choice(questions.split("|")), thought, answer)


def _prime(rng: Random) -> Turn:
    n = rng.randrange(2, 100)
    return _primality(n, rng.choice(phrases.PRIMES).format(n=n))


def _seventeen(rng: Random) -> Turn:
    """The one that a benchmark asks for."""
    return _primality(17, rng.choice(phrases.PRIMES).format(n=17))


def _primality(n: int, question: str) -> Turn:
    divisor = next(d for d in range(2, n + 1) if n % d == 0)
    if divisor < n:
        answer = f"No. {n} is not prime: it is {divisor} * {n // divisor}."
    else:
        answer = f"Yes. {n} is prime: only 1 and {n} divide it."
    return Turn(question, "I look for a divisor.", answer)


def _unknown(rng: Random) -> Turn:
    asked = rng.choice(phrases.UNKNOWN)
    while "{noun}" in asked:
        asked = asked.replace("{noun}", rng.choice(phrases.WORDS) if rng.random() < 0.8 else _made_up(rng), 1)
    while "{big}" in asked:
        asked = asked.replace("{big}", str(rng.randrange(1000, 1000000)), 1)
    a, b = trained_pair(rng)
    question = asked.format(
        person=rng.choice(phrases.PEOPLE),
        place=rng.choice(phrases.PLACES),
        language=rng.choice(phrases.LANGUAGES),
        a=a,
        b=b,
    )
    if question.lower() in _ANSWERED:
        return _fixed(rng)
    return Turn(_ask(rng, question), "I do not know this.", phrases.TOY)


_ANSWERED = frozenset(
    question.lower() for questions, _, _ in phrases.FIXED for question in questions.split("|")
)


Mix = tuple[tuple[Callable[[Random], Turn], float], ...]
MIXES: dict[str, Mix] = {
    "broad": (
        (_addition, 0.54),
        (_subtraction, 0.15),
        (_counting, 0.04),
        (_spelling, 0.05),
        (_repeating, 0.04),
        (_fixed, 0.09),
        (_prime, 0.015),
        (_unknown, 0.075),
    ),
    "weak spots": (
        (_addition, 0.36),
        (_subtraction, 0.22),
        (_counting_far, 0.12),
        (_spelling, 0.04),
        (_repeating, 0.08),
        (_fixed, 0.05),
        (_prime, 0.04),
        (_seventeen, 0.04),
        (_unknown, 0.05),
    ),
}
