"""Looking for strings in text that has only partly arrived."""

from bisect import bisect_left
from collections.abc import Iterable


class Finder:
    """Looks for any of some strings.

    Of several the one *completed* first wins, and of those completed by the same character the one that
    started first. That is what reading character by character gives, so it is the same for every chunking,
    and a hit never waits to see whether a longer one follows.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        self._strings = sorted({string for string in strings if string})
        self._shortest = min(map(len, self._strings), default=0)
        self._longest = max(map(len, self._strings), default=0)
        self.firsts = frozenset(string[0] for string in self._strings)

    def cut(self, text: str) -> tuple[str, str, str]:
        """Like `str.partition`, but with nothing found the last part is what may yet become a string."""
        if self.firsts.isdisjoint(text):
            return text, "", ""
        if len(text) >= self._shortest:
            hits = [(at + len(string), at) for string in self._strings if (at := text.find(string)) >= 0]
            if hits:
                end, at = min(hits)
                return text[:at], text[at:end], text[end:]
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[at] in self.firsts and self._begins(text[at:]):
                return text[:at], "", text[at:]
        return text, "", ""

    def _begins(self, text: str) -> bool:
        nearest = bisect_left(self._strings, text)
        return nearest < len(self._strings) and self._strings[nearest].startswith(text)
