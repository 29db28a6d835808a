"""`always`, `eventually`, `sometimes` and `buggify`: nothing in production, checks and choices in a simulated run."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings

from understudy import Actor, Message, System
from understudy.actors.testing.faults import Crash
from understudy.actors.testing.properties import (
    Buggify,
    Vacuous,
    always,
    buggify,
    campaign,
    eventually,
    not_vacuous,
    sometimes,
)
from understudy.actors.testing.report import Falsified
from understudy.actors.testing.strategies import buggify_faults, crash_faults, worlds
from understudy.actors.testing.world import World


class Add(Message[int]):
    n: int


class Sum(Actor[Add]):
    total = 0

    def add(self, m: Add) -> int:
        sometimes("a big one", m.n > 5)
        self.total += 0 if buggify("lost update") else m.n
        return self.total


def must_not_be_called() -> bool:
    raise AssertionError("called in production")


@pytest.mark.promise(178)
def test_in_production_all_four_do_nothing_and_call_nothing() -> None:
    async def main() -> int:
        always("never asked", must_not_be_called)
        eventually("never asked", must_not_be_called, within=1)
        assert not buggify("anything")
        async with System() as system:
            return await system.spawn(Sum, name="sum").ask(Add(9))

    with campaign() as counts:
        assert asyncio.run(main()) == 9
    assert counts.reached == {}


def test_a_site_is_on_in_worlds_that_name_it_and_at_the_hits_they_name() -> None:
    async def main() -> list[int]:
        async with System() as system:
            ref = system.spawn(Sum, name="sum")
            return [await ref.ask(Add(1)) for _ in range(4)]

    assert World().run(main).result == [1, 2, 3, 4]
    trace = World(faults=(Buggify("lost update", 2), Buggify("elsewhere", 1))).run(main)
    assert trace.result == [1, 1, 2, 3]
    assert trace.faults == {"Buggify": 1}
    assert [(event.path, event.detail) for event in trace.of("fault")] == [
        ("sum", "Buggify(site='lost update', hit=2)")
    ]


def test_always_is_asked_after_each_event_and_breaks_the_run_that_breaks_it() -> None:
    async def main() -> None:
        async with System() as system:
            total = [0]
            always("below three", lambda: total[0] < 3)
            ref = system.spawn(Sum, name="sum")
            for _ in range(4):
                total[0] = await ref.ask(Add(1))
            total[0] = 0  # too late: it was seen

    with pytest.raises(Falsified, match="always 'below three': false at 0 s") as caught:
        World().run(main, check=())
    assert "timeline" in caught.value.page
    assert len(caught.value.violations) == 1


def test_a_question_that_raises_is_answered_no_with_what_it_raised() -> None:
    async def main() -> None:
        always("sound", lambda: 1 / 0)

    with pytest.raises(Falsified, match="always 'sound': raised ZeroDivisionError"):
        World().run(main)


def test_eventually_has_until_its_deadline_in_virtual_time() -> None:
    async def main(after: float, lives: float) -> None:
        done: list[int] = []
        eventually("done", lambda: done, within=10)
        asyncio.get_running_loop().call_later(after, done.append, 1)
        await asyncio.sleep(lives)

    World().run(lambda: main(9, 20))
    with pytest.raises(Falsified, match="eventually 'done': false at 10 s, when its time was up"):
        World().run(lambda: main(11, 20))
    with pytest.raises(Falsified, match="eventually 'done': false when the run ended at 5 s of 10"):
        World().run(lambda: main(9, 5))


async def add_two(n: int = 2) -> None:
    async with System() as system:
        await system.spawn(Sum, name="sum").ask(Add(n))


@pytest.mark.promise(179)
def test_a_campaign_in_which_a_premise_was_never_true_fails_and_says_what_was() -> None:
    with campaign() as counts:
        World().run(add_two)
    with pytest.raises(Vacuous, match="sometimes 'a big one': never in 1 worlds; came true: nothing"):
        counts.assert_reached()
    with campaign() as counts:
        World().run(lambda: add_two(6))
    counts.assert_reached()
    counts.assert_reached("a big one")
    with pytest.raises(Vacuous, match="sometimes 'another': never in 1 worlds; came true: 'a big one' 1 times"):
        counts.assert_reached("another")


def test_a_campaign_whose_faults_never_came_true_fails() -> None:
    with campaign() as counts:
        World(faults=(Crash("nobody", 1),)).run(add_two)
    assert counts.planned == {"Crash": 1}
    with pytest.raises(Vacuous, match="fault 'Crash': never in 1 worlds"):
        counts.assert_fired()
    with pytest.raises(Vacuous, match="fault 'Buggify'"):
        counts.assert_fired(Buggify)


def test_a_campaign_of_no_world_is_vacuous() -> None:
    with campaign() as counts:
        pass
    with pytest.raises(Vacuous, match="never in 0 worlds"):
        counts.assert_fired()


@not_vacuous("a big one")
@settings(max_examples=60, derandomize=True, database=None)
@given(worlds(faults=buggify_faults("lost update")))
def test_a_search_may_demand_that_it_was_not_vacuous(world: World) -> None:
    world.run(lambda: add_two(7))


def test_a_vacuous_search_fails_when_it_is_over() -> None:
    @not_vacuous()
    @settings(max_examples=60, derandomize=True, database=None)
    @given(worlds(faults=crash_faults(actors=("nobody",))))
    def search(world: World) -> None:
        world.run(lambda: add_two(7))

    with pytest.raises(Vacuous, match="fault 'Crash'"):
        search()
