"""Writes the weights that "auto" decides by, `choice/auto.json`; checks them, or says how good they are."""

import argparse
import sys
from pathlib import Path

import msgspec

WEIGHTS = Path(__file__).parents[1] / "src" / "exo" / "choice" / "auto.json"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m auto", description=__doc__)
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument("--check", action="store_true", help="whether the file is what this would write")
    doing.add_argument("--evaluate", action="store_true", help="tables for docs/AUTO.md, in some minutes")
    options = parser.parse_args()
    if options.evaluate:
        from auto.evaluation import report

        print(report())
        return
    made = weights()
    if not options.check:
        WEIGHTS.write_bytes(made)
    elif WEIGHTS.read_bytes() != made:
        sys.exit(f"{WEIGHTS} is not what `python -m auto` makes; run that, and then the tests")


def weights() -> bytes:
    """The file, the same to the byte each time."""
    from auto.data import fitted, made

    return msgspec.json.format(msgspec.json.encode(fitted(made())), indent=1) + b"\n"


if __name__ == "__main__":
    main()
