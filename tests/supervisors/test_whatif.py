"""What other guards would have made of recorded runs: where they would have stopped them, and what that saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import shown
from shown_cast import CASES

from understudy import (
    Agent,
    Approvals,
    Budget,
    Errors,
    Loops,
    Nudge,
    Prompt,
    Same,
    Stop,
    Supervisor,
    System,
    Window,
    tool,
)
from understudy.actors.agents.policy import Policy
from understudy.actors.errors import UnknownRun, UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.actors.testing.replays import read_history
from understudy.actors.testing.scripted_model import ScriptedModel
from understudy.supervisors import tree
from understudy.supervisors.guards.whatif import WhatIf, what_if

pytestmark = pytest.mark.promise(283)


def recorded(name: str) -> list[Record]:
    return list(read_history(shown.kept(name)).values())[-1]


def policies(name: str) -> dict[str, Policy]:
    return dict(tree.plan(CASES[name].tree()).policies)


def under(name: str, guards: object) -> WhatIf:
    return what_if(recorded(name), tree.with_guards(policies(name), guards))


# What is asked here is asked of one run alone; these were stopped by what others had spent before.
OF_OTHERS = {"life", "window"}


@pytest.mark.parametrize("name", [name for name in CASES if name not in OF_OTHERS])
def test_the_guards_that_a_run_was_under_would_decide_the_same_again(name: str) -> None:
    found = what_if(recorded(name), policies(name))
    assert (found.same, found.now, found.saved.steps) == (True, "", 0)


def test_a_stricter_loop_guard_stops_a_run_earlier_and_what_came_after_is_saved() -> None:
    records = recorded("same")
    found = under("same", Loops(Same(2), ladder=[Stop()]))
    assert found.at is not None
    before, whole = fold(records[: found.at - 1]), fold(records)
    assert isinstance(records[found.at - 1].event, ev.ModelAsked)
    assert found.ends
    assert found.now.startswith("verdict loops.same(2)")
    assert found.now.endswith(": stop")
    assert found.recorded == f"call model, step {found.step}"
    for unit in ("steps", "tokens", "usd", "model_calls", "tool_calls"):
        assert found.saved.amount(unit) == whole.spend.amount(unit) - before.spend.amount(unit) > 0
    assert found.saved.alive == pytest.approx(whole.spend.alive - before.spend.alive)


def test_a_milder_loop_guard_lets_go_on_where_the_recorded_one_stopped_and_saves_nothing() -> None:
    found = under("same", Loops(Same(9)))
    assert found.at is not None
    assert isinstance(recorded("same")[found.at - 1].event, ev.Judged)
    assert (found.now, found.ends, found.saved.steps) == ("no verdict: it goes on", False, 0)


def test_equal_verdicts_are_counted_up_to_the_first_that_differs() -> None:
    found = under("same", Loops(ladder=[Nudge(), Stop()]))
    judged = [record for record in recorded("same") if isinstance(record.event, ev.Judged)]
    assert (found.equal, found.at) == (1, judged[1].seq)


def test_a_nudge_saves_at_most_what_came_after_for_nobody_knows_how_it_would_have_gone_on() -> None:
    found = under("errors", Loops(Errors(2), ladder=[Nudge()]))
    assert found.at is not None
    assert (found.ends, found.saved.steps > 0) == (False, True)


@pytest.mark.parametrize(
    ("budget", "unit"),
    [
        (Budget(steps=2), "steps"),
        (Budget(tokens=1_700), "tokens"),
        (Budget(tool_calls=1), "tool calls"),
        (Budget(tools={"order": 1}), "calls of order"),
        (Budget(usd=0.002), "usd"),
    ],
)
def test_a_smaller_budget_names_the_pool_and_the_first_call_that_it_refuses(budget: Budget, unit: str) -> None:
    records = recorded("same")
    found = under("same", budget)
    assert found.at is not None
    assert found.ends
    assert f"budget guards@{records[0].run}: {unit} used up" in found.now
    assert isinstance(records[found.at - 1].event, ev.ModelAsked | ev.ToolAsked)
    assert found.saved.steps == fold(records).spend.steps - fold(records[: found.at - 1]).spend.steps


def test_a_deadline_in_seconds_is_held_against_the_time_that_the_run_was_alive() -> None:
    records = recorded("seconds")
    whole = under("seconds", Budget(seconds=3_600))
    assert whole.at is not None
    assert "goes on" in whole.now
    half = under("seconds", Budget(seconds=fold(records).spend.alive / 2))
    assert half.at is not None
    assert half.at < whole.at
    assert "seconds used up" in half.now


def test_a_delegation_that_a_budget_forbids_is_where_it_differs() -> None:
    found = under("of_a_delegate", Budget(depth=0))
    assert found.at is not None
    assert isinstance(recorded("of_a_delegate")[found.at - 1].event, ev.SubStarted)
    assert "nested 0 deep at most" in found.now


def test_a_budget_with_a_last_answer_would_have_ended_partial() -> None:
    found = under("same", Budget(steps=3, last_answer=2_000))
    assert found.now.startswith("one last answer, then finish partial (budget guards@")
    assert not found.ends


def test_of_a_pool_that_counts_other_runs_too_it_says_that_only_this_one_is_known() -> None:
    found = under("same", Budget(steps=100, per=Window(60)))
    assert (found.equal > 0, found.shared) == (True, ("guards",))


@tool(effect="irreversible", approve="finance")
async def pay(order: str, cents: int) -> str:
    """Pay a customer back."""
    return "sent"


def clerk(**options: Any) -> Agent[Any, Any]:
    return Agent("clerk", model=ScriptedModel([]), **options)


def paid(approval: str = "") -> list[Record]:
    """A run that pays, without a yes or with ana's."""
    events: list[ev.AnyEvent] = [ev.RunStarted("clerk", "Prompt", '{"text": "pay"}'), ev.AttemptStarted(1)]
    arguments = '{"order": "1", "cents": 5}'
    if approval:
        events += [
            ev.ApprovalAsked(approval, 1, 0, "pay", arguments, "d", "finance", 9e9),
            ev.ApprovalGiven(approval, "ana", "d", "finance"),
        ]
    events.append(ev.ToolAsked(1, 0, "pay", arguments, "irreversible", "", approval=approval))
    return [Record("7f3a", n, 1e9 + n, float(n), 0, "clerk", 1, 0, event) for n, event in enumerate(events, 1)]


