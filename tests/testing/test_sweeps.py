"""Sweeps strike every place once; `smallest` leaves out what a failure does not need."""

from __future__ import annotations

import planted
import pytest

from understudy.actors.errors import UsageError
from understudy.actors.testing.faults import Crash, Delay, Duplicate, SlowConsumer
from understudy.actors.testing.report import Falsified
from understudy.actors.testing.schedule import Demote, Hold
from understudy.actors.testing.sweeps import seeded, smallest, sweep
from understudy.actors.testing.trace import Trace
from understudy.actors.testing.world import World


async def careful() -> dict[str, int]:
    return await planted.buy_a_lamp(careful=True)


async def careless() -> dict[str, int]:
    return await planted.buy_a_lamp()


def paid_once(trace: Trace) -> list[str]:
    assert isinstance(trace.result, dict)
    return [f"paid {len(trace.result)} times"] if len(trace.result) > 1 else []


@pytest.mark.promise(180)
def test_a_sweep_strikes_every_message_once_and_returns_how_many_there_were() -> None:
    assert sweep(careful, fault=lambda n: Crash("bank", at=n), check=[paid_once]) == 1
    assert sweep(planted.close_a_desk, fault=lambda n: Delay("closer", at=n, seconds=0.1), check=()) == 21


def test_the_first_place_that_fails_raises_with_its_page() -> None:
    with pytest.raises(Falsified, match="paid 2 times") as caught:
        sweep(careless, fault=lambda n: Crash("bank", at=n, after=True), check=[paid_once])
    assert "Crash(actor='bank', at=1, after=True)" in caught.value.page
    assert "--sim-replay=w1:" in caught.value.page


def test_a_sweep_is_added_to_a_world() -> None:
    base = World(faults=(SlowConsumer("bank", 1, 3.0),))
    with pytest.raises(Falsified, match="paid 2 times") as caught:
        sweep(careless, fault=lambda n: Duplicate("bank", at=n), world=base, check=[paid_once])
    assert "0 of 0 deviations and 2 of 2 faults drawn came true" in caught.value.page
    assert "!! fault SlowConsumer 3 s" in caught.value.page


def test_a_sweep_that_tries_nothing_or_never_ends_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Crash\(actor='nobody', at=1\) did not come true"):
        sweep(careful, fault=lambda n: Crash("nobody", at=n))
    with pytest.raises(UsageError, match="5 worlds"):
        sweep(careful, fault=lambda n: SlowConsumer("bank", at=1, seconds=n), limit=5)


def test_the_smallest_world_has_only_what_the_failure_needs() -> None:
    def fails(world: World) -> bool:
        return any(isinstance(each, Hold) and each.actor == 2 and each.steps >= 5 for each in world.schedule)

    large = World(
        faults=(Crash("bank", 1), Crash("bank", 2)),
        schedule=(Hold(1, 1, 4), Hold(2, 3, 40), Demote(3, 1)),
        inline=False,
        seed=9,
    )
    assert smallest(large, fails) == World(schedule=(Hold(2, 3, 5),))
    assert smallest(large, fails, tries=0) == large


def test_seeds_give_worlds_the_same_ones_each_time_and_the_empty_one_first() -> None:
    assert seeded(0) == World()
    assert seeded(7) == seeded(7)
    assert len({seeded(seed) for seed in range(50)}) == 50
    assert any(seeded(seed).schedule for seed in range(10))
