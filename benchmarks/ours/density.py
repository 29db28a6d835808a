"""C13: N parked actors that each answered one ask: what they hold, and what the others notice of them.

Line `anonymous`: one factory for all, no name chosen. Line `named`: a name and a factory of its own for each, both by
`System.spawn`. Line `specs`: children of supervisors of 100, each with its own name and child spec.
"""

import functools
import gc
import itertools
import time

from benchmarks.case import Case, CheckFailed, Found, cpu_seconds
from benchmarks.memory import full_collection_ms, heap_bytes, rss_bytes, tracked_objects
from benchmarks.ours.common import Bugs, pick
from benchmarks.reference import oracle
from understudy import Actor, ChildSpec, Message, Ref, Supervisor, System

GROUP = 100
PROBES = 100
"""Seeded asks whose latency is noted."""
ASKS = 2_000
"""Asks whose CPU is measured, with few and with all alive; fewer at size small."""
STEEP = 3.0
"""Creating or stopping ten times as many may not cost this many times as much each."""
JUDGED = 10_000
"""Below this many actors, growth is reported and not judged: it is too quick to be measured."""


class Who(Message[int]): ...


class Parked(Actor[Who]):
    def __init__(self, i: int) -> None:
        self.i = i

    def who(self, m: Who) -> int:
        return self.i


class Swapped(Parked):
    """One actor gives another's number."""

    def who(self, m: Who) -> int:
        return self.i + (self.i == 123)


BUGS: Bugs = {"swapped": {Parked: Swapped}}


class Crowd:
    """A system with `n` actors; `make` starts them, as the line says, and asks each once."""

    def __init__(self, case: Case, n: int) -> None:
        self.line, self.n = case.line, n
        self.parked = pick(case, Parked, BUGS)
        self.system = System(self._tree() if case.line == "specs" else None)
        self.refs: list[Ref[Who]] = []

    def _tree(self) -> Supervisor:
        self.specs = [ChildSpec(functools.partial(self.parked, i), name=f"agent-{i}") for i in range(self.n)]
        return Supervisor("root", [Supervisor(f"g{at}", self.specs[at : at + GROUP]) for at in range(0, self.n, GROUP)])

    async def make(self) -> None:
        spawn, parked = self.system.spawn, self.parked
        if self.line == "specs":
            self.refs = [self.system.ref(spec) for spec in self.specs]
        elif self.line == "named":
            self.refs = [spawn(functools.partial(parked, i), name=f"agent-{i}") for i in range(self.n)]
        else:
            numbers = itertools.count()
            factory = functools.partial(_next_of, parked, numbers)
            self.refs = [spawn(factory) for _ in range(self.n)]
        for i, ref in enumerate(self.refs):
            if (answer := await ref.ask(Who(), timeout=60.0)) != i:
                raise CheckFailed(f"actor {i} says it is {answer}")


def _next_of(parked: type[Parked], numbers: "itertools.count[int]") -> Parked:
    return parked(next(numbers))


async def program(case: Case) -> Found:
    (n,) = case.args
    asks = min(ASKS, n // 5)
    few = await _small(case, asks)
    gc.collect()
    rss, heap, tracked = rss_bytes(), heap_bytes(), tracked_objects()
    crowd = Crowd(case, n)
    if case.line == "specs":
        case.start()
    async with crowd.system:
        if case.line != "specs":
            case.start()
        await crowd.make()
        case.stop()
        gc.collect()
        case.extra["rss_bytes_per_actor"] = round((rss_bytes() - rss) / n, 1)
        case.extra["bytes_per_actor_with_ref"] = _per(heap_bytes(), heap, n)
        case.extra["gc_full_ms"] = full_collection_ms()
        case.extra["ask_us_p99"] = await _latency(crowd)
        case.extra["ask_cpu_us"] = await _asks(crowd, asks)
        case.extra["ask_growth"] = float(str(case.extra["ask_cpu_us"])) / few
        alive = await _answers(crowd)
        crowd.refs.clear()
        case.extra["bytes_per_actor"] = _per(heap_bytes(), heap, n)
        case.extra["tracked_per_actor"] = round((tracked_objects() - tracked) / n, 2)
        began = cpu_seconds()
    stop = cpu_seconds() - began
    await _growth(case, n, stop)
    return {"alive": alive}


async def _small(case: Case, asks: int) -> float:
    """CPU microseconds of an ask where ten actors live."""
    crowd = Crowd(Case(case.name, case.line, (10,), case.variant), 10)
    async with crowd.system:
        await crowd.make()
        await _asks(crowd, asks)
        return await _asks(crowd, asks)


def _per(after: int | None, before: int | None, n: int) -> float | None:
    return None if after is None or before is None else round((after - before) / n, 1)


async def _latency(crowd: Crowd) -> float:
    random, spans = oracle().Lehmer(1), []
    for _ in range(PROBES):
        ref = crowd.refs[random.below(crowd.n)]
        began = time.perf_counter()
        await ref.ask(Who())
        spans.append(time.perf_counter() - began)
    return sorted(spans)[PROBES * 99 // 100 - 1] * 1e6


async def _asks(crowd: Crowd, asks: int) -> float:
    random = oracle().Lehmer(2)
    refs = [crowd.refs[random.below(crowd.n)] for _ in range(asks)]
    began = cpu_seconds()
    for ref in refs:
        await ref.ask(Who())
    return (cpu_seconds() - began) / asks * 1e6


async def _answers(crowd: Crowd) -> int:
    return sum([await ref.ask(Who()) == i for i, ref in enumerate(crowd.refs)])


async def _growth(case: Case, n: int, stop: float) -> None:
    """Compare creating and stopping with a tenth as many. Raises `CheckFailed` where it is steeper than linear."""
    few = n // 10
    crowd = Crowd(case, few)
    began = cpu_seconds()
    async with crowd.system:
        await crowd.make()
        crowd.refs.clear()
        made = cpu_seconds()
    stopped = cpu_seconds()
    pairs = {"create": (case.cpu / n, (made - began) / few), "stop": (stop / n, (stopped - made) / few)}
    for what, (many_each, few_each) in pairs.items():
        case.extra[f"{what}_us"] = many_each * 1e6
        case.extra[f"{what}_growth"] = round(many_each / few_each, 3)
        if n >= JUDGED and many_each > STEEP * few_each:
            raise CheckFailed(f"{what}: {many_each / few_each:.1f} times as much each with {n} as with {few}")
