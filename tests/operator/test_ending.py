"""The last lines and the exit status."""

import msgspec
import pytest

from understudy.actors.agents.results import Approval, Complete, Stopped, Waiting
from understudy.actors.journal.events import Status
from understudy.actors.journal.state import Spend
from understudy.supervisors.operator.ending import as_json, ending, exit_code, worst

SPEND = Spend(steps=61, tokens=38_000, alive=9.4)


@pytest.mark.parametrize(
    ("status", "code"),
    [("complete", 0), ("stopped", 1), ("failed", 1), ("waiting", 3), ("partial", 4), ("degraded", 4)],
)
def test_each_status_has_its_exit_code(status: Status, code: int) -> None:
    assert exit_code(status) == code


def test_several_runs_end_as_the_worst_of_them() -> None:
    assert [worst(codes) for codes in ([], [0, 0], [0, 4], [4, 3], [3, 1, 0])] == [0, 0, 4, 3, 1]


def test_a_complete_run_says_what_came_out_and_what_to_look_at() -> None:
    lines = ending(Complete("7f3a0000", {"n": 1}, spend=SPEND), summary="9 findings → audit.md", journal="demo.db")
    assert lines == [
        "    Finished  complete in 9.4 s · 9 findings → audit.md",
        "              61 steps · 38k tokens · demo.db",
        "        Next  understudy why @ · log @ · tree @ · replay @",
    ]


def test_a_stopped_run_names_the_reason() -> None:
    lines = ending(Stopped[None]("7f3a0000", reason="budget audit@7f3a: steps used up", spend=SPEND))
    assert lines[0] == "     Stopped  after 9.4 s · budget audit@7f3a: steps used up"


def test_a_waiting_run_says_how_to_answer_it_and_lists_three_at_most() -> None:
    asked = tuple(Approval(f"7f3a0000-a{n}", "7f3a0000", "write", "{}", "d", "", 0.0) for n in range(1, 6))
    lines = ending(Waiting[None]("7f3a0000", asked, spend=SPEND), handle=lambda name: name[-2:])
    assert lines[0].startswith("     Waiting  after 9.4 s")
    assert lines[-1] == (
        "        Next  understudy approve a1 · understudy approve a2 · understudy approve a3 · and 2 more"
    )
    assert ending(Waiting[None]("7f3a0000"))[-1] == "        Next  understudy doubts · understudy resume @"


def test_an_interrupted_run_is_only_to_be_resumed() -> None:
    lines = ending(Waiting[None]("7f3a0000", reason="waits for shutdown", spend=SPEND))
    assert lines[0] == "     Waiting  after 9.4 s · interrupted after a step"
    assert lines[-1] == "        Next  understudy resume @"


def test_a_journal_that_was_named_is_named_in_every_next_command() -> None:
    option = " --journal 'a b.db'"
    assert ending(Complete("7f3a0000", {}), option=option)[-1].count(option) == 4
    asked = (Approval("7f3a0000-a1", "7f3a0000", "write", "{}", "d", "", 0.0),)
    waiting = ending(Waiting[None]("7f3a0000", asked), option=option)
    assert waiting[-1] == "        Next  understudy approve 7f3a0000-a1 --journal 'a b.db'"


def test_the_result_is_one_line_of_json() -> None:
    found = msgspec.json.decode(as_json(Complete("7f3a0000", {"n": 1}, spend=SPEND)))
    assert (found["status"], found["run"], found["output"], found["spend"]["steps"]) == (
        "complete", "7f3a0000", {"n": 1}, 61,
    )  # fmt: skip
