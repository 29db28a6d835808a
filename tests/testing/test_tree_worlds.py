"""Trees in drawn worlds: whatever models say, fails, is killed or held back, 25 to 37 hold.

`UNDERSTUDY_WORLDS` sets how many worlds each tree is played in (default: those of the profile).
"""

from __future__ import annotations

import os

import pytest
from agent_trees import TREES, Ticket, desk, pay, refunds, till, transfer
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from understudy import Prompt, Waiting
from understudy.actors.errors import ActorStopped
from understudy.actors.testing.faults import Crash
from understudy.supervisors.testing import plays
from understudy.testing import World, play, worlds

many = settings(
    max_examples=int(os.environ.get("UNDERSTUDY_WORLDS", settings().max_examples)),
    suppress_health_check=[HealthCheck.too_slow],
)


@pytest.mark.promise(195)
@pytest.mark.parametrize("name", sorted(TREES))
@many
@given(data=st.data())
def test_whatever_happens_to_a_tree_the_invariants_of_plays_hold(name: str, data: st.DataObject) -> None:
    case = TREES[name]
    play(case.tree, data.draw(worlds(case.tree, kills=3)), case.message)


@pytest.mark.promise(195)
def test_a_doubt_outlives_its_whole_tree_and_waits_in_the_journal() -> None:
    case = TREES["porter"]
    faults = (Crash("main", at=1), Crash("main/porter", at=1, after=True))
    outcome = play(case.tree, World(faults=faults, says=(("porter", (1,)),)), case.message)
    assert isinstance(outcome.results[0], Waiting)
    assert isinstance(outcome.returned, ActorStopped)


@settings(max_examples=30)
@given(data=st.data())
def test_live_states_agree_at_every_commit_folds_at_every_cut_and_a_second_play_is_the_same(
    data: st.DataObject,
) -> None:
    case = TREES["store"]
    world = data.draw(worlds(case.tree, kills=2))
    play(case.tree, world, case.message, check=plays.thorough(), again=True)


@pytest.mark.promise(197)
@many
@given(worlds(desk, kills=3))
def test_a_team_never_overspends_and_always_answers(world: World) -> None:
    outcome = play(desk, world, Ticket("My parcel is late."))
    assert outcome.spend.within(desk.budget)  # type: ignore[arg-type]  # as printed in the documents
    assert len(outcome.results) == 1


@pytest.mark.promise(197)
def test_a_model_that_pays_twice_needs_no_fault_and_the_smallest_world_says_so() -> None:
    def paid_twice(world: World) -> bool:
        return play(refunds, world, Prompt("Order 1042 arrived broken.")).effects(pay) > 1

    quick = settings(max_examples=2_000, database=None, phases=[Phase.generate, Phase.shrink])
    world = find(worlds(refunds), paid_twice, settings=quick)
    assert (world.faults, world.schedule, world.people) == ((), (), ())
    assert len(world.says) == 1


@many
@given(worlds(till, kills=3))
def test_a_budget_of_one_call_is_kept_through_every_restart(world: World) -> None:
    assert play(till, world, Prompt("Order 1042 arrived broken.")).effects(transfer) <= 1
