"""`python -m benchmarks`: choose, run, print. Exit 0: all right; 1: a check failed; 2: asked wrongly.

`python -m benchmarks gate NAME...` compares with the baseline (see `gate`), and also exits with 1 for a worse ratio.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO, cast

from benchmarks import gate
from benchmarks.case import SIZES, Size
from benchmarks.driver import DEADLINE, Driver, Plan, Row
from benchmarks.lines import Benchmark, Line
from benchmarks.plain import WITHOUT
from benchmarks.suite import BENCHMARKS
from benchmarks.table import Table
from benchmarks.workers import IMPLS

VARIANTS = ("def", "async")


class Usage(Exception):
    """Asked wrongly; the text is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Usage(message)


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = _Parser(prog="python -m benchmarks", description="Run benchmarks; each proves its result before its time.")
    made.add_argument(
        "names", nargs="*", metavar="NAME", help="a benchmark, or one line of it as NAME:LINE; `all`; after `gate`"
    )
    made.add_argument("--list", action="store_true", help="say what there is, in a sentence each")
    made.add_argument("--size", default="medium", metavar="SIZE", help=f"{', '.join(SIZES)} (default medium)")
    made.add_argument("--impl", default="ours,floor", metavar="IMPL,...", help=f"of {', '.join(IMPLS)}; or all")
    made.add_argument("--variant", default="def,async", metavar="KIND,...", help="our handlers: def, async")
    made.add_argument("--rounds", type=int, metavar="N", help="runs after the warm-up (default 5, large 3)")
    made.add_argument("--loop", default="asyncio", metavar="LOOP", help="asyncio (default) or uvloop")
    made.add_argument("--deadline", type=float, default=DEADLINE, metavar="S", help="seconds a run may take (600)")
    made.add_argument("--update", action="store_true", help="with `gate`: write the baseline")
    made.add_argument("--json", action="store_true", help="one JSON object per row")
    made.add_argument(
        "--bug", default="", metavar="BUG", help="run ours with a deliberate bug, which its check catches"
    )
    return made


def plan_of(options: argparse.Namespace) -> Plan:
    """What was asked for. Raises `Usage`."""
    if not options.names:
        raise Usage("name a benchmark, or `all`; --list says what there is")
    if options.rounds is not None and not 1 <= options.rounds <= 1000:
        raise Usage(f"--rounds {options.rounds}: from 1 to 1000")
    if not 0 < options.deadline <= 86_400:
        raise Usage(f"--deadline {options.deadline:g}: seconds, above 0 and at most a day")
    lines = tuple(pair for name in options.names for pair in _lines(name))
    _one_of("--size", options.size, SIZES)
    _one_of("--loop", options.loop, ("asyncio", "uvloop"))
    if options.loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        raise Usage("--loop uvloop: it is not installed here")
    return Plan(
        lines,
        cast("Size", options.size),
        _several("--impl", options.impl, IMPLS),
        _several("--variant", options.variant, VARIANTS),
        options.rounds,
        options.loop,
        _bug(options.bug, lines),
        options.deadline,
    )


def _lines(text: str) -> list[tuple[Benchmark, Line]]:
    if text == "all":
        return [(benchmark, line) for benchmark in BENCHMARKS.values() for line in benchmark.lines]
    name, _, wanted = text.partition(":")
    _one_of("benchmark", name, tuple(BENCHMARKS))
    benchmark = BENCHMARKS[name]
    if wanted:
        _one_of(f"line of {name}", wanted, tuple(line.name for line in benchmark.lines))
    return [(benchmark, line) for line in benchmark.lines if wanted in ("", line.name)]


def with_floor() -> list[str]:
    """The benchmarks that have a ratio to the floor."""
    return [name for name in BENCHMARKS if name not in WITHOUT]


def _bug(bug: str, lines: Sequence[tuple[Benchmark, Line]]) -> str:
    if bug:
        from benchmarks import ours

        for benchmark, _ in lines:
            _one_of(f"bug of {benchmark.name}", bug, ours.bugs(benchmark.name))
    return bug


def _one_of(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise Usage(f"{what} {value!r}: one of {', '.join(allowed)}")


def _several(what: str, text: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
    if text == "all":
        return allowed
    chosen = tuple(dict.fromkeys(text.split(",")))
    for value in chosen:
        _one_of(what, value, allowed)
    return chosen


def list_all(out: TextIO) -> None:
    """What there is."""
    for benchmark in BENCHMARKS.values():
        lines = ", ".join(line.name for line in benchmark.lines)
        print(f"{benchmark.code:<4}{benchmark.name:<14}{benchmark.sentence} [{lines}]", file=out)


def run(plan: Plan, out: TextIO, *, as_json: bool) -> int:
    """Run and print; the exit status."""
    failed = False
    table = Table(out)
    with Driver(plan) as driver:
        for row in driver.rows():
            failed = failed or row["ok"] is False
            _print_json(row, out) if as_json else table.add(row)
    return 1 if failed else 0


def _print_json(row: Row, out: TextIO) -> None:
    print(json.dumps(row), file=out, flush=True)


def run_gate(plan: Plan, out: TextIO, *, update: bool) -> int:
    """Run, and compare our ratios to the floor with the baseline; the exit status. Raises `NoBaseline`."""
    baseline = {} if update else gate.load(gate.BASELINE)
    with Driver(plan) as driver:
        rows = list(driver.rows())
    wrong = [row for row in rows if row["ok"] is False]
    for row in wrong:
        print(f"FAILED {gate.title_of(row)}: {row['error']}", file=out)
    if wrong:
        return 1
    ratios = gate.ratios_of(rows)
    if update:
        gate.save(gate.BASELINE, ratios)
    return gate.report(gate.judge(ratios, baseline), out)


def main(argv: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run the command; the exit status."""
    out = out or sys.stdout
    try:
        options = parser().parse_args(argv)
        if options.list:
            list_all(out)
            return 0
        gated = options.names[:1] == ["gate"]
        if gated:
            options.names, options.impl = options.names[1:] or with_floor(), "ours,floor"
        elif options.update:
            raise Usage("--update goes with `gate`")
        plan = plan_of(options)
        if gated:
            return run_gate(plan, out, update=options.update)
    except gate.NoBaseline as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except Usage as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    try:
        return run(plan, out, as_json=options.json)
    except KeyboardInterrupt:
        return 130
