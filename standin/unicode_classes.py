"""Writes `unicode_classes.h`: which characters are letters, numbers and white space.

The tokenizer's pattern is run by the `tokenizers` library, so that library is asked about every code point:
its Unicode version is then ours. `python -m standin.unicode_classes > standin/unicode_classes.h`
"""

from itertools import groupby

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

POINTS = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
CLASSES = {"LETTER": r"\p{L}", "NUMBER": r"\p{N}", "SPACE": r"\s"}


def members(pattern: str) -> set[int]:
    """The code points that the pattern matches."""
    split = Split(Regex(pattern), "removed")
    left: set[int] = set()
    for start in range(0, len(POINTS), 4096):
        text = "".join(map(chr, POINTS[start : start + 4096]))
        left.update(ord(char) for piece, _ in split.pre_tokenize_str(text) for char in piece)
    return set(POINTS) - left


def main() -> None:
    kind = {code: name for name, pattern in CLASSES.items() for code in members(pattern)}
    print("/* Made by unicode_classes.py; do not edit. First and last code point of each range. */")
    for name in CLASSES:
        codes = sorted(code for code, its in kind.items() if its == name)
        ranges = []
        for _, group in groupby(enumerate(codes), key=lambda pair: pair[1] - pair[0]):
            run = [code for _, code in group]
            ranges.append(f"{{0x{run[0]:X}, 0x{run[-1]:X}}}")
        print(f"static const uint32_t {name}[][2] = {{")
        for start in range(0, len(ranges), 6):
            print("    " + ", ".join(ranges[start : start + 6]) + ",")
        print("};")


if __name__ == "__main__":
    main()
