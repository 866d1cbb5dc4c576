"""How hard a model is to think, as clients of several dialects put it."""

from typing import Literal, TypeAlias

Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

# Tokens of thought. What the makers of the dialect allow at each effort is not published.
_BUDGETS: dict[str, int] = {"low": 512, "medium": 2048}


def effort(name: Effort) -> tuple[bool, int | None]:
    """Whether the model is to think, and the most tokens it may; None for as many as it likes."""
    return name not in ("none", "minimal"), _BUDGETS.get(name)
