"""C4: agents that crash under supervisors. See `LINES` for what each line is.

State is kept by the actors' own means, a book that their factories share: plain actors have no state of the
framework's to be restored. The tree is started before the clock and stopped after it.
"""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.case import Case, Found, cpu_seconds
from benchmarks.ours.common import LONG, Bugs, arrived, pick
from benchmarks.ours.inside import dead_letters
from benchmarks.suite import GROUP
from understudy import Actor, Backoff, ChildSpec, Intensity, Message, Ref, Supervisor, System

ALL = Intensity(10**6, within=60.0)
"""More restarts than there are."""
AT_ONCE = Backoff(first=0.0)
LIMIT = Intensity(5, within=10.0)
SOON = Backoff(first=0.01, jitter=0.0)


class Job(Message[None]):
    j: int


class Report(Message[tuple[int, int]]): ...


class Crash(Message[None]): ...


class Up(Message[None]):
    i: int


class Begin(Message[None]): ...


@dataclass
class Book:
    """What outlives a crash: sums, attempts, and the moments of raising and of going on."""

    crashes: Callable[[int, int], bool]
    sums: dict[int, int] = field(default_factory=dict)
    completed: dict[tuple[int, int], int] = field(default_factory=dict)
    raised: dict[tuple[int, int], int] = field(default_factory=dict)
    since: dict[int, float] = field(default_factory=dict)
    recoveries: list[float] = field(default_factory=list)


class Worker(Actor[Job | Report]):
    """Crashes at the start of some jobs, and else adds up."""

    def __init__(self, i: int, m: int, book: Book) -> None:
        self.i, self.m, self.book = i, m, book
        self.sum = book.sums.get(i, 0)

    def job(self, m: Job) -> None:
        book, i = self.book, self.i
        if i in book.since:
            book.recoveries.append(time.perf_counter() - book.since.pop(i))
        if book.crashes(i, m.j):
            book.raised[i, m.j] = book.raised.get((i, m.j), 0) + 1
            book.since[i] = time.perf_counter()
            raise RuntimeError("as told")
        self.sum += i * self.m + m.j
        book.sums[i] = self.sum
        book.completed[i, m.j] = book.completed.get((i, m.j), 0) + 1

    def report(self, m: Report) -> tuple[int, int]:
        return self.sum, self.context.incarnation - 1


class Stubborn(Worker):
    """Is given the job it crashed at once more."""

    redeliver = 1


class GivesUp(Stubborn):
    """Is not."""

    redeliver = 0


class Forgets(Worker):
    """Begins each life with nothing."""

    def __init__(self, i: int, m: int, book: Book) -> None:
        super().__init__(i, m, book)
        self.sum = 0


class Skips(Worker):
    """Does not do the job after a crash."""

    def job(self, m: Job) -> None:
        if self.i in self.book.since and self.i == 3:
            del self.book.since[self.i]
        else:
            super().job(m)


class Recovers(Worker):
    """Agent 0 crashes three times and then no more."""

    def job(self, m: Job) -> None:
        if self.context.incarnation <= 3:
            super().job(m)


Child = ChildSpec[Any]


def tree(children: list[Child], group: int, intensity: Intensity, backoff: Backoff) -> Supervisor:
    """Supervisors of `group` children each under one root; one supervisor if they are all."""
    if group >= len(children):
        return Supervisor("root", children, intensity=intensity, backoff=backoff)
    groups = [
        Supervisor(f"g{at // group}", children[at : at + group], intensity=intensity, backoff=backoff)
        for at in range(0, len(children), group)
    ]
    return Supervisor("root", groups)


async def dead_letter(case: Case) -> Found:
    agents, jobs = case.args
    quiet: Case = Case(case.name, case.line, case.args, case.variant)
    await _dead_letter(quiet, agents, jobs, lambda i, j: False)
    found = await _dead_letter(case, agents, jobs, lambda i, j: (i + j) % 7 == 0)
    crashes = sum((i + j) % 7 == 0 for i in range(agents) for j in range(jobs))
    case.extra["added_cpu_us_per_crash"] = (case.cpu - quiet.cpu) / crashes * 1e6
    case.extra["restarts_per_cpu_s"] = crashes / case.cpu
    return found


async def _dead_letter(
    case: Case, agents: int, jobs: int, crashes: Callable[[int, int], bool], kind: type[Worker] = Worker
) -> Found:
    worker, book = pick(case, kind, BUGS), Book(crashes)
    children = [ChildSpec(partial(worker, i, jobs, book), name=f"w{i}") for i in range(agents)]
    async with System(tree(children, GROUP, ALL, AT_ONCE)) as system:
        refs = [system.ref(child) for child in children]
        case.start()
        for ref in refs:
            for j in range(jobs):
                ref.tell(Job(j))
        reports = await asyncio.gather(*(ref.ask(Report(), timeout=LONG) for ref in refs))
        case.stop()
        letters = dead_letters(system)
    _recoveries(case, book)
    return {
        "completed": len(book.completed),
        "once": set(book.completed.values()) == {1},
        "dead": len(book.raised),
        "disjoint": not book.completed.keys() & book.raised.keys(),
        "dead_letters": letters,
        "restarts": sum(restarts for _, restarts in reports),
        "alive": len(reports),
        "sum": sum(total for total, _ in reports),
    }


