"""Every guard of an agent is listed: armed, fired, or off with the reason; one that cannot fire is refused at start."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest
import shown
from msgspec import Struct
from shown_cast import CASES

from understudy import (
    Agent,
    Approvals,
    Budget,
    ContextWindow,
    DropFailed,
    Slide,
    State,
    StateMachine,
    Summarise,
    Supervisor,
    System,
    Trim,
    tool,
)
from understudy.actors.agents.guards import Pool
from understudy.actors.agents.window import Pressed, Rule
from understudy.actors.errors import SpecError
from understudy.actors.testing.replays import read_history
from understudy.actors.testing.scripted_model import ScriptedModel
from understudy.supervisors import tree
from understudy.supervisors.guards.listing import Armed, armed
from understudy.supervisors.guards.tried import makes_room

pytestmark = pytest.mark.promise(250)


class S(StrEnum):
    OPEN = "open"
    DONE = "done"


class E(StrEnum):
    END = "end"


@tool(effect="read", timeout=5, concurrency=2)
async def look(what: str) -> str:
    return "nothing"


@tool(effect="irreversible", approve="finance")
async def pay(cents: int) -> str:
    return "paid"


def listed(agent: Agent[Any, Any], **options: Any) -> list[Armed]:
    return armed(tree.plan(Supervisor("desk", [agent], **options)).policies, [])


def test_every_guard_of_an_agent_is_listed_as_armed() -> None:
    clerk: Agent[Any, Any] = Agent(
        "clerk",
        model=ScriptedModel([], name="small"),
        fallback=ScriptedModel([], name="large"),
        tools=[look, pay],
        machine=StateMachine(S.OPEN, {S.OPEN: State(on={E.END: S.DONE}, timeout=(60, S.DONE)), S.DONE: State()}),
        window=ContextWindow(900),
        approvals=Approvals(by={"finance": ["ana"]}),
    )
    rows = listed(clerk, budget=Budget(steps=3, depth=1))
    assert {row.state for row in rows} == {"armed"}
    assert [(row.kind, row.guard) for row in rows if row.kind != "loops"] == [
        ("budget", "desk: steps 3, depth 1"),
        ("window", "900 tokens: DropFailed, Trim, Slide"),
        ("answers", "2 repairs, 8 a run"),
        ("tool", "look: 5 s, 2 at a time"),
        ("tool", "pay: 30 s"),
        ("approval", "pay: finance (ana)"),
        ("machine", "2 states, open 60 s"),
        ("model", "3 tries, then large"),
    ]
    assert len([row for row in rows if row.kind == "loops"]) == 9


def test_what_was_taken_away_or_has_nothing_to_go_by_is_off_and_says_why() -> None:
    clerk = Agent("clerk", model=ScriptedModel([]))
    off = {row.kind: row.off for row in listed(clerk, loops=None, budget=None) if row.state == "off"}
    assert off == {
        "loops": "loops=None",
        "budget": "budget=None",
        "window": "nobody says how much the model takes: tokens=, or its context",
    }
    (budget,) = [row for row in listed(clerk, budget=Budget()) if row.kind == "budget"]
    assert (budget.state, budget.off) == ("off", "it limits nothing")


@pytest.mark.parametrize(
    "rule",
    [DropFailed(), DropFailed(keep=50), Trim(), Trim(over=90_000), Slide(), Slide(keep=60), Summarise()],
    ids=str,
)
@pytest.mark.parametrize("limit", [400, 8_000, 32_000])
def test_each_rule_of_a_window_makes_room_in_one_that_was_made_up(rule: Rule, limit: int) -> None:
    assert makes_room(rule, limit)


def test_a_summary_of_a_window_that_costs_more_than_all_summaries_may_is_named() -> None:
    assert makes_room(Summarise(), 200_000)
    assert not makes_room(Summarise(budget=50_000), 200_000)
    assert makes_room(Summarise(budget=50_000, input=20_000), 200_000)


class Lazy(Struct, frozen=True):
    def plan(self, window: Pressed) -> None:
        return None


def test_a_rule_of_a_window_that_makes_no_room_is_named() -> None:
    clerk = Agent("clerk", model=ScriptedModel([]), window=ContextWindow(900, compact=[Slide(), Lazy()]))
    (window,) = [row for row in listed(clerk) if row.kind == "window"]
    assert (window.state, window.off) == ("off", "Lazy makes no room in a full window")


def test_a_limit_that_does_not_hold_is_refused_when_the_tree_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.supervisors.guards.accounts.Accounts.reserve", lambda self, *args, **more: None)
    with pytest.raises(SpecError, match="desk/clerk: the budget of 'desk' cannot fire: it does not hold steps to 3"):
        System(Supervisor("desk", [Agent("clerk", model=ScriptedModel([]))], budget=Budget(steps=3)))


def test_a_rule_of_your_own_that_limits_what_nobody_counts_is_refused_when_the_tree_is_made() -> None:
    class Own:
        def pool(self, owner: str, run: str) -> Pool:
            return Pool(f"{owner}@{run}", owner, {"stepz": 3})

    own: Any = Own()
    with pytest.raises(SpecError, match="the budget of 'clerk': pool 'clerk@check': unknown unit 'stepz'"):
        System(Agent("clerk", model=ScriptedModel([]), budget=own))


FIRED = {
    "steps": ("budget", "desk: steps 3"),
    "life": ("budget", "desk: steps 3 per life"),
    "window": ("budget", "desk: steps 3 per 3600 s"),
    "breached": ("budget", "desk: tokens 8000"),
    "depth": ("budget", "desk: depth 1"),
    "fan_out": ("budget", "desk: fan_out 2"),
    "same": ("loops", "Same(3)"),
    "errors_and_idle": ("loops", "Errors(4) & Idle(8)"),
    "ping_pong": ("loops", "Talk(3)"),
    "hops": ("handing on", "8 times"),
    "placeholder": ("answers", "2 repairs, 8 a run"),
    "check": ("answers", "2 repairs, 8 a run; checks cites"),
    "tool_timeout": ("tool", "slow: 5 s"),
    "tool_idle": ("tool", "halls: 600 s, idle 20 s"),
    "context": ("window", "400 tokens: DropFailed, Trim, Slide"),
    "model_tries": ("model", "3 tries"),
    "approval_expired": ("approval", "payout: finance (ana, li)"),
    "illegal_transition": ("machine", "4 states, check 20 s"),
    "state_timeout": ("machine", "4 states, check 20 s"),
}


@pytest.mark.parametrize("name", FIRED)
def test_a_guard_that_ended_or_changed_a_recorded_run_is_listed_as_fired(name: str) -> None:
    policies = tree.plan(CASES[name].tree()).policies
    *_, records = read_history(shown.kept(name)).values()
    fired = [row for row in armed(policies, records) if row.state == "fired"]
    assert FIRED[name] in [(row.kind, row.guard) for row in fired]
    assert all(row.fired >= 1 and 0 < row.last <= len(records) for row in fired)


def test_each_budget_is_tried_once_however_many_agents_are_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(tree, "check_budget", lambda where, owner, rule: tried.append(owner))
    model = ScriptedModel([])

    def team(name: str) -> Supervisor:
        agents = [Agent(f"{name}-{number}", model=model) for number in range(20)]
        return Supervisor(name, agents, budget=Budget(steps=9))

    tree.plan(Supervisor("root", [team("one"), team("two"), Agent("alone", model=model, budget=Budget(steps=1))]))
    assert sorted(tried) == ["alone", "one", "root", "two"]
