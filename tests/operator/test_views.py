"""tree, log and why of a run that looped, was restarted, asked a person and finished."""

import msgspec
import pytest

from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.actors.lifecycle import Exit
from understudy.supervisors.operator import log as logs
from understudy.supervisors.operator.tree import Owner, owners_of, render, tree
from understudy.supervisors.operator.why import at_event, why
from understudy.supervisors.operator.why import render as render_why
from understudy.supervisors.operator.words import Narrator


def rows_by_name(records: list[Record], *, live: bool = True) -> dict[str, tuple[str, int, int, str]]:
    return {row.name: (row.status, row.restarts, row.steps, row.last) for row in tree(records, live=live).rows}


def test_the_tree_tells_what_each_actor_did(complete: list[Record]) -> None:
    assert rows_by_name(complete) == {
        "audit": ("complete", 1, 9, ""),
        "planner": ("handed on", 0, 2, "handed on to reviewer"),
        "inspector-2": ("complete", 1, 5, "loop at :20; loop at :25"),
        "reviewer": ("complete", 0, 2, "a1 approved by ana"),
    }


def test_the_tree_adds_up_to_the_spend_of_the_run(complete: list[Record]) -> None:
    root, *actors = tree(complete).rows
    spend = fold(complete).spend
    assert (root.steps, root.tokens) == (spend.steps, spend.tokens)
    assert sum(actor.tokens for actor in actors) == spend.tokens


def test_who_waits_for_a_person_says_so(waiting: list[Record]) -> None:
    assert rows_by_name(waiting)["reviewer"][0] == "waiting"
    assert rows_by_name(waiting)["reviewer"][3] == "for approval a1"
    assert rows_by_name(waiting, live=False)["audit"][0] == "waiting"


def test_what_no_process_drives_was_interrupted(complete: list[Record]) -> None:
    half = complete[:22]
    assert rows_by_name(half)["inspector-2"][0] == "running"
    assert rows_by_name(half, live=False)["inspector-2"][0] == "interrupted"
    assert rows_by_name(complete, live=False)["audit"][0] == "complete"


def test_an_actor_in_back_off_is_restarting(complete: list[Record]) -> None:
    down = next(r.seq for r in complete if isinstance(r.event, ev.BackedOff))
    assert rows_by_name(complete[:down])["inspector-2"][0] == "restarting"


def test_the_table_has_parents_before_children_and_known_limits(complete: list[Record]) -> None:
    found = tree(complete, owners={"audit": Owner("one_for_one", 5, 120, 200_000)}, mailboxes={"audit/reviewer": 3})
    head, titles, *lines = render(found, short="7f3a", journal="demo.db")
    assert head == "run 7f3a · complete · alive 4.5 s, waited 200 ms · demo.db"
    assert titles.split() == ["NAME", "STATUS", "RESTARTS", "STEPS", "TOKENS", "MAILBOX", "LAST"]
    assert [line.split("  ")[0].rstrip() for line in lines] == ["audit", "├ planner", "├ inspector-2", "└ reviewer"]
    assert lines[0].split() == ["audit", "complete", "1/5", "9/120", "5.8k/200k", "-", "one_for_one"]
    assert lines[3].split()[-5] == "3"


def test_limits_come_from_the_journals_meta() -> None:
    told = msgspec.json.encode({"audit": Owner("one_for_one", 5)}).decode()
    assert owners_of({"owners": told}) == {"audit": Owner("one_for_one", 5)}
    assert owners_of({"owners": "broken"}) == {}
    assert owners_of({}) == {}


def test_every_prefix_of_a_stream_has_its_views(complete: list[Record], doubtful: list[Record]) -> None:
    for records in (complete, doubtful):
        for length in range(1, len(records) + 1):
            prefix = records[:length]
            assert tree(prefix).rows
            assert render_why(why(prefix), str)
            grouped = [record.seq for row in logs.entries(prefix) for record in row.records]
            assert sorted(grouped) == [record.seq for record in prefix]


def test_a_call_its_outcome_and_its_sub_run_are_one_row(complete: list[Record]) -> None:
    rows = logs.entries(complete)
    delegate = next(row for row in rows if row.kind == "delegate")
    assert [type(r.event).__name__ for r in delegate.records] == [
        "ToolAsked", "SubStarted", "AttemptStarted", "ToolAnswered",
    ]  # fmt: skip
    model = next(row for row in rows if row.kind == "model")
    assert (model.outcome, model.took, model.tokens) == ("1 call", 0.311, 640)