def _recoveries(case: Case, book: Book) -> None:
    if book.recoveries:
        spans = sorted(book.recoveries)
        case.extra["recovery_us_p50"] = spans[len(spans) // 2] * 1e6
        case.extra["recovery_us_p99"] = spans[int(len(spans) * 0.99)] * 1e6


async def escalate(case: Case) -> Found:
    """Agent 0 crashes at every job: its supervisor gives up once and is started again by the root."""
    agents, jobs = case.args
    worker, book = pick(case, Worker, BUGS), Book(lambda i, j: i == 0)
    children = [ChildSpec(partial(worker, i, jobs, book), name=f"w{i}") for i in range(agents)]
    gave_up: list[str] = []
    escalated: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hear(record: Any) -> None:  # any journalled event
        if type(record.event).__name__ == "GaveUp":
            gave_up.append(record.event.child)
            if not escalated.done():
                escalated.set_result(None)

    async with System(tree(children, GROUP, LIMIT, SOON)) as system:
        system.listen(hear)
        case.start()
        for child in children:
            for j in range(jobs):
                system.ref(child).tell(Job(j))
        await arrived(case, escalated, "the supervisor to give up")
        alive = [await _again(system, child) for child in children]
        case.stop()
    return {
        "escalations": len(gave_up),
        "siblings": sum((i, j) in book.completed for i in range(1, GROUP) for j in range(jobs)),
        "others": sum((i, j) in book.completed for i in range(GROUP, agents) for j in range(jobs)),
        "crashes": sum(book.raised.values()),
        "alive": sum(alive),
    }


async def _again(system: System, child: Child) -> bool:
    """Whether a child answers, perhaps only when its supervisor was started again: within 2 s."""
    for _ in range(200):
        try:
            await system.ref(child).ask(Report(), timeout=1.0)
            return True
        except Exception:
            await asyncio.sleep(0.01)
    return False


class Crasher(Actor[Crash | Report]):
    """Crashes whenever told; each life but the first reports that it is up."""

    def __init__(self, i: int, hub: "Hub") -> None:
        self.i, self.hub = i, hub

    async def on_start(self) -> None:
        if self.hub.boss is not None:
            self.hub.boss.tell(Up(self.i))

    def crash(self, m: Crash) -> None:
        raise RuntimeError("as told")

    def report(self, m: Report) -> tuple[int, int]:
        return self.i, self.context.incarnation - 1


class Pretends(Crasher):
    """Says once that it was restarted, and was not."""

    def crash(self, m: Crash) -> None:
        if self.i == 3 and self.context.incarnation == 2 and self.hub.boss is not None and not self.hub.pretended:
            self.hub.pretended = True
            self.hub.boss.tell(Up(self.i))
        else:
            super().crash(m)


@dataclass
class Hub:
    """Where crashers find who counts them."""

    boss: Ref[Up | Begin] | None = None
    pretended: bool = False


class Boss(Actor[Up | Begin]):
    """Tells everybody to crash, `times` times each, and notes the CPU clock ten times on the way."""

    def __init__(self, refs: list[Ref[Crash | Report]], times: int, done: asyncio.Future[list[float]]) -> None:
        self.refs, self.done = refs, done
        self.left = [times] * len(refs)
        self.total, self.seen = times * len(refs), 0
        self.clock: list[float] = []

    def begin(self, m: Begin) -> None:
        self.clock.append(cpu_seconds())
        for ref in self.refs:
            ref.tell(Crash())

    def up(self, m: Up) -> None:
        self.seen += 1
        if self.seen % (self.total // 10) == 0:
            self.clock.append(cpu_seconds())
        self.left[m.i] -= 1
        if self.left[m.i]:
            self.refs[m.i].tell(Crash())
        elif self.seen == self.total:
            self.done.set_result(self.clock)


async def storm(case: Case) -> Found:
    """The storm of Erlang's `b_supstorm`: each of W actors is crashed K times, G under each supervisor."""
    actors, times, group = case.args
    crasher, boss, hub = pick(case, Crasher, BUGS), pick(case, Boss, BUGS), Hub()
    done: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
    children = [ChildSpec(partial(crasher, i, hub), name=f"w{i}") for i in range(actors)]
    async with System(tree(children, group, ALL, AT_ONCE)) as system:
        refs = [system.ref(child) for child in children]
        case.start()
        hub.boss = system.spawn(lambda: boss(refs, times, done))
        hub.boss.tell(Begin())
        clock = await arrived(case, done, f"{actors * times} restarts")
        reports = [await ref.ask(Report(), timeout=LONG) for ref in refs]
        case.stop()
    parts = [after - before for before, after in itertools.pairwise(clock)]
    case.extra["cpu_us_per_restart_first"] = parts[0] / (actors * times) * 10 * 1e6
    case.extra["growth"] = (parts[-1] + parts[-2]) / (parts[0] + parts[1])
    case.extra["restarts_per_cpu_s"] = actors * times / case.cpu
    return {"restarts": sum(restarts for _, restarts in reports), "alive": [i for i, _ in reports]}


async def redeliver(case: Case) -> Found:
    """The failed job is given to the replacement, which does it: each job is completed once, and none is lost."""
    agents, jobs = case.args
    tried: set[tuple[int, int]] = set()

    def first(i: int, j: int) -> bool:
        crashes = (i + j) % 7 == 0 and (i, j) not in tried
        tried.add((i, j))
        return crashes

    return await _dead_letter(case, agents, jobs, first, Stubborn)


LINES: dict[str, Callable[[Case], Awaitable[Found]]] = {
    "dead-letter": dead_letter,
    "redeliver": redeliver,
    "escalate": escalate,
    "storm": storm,
    "flat": storm,
}
BUGS: Bugs = {
    "forgets": {Worker: Forgets},
    "skips": {Worker: Skips},
    "gives-up": {Stubborn: GivesUp},
    "recovers": {Worker: Recovers},
    "pretends": {Crasher: Pretends},
}


async def program(case: Case) -> Found:
    return await LINES[case.line](case)
