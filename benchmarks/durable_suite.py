"""The benchmarks of what is durable: the price of the journal, and of reading it. Agents are those of C2."""

from __future__ import annotations

from benchmarks.case import Found
from benchmarks.lines import Args, Benchmark, Line, of_table, sizes_of, value_of
from benchmarks.scripts import TEAM


def _steps(args: Args) -> Found:
    value = value_of("agents", args)
    return {name: value[name] for name in ("tool_calls", "sum", "digest")}


def _rows(args: Args) -> Found:
    return {"rows": True}


def _kept(args: Args) -> Found:
    return _steps(args) | {"read_back": args[0] * args[1]}


JOURNAL = Benchmark(
    "C7",
    "journal",
    "step",
    "The agents of C2 under each durability profile: what a step costs, and what it leaves on the disk.",
    tuple(
        Line(
            name,
            sizes_of("agents"),
            of_table("agents", "tool_calls"),
            expect,
            {"tool_ms": 0, "per_supervisor": TEAM, "durability": name},
            variants=("async",),
            fresh=True,
        )
        for name, expect in (
            ("off", _steps),
            ("memory", _steps),
            ("relaxed", _kept),
            ("normal", _kept),
            ("full", _kept),
            ("bare", _rows),
        )
    ),
)


def _replayed(args: Args) -> Found:
    runs, steps = args
    return {"tool_calls": 0, "runs": runs, "steps": runs * (steps + 1), "as_live": True, "divergence": True}


REPLAY = Benchmark(
    "C8",
    "replay",
    "step",
    "From the journal of C7, its agents are rebuilt, or decided again: without a tool, and as they were.",
    tuple(
        Line(
            name,
            sizes,
            lambda args: args[0] * args[1],
            _replayed,
            {"durability": "normal", "each": each},
            variants=("async",),
        )
        for name, each, sizes in (
            ("rebuild", "read, verified, folded", sizes_of("agents")),
            ("replay", "the same, and every command decided again and compared", sizes_of("agents")),
            ("long", "as rebuild, of one run", ((1, 1_000), (1, 5_000), (1, 20_000))),
        )
    ),
)
