"""What is noted while a command's settings are read."""

from typing import TYPE_CHECKING, Self

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from exo.configuration.document import Document

_META = "exo.configuration"


class Faulty(click.ClickException):
    """Something configured cannot be read. Names every fault, not only the first."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        first = problems[0] if len(problems) == 1 else f"{len(problems)} faults in the configuration:"
        rest = problems if len(problems) > 1 else []
        super().__init__("\n  ".join((first, *rest)))
        self.problems = tuple(problems)


class Noted:
    """Of one context. `models` has the source of each value of a `PerModel` setting, by name and model."""

    def __init__(self) -> None:
        self.document: Document | None = None
        self.problems: list[str] = []
        self.models: dict[tuple[str, str], ParameterSource] = {}

    @classmethod
    def of(cls, context: click.Context) -> Self:
        noted = context.meta.setdefault(_META, cls())
        assert isinstance(noted, cls)
        return noted

    def raise_problems(self) -> None:
        """Raises `Faulty` where there are any."""
        if self.problems:
            raise Faulty(self.problems)