def test_a_call_that_was_made_without_a_yes_is_where_a_rule_that_asks_for_one_differs() -> None:
    other = tree.plan(Supervisor("desk", [clerk(tools=[pay], approvals=Approvals(by={"finance": ["ana"]}))])).policies
    found = what_if(paid(), other)
    assert (found.at, found.ends) == (3, False)
    assert found.now.startswith("ask ana for a yes to pay(")
    assert what_if(paid("7f3a-a1"), other).same


def test_a_yes_of_somebody_who_may_not_give_it_under_the_other_policy_is_not_taken() -> None:
    other = tree.plan(Supervisor("desk", [clerk(tools=[pay], approvals=Approvals(by={"finance": ["li"]}))])).policies
    found = what_if(paid("7f3a-a1"), other)
    assert (found.at, found.now) == (4, "not taken: 'ana' may not answer under 'finance', li may")


def test_an_agent_that_the_other_guards_do_not_know_is_named_and_passed_over() -> None:
    stranger = Agent("stranger", model=ScriptedModel([]), budget=Budget(steps=1))
    found = under("same", Supervisor("desk", [stranger]))
    assert (found.same, found.unknown) == (True, ("clerk",))


def test_one_guard_without_agents_is_refused() -> None:
    with pytest.raises(UsageError, match="Loops alone needs the agents it is asked for: name the app, too"):
        tree.with_guards({}, Loops())


def test_guards_that_are_none_are_refused_by_their_kind() -> None:
    with pytest.raises(UsageError, match="not a str"):
        tree.with_guards({}, "Loops()")


def strict() -> Loops:
    return Loops(Same(2), ladder=[Stop()])


def test_the_command_says_where_other_guards_differ_and_what_that_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "desk.db"
    source = "from understudy import Loops, Same, Stop\nstrict = Loops(Same(2), ladder=[Stop()])\n"
    (tmp_path / "other_guards.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    shown.restored(shown.kept("same"), path)
    told = ("replay", "--journal", str(path), "--app", "shown_loops:same", "--guards")
    code, out, err = shown.command(*told, "shown_loops:same")
    assert (code, out) == (0, "identical\n")
    assert "3 verdicts" in err
    code, out, err = shown.command(*told, "other_guards:strict")
    run = recorded("same")[0].run
    assert (code, out) == (5, f"diverged {run[:4]}:{under('same', strict()).at}\n")
    now, saved = err.splitlines()[2:]
    assert now.strip().startswith("now  verdict loops.same(2)")
    assert saved.strip().startswith("saved  3 steps, ")


@pytest.mark.parametrize(
    ("guards", "said"),
    [
        ("shown", "--guards is 'shown': it must be module:attribute"),
        ("shown:nothing", "guards 'shown:nothing': module 'shown' has no 'nothing'"),
        ("shown:PAGE", "guards are a tree, an agent, a Loops, a Budget or an Approvals, not a "),
    ],
)
def test_guards_that_cannot_be_had_are_one_line(guards: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "desk.db"
    shown.restored(shown.kept("same"), path)
    found = shown.command("replay", "--journal", str(path), "--app", "shown_loops:same", "--guards", guards)
    assert found[:2] == (2, "")
    assert found[2].startswith(f"understudy: {said}")
    assert len(found[2].splitlines()) == 1


@pytest.mark.anyio
async def test_a_system_answers_for_a_run_of_its_journal() -> None:
    async with System(CASES["same"].tree()) as system:
        result = await system.ref("clerk").ask(Prompt("Order 1042 arrived broken."))
        assert (await system.replay(result.run)).identical
        assert (await system.what_if(result.run, CASES["same"].tree())).same
        assert (await system.what_if(result.run, strict())).ends
        with pytest.raises(UnknownRun, match="no run 'nobody'"):
            await system.what_if("nobody", strict())
