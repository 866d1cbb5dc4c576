"""Sums as the model sees them: which pairs it never sees, and the column-by-column scratchpad.

A scratchpad works from the ones up, because a carry travels that way; each line needs only the two
digits and the line before it, so a tiny model gets every one right. Every addition and subtraction
in the corpus goes through this file, which is what keeps the held-out pairs out.
"""

import hashlib
from itertools import zip_longest
from random import Random

LIMIT = 1000


def held_out(a: int, b: int) -> bool:
    """Is this pair kept from training, in both orders? About one in twenty pairs above 9 is.

    Sums with a single digit are never held out: there are too few of them to learn from the rest.
    """
    low, high = sorted((a, b))
    if low < 10:
        return False
    digest = hashlib.blake2b(f"held-out:{low},{high}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % 20 == 0


def operand(rng: Random) -> int:
    """A number below 1000, by length first: otherwise nine in ten would have three digits."""
    low, high = rng.choices(((0, 10), (10, 100), (100, LIMIT)), (0.12, 0.28, 0.6))[0]
    return rng.randrange(low, high)


def trained_pair(rng: Random) -> tuple[int, int]:
    """Two numbers that may be trained on."""
    while held_out(*(pair := (operand(rng), operand(rng)))):
        pass
    return pair


def held_out_pairs(count: int, seed: int) -> list[tuple[int, int]]:
    """Pairs with two or three digits that training never saw in either order."""
    rng = Random(seed)
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count:
        low, high = rng.choice(((10, 100), (100, 1000)))
        a, b = rng.randrange(low, high), rng.randrange(10, 1000)
        if held_out(a, b):
            pairs.append((a, b))
    return pairs


def addition(a: int, b: int) -> tuple[str, str]:
    """The scratchpad and the answer of a + b."""
    lines, carry = [], 0
    for x, y in zip_longest(_digits(a), _digits(b), fillvalue=0):
        total = x + y + carry
        lines.append(f"{x}+{y}+1={total}" if carry else f"{x}+{y}={total}")
        carry = total // 10
    return "\n".join(lines), f"{a} + {b} = {a + b}"


def subtraction(a: int, b: int) -> tuple[str, str]:
    """The scratchpad and the answer of a - b; below zero it turns the two around and says so."""
    if a < b:
        return f"{a}<{b}, {b}-{a}\n{_borrowing(b, a)}", f"{a} - {b} = {a - b}"
    return _borrowing(a, b), f"{a} - {b} = {a - b}"


def _borrowing(a: int, b: int) -> str:
    lines, borrow = [], 0
    for x, y in zip_longest(_digits(a), _digits(b), fillvalue=0):
        lends = x < y + borrow
        top = x + 10 if lends else x
        lines.append(f"{top}-{y}-1={top - y - 1}" if borrow else f"{top}-{y}={top - y}")
        borrow = int(lends)
    return "\n".join(lines)


def _digits(number: int) -> list[int]:
    return [int(digit) for digit in reversed(str(number))]
