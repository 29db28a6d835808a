"""The same world does the same in every run; and the check that says so sees what does not."""

from __future__ import annotations

import asyncio
import os

import gated
import pytest

from understudy.actors.errors import UsageError
from understudy.actors.testing.determinism import NotDeterministic, litter, look
from understudy.actors.testing.world import World

RUNS = int(os.environ.get("GATE_RUNS", "1000"))


@pytest.mark.promise(191)
def test_the_same_world_does_the_same_whatever_was_allocated_in_between() -> None:
    trace = gated.WORLD.check_determinism(gated.main, times=8)
    assert trace.faults.keys() == {"Crash", "Delay", "SlowConsumer", "Duplicate"}
    assert len(trace.of("ended")) > 4
    assert len(trace) > 150


@pytest.mark.promise(191)
def test_the_same_world_does_the_same_in_processes_with_other_hash_seeds() -> None:
    gated.WORLD.check_determinism(gated.main, times=1, hash_seeds=(1, 2))


def test_the_program_of_the_gate_reaches_what_it_is_about() -> None:
    trace, seen = look(gated.WORLD, gated.main)
    assert "complete Answer" in seen.outcome
    assert "ActorStopped" in seen.outcome
    assert trace.error is None
    assert len(seen.callbacks) > 300


@pytest.mark.promise(192)
@pytest.mark.parametrize(
    ("leak", "kinds"),
    [
        (gated.order_of_addresses, ("event",)),
        (gated.alias_of_time, ("callback",)),
        (gated.chance_in_the_result, ("outcome",)),
        (gated.chance_in_a_fraction, ("outcome",)),
    ],
)
def test_a_leak_is_found_and_the_first_difference_named(leak: object, kinds: tuple[str, ...]) -> None:
    with pytest.raises(NotDeterministic) as caught:
        World().check_determinism(leak, times=20)  # type: ignore[arg-type]
    for kind in kinds:
        assert f"\n  {kind} " in str(caught.value)
    assert "differs from the first" in str(caught.value)


@pytest.mark.promise(192)
def test_the_order_of_a_set_of_strings_is_found_by_other_hash_seeds_alone() -> None:
    World().check_determinism(gated.order_of_strings, times=3)
    with pytest.raises(NotDeterministic, match="PYTHONHASHSEED=") as caught:
        World().check_determinism(gated.order_of_strings, times=1, hash_seeds=(1, 2, 3))
    assert "\n  event " in str(caught.value)


def test_what_main_raises_is_compared_and_not_raised() -> None:
    async def fails() -> None:
        raise LookupError(f"at {object()!r}")

    trace = World().check_determinism(fails)
    assert isinstance(trace.error, LookupError)


def test_a_check_takes_two_runs_and_for_processes_a_function_that_can_be_found() -> None:
    async def local() -> None:
        pass

    with pytest.raises(UsageError, match="two runs"):
        World().check_determinism(local, times=1)
    with pytest.raises(UsageError, match="a function of a module"):
        World().check_determinism(local, hash_seeds=(1,))


@pytest.mark.campaign
@pytest.mark.promise(191)
def test_a_thousand_of_a_thousand_runs_are_the_same() -> None:
    prints = set()
    for seed in range(RUNS):
        litter(seed)
        prints.add(look(gated.WORLD, gated.main)[1].fingerprint())
    print(f"{RUNS} runs, {len(prints)} fingerprint(s): {sorted(prints)[:3]}")
    assert len(prints) == 1
    gated.WORLD.check_determinism(gated.main, times=1, hash_seeds=range(1, 6))


def test_a_loop_of_the_gate_is_the_one_of_the_world() -> None:
    async def virtual() -> bool:
        return bool(getattr(asyncio.get_running_loop(), "virtual", False))

    assert World().run(virtual, check=()).result is True
