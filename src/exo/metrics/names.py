"""Label values, of which there can only be so many."""

OTHER = "other"
"""Stands for all names beyond those."""


class Names:
    """The first `most` different names as they are, and "other" for any that comes later.

    Each value of a label is a time series for as long as the process lives, here and in Prometheus. Most
    names come from this machine's disk, but nodes of an open cluster can say anything.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, name: str) -> str:
        if name not in self._known:
            if len(self._known) >= self._most:
                return OTHER
            self._known.add(name)
        return name
