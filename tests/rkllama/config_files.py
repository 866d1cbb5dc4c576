"""The files that are made of the NPU server's table of settings. As a program it writes them:
scripts/config-schema."""

from collections.abc import Mapping
from pathlib import Path

from exo.configuration.example import reference
from exo.configuration.show import SCHEMA_FILE
from rkllama.cli.config import SUBJECT

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "src" / "rkllama" / "cli" / SCHEMA_FILE
EXAMPLE = ROOT / "docs" / "rkllama.example.toml"
MANUAL = ROOT / "docs" / "CONFIGURATION.md"
REMEDY = "scripts/config-schema makes it anew"

_BEGIN = "<!-- Below, scripts/config-schema writes what src/rkllama/cli/keys.py says. -->\n"
_END = "<!-- So far rkllama's. -->\n"


def made() -> Mapping[Path, str]:
    """What each of the files should be. Raises `ValueError` where the manual has lost its marks."""
    head, begin, rest = MANUAL.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{MANUAL} has no lines {_BEGIN} and {_END}")
    return {
        SCHEMA: SUBJECT.schema(),
        EXAMPLE: SUBJECT.example(),
        MANUAL: f"{head}{begin}\n{reference(SUBJECT.settings)}\n{end}{tail}",
    }


if __name__ == "__main__":
    for file, text in made().items():
        file.write_text(text, encoding="utf-8")
