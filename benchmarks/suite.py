"""What there is to run: for every benchmark its sentence, its lines, its sizes, its operations and its right result.

A *line* is one way to run a benchmark (`tell` or `ask`, for example) and becomes one row. Operations follow from the
arguments; no loop counts them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.case import SIZES, Found, Size
from benchmarks.reference import oracle

Args = tuple[int, ...]
Settings = dict[str, object]

MAILBOX = 1_000
"""The default bound of a mailbox."""
ROOMY = 1_000_000
"""The bound where a workload puts more than the default into one mailbox; printed with the row."""
GROUP = 10
"""Agents per supervisor in the crash storm, and in Erlang's."""


@dataclass(frozen=True)
class Line:
    """One row of a benchmark. `settings` are printed in `params`: the verb, and what is not default."""

    name: str
    sizes: tuple[Args, Args, Args]
    ops: Callable[[Args], int]
    expect: Callable[[Args], Found]
    settings: Settings = field(default_factory=dict)
    variants: tuple[str, ...] = ("def", "async")
    fresh: bool = False
    """Start a new process for every run, because memory is measured."""

    def args(self, size: Size) -> Args:
        """The arguments of one size."""
        return self.sizes[SIZES.index(size)]


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: its number in the specification, its name, what an operation is, one sentence, its lines."""

    code: str
    name: str
    unit: str
    sentence: str
    lines: tuple[Line, ...]

    def line(self, name: str) -> Line:
        """A line by its name. Raises `KeyError`."""
        return {line.name: line for line in self.lines}[name]


def sizes_of(name: str) -> tuple[Args, Args, Args]:
    """The arguments of the three sizes in the oracle's table."""
    _, small, medium, large = oracle().TABLE[name]
    return tuple(small), tuple(medium), tuple(large)


def _value(name: str, args: Args) -> Found:
    return dict(oracle().TABLE[name][0](*args))


def _pingpong(args: Args) -> Found:
    return {"sum": _value("pingpong", args)["sum"], "handled": args[0]}


def _threadring(args: Args) -> Found:
    return {"zero_at": _value("threadring", args)["zero_at"], "receipts": args[1] + 1, "ended": args[0]}


PINGPONG = Benchmark(
    "B1",
    "pingpong",
    "message",
    "Two actors exchange N numbered messages one at a time: the latency of a wake-up.",
    (
        Line("tell", sizes_of("pingpong"), lambda a: 2 * a[0], _pingpong, {"verb": "tell"}),
        Line("ask", sizes_of("pingpong"), lambda a: 2 * a[0], _pingpong, {"verb": "ask"}),
    ),
)
THREADRING = Benchmark(
    "B3",
    "threadring",
    "hop",
    "A token goes round a ring of 100 actors until it has counted down to zero: pure hand-over.",
    (Line("tell", sizes_of("threadring"), lambda a: a[1] + 1, _threadring, {"verb": "tell"}),),
)

BENCHMARKS: dict[str, Benchmark] = {each.name: each for each in (PINGPONG, THREADRING)}
