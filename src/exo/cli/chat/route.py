"""Where an answer came from. Pure."""

from collections.abc import Sequence

import msgspec


class Origin(msgspec.Struct, frozen=True):
    """The node that answered, "" where the server does not say; and what "auto" chose, as far as it is known,
    and why."""

    node: str = ""
    model: str = ""
    why: str = ""


def origin(route: str, me: str, peers: Sequence[str]) -> Origin:
    """What an answer's `x-exo-route` header says of it: the reasons of "auto", if it was to choose, then
    `NODE: reasons` in a cluster. A node that is alone says nothing of itself."""
    parts = route.split("; ")
    auto = parts[0] if parts[0].startswith("auto: ") else ""
    named = [part.partition(": ")[0] for part in parts]
    return Origin(node=next((id for id in named if id in (me, *peers)), me), why=auto)
