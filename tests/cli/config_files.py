"""The files that are made of the table of settings. As a program it writes them: scripts/config-schema."""

from collections.abc import Mapping
from pathlib import Path

from exo.cli.config import SCHEMA_FILE, example_text, schema_text
from exo.cli.keys import SETTINGS
from exo.configuration.example import reference

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "src" / "exo" / "cli" / SCHEMA_FILE
EXAMPLE = ROOT / "docs" / "exo.example.toml"
MANUAL = ROOT / "docs" / "CONFIGURATION.md"
REMEDY = "scripts/config-schema makes it anew"

_MARK = "<!-- Below, scripts/config-schema writes what src/exo/cli/keys.py says. -->\n"


def made() -> Mapping[Path, str]:
    """What each of the files should be. Raises `ValueError` where the manual has lost its mark."""
    head, mark, _ = MANUAL.read_text(encoding="utf-8").partition(_MARK)
    if not mark:
        raise ValueError(f"{MANUAL} has no line {_MARK}")
    return {
        SCHEMA: schema_text(),
        EXAMPLE: example_text(),
        MANUAL: f"{head}{mark}\n{reference(SETTINGS)}",
    }


if __name__ == "__main__":
    for file, text in made().items():
        file.write_text(text, encoding="utf-8")
