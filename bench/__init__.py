"""What the node costs, measured on a real server process over loopback; see docs/benchmarks.md.

`python -m bench` (or `scripts/bench`) runs all of it, `python -m bench.NAME` one. Every comparison is of
runs that take turns within one process, so that a busy machine slows both sides alike; and the two never
compute at the same time. A figure that is missed is printed as missed.
"""
