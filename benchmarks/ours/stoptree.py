"""C14: stop a tree of N actors on three levels while half its leaves wait in a sleep of 10 s and some are stubborn.

The stubborn, one in a hundred of all actors, go on for 200 ms after they were cancelled. Leaves say `cancel_on_stop`:
they are not waited for. Line `spawned`: actors all the way, whose root stops itself. Line `supervised`: supervisors
above the leaves; the system is left. The clock begins when the tree is up, and runs until the last actor has ended.
"""

import asyncio
import itertools
import math
import time
from dataclasses import dataclass, field
from functools import partial

from benchmarks.case import Case, CheckFailed, Found
from benchmarks.ours.common import Bugs, all_ended, arrived, pick
from understudy import Actor, ChildSpec, Message, Supervisor, System
from understudy.actors.lifecycle import Exit

SLEEP = 10.0
STUBBORN_SECONDS = 0.2
DEADLINE = 1.0


class Sleep(Message[None]): ...


class Halt(Message[None]): ...


@dataclass
class Log:
    """Who is up, who sleeps, who cleaned up when, who was stubborn."""

    leaves: int
    stubborn: frozenset[int]
    ready: asyncio.Future[None]
    up: int = 0
    asleep: int = 0
    slept: int = 0
    stops: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    resisted: list[int] = field(default_factory=list)

    def arrive(self) -> None:
        if self.up == self.leaves and self.asleep == self.leaves // 2 and not self.ready.done():
            self.ready.set_result(None)

    def stop(self, name: str) -> None:
        self.stops.append(name)
        self.times.append(time.perf_counter())


class Leaf(Actor[Sleep]):
    cancel_on_stop = True

    def __init__(self, i: int, name: str, log: Log) -> None:
        self.i, self.name, self.log = i, name, log

    async def on_start(self) -> None:
        self.log.up += 1
        self.log.arrive()
        if self.i % 2:
            self.context.ref.tell(Sleep())

    async def sleep(self, m: Sleep) -> None:
        self.log.asleep += 1
        self.log.arrive()
        try:
            await asyncio.sleep(SLEEP)
        except asyncio.CancelledError:
            if self.i not in self.log.stubborn:
                raise
            self.log.resisted.append(self.i)
            await asyncio.sleep(STUBBORN_SECONDS)
        else:
            self.log.slept += 1

    async def on_stop(self, exit: Exit) -> None:
        self.log.stop(self.name)


class Middle(Actor[Halt]):
    def __init__(self, name: str, leaf: type[Leaf], numbers: range, log: Log) -> None:
        self.name, self.leaf, self.numbers, self.log = name, leaf, numbers, log

    async def on_start(self) -> None:
        for i in self.numbers:
            self.context.spawn(partial(self.leaf, i, f"{self.name}/{i}", self.log))

    def halt(self, m: Halt) -> None:
        self.context.stop()

    async def on_stop(self, exit: Exit) -> None:
        self.log.stop(self.name)


class Top(Actor[Halt]):
    def __init__(self, leaf: type[Leaf], groups: list[range], log: Log) -> None:
        self.leaf, self.groups, self.log = leaf, groups, log

    async def on_start(self) -> None:
        for g, numbers in enumerate(self.groups):
            self.context.spawn(partial(Middle, f"top/{g}", self.leaf, numbers, self.log))

    def halt(self, m: Halt) -> None:
        self.context.stop()

    async def on_stop(self, exit: Exit) -> None:
        self.log.stop("top")


class Silent(Leaf):
    """One leaf does not clean up."""

    async def on_stop(self, exit: Exit) -> None:
        if self.i != 5:
            await super().on_stop(exit)


class Twice(Leaf):
    """One leaf cleans up twice."""

    async def on_stop(self, exit: Exit) -> None:
        await super().on_stop(exit)
        if self.i == 5:
            await super().on_stop(exit)


class Leaks(Leaf):
    """One leaf leaves a task behind."""

    async def on_stop(self, exit: Exit) -> None:
        await super().on_stop(exit)
        if self.i == 5:
            self.task = asyncio.get_running_loop().create_task(asyncio.sleep(SLEEP))


class Unawaited(Leaf):
    """One leaf makes a coroutine that nobody awaits."""

    async def on_stop(self, exit: Exit) -> None:
        await super().on_stop(exit)
        if self.i == 5:
            asyncio.sleep(0)  # type: ignore[unused-coroutine]  # that is the bug


BUGS: Bugs = {
    "silent": {Leaf: Silent},
    "twice": {Leaf: Twice},
    "leaks": {Leaf: Leaks},
    "unawaited": {Leaf: Unawaited},
}


def groups_of(n: int) -> list[range]:
    """The numbers of the leaves below each of the middle actors: with these and the top there are `n` actors."""
    middles = math.isqrt(n)
    leaves = n - 1 - middles
    bounds = [leaves * g // middles for g in range(middles + 1)]
    return [range(a, b) for a, b in itertools.pairwise(bounds)]


def stubborn_of(n: int) -> frozenset[int]:
    """Who ignores its cancellation: one in a hundred, among those that sleep."""
    return frozenset(100 * k + 1 for k in range(n // 100) if 100 * k + 1 < groups_of(n)[-1].stop)


async def program(case: Case) -> Found:
    (n,) = case.args
    groups = groups_of(n)
    log = Log(groups[-1].stop, stubborn_of(n), asyncio.get_running_loop().create_future())
    began = await (_spawned if case.line == "spawned" else _supervised)(case, groups, log)
    if log.slept:
        raise CheckFailed(f"{log.slept} leaves slept their {SLEEP:g} s out: stopping took {case.wall:.1f} s")
    spans = sorted(at - began for at in log.times)
    case.extra["stop_s"] = case.wall
    case.extra["cleanup_s_p99"] = spans[len(spans) * 99 // 100 - 1]
    case.extra["within_deadline"] = case.wall <= DEADLINE
    case.extra["stubborn"] = len(log.resisted)
    return {
        "stops": len(log.stops),
        "distinct": len(set(log.stops)),
        "children_first": children_first(log.stops),
        "stubborn": sorted(log.resisted),
    }


def children_first(stops: list[str]) -> bool:
    """Whether nobody cleaned up before somebody below."""
    gone: set[str] = set()
    for name in stops:
        if name.rpartition("/")[0] in gone:
            return False
        gone.add(name)
    return True


async def _spawned(case: Case, groups: list[range], log: Log) -> float:
    leaf = pick(case, Leaf, BUGS)
    async with System() as system:
        top = system.spawn(partial(Top, leaf, groups, log))
        await arrived(case, log.ready, "the tree to be up")
        case.start()
        began = time.perf_counter()
        top.tell(Halt())
        await all_ended(case, system, [top])
        case.stop()
    return began


async def _supervised(case: Case, groups: list[range], log: Log) -> float:
    leaf = pick(case, Leaf, BUGS)
    middles = [
        Supervisor(
            str(g),
            [ChildSpec(partial(leaf, i, f"top/{g}/{i}", log), name=f"leaf-{i}", shutdown=DEADLINE) for i in each],
        )
        for g, each in enumerate(groups)
    ]
    async with System(Supervisor("top", middles)):
        await arrived(case, log.ready, "the tree to be up")
        case.start()
        began = time.perf_counter()
    case.stop()
    return began
