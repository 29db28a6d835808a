"""Rounds and rows: every implementation runs once per round, one after another, and the medians become rows.

What is compared is CPU seconds per operation, within a round; a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.case import Case, Size
from benchmarks.lines import Benchmark, Line
from benchmarks.reference import floor_digest
from benchmarks.workers import ROOT, Missing, Reply, Worker, WorkerLost, start

Row = dict[str, Any]  # one JSON line of rule A5
Contender = tuple[str, str]
"""An implementation and, for ours, a kind of handlers."""

ROUNDS: dict[Size, int] = {"small": 5, "medium": 5, "large": 3}
DEADLINE = 600.0
"""Seconds one run may take."""


@dataclass(frozen=True)
class Plan:
    """What to run: lines of benchmarks, at one size, by whom, how often."""

    lines: tuple[tuple[Benchmark, Line], ...]
    size: Size
    impls: tuple[str, ...]
    variants: tuple[str, ...]
    rounds: int | None = None
    loop: str = "asyncio"
    bug: str = ""
    deadline: float = DEADLINE
    warm_up: bool = True
    """One run before those that count, checked as they are."""


@dataclass
class Runs:
    """The runs of one contender for one line; `fault` ends them."""

    contender: Contender
    replies: list[Reply] = field(default_factory=list)
    fault: Reply | None = None
    version: str = ""
    python: str = ""


def commit() -> str:
    """The commit of the checkout, "" outside of one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


class Driver:
    """Keeps one process per implementation for as long as it is entered."""

    def __init__(self, plan: Plan, tell: Callable[[Row], None] = lambda row: None) -> None:
        self._plan = plan
        self._tell = tell
        self._workers: dict[str, Worker] = {}
        self._commit = commit()

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def rows(self) -> Iterable[Row]:
        """Run everything; the rows of one line after another."""
        for benchmark, line in self._plan.lines:
            yield from self._line(benchmark, line)

    def _line(self, benchmark: Benchmark, line: Line) -> Iterable[Row]:
        runs = [Runs(contender) for contender in self._contenders(line)]
        load = os.getloadavg()[0]
        warm_up = self._plan.warm_up and not line.fresh  # a process that ends warms nothing up
        for number in range(-warm_up, self._plan.rounds or ROUNDS[self._plan.size]):
            for each in runs:
                if each.fault is None:
                    self._run(benchmark, line, each, warm_up=number < 0)
        after = os.getloadavg()[0]
        for each in runs:
            row = self._row(benchmark, line, each, runs)
            row["load_before"], row["load_after"] = round(load, 2), round(after, 2)
            yield row

    def _contenders(self, line: Line) -> list[Contender]:
        wanted = [variant for variant in self._plan.variants if variant in line.variants]
        return [(impl, variant) for impl in self._plan.impls for variant in (wanted if impl == "ours" else [""])]

    def _run(self, benchmark: Benchmark, line: Line, runs: Runs, *, warm_up: bool) -> None:
        impl, variant = runs.contender
        bug = self._plan.bug if impl == "ours" else ""
        case = Case(benchmark.name, line.name, line.args(self._plan.size), variant or "def", bug)
        try:
            worker = self._worker(impl, fresh=line.fresh)
            runs.version, runs.python = worker.version, worker.python
            reply = worker.run(case, self._plan.deadline)
        except Missing as error:
            reply = {"ok": None, "error": f"not supported: {error}"}
        except WorkerLost as error:
            reply = {"ok": False, "error": str(error)}
            self._drop(impl)
        if reply["ok"] and reply.get("ops", line.ops(case.args)) != line.ops(case.args):
            reply = {"ok": False, "error": f"ops: expected {line.ops(case.args)}, got {reply['ops']}"}
        if not reply["ok"]:
            runs.fault = reply
        elif not warm_up:
            runs.replies.append(reply)

    def _worker(self, impl: str, *, fresh: bool) -> Worker:
        if fresh:
            self._drop(impl)
        if impl not in self._workers:
            self._workers[impl] = start(impl, self._plan.loop)
        return self._workers[impl]

    def _drop(self, impl: str) -> None:
        worker = self._workers.pop(impl, None)
        if worker is not None:
            worker.close()

    def _row(self, benchmark: Benchmark, line: Line, runs: Runs, all_runs: list[Runs]) -> Row:
        impl, variant = runs.contender
        args = line.args(self._plan.size)
        row: Row = {
            "suite": "understudy",
            "name": benchmark.name,
            "size": self._plan.size,
            "params": {"line": line.name, "args": list(args), "loop": self._plan.loop, **line.settings},
            "impl": impl,
            "version": runs.version,
            "ok": True,
            "error": None,
            "wall": None,
            "cpu": None,
            "ops": line.ops(args),
            "unit": benchmark.unit,
            "ops_per_s": None,
            "floor_ratio": None,
            "extra": {"floor_digest": floor_digest()},
            "rss_peak_kb": None,
            "python": runs.python or platform.python_version(),
            "cores": os.cpu_count(),
            "load_before": None,
            "load_after": None,
            "commit": self._commit,
            "variant": variant or None,
        }
        if runs.fault is not None:
            row["ok"], row["error"] = runs.fault["ok"], runs.fault["error"]
            return row
        return row | measured(runs, line.ops(args), row["extra"], all_runs)


def measured(runs: Runs, ops: int, extra: dict[str, object], others: list[Runs]) -> Row:
    """The numbers of a contender whose runs were all right."""
    walls = [reply["wall"] for reply in runs.replies]
    cpu = statistics.median(reply["cpu"] for reply in runs.replies)
    peaks = [reply["rss_peak_kb"] for reply in runs.replies if reply["rss_peak_kb"] is not None]
    ratios = {name_of(other): ratio(runs, other) for other in others if other is not runs and other.fault is None}
    return {
        "wall": {
            "median": round(statistics.median(walls), 6),
            "min": round(min(walls), 6),
            "max": round(max(walls), 6),
        },
        "cpu": round(cpu, 6),
        "ops_per_s": round(ops / statistics.median(walls)),
        "floor_ratio": ratios.get("floor", 1.0 if runs.contender[0] == "floor" else None),
        "rss_peak_kb": max(peaks, default=None),
        "extra": {
            **extra,
            **medians([reply["extra"] for reply in runs.replies]),
            "cpu_us_per_op": round(cpu / ops * 1e6, 4),
            "ratios": ratios,
            "runs": len(runs.replies),
        },
    }


def name_of(runs: Runs) -> str:
    """`floor`, or `ours/def`."""
    impl, variant = runs.contender
    return f"{impl}/{variant}" if variant else impl


def ratio(runs: Runs, other: Runs) -> float:
    """CPU of `runs` over CPU of `other` for the same work: the median over the rounds."""
    pairs = zip(runs.replies, other.replies, strict=True)
    middle: float = statistics.median(mine["cpu"] / max(theirs["cpu"], 1e-9) for mine, theirs in pairs)
    return round(middle, 4)


def medians(extras: list[dict[str, Any]]) -> dict[str, Any]:
    """What programs told beside: the median of numbers, where one has a number; the last of anything else."""
    found: dict[str, Any] = dict(extras[-1])
    for key in found:
        values = [extra[key] for extra in extras if _is_number(extra.get(key))]
        if values:
            middle = statistics.median(values)
            found[key] = round(middle, 4) if isinstance(middle, float) else middle
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
