"""Measured comparisons, each of which proves its result before it prints a time. Run `python -m benchmarks --list`.

For a checkout only: this folder is not part of the wheel. `docs/benchmarks.md` says what is measured and how.
Modules that a peer's interpreter loads (`case`, `memory`, `worker`, `reference`, `suite`, `peers`) import the
standard library alone.
"""
