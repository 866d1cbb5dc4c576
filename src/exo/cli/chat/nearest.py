"""What a name that is not known may have been meant for. Pure."""

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str]) -> str:
    """To go on an error message with: the known names that look like it, or some of all."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there is {', '.join(known[:10])}" if known else "there is none"
