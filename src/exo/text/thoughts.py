"""How models mark what they think before they answer, by family."""

from typing import NamedTuple


class Tags(NamedTuple):
    """What begins and ends a thought."""

    begin: str
    end: str


THINK = Tags("<think>", "</think>")
FAMILIES = (
    THINK,
    Tags("[THINK]", "[/THINK]"),  # Magistral
    Tags("<seed:think>", "</seed:think>"),  # Seed-OSS
    Tags("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    Tags("<thinking>", "</thinking>"),
    Tags("<thought>", "</thought>"),
    Tags("<reasoning>", "</reasoning>"),
)


def tags_of(template: str) -> Tags | None:
    """The tags of the family whose chat template this is; None where it shows none."""
    return next((tags for tags in FAMILIES if tags.begin in template or tags.end in template), None)


def opens_thoughts(model: str) -> bool:
    """Whether a model is by its name of a family whose chat template opens the thought, so that answers of a
    server that does not tell thoughts apart begin within one: DeepSeek's R1 and Qwen's QwQ."""
    return any(family in model.lower() for family in ("deepseek-r1", "qwq"))
