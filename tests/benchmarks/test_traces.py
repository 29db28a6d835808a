"""The loop detector on recorded runs of other agents: what it finds, what it leaves alone; it needs no future."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.traces import GUARD, convert, detect, grid, leave_one_out
from understudy.supervisors.guards.loops import Loops
from understudy.supervisors.guards.rules import Same

PACKED = Path(__file__).parents[1] / "data" / "agent-traces.jsonl.gz"
MISSED = ("magentic/41",)
"""A page that each visit describes anew, of which the format keeps the first characters only."""


@pytest.fixture(scope="module")
def runs() -> list[dict[str, Any]]:
    with gzip.open(PACKED, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.promise(212)
def test_recorded_loops_are_found_and_recorded_work_is_left_alone(runs: list[dict[str, Any]]) -> None:
    for run in runs:
        found = detect(run["steps"])
        assert (found is not None) == (run["labels"]["loop"] and run["id"] not in MISSED), run["id"]


def test_an_alarm_needs_no_later_step(runs: list[dict[str, Any]]) -> None:
    for run in runs:
        found = detect(run["steps"])
        for end in range(len(run["steps"])):
            assert detect(run["steps"][: end + 1]) == (found if found is not None and found <= end else None)


def test_alarms_come_about_when_a_reader_says_that_the_loop_is_complete(runs: list[dict[str, Any]]) -> None:
    waits = sorted(
        found - run["labels"]["loop_at"]
        for run in runs
        if run["labels"]["loop"] and (found := detect(run["steps"])) is not None
    )
    assert waits[len(waits) // 2] <= 0


def test_every_alarm_says_which_rule_on_which_steps(runs: list[dict[str, Any]]) -> None:
    rules = set()
    for run in runs:
        for index, finding in GUARD.findings(convert(run["steps"])):
            assert finding.what
            assert len(finding.evidence) >= 3
            assert list(finding.evidence) == sorted(set(finding.evidence))
            assert finding.evidence[-1] <= len(run["steps"])
            assert index <= finding.evidence[-1]
            rules.add(finding.rule)
    assert {"loops.same(3)", "loops.reworded(3)", "loops.talk(3)", "loops.resent(3)"} <= rules


def test_a_source_left_out_of_tuning_is_judged_by_what_the_others_chose(runs: list[dict[str, Any]]) -> None:
    assert leave_one_out(runs, [Loops(Same(2)), Loops(), Loops(Same(100, window=100))]) == (1.0, 11 / 12)
    assert len(grid()) == 729
