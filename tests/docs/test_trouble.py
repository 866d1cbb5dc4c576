"""What docs/DEPLOYMENT.md quotes of doctors, logs and answers is what they say."""

import ast
import re
from functools import cache

import pytest

from .blocks import ROOT

GUIDE = (ROOT / "docs" / "DEPLOYMENT.md").read_text(encoding="utf-8")
TROUBLE = GUIDE.partition("\n## Trouble\n")[2].partition("\n## ")[0]
ROWS = [line for line in TROUBLE.splitlines() if line.startswith("| ")]
# In a sentence of a program; what has none is a name, a command or a path.
QUOTED = sorted({span for row in ROWS for span in re.findall(r"`([^`]*)`", row) if " " in span})
OURS = re.compile(r"(?:exo|rkllama|systemctl|timedatectl|Authorization:|api_key|sha256sum)\b")


@cache
def said() -> frozenset[str]:
    """All texts of the programs; what is put into them is "…"."""
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Constant(value=str(text)):
                    found.add(text)
                case ast.JoinedStr(values=values):
                    found.add(
                        "".join(
                            str(getattr(each, "value", "…")) if isinstance(each, ast.Constant) else "…"
                            for each in values
                        )
                    )
    return frozenset(found)


def parts(quoted: str) -> list[str]:
    """What of a quotation is the program's own: no figures, and finding and evidence apart."""
    bare = re.sub(r"^(?:BROKEN|SLOW) +", "", quoted)
    return [part.strip() for part in re.split(r"…|: |\d+", bare) if part.strip()]


def test_there_is_much_to_look_at() -> None:
    assert len([each for each in QUOTED if not OURS.match(each)]) > 20


@pytest.mark.parametrize("quoted", [each for each in QUOTED if not OURS.match(each)])
def test_it_is_said_by_a_program(quoted: str) -> None:
    unsaid = [part for part in parts(quoted) if not any(part in text for text in said())]
    assert not unsaid, unsaid
