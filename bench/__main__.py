"""All benchmarks, or those named, as Markdown on stdout."""

import argparse
import importlib
import sys
from pathlib import Path

from bench.report import Report, machine, markdown, stop_on_sigterm, summary, write_json

NAMES = (
    "overhead",
    "throughput",
    "memory",
    "startup",
    "decode",
    "npu",
    "npu_clients",
    "npu_process",
    "npu_pace",
    "cluster",
    "cluster_forwarding",
    "cluster_killed",
    "cluster_boards",
    "cluster_membership",
)

_HEAD = """\
# Benchmarks

Made by `scripts/bench --write docs/benchmarks.md`; run it again to have the figures of your own machine.
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
    parser.add_argument("--write", type=Path, metavar="FILE", help="write a document")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the values")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    stop_on_sigterm()
    reports: list[Report] = []
    for name in options.names or NAMES:
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        reports.append(importlib.import_module(f"bench.{name}").measure())
    head = _HEAD.format(machine=machine(), summary=summary(reports))
    document = "\n\n".join([head.strip(), *(markdown(each) for each in reports)]) + "\n"
    print(document, end="")
    if options.write:
        options.write.write_text(document, encoding="utf-8")
    if options.json:
        write_json(options.json, reports)


if __name__ == "__main__":
    main()
