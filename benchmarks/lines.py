"""What a benchmark is: its lines, and for each its sizes, its operations and its right result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.case import SIZES, Found, Size
from benchmarks.reference import oracle

Args = tuple[int, ...]
Settings = dict[str, object]

ROOMY = 1_000_000
"""The bound of a mailbox where a workload puts more than the default into one; printed with the row."""


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


def value_of(name: str, args: Args) -> Found:
    """What the oracle says."""
    return dict(oracle().TABLE[name][0](*args))


def of_table(name: str, key: str) -> Callable[[Args], int]:
    """Operations that the oracle computes from the arguments."""
    return lambda args: int(str(value_of(name, args)[key]))
