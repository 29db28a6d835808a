"""A child whose failure is for the supervisor above its own to decide: that one ends, as if it had given up."""

from __future__ import annotations

import asyncio

import pytest
from supervised import Desk, End, alone

from understudy import Agent, Escalate, Loops, Nudge, Supervisor
from understudy.actors.journal.events import BackedOff, Escalated, GaveUp
from understudy.actors.lifecycle import Exit
from understudy.actors.testing.scripted_model import ScriptedModel
from understudy.supervisors.lint import check
from understudy.supervisors.strategies import RESTART_TYPES, RestartType
from understudy.supervisors.supervisor import ChildPlan

pytestmark = pytest.mark.promise(248)


@pytest.mark.parametrize("restart", RESTART_TYPES)
def test_the_supervisor_of_who_escalates_ends_and_its_own_supervisor_restarts_it(restart: RestartType) -> None:
    async def main(desk: Desk) -> None:
        inner = desk.plan(desk.child("x", restart), desk.child("y"))
        await desk.start(desk.plan(ChildPlan("inner", inner), desk.child("b")))
        desk.log.clear()
        desk.tell("desk/inner/x", End("escalate", "a loop"))
        await asyncio.sleep(0.5)
        assert desk.log == ["desk/inner/x escalate", "desk/inner/y shutdown"]
        assert desk.states() == {"inner": "restarting", "b": "running"}
        (escalated,) = [event for event in desk.events if isinstance(event, Escalated)]
        assert escalated == Escalated("desk/inner", "desk/inner/x", Exit("escalate", "a loop"))
        (backed_off,) = [event for event in desk.events if isinstance(event, BackedOff)]
        assert (backed_off.supervisor, backed_off.child, backed_off.in_window) == ("desk", "desk/inner", 1)
        assert backed_off.exit == Exit("shutdown", "escalated desk/inner/x: a loop")
        await asyncio.sleep(1)
        assert desk.log[-2:] == ["desk/inner/x up #1", "desk/inner/y up #1"]
        assert desk.states("desk/inner") == {"x": "running", "y": "running"}

    alone(main)


def test_right_below_the_root_the_tree_ends() -> None:
    async def main(desk: Desk) -> None:
        cell = await desk.start(desk.plan(desk.child("a"), desk.child("b")))
        desk.tell("desk/a", End("escalate", "a loop"))
        await asyncio.sleep(0.1)
        assert (cell.state, cell.exit) == ("stopped", Exit("shutdown", "escalated desk/a: a loop"))
        assert desk.log[-2:] == ["desk/a escalate", "desk/b shutdown"]

    alone(main)


def test_a_child_that_escalates_while_its_group_is_stopped_escalates_all_the_same() -> None:
    async def main(desk: Desk) -> None:
        inner = desk.plan(desk.child("x"), desk.child("y"), strategy="one_for_all")
        await desk.start(desk.plan(ChildPlan("inner", inner)))
        desk.tell("desk/inner/x", End("escalate", "a loop"))
        desk.tell("desk/inner/y", End("error", "no more"))
        await asyncio.sleep(0.5)
        assert [event.child for event in desk.events if isinstance(event, Escalated)] == ["desk/inner/x"]
        assert not [event for event in desk.events if isinstance(event, GaveUp)]
        await asyncio.sleep(2)
        assert desk.states("desk/inner") == {"x": "running", "y": "running"}

    alone(main)


def test_a_ladder_that_escalates_to_nobody_is_named_when_the_tree_is_made() -> None:
    loops = Loops(ladder=[Nudge(), Escalate()])
    clerk = Agent("clerk", model=ScriptedModel([]), loops=loops)
    (finding,) = check(Supervisor("desk", [clerk]))
    assert (finding.code, finding.place) == ("escalates-to-nobody", "desk/clerk")
    (finding,) = check(Supervisor("desk", [Agent("clerk", model=ScriptedModel([]))], loops=loops))
    assert finding.code == "escalates-to-nobody"
    assert not check(Supervisor("desk", [Supervisor("team", [clerk])]))
