"""Without Hypothesis: every place that one fault can strike, one after another; and the least world that still fails.

    def test_every_message_may_crash() -> None:
        assert sweep(main, fault=lambda n: Crash("desk/worker", at=n)) > 10

The method is that of SQLite's own tests: fail the Nth operation, for N = 1, 2, 3 ..., until none is left to fail.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from understudy.actors.errors import UsageError
from understudy.actors.testing.faults import Fault
from understudy.actors.testing.schedule import Demote, Deviation, Hold
from understudy.actors.testing.trace import Trace
from understudy.actors.testing.world import Main, World

__all__ = ["seeded", "smallest", "sweep"]

SWEEP_LIMIT: Final = 10_000
"""Worlds of one sweep."""
TRIES: Final = 200
"""Worlds that `smallest` runs at most."""

Check = Iterable[Callable[[Trace], Iterable[str]]]


def sweep(
    main: Main,
    *,
    fault: Callable[[int], Fault],
    world: World | None = None,
    check: Check | None = None,
    limit: int = SWEEP_LIMIT,
) -> int:
    """Run `main` with `fault(1)`, `fault(2)` ... until one does not come true; how many did.

    Each is added to `world`, the empty one by default. `check`: see `World.run`. The first world that fails raises what
    it raises, with the page of that world. Raises `UsageError` when not even the first fault comes true, since then
    nothing was tried, when `fault` gives the same one twice, and when `limit` worlds were not enough.
    """
    base = world or World()
    oracles = None if check is None else tuple(check)
    planned: Fault | None = None
    for n in range(1, limit + 1):
        before, planned = planned, fault(n)
        if planned == before:
            raise UsageError(f"sweep: fault({n}) is {planned!r} again; it is a function that makes the nth fault")
        trace = msgspec.structs.replace(base, faults=(*base.faults, planned)).run(main, check=oracles)
        if not trace.came_true(planned):
            if n == 1:
                raise UsageError(f"sweep: {planned!r} did not come true; nothing was tried")
            return n - 1
    raise UsageError(
        f"sweep: {limit:,} worlds, and {fault(limit)!r} still comes true; raise `limit`, or let main do less"
    )


def smallest(world: World, fails: Callable[[World], bool], *, tries: int = TRIES) -> World:
    """`world` without the faults and deviations that it needs not to fail, and with small numbers where they do.

    One at a time, until nothing more can be left out or `tries` worlds were run. For worlds that Hypothesis has not
    drawn; its own are minimal already.
    """
    left = iter(range(tries))
    changed = True
    while changed:
        changed = False
        for simpler in _simpler(world):
            if next(left, None) is None:
                return world
            if fails(simpler):
                world, changed = simpler, True
                break
    return world


def _simpler(world: World) -> Iterator[World]:
    replace = msgspec.structs.replace
    if world.faults or world.schedule:
        yield replace(world, faults=(), schedule=())
    for index in range(len(world.faults)):
        yield replace(world, faults=world.faults[:index] + world.faults[index + 1 :])
    for index in range(len(world.schedule)):
        yield replace(world, schedule=world.schedule[:index] + world.schedule[index + 1 :])
    if not world.inline:
        yield replace(world, inline=True)
    if world.seed:
        yield replace(world, seed=0)
    for index, each in enumerate(world.schedule):
        if isinstance(each, Hold) and each.steps > 1:
            for steps in (1, each.steps // 2, each.steps - 1):
                hold: Deviation = replace(each, steps=steps)
                yield replace(world, schedule=(*world.schedule[:index], hold, *world.schedule[index + 1 :]))


def seeded(seed: int, *, actors: int = 8, messages: int = 8) -> World:
    """A world without faults whose schedule, jitter and way of asking come from a seed; 0 is the empty world."""
    if seed == 0:
        return World()
    dice = random.Random(seed)
    schedule: list[Deviation] = [
        Hold(dice.randrange(actors), at=dice.randint(0, messages), steps=dice.randint(1, 16))
        for _ in range(dice.choice((0, 1, 2, 8)))
    ]
    demoted = dice.sample(range(actors), min(actors, dice.choice((0, 1, 3))))
    schedule += [Demote(actor, at=dice.randint(1, messages)) for actor in demoted]
    return World(schedule=tuple(schedule), inline=dice.random() < 0.75, seed=seed)


def seeds() -> Iterator[World]:
    """`seeded` worlds of 0, 1, 2 ..."""
    return map(seeded, itertools.count())
