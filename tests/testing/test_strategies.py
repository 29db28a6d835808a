"""Worlds that Hypothesis draws: what is found, to what it shrinks, and how long that takes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import hypothesis
import planted
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from understudy import Actor, Message
from understudy.actors.errors import UsageError
from understudy.actors.kernel import Kernel
from understudy.actors.testing import options, properties, strategies
from understudy.actors.testing.faults import ClockJump, Crash, Delay, Drop, Duplicate, Fault, MailboxIsFull, ReplyLost
from understudy.actors.testing.schedule import Hold
from understudy.actors.testing.strategies import (
    actor_faults,
    answers,
    buggify_faults,
    clock_faults,
    crash_faults,
    mailbox_faults,
    network_faults,
    sayings,
    schedules,
    worlds,
)
from understudy.actors.testing.world import World

SEEDS = range(10)
ACTORS = ("client", "bank")
FEW = settings(database=None, derandomize=True, suppress_health_check=list(HealthCheck), deadline=None)


def hunt(seed: int, drawn: SearchStrategy[World], body: Callable[[World], None]) -> tuple[World | None, int, float]:
    """The least world that Hypothesis finds from a seed, the worlds that were run, and seconds of CPU time."""
    ran: list[World] = []

    @hypothesis.seed(seed)
    @settings(FEW, derandomize=False, max_examples=2_000, report_multiple_bugs=False)
    @given(drawn)
    def test(world: World) -> None:
        ran.append(world)
        body(world)

    began = time.process_time()
    found: World | None = None
    try:
        test()
    except AssertionError:
        found = ran[-1]
    return found, len(ran), time.process_time() - began


def leaves_nobody_behind(world: World, *, careful: bool = False) -> None:
    assert world.run(lambda: planted.close_a_desk(careful=careful)).result == []


def pays_once(world: World, *, careful: bool = False) -> None:
    async def main() -> int:
        return len(await planted.buy_a_lamp(careful=careful))

    assert world.run(main).result in (0, 1)


FAULTY = worlds(faults=actor_faults(actors=ACTORS), schedules=schedules(actors=ACTORS))


def table(name: str, drawn: SearchStrategy[World], body: Callable[[World], None]) -> list[tuple[World, float]]:
    rows = []
    for seed in SEEDS:
        found, runs, seconds = hunt(seed, drawn, body)
        assert found is not None, f"{name}: not found from seed {seed} in {runs} worlds"
        print(f"{name} seed {seed}: {runs} worlds, {seconds:.2f} s, {found!r}")
        rows.append((found, seconds))
    print(f"{name}: median {statistics.median(seconds for _, seconds in rows):.2f} s")
    return rows


@pytest.mark.promise(175)
def test_a_planted_race_is_found_from_every_seed_and_shrunk_to_at_most_two_deviations() -> None:
    rows = table("race", worlds(), leaves_nobody_behind)
    assert [world for world, _ in rows if not 1 <= len(world.schedule) <= 2 or world.faults or not world.inline] == []
    assert statistics.median(seconds for _, seconds in rows) < 10  # a machine that does nothing else takes below 1


@pytest.mark.promise(176)
def test_a_missing_idempotency_key_is_found_from_every_seed_and_shrunk_to_one_fault() -> None:
    rows = table("key", FAULTY, pays_once)
    assert [world for world, _ in rows if len(world.faults) != 1 or world.schedule] == []
    assert {type(world.faults[0]) for world, _ in rows} <= {Duplicate, ReplyLost, Crash, Delay}
    assert statistics.median(seconds for _, seconds in rows) < 10  # as above


@settings(FEW, max_examples=150)
@given(worlds())
def test_the_corrected_desk_has_no_race_in_any_world(world: World) -> None:
    leaves_nobody_behind(world, careful=True)


# Three of the four kinds of what may come twice are of the bank, which has the key; a `Buy` has none.
@settings(FEW, max_examples=150)
@given(worlds(faults=actor_faults(actors=("bank",)), schedules=schedules(actors=ACTORS)))
def test_the_corrected_client_pays_once_in_any_world(world: World) -> None:
    pays_once(world, careful=True)


def test_the_empty_world_shows_neither_bug() -> None:
    for inline in (True, False):
        leaves_nobody_behind(World(inline=inline))
        pays_once(World(inline=inline))


@pytest.mark.parametrize("inline", [True, False])
@pytest.mark.parametrize("fault", [Duplicate("bank", 1), ReplyLost("bank", 1), Crash("bank", 1, after=True)])
def test_a_fault_of_an_asked_actor_comes_true_however_asks_are_served(fault: Fault, inline: bool) -> None:
    trace = World(faults=(fault,), inline=inline).run(planted.buy_a_lamp)
    assert trace.came_true(fault)
    assert trace.result == {"payment 1": 4_000, "payment 2": 4_000}


# -- orders ----------------------------------------------------------------------------------------------------------


class Begin(Message[None]):
    pass


async def order_of_six() -> tuple[int, ...]:
    """Six actors that are ready at once; the order in which they begin."""
    begun: list[int] = []

    class Ready(Actor[Begin]):
        def __init__(self, number: int) -> None:
            self.number = number

        def begin(self, m: Begin) -> None:
            begun.append(self.number)

    async with Kernel() as kernel:
        cells = [kernel.spawn(partial(Ready, number), name=f"r{number}") for number in range(6)]
        for cell in cells:
            kernel.ref_of(cell).tell(Begin())
        await asyncio.sleep(0.001)
    return tuple(begun)


class Enough(Exception):
    """Ends a search."""


def orders(most: int) -> tuple[Counter[tuple[int, ...]], float]:
    seen: Counter[tuple[int, ...]] = Counter()
    names = tuple(f"r{number}" for number in range(6))

    @settings(FEW, max_examples=most, phases=[Phase.generate])
    @given(worlds(schedules=schedules(actors=names)))
    def draw(world: World) -> None:
        seen[world.run(order_of_six).result] += 1  # type: ignore[index]
        if len(seen) == 720:
            raise Enough

    began = time.process_time()
    with contextlib.suppress(Enough):
        draw()
    return seen, time.process_time() - began


def test_six_ready_actors_begin_in_many_orders() -> None:
    seen, _ = orders(400)
    assert len(seen) > 60
    assert seen.most_common(1)[0][0] == (0, 1, 2, 3, 4, 5)


@pytest.mark.promise(177)
def test_every_one_of_the_720_orders_of_six_actors_is_a_world_of_the_strategy() -> None:
    """Each is what the strategy draws for one permutation; the campaign reaches them by chance."""
    names = tuple(f"r{number}" for number in range(6))
    reached = {
        World(schedule=tuple(strategies.ordered(names, order))).run(order_of_six).result
        for order in itertools.permutations(range(6))
    }
    assert len(reached) == 720


@pytest.mark.campaign
def test_all_720_orders_of_six_actors_are_drawn() -> None:
    """`pytest -m campaign -n 0 -s tests/testing/test_strategies.py` prints how many worlds that took."""
    seen, seconds = orders(40_000)
    print(f"{len(seen)} orders in {seen.total():,} worlds, {seconds:.1f} s of CPU time")
    assert len(seen) == 720


# -- what is drawn ---------------------------------------------------------------------------------------------------


def least(drawn: SearchStrategy[Any], wanted: Callable[[Any], bool] = lambda _: True) -> Any:
    return find(drawn, wanted, settings=FEW)


def test_the_simplest_world_is_the_empty_one() -> None:
    assert least(worlds(faults=actor_faults())) == World()
    assert least(schedules()) == ()


def test_a_world_shrinks_to_what_is_needed_with_the_smallest_numbers() -> None:
    drawn = worlds(faults=actor_faults())
    assert least(drawn, lambda world: any(isinstance(each, Crash) for each in world.faults)).faults == (Crash(0, 1),)
    assert least(drawn, lambda world: len(world.schedule) >= 1).schedule == (Hold(0, 1, 1),)
    many = least(drawn, lambda world: len(world.faults) >= 4)
    assert len(many.faults) == 4
    assert many.schedule == ()


def is_a(kind: type[Fault], fault: object) -> bool:
    return isinstance(fault, kind)


@pytest.mark.parametrize(
    ("drawn", "kinds"),
    [
        (crash_faults(), {Crash}),
        (mailbox_faults(), {MailboxIsFull}),
        (network_faults(), {Delay, Duplicate, Drop, ReplyLost}),
        (clock_faults(), {ClockJump}),
        (buggify_faults("short read"), {properties.Buggify}),
    ],
)
def test_each_strategy_of_faults_draws_its_kinds(drawn: SearchStrategy[Fault], kinds: set[type[Fault]]) -> None:
    for kind in kinds:
        assert type(least(drawn, partial(is_a, kind))) is kind


@settings(FEW, max_examples=300)
@given(worlds(faults=actor_faults(actors=("a", "b/1")), schedules=schedules(actors=("a", "b/1"))))
def test_worlds_are_bounded_name_the_actors_they_were_given_and_survive_a_token(world: World) -> None:
    assert len(world.faults) <= 10
    assert len(world.schedule) <= 8 + 3
    assert {getattr(each, "actor", None) for each in (*world.faults, *world.schedule)} <= {"a", "b/1"}
    assert World.from_token(world.token) == world


def test_most_worlds_are_sparse_some_dense_and_some_of_few_kinds() -> None:
    sizes: list[int] = []
    kinds: list[int] = []

    @settings(FEW, max_examples=1_000, phases=[Phase.generate])
    @given(worlds(faults=actor_faults()))
    def draw(world: World) -> None:
        sizes.append(len(world.faults))
        if len(world.faults) >= 4:
            kinds.append(len({type(each) for each in world.faults}))

    draw()
    assert statistics.median(sizes) <= 2
    assert max(sizes) >= 6
    assert sum(count <= 2 for count in kinds) >= len(kinds) / 10  # by chance alone, of eight kinds, one in a hundred


def test_what_others_make_is_drawn_too() -> None:
    own = st.builds(properties.Buggify, st.just("site"), st.integers(1, 3))
    for faults in (own | crash_faults(), [crash_faults(), own]):
        found = least(worlds(faults=faults), lambda world: any(isinstance(f, properties.Buggify) for f in world.faults))
        assert found == World(faults=(properties.Buggify("site", 1),))
    world = least(
        worlds(says=sayings(("writer", "reviewer")), people=answers()), lambda w: len(w.says) > 1 and any(w.people)
    )
    assert world == World(says=(("writer", (1,)), ("reviewer", (1,))), people=(1,))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: schedules(actors=0),
        lambda: schedules(max_holds=-1),
        lambda: crash_faults(actors=()),
        lambda: crash_faults(actors=("",)),
        lambda: crash_faults(messages=0),
        lambda: buggify_faults(),
        lambda: worlds(seeds=0),
    ],
)
def test_bounds_that_allow_nothing_are_refused_by_name(wrong: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match=r"actors|max_holds|messages|sites|seeds"):
        wrong()


def test_a_token_takes_the_place_of_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    told = World(faults=(Crash("bank", 2),), seed=3)
    monkeypatch.setattr(options, "replay", told.token)
    ran: list[World] = []

    @settings(FEW)
    @given(worlds(faults=actor_faults()))
    def test(world: World) -> None:
        ran.append(world)

    test()
    assert ran == [told]
