"""The families of questions, and questions drawn from them. A question is its seed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random

from auto import slots
from exo.chat import ChatRequest, Message

_LANGUAGES = {"en": 0.70, "de": 0.11, "es": 0.10, "zh": 0.09}
_INNERMOST = re.compile(r"\{([^{}]*)\}")
_ENDS = ".!?\u3002\uff01\uff1f"


@dataclass(frozen=True)
class Family:
    """Questions of one sort: templates by language. `pays` is whether thinking pays, `after` whether it did
    for the question before, of families that go on with one."""

    name: str
    pays: bool
    templates: Mapping[str, list[str]] = field(
        default_factory=lambda: {each: [] for each in _LANGUAGES}, compare=False
    )
    after: bool | None = None


@dataclass(frozen=True)
class Question:
    """A request, which family it is of, and in what language."""

    request: ChatRequest
    family: Family
    language: str

    @property
    def text(self) -> str:
        """What is asked last."""
        return self.request.messages[-1].content


@cache
def families() -> tuple[Family, ...]:
    """All of them, as written in `reasoning.txt` and `quick.txt`."""
    return (*_read("reasoning"), *_read("quick"))


def questions(count: int, seed: int) -> list[Question]:
    """So many of each family."""
    return [
        question(family, Random(f"{seed} {family.name} {number}"))
        for family in families()
        for number in range(count)
    ]


def question(family: Family, rng: Random) -> Question:
    """One question, often with what people write around it."""
    language = rng.choices(list(_LANGUAGES), list(_LANGUAGES.values()))[0]
    asked = _noisy(_filled(rng.choice(family.templates[language]), language, rng), language, rng)
    messages = [Message("user", asked)]
    if family.after is not None or rng.random() < 0.2:
        before = rng.random() < 0.5 if family.after is None else family.after
        earlier = rng.choice([each for each in families() if each.pays == before and each.after is None])
        said = _filled(rng.choice(earlier.templates[language]), language, rng)
        messages = [Message("user", said), Message("assistant", "…"), *messages]
    return Question(ChatRequest(model="", messages=tuple(messages)), family, language)


def _read(kind: str) -> list[Family]:
    found: list[Family] = []
    for line in Path(__file__).with_name(f"{kind}.txt").read_text("utf-8").splitlines():
        if line.startswith("= "):
            name, _, after = line[2:].partition(" after ")
            found.append(Family(name, kind == "reasoning", after=(after == "reasoning") if after else None))
        elif line and not line.startswith("#"):
            language, template = line.split(" ", 1)
            found[-1].templates[language].append(template)
    return found


def _filled(template: str, language: str, rng: Random) -> str:
    """The template with its choices made, the innermost first. A slot's text is the same wherever it stands
    again; what is numbered differs in general from what is not."""
    known: dict[str, str] = {}

    def one(match: re.Match[str]) -> str:
        inside: str = match[1]
        if "|" in inside or not inside:
            return rng.choice(inside.split("|"))
        if inside not in known:
            known[inside] = slots.text(inside.rstrip("0123456789"), language, rng)
        return known[inside]

    while _INNERMOST.search(template):
        template = _INNERMOST.sub(one, template)
    return template.replace("\\n", "\n")


def _noisy(asked: str, language: str, rng: Random) -> str:
    """The question as people send it: in the same ways, and as often, for either kind."""
    space = slots.space(language)
    gap = rng.choice(("\n\n", space, "\n"))
    if rng.random() < 0.25:
        asked = slots.text("before", language, rng) + space + asked
    if rng.random() < 0.2:
        asked += space + slots.text("after", language, rng)
    if rng.random() < 0.18:
        asked = _filled("{passage}", language, rng) + gap + asked
    if rng.random() < 0.1:
        asked += gap + _filled("{passage}", language, rng)
    if rng.random() < 0.12:
        asked = asked.lower()
    if rng.random() < 0.1:
        asked = asked.rstrip(_ENDS)
    if rng.random() < 0.08:
        at = rng.randrange(len(asked))
        asked = asked[:at] + asked[at + 1 : at + 2] + asked[at : at + 1] + asked[at + 2 :]
    return asked
