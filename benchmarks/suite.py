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


def _only(name: str, *keys: str) -> Callable[[Args], Found]:
    """What the oracle says under some of its keys."""

    def expect(args: Args) -> Found:
        value = _value(name, args)
        return {key: value[key] for key in keys}

    return expect


def _fjthrput(args: Args) -> Found:
    actors, n = args
    return {"counts": [n] * actors, "sums": [n * (n - 1) // 2] * actors}


def _chameneos(args: Args) -> Found:
    creatures, meetings = args
    return {"sum_of_counts": 2 * meetings, "reports": creatures, "meetings": meetings, "strange_colours": []}


def _of_table(name: str, key: str) -> Callable[[Args], int]:
    """Operations that the oracle computes from the arguments."""
    return lambda args: int(str(_value(name, args)[key]))


def _line(benchmark: str, name: str, ops: str, expect: Callable[[Args], Found], **settings: object) -> Line:
    return Line(name, sizes_of(benchmark), _of_table(benchmark, ops), expect, settings)


BENCHMARKS: dict[str, Benchmark] = {
    each.name: each
    for each in (
        Benchmark(
            "B1",
            "pingpong",
            "message",
            "Two actors exchange N numbered messages one at a time: the latency of a wake-up, or of an idle actor's reply.",
            (
                _line("pingpong", "tell", "messages", _pingpong, verb="tell"),
                _line("pingpong", "ask", "messages", _pingpong, verb="ask"),
            ),
        ),
        Benchmark(
            "B2",
            "counting",
            "message",
            "A producer sends N increments to one counter without waiting for answers: the cost of a mailbox.",
            (
                _line(
                    "counting", "bounded-1000", "messages", _only("counting", "total"), verb="send", mailbox=MAILBOX
                ),
                _line("counting", "roomy", "messages", _only("counting", "total"), verb="tell", mailbox_limit=ROOMY),
            ),
        ),
        Benchmark(
            "B3",
            "threadring",
            "hop",
            "A token goes round a ring of 100 actors until it has counted down to zero: pure hand-over.",
            (_line("threadring", "tell", "hops", _threadring, verb="tell"),),
        ),
        Benchmark(
            "B4",
            "fjcreate",
            "actor",
            "Create N actors, give each one message, see each end: the price of a life.",
            tuple(
                _line(
                    "fjcreate",
                    name,
                    "actors",
                    lambda args: {"sum": args[0] ** 2, "terminations": args[0]},
                    spawn=spawn,
                    creator_mailbox_limit=ROOMY,
                )
                for name, spawn in (("child", "context.spawn"), ("supervised", "System.spawn"))
            ),
        ),
        Benchmark(
            "B5",
            "fjthrput",
            "message",
            "A master sends N messages to each of 60 actors, round robin: throughput over many mailboxes.",
            (_line("fjthrput", "send", "messages", _fjthrput, verb="send", mailbox=MAILBOX),),
        ),
        Benchmark(
            "B6",
            "chameneos",
            "message",
            "A hundred creatures meet in pairs at one mall: contention on one mailbox.",
            (_line("chameneos", "tell", "messages", _chameneos, verb="tell"),),
        ),
        Benchmark(
            "B7",
            "big",
            "message",
            "Each of 120 actors pings random others and answers theirs: many to many.",
            (_line("big", "tell", "messages", _only("big", "digest"), verb="tell"),),
        ),
        Benchmark(
            "B8",
            "concdict",
            "request",
            "Twenty workers ask one dictionary, one request in ten writes: a busy server.",
            (
                _line(
                    "concdict",
                    "ask",
                    "requests",
                    _only("concdict", "reads", "writes", "final_sum", "keys_written"),
                    verb="ask",
                ),
            ),
        ),
        Benchmark(
            "B14",
            "uts",
            "actor",
            "One actor per node of an unbalanced tree, made by its parent, reporting upwards.",
            (
                _line(
                    "uts",
                    "tell",
                    "nodes",
                    _only("uts", "nodes", "leaves", "depth", "hash_sum"),
                    verb="tell",
                    mailbox_limit=ROOMY,
                ),
            ),
        ),
        Benchmark(
            "C1",
            "skynet",
            "actor",
            "A tree of fan-out ten adds up its leaves' numbers: creating and ending, and sums on the way up.",
            (_line("skynet", "tell", "actors", _only("skynet", "sum"), verb="tell"),),
        ),
    )
}
