"""The summary's numbers, where a whole run cannot show them."""

from __future__ import annotations

from understudy.actors.agents.guards import Step
from understudy.actors.agents.models import Price
from understudy.actors.agents.results import Complete, Waiting
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.actors.journal.state import Run
from understudy.demo.findings import Finding, Report
from understudy.demo.messages import Options
from understudy.demo.summary import bill, concluded, describe, loops_caught, opening, overspend, overspent, steps_of
from understudy.supervisors.guards.budgets import Budget
from understudy.supervisors.guards.loops import Loops
from understudy.transports.models.openai import OpenAIChat


def _run(*events: ev.AnyEvent, path: str = "audit/inspector/2") -> tuple[Run, list[Record]]:
    begun = ev.RunStarted("planner", "Audit", "{}")
    records = [Record("7f3a", n, 0.0, 0.0, 0, path, 1, 0, event) for n, event in enumerate((begun, *events), 1)]
    return fold(records), records


def test_overspend_is_what_was_billed_beyond_a_limit_by_pool_and_unit() -> None:
    run, _ = _run()
    budget = Budget(steps=5, tokens=100, usd=0.001)
    assert overspend(run, budget, {"model_calls": 9, "tokens": 100, "usd": 1_000}) == {}
    assert overspend(run, budget, {"model_calls": 9, "tokens": 130, "usd": 1_000}) == {"audit@7f3a": {"tokens": 30}}


def test_overspend_counts_what_the_ledger_booked_as_over() -> None:
    run, _ = _run(ev.BudgetBreached("audit@7f3a", "tokens", 7))
    assert overspend(run, Budget(), {}) == {"audit@7f3a": {"tokens": 7}}
    assert overspend(run, Budget(tokens=10), {"tokens": 12}) == {"audit@7f3a": {"tokens": 7}}
    assert overspent({"audit@7f3a": {"tokens": 7}}) == "audit@7f3a 7 tokens"
    assert overspent({}) == "0"


def test_a_bill_without_a_price_has_no_money() -> None:
    url = "http://127.0.0.1:9/v1"
    free = OpenAIChat("unknown", base_url=url)
    assert bill(free, 2, 30, 4) == {"model_calls": 2, "tokens": 34}
    dear = OpenAIChat("unknown", base_url=url, price=Price(1_000_000, 2_000_000))
    assert bill(dear, 2, 30, 4)["usd"] == 38


def test_two_verdicts_about_one_loop_are_one_loop() -> None:
    guard = Loops()
    steps = [Step(n, "a", "read", "{}", "x", error="no", event=n) for n in range(1, 5)]
    first = guard.judge(steps[:3], ())
    assert first is not None
    second = guard.judge(steps, (first,))
    assert second is not None
    judged = [ev.Judged(verdict, "", 0, 0) for verdict in (first, second)]
    assert loops_caught(_run(*judged)[1]) == 1


def test_steps_are_counted_for_the_actor_that_took_them_and_a_repeated_try_is_none() -> None:
    failed = ev.ModelFailed(1, "t", "rate_limited", "429", True, {"steps": 1})
    again = ev.ModelFailed(1, "t", "rate_limited", "429", True, {"steps": 0})
    _, records = _run(failed, again)
    assert steps_of(records) == {"inspector-2": 1}


def test_words_for_people() -> None:
    assert opening(Options(inspectors=1)) == "planner, inspector, reviewer · one_for_one, 5 restarts in 60 s"
    assert describe("inspector", '{"audited":[],"findings":[]}') == ("Checked", "0 distributions, 0 findings")
    assert describe("inspector", "{") is None
    assert describe("reviewer", "{}") is None


def test_the_last_line_counts_what_is_missing() -> None:
    run, _ = _run()
    report = Report(findings=(Finding("a", "unused", "info", "x"),), not_audited=("b", "c"))
    assert concluded(Complete("7f3a", report), run) == "0 distributions, 1 finding, 2 not audited"
    assert concluded(Waiting("7f3a"), run) == ""
