"""Property tests of two trees of this folder, in worlds where models, tools, disk and processes fail as they like.

pytest examples/test_trees.py
pytest examples/test_trees.py --sim-soak=600
"""

from hypothesis import given, settings

from examples.refund import pay, refunds
from examples.team import Ticket, desk
from understudy import Budget
from understudy.testing import World, play, worlds


@settings(deadline=None)
@given(worlds(desk, kills=3))
def test_a_team_never_overspends_and_always_answers(world: World) -> None:
    outcome = play(desk, world, Ticket("My parcel is late."))  # virtual time, no network, an ordinary `def`
    assert isinstance(desk.budget, Budget)
    assert outcome.spend.within(desk.budget)
    assert len(outcome.results) == 1


@settings(deadline=None)
@given(worlds(refunds, kills=3))
def test_no_call_pays_twice_wherever_the_process_dies(world: World) -> None:
    paid = play(refunds, world, "Order 1042 arrived broken.").seen.of(pay)
    assert len({each.key for each in paid}) == len(paid)
