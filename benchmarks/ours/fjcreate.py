"""B4: create N actors, tell each its number, get each answer, and see each end.

Line `child`: the creator's own children. Line `supervised`: under the system's supervisor, each with a place in its
books, as `System.spawn` makes them. The creator makes all of them before the first answers: 2 N messages and notices
wait for it, so its mailbox is roomier than the default.
"""

import asyncio

from benchmarks.case import Case, Found
from benchmarks.lines import ROOMY
from benchmarks.memory import heap_bytes
from benchmarks.ours.common import Bugs, all_ended, arrived, pick
from understudy import Actor, Down, Message, Ref, System

MEASURED = 10_000
"""Actors whose memory is measured at most."""


class Job(Message[None]):
    i: int


class Answer(Message[None]):
    value: int


class Go(Message[None]): ...


class Finish(Message[None]): ...


class Worker(Actor[Job]):
    def __init__(self, boss: Ref[Answer]) -> None:
        self.boss = boss

    def job(self, m: Job) -> None:
        self.boss.tell(Answer(2 * m.i + 1))
        self.context.stop()


Sums = tuple[int, int]


class Creator(Actor[Go | Answer | Finish]):
    mailbox_limit = ROOMY

    def __init__(self, worker: type[Worker], n: int, system: System | None, done: asyncio.Future[Sums]) -> None:
        self.worker, self.n, self.system, self.done = worker, n, system, done
        self.answers = self.sum = self.downs = 0

    def go(self, m: Go) -> None:
        me, worker, watch = self.context.ref, self.worker, self.context.watch
        spawn = self.context.spawn if self.system is None else self.system.spawn

        def factory() -> Worker:
            return worker(me)

        for i in range(self.n):
            ref = spawn(factory)
            watch(ref)
            ref.tell(Job(i))

    def answer(self, m: Answer) -> None:
        self.answers += 1
        self.sum += m.value
        if self.answers == self.n == self.downs:
            self._end()

    def down(self, m: Down) -> None:
        self.downs += m.kind == "normal"
        if self.downs == self.n == self.answers:
            self._end()

    def _end(self) -> None:
        self.done.set_result((self.sum, self.downs))

    def finish(self, m: Finish) -> None:
        self.context.stop()


class Wrong(Worker):
    """One answer is off by one."""

    def job(self, m: Job) -> None:
        super().job(Job(m.i + 1) if m.i == 321 else m)


class Stays(Worker):
    """One actor does not stop."""

    def job(self, m: Job) -> None:
        if m.i == 321:
            self.boss.tell(Answer(2 * m.i + 1))
        else:
            super().job(m)


BUGS: Bugs = {"wrong": {Worker: Wrong}, "stays": {Worker: Stays}}


async def program(case: Case) -> Found:
    (n,) = case.args
    worker = pick(case, Worker, BUGS)
    creator_class = pick(case, Creator, BUGS)
    done: asyncio.Future[Sums] = asyncio.get_running_loop().create_future()
    async with System() as system:
        case.start()
        creator = system.spawn(lambda: creator_class(worker, n, system if case.line == "supervised" else None, done))
        creator.tell(Go())
        total, downs = await arrived(case, done, f"{n} answers and {n} ends")
        case.stop()
        creator.tell(Finish())
        await all_ended(case, system, [creator])
    case.extra["us_per_actor"] = case.cpu / n * 1e6
    if case.line == "child" and not case.bug:
        case.extra["bytes_per_live_actor"] = await live_bytes(case, min(n, MEASURED))
    return {"sum": total, "terminations": downs}


class Holder(Actor[Go | Finish]):
    """Makes actors that have nothing to do yet."""

    def __init__(self, worker: type[Worker], n: int) -> None:
        self.worker, self.n = worker, n

    def go(self, m: Go) -> None:
        me = self.context.ref
        self.refs = [self.context.spawn(lambda: self.worker(me)) for _ in range(self.n)]

    def finish(self, m: Finish) -> None:
        self.context.stop()


async def live_bytes(case: Case, n: int) -> float | None:
    """Heap bytes of each of `n` children that were made, have started and wait for a first message."""
    async with System() as system:
        holder = system.spawn(lambda: Holder(pick(case, Worker, BUGS), n))
        await asyncio.sleep(0)
        before = heap_bytes()
        await holder.ask(Go())
        for _ in range(n // 8):  # until every child has started
            await asyncio.sleep(0)
        after = heap_bytes()
        holder.tell(Finish())
        await all_ended(case, system, [holder])
    return None if before is None or after is None else round((after - before) / n, 1)
