"""Names of environment variables: what nothing reads is a typo, which would be ignored for ever."""

import difflib
from collections.abc import Collection, Mapping

import click


def check_environment(environment: Mapping[str, str], program: str, known: Collection[str]) -> None:
    """Raises `UsageError` for a variable that begins as those of `program` do, and is none of the known."""
    prefix = f"{program.upper()}_"
    own = sorted(name for name in known if name.startswith(prefix))
    for name in environment:
        if name.startswith(prefix) and name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(own)}"
            raise click.UsageError(f"the environment sets {name}, which {program} does not know{hint}")
