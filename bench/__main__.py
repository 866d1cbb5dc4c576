"""All benchmarks, or those named, as Markdown on stdout."""

import argparse
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.report import Report, machine, markdown, sections, stop_on_sigterm, summary, write_json

NAMES = (
    "overhead",
    "throughput",
    "memory",
    "startup",
    "decode",
    "auto_choice",
    "channels",
    "forms",
    "npu",
    "npu_clients",
    "npu_process",
    "npu_pace",
    "traces",
    "cluster",
    "cluster_forwarding",
    "cluster_killed",
    "cluster_boards",
    "cluster_membership",
    "layers_engines",
    "layers_split",
    "layers_hop",
    "soak",
)

_HEAD = """\
# Benchmarks

Made by `scripts/bench --write docs/benchmarks.md`; run it again to have the figures of your own machine.
With names (`scripts/bench decode --write …`) only those parts are made anew.
Every comparison is of runs that took turns in the same minutes, so ratios and differences travel better
than absolute values. A figure that was missed says so.

Machine: {machine}.

**{summary}.**
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"which of {', '.join(NAMES)}; all without one"
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="write a document; with names, only these parts of it anew"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the values")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    stop_on_sigterm()
    reports: list[Report] = []
    for name in options.names or NAMES:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        reports.append(importlib.import_module(f"bench.{name}").measure())
    measured = {each.name: markdown(each) for each in reports}
    print(_document(measured), end="")
    if options.write:
        written = options.write.read_text("utf-8") if options.names and options.write.exists() else ""
        options.write.write_text(_document(sections(written) | measured), encoding="utf-8")
    if options.json:
        write_json(options.json, reports)


def _document(parts: Mapping[str, str]) -> str:
    head = _HEAD.format(machine=machine(), summary=summary(parts.values()))
    return "\n\n".join([head.strip(), *parts.values()]) + "\n"


if __name__ == "__main__":
    main()