def test_a_restart_is_one_row_with_what_was_altered(complete: list[Record]) -> None:
    row = next(row for row in logs.entries(complete) if row.kind == "restart")
    assert [type(r.event).__name__ for r in row.records] == [
        "ChildExited", "BackedOff", "ChildStarted", "AttemptStarted",
    ]  # fmt: skip
    assert (row.took, row.what) == (0.5, "attempt 2, after loop(loops.same(3))")
    assert row.outcome == "back to step 1 · 4 exchanges → 1 note · temperature 0.7"


def test_the_waiting_of_an_approval_is_timed(complete: list[Record]) -> None:
    row = next(row for row in logs.entries(complete) if row.kind == "approval")
    assert row.outcome == "✓ approved by ana"
    assert row.took == pytest.approx(0.2)


def test_a_doubt_stands_in_the_row_of_its_call(doubtful: list[Record]) -> None:
    row = next(row for row in logs.entries(doubtful) if row.kind == "tool")
    assert (row.outcome, row.open) == ("? in doubt, d1", True)
    settled = Record("7f3a0000", 9, 1_000_001.0, 1.0, 0, "", 0, 0, ev.DoubtSettled("7f3a0000-d1", False, "ana"))
    row = next(row for row in logs.entries([*doubtful, settled]) if row.kind == "tool")
    assert (row.outcome, row.open) == ("did not happen, says ana", False)


def test_rows_are_chosen_by_shown_name_path_or_pool(complete: list[Record]) -> None:
    rows = logs.entries(complete)
    member = logs.of_actor(rows, "inspector-2")
    assert member
    assert member == logs.of_actor(rows, "audit/inspector/2") == logs.of_actor(rows, "inspector")
    assert logs.of_actor(rows, "nobody") == []
    assert logs.actors(rows) == ["planner", "inspector-2", "reviewer"]


def test_the_log_is_a_table_that_counts_its_rows(complete: list[Record]) -> None:
    head, *lines, foot = logs.render(logs.entries(complete), events=len(complete))
    assert head.split() == ["EVENT", "TIME", "ACTOR", "KIND", "WHAT", "OUTCOME", "TOOK", "TOKENS"]
    assert len(lines) == 24
    assert foot.startswith("24 rows of 48 events")


def test_a_raw_event_is_one_line_with_everything(complete: list[Record]) -> None:
    line = logs.raw(complete[19], complete[0].at)
    assert line.startswith(":20  +1.90  /1  audit/inspector/2 #1  {")
    assert '"loops.same(3)"' in line
    assert msgspec.json.decode(logs.as_json(complete[19]), type=Record) == complete[19]


def test_why_tells_the_loop_its_proof_and_what_was_done(complete: list[Record]) -> None:
    found = why(complete)
    assert found.sentence == (
        "inspector-2 looped, was nudged, then was restarted, and ended complete. The run is complete."
        " 2 verdicts, 1 restart."
    )
    first, second, third = found.findings
    assert (first.kind, first.seq, first.who) == ("loop", 20, "inspector-2")
    details = {detail.label: detail.text for detail in second.details}
    assert details["evidence"] == ':10 :14 :18 :23  read_metadata("attrs ") → × PackageNotFoundError: attrs '
    assert details["done"] == "restart after 0.5 s, back to step 1, 4 exchanges → 1 note, temperature 0.7, ladder 2"
    assert details["cost"] == "in the loop 4 steps, 2.6k tokens"
    assert (third.kind, third.details[-1].text) == ("approval", "✓ approved by ana")
    assert found.next == ("understudy log @", "tree @", "replay @")


def test_why_names_what_to_answer(waiting: list[Record], doubtful: list[Record]) -> None:
    assert why(waiting).next[0] == "understudy approve a1"
    assert why(waiting).end == "waiting: for approval a1"
    assert why(doubtful).next[0] == "understudy doubts d1 --did | --did-not"


def test_why_of_an_interrupted_run_says_resume(complete: list[Record]) -> None:
    assert why(complete[:22], live=False).next[0] == "understudy resume @"


def test_why_of_one_event_is_about_that_event(complete: list[Record]) -> None:
    assert [finding.seq for finding in at_event(why(complete), 25).findings] == [25]


