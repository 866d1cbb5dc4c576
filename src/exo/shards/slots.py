"""Which slot a request gets. Pure."""

from collections.abc import Sequence

Tokens = Sequence[int]

# The least part of a prompt for which a slot is chosen.
_WORTH_IT = 0.1


class Slots:
    """The tokens that each slot's KV caches hold, and which slots are taken."""

    def __init__(self, count: int) -> None:
        self._held: list[Tokens] = [()] * count
        self._free = list(range(count))  # the one used longest ago first

    def __repr__(self) -> str:
        return f"<Slots {len(self._free)} of {len(self._held)} free, holding {[*map(len, self._held)]}>"

    def take(self, prompt: Tokens) -> tuple[int, int]:
        """A free slot and how many tokens of `prompt` it holds, which is not all of them, as the last one has
        to be read for what follows it. There is a free one.

        It is the slot with the longest beginning in common, if that is worth it, and else the one used
        longest ago: a conversation is not lost to another one for the few tokens with which all begin.
        llama.cpp's server chooses alike.
        """
        common = {slot: _common(self._held[slot], prompt) for slot in self._free}
        best = max(self._free, key=lambda slot: common[slot])  # the first of equals
        if common[best] < _WORTH_IT * len(prompt):
            best = self._free[0]
        self._free.remove(best)
        return best, common[best]

    def give_back(self, slot: int, held: Tokens) -> None:
        """`held` is what its caches hold now."""
        self._held[slot] = held
        self._free.append(slot)


def _common(held: Tokens, prompt: Tokens) -> int:
    most = min(len(held), len(prompt) - 1)
    for at in range(most):
        if held[at] != prompt[at]:
            return at
    return most
