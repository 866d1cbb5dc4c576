"""What a shell would run of a block: simple commands, found without running any.

Knows what our documents use: quotes, comments, continued lines, pipes, lists, redirections, assignments, and
documents within a block (<<END), which are left out. A substitution stays one word.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

_HERE = re.compile(r"<<-?\s*(['\"]?)(\w+)\1([^\n]*)\n.*?^\2$", re.MULTILINE | re.DOTALL)
_TOKEN = re.compile(
    r"""
    (?P<comment> (?<!\S)\#[^\n]* )
  | (?P<blank> [ \t]+ | \\\n )
  | (?P<end> \n | && | \|\| | ;; | [;|&()] )
  | (?P<redirect> \d*(?: >> | > | < | <<< )(?:&\d)? )
  | (?P<word> (?: \\. | '[^']*' | "(?:\\.|[^"\\])*" | \$\((?:[^()]|\([^()]*\))*\) | [^\s;|&()<>'"\\] )+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_ASSIGNMENT = re.compile(r"(\w+)=")
# What another command stands behind.
_BEFORE = ("sudo", "exec", "nice", "env")


class Command(NamedTuple):
    """`variables` are those that are set for it alone."""

    words: tuple[str, ...]
    variables: tuple[str, ...] = ()

    @property
    def program(self) -> str:
        return PurePosixPath(self.words[0]).name if self.words else ""

    def __str__(self) -> str:
        return " ".join(self.words)


def commands(text: str) -> Iterator[Command]:
    """Fails for what is not understood: better than that it is passed over."""
    text = _HERE.sub(r"\3", text)
    words: list[str] = []
    at, skips = 0, False
    while at < len(text):
        found = _TOKEN.match(text, at)
        assert found, f"not understood: {text[at : at + 60]!r}"
        at = found.end()
        if found.lastgroup == "word":
            if not skips:
                words.append(_unquoted(found["word"]))
            skips = False
        elif found.lastgroup == "redirect":
            skips = "&" not in found["redirect"]
        elif found.lastgroup == "end":
            yield from _command(words)
            words = []
    yield from _command(words)


def _unquoted(word: str) -> str:
    return re.sub(
        r"'([^']*)'|\"((?:\\.|[^\"\\])*)\"|\\(.)", lambda each: each[1] or each[2] or each[3] or "", word
    )


def _command(words: list[str]) -> Iterator[Command]:
    variables = []
    while words and (words[0] in _BEFORE or _ASSIGNMENT.match(words[0])):
        if assigned := _ASSIGNMENT.match(words[0]):
            variables.append(assigned[1])
        words = words[1:]
    if words or variables:
        yield Command(tuple(words), tuple(variables))