def test_crashes_budgets_and_errors_are_findings() -> None:
    def record(seq: int, event: ev.AnyEvent, path: str = "desk/a") -> Record:
        return Record("r" * 8, seq, float(seq), float(seq), 0, path, 1, 0, event)

    records = [
        record(1, ev.RunStarted("a", "Prompt", "{}"), ""),
        record(2, ev.AttemptStarted(1)),
        record(3, ev.ModelAsked(1, {}, 1, {}, (), "t1")),
        record(4, ev.ModelFailed(1, "t1", "overloaded", "503", True, {}, seconds=0.1)),
        record(5, ev.ModelAsked(1, {}, 1, {}, (), "t2", 2)),
        record(6, ev.ModelFailed(1, "t2", "overloaded", "503", True, {}, seconds=0.1)),
        record(7, ev.ChildExited("desk/a", 1, Exit("error", "KeyError: 'x'"))),
        record(8, ev.BackedOff("desk", "desk/a", 1.5, 1, 1)),
        record(9, ev.GaveUp("desk", "desk/a", 3, 5.0, Exit("error", "KeyError: 'x'"))),
        record(10, ev.BudgetDenied("desk@r", "tokens", 100, 90, 5, 20)),
        record(11, ev.BudgetBreached("desk@r", "tokens", 7)),
        record(12, ev.OutputRejected(1, "text: expected str", 1)),
        record(13, ev.StopAsked("shutdown", by="ana")),
        record(14, ev.Finished("stopped", "", "budget desk@r", decided=False)),
    ]
    found = why(records)
    assert [f.kind for f in found.findings] == ["model", "crash", "gave up", "budget", "budget", "output", "stop"]
    assert found.findings[0].details[0].text == ":4 :6, 2 times"
    assert found.findings[1].details[0].text == "restart after 1.5 s"
    assert found.findings[3].text == "denied: desk@r: tokens 90 spent + 5 reserved + 20 wanted of 100"
    assert found.end == "stopped: budget desk@r"
    root = tree(records).rows[0]
    assert (root.name, root.status) == ("desk", "stopped")


def test_a_window_that_was_made_smaller_is_told_in_the_log_and_in_words() -> None:
    told: list[ev.AnyEvent] = [
        ev.RunStarted("a", "Prompt", "{}"),
        ev.AttemptStarted(1),
        ev.SummaryDenied("desk@r", "tokens"),
        ev.Compacted("Slide", ((1, 3),), "[3 earlier exchanges were left out.]", (), 900, 410),
        ev.ModelAsked(4, {}, 1, {}, (), "t1", size=9, covers=((4, 5),)),
        ev.ModelFailed(4, "t1", "overloaded", "503", True, {}),
    ]
    records = [Record("r", n, n / 10, n / 10, 0, "desk/a", 1, 0, event) for n, event in enumerate(told, 1)]
    log = logs.Log()
    for each in records:
        log.add(each)
    assert [(entry.kind, entry.what, entry.outcome) for entry in log.entries if entry.kind == "window"] == [
        ("window", "no summary", "× desk@r: no tokens left for one"),
        ("window", "Slide: 900 → 410 tokens, about", ""),
    ]
    assert log.entries[-1].what == "summary after step 4"
    narrator = Narrator()
    facts = [(fact.verb, fact.text) for each in records for fact in narrator.facts(each)]
    assert ("Compacted", "its window by Slide: about 900 → 410 tokens") in facts


def test_a_machine_is_told_in_log_why_tree_and_in_words() -> None:
    told: list[ev.AnyEvent] = [
        ev.RunStarted("a", "Prompt", "{}"),
        ev.AttemptStarted(1),
        ev.Moved("", "check", "start", until=5.0),
        ev.Moved("check", "pay", "model", "owed", 1, 0, until=9.0),
        ev.StateTimedOut("pay", 9.0),
        ev.Moved("pay", "declined", "timeout"),
    ]
    records = [Record("r", n, n / 10, n / 10, 0, "desk/a", 1, 0, event) for n, event in enumerate(told, 1)]
    log = logs.Log()
    for each in records:
        log.add(each)
    assert [(entry.what, entry.outcome) for entry in log.entries if entry.kind == "state"] == [
        ("begins in check", ""), ("check → pay", "on owed"), ("pay timed out", ""), ("pay → declined", "on timeout"),
    ]  # fmt: skip
    found = why(records).findings[-1]
    assert (found.kind, found.text, found.details[0].text) == ("timeout", "state pay timed out", "moved to declined")
    assert rows_by_name(records)["a"][3] == "state declined"
    narrator = Narrator()
    facts = [(fact.verb, fact.text) for each in records for fact in narrator.facts(each)]
    assert facts[1:] == [("Moved", "check → pay on owed"), ("Moved", "pay → declined on timeout")]
