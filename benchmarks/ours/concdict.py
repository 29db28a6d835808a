"""B8: workers ask one dictionary, one request in ten writes."""

import asyncio
from functools import partial

from benchmarks.case import Case, CheckFailed, Found
from benchmarks.ours.common import LONG, Bugs, all_ended, pick
from benchmarks.reference import oracle
from understudy import Actor, Message, Ref, System

KEYS = 4096
WRITES = 10  # of a hundred


class Read(Message[int]):
    key: int


class Write(Message[int]):
    key: int
    value: int


class Sums(Message[tuple[int, int]]): ...


class Run(Message[tuple[int, int]]):
    m: int


class Store(Actor[Read | Write | Sums]):
    def __init__(self) -> None:
        self.data = dict.fromkeys(range(KEYS), -1)

    def read(self, m: Read) -> int:
        return self.data[m.key]

    def write(self, m: Write) -> int:
        self.data[m.key] = m.value
        return m.value

    def sums(self, m: Sums) -> tuple[int, int]:
        self.context.stop()
        return sum(self.data.values()), sum(value != -1 for value in self.data.values())


class Worker(Actor[Run]):
    def __init__(self, e: int, store: Ref[Read | Write | Sums]) -> None:
        self.store, self.random = store, oracle().Lehmer(1000 + e)

    async def run(self, m: Run) -> tuple[int, int]:
        ask, below, mine, reads, writes = self.store.ask, self.random.below, set[int](), 0, 0
        for _ in range(m.m):
            if below(100) < WRITES:
                writes += 1
                key = below(KEYS)
                mine.add(key)
                if await ask(Write(key, key)) != key:
                    raise CheckFailed(f"write of {key}: another reply")
            else:
                reads += 1
                key = below(KEYS)
                value = await ask(Read(key))
                if value != key and (value != -1 or key in mine):
                    raise CheckFailed(f"read of {key}: {value}")
        self.context.stop()
        return reads, writes


class Forgets(Store):
    """One write is answered and not made."""

    def write(self, m: Write) -> int:
        return m.value if m.key % 97 == 5 else super().write(m)


class Mixes(Store):
    """One key reads as another."""

    def read(self, m: Read) -> int:
        return self.data[m.key ^ (m.key % 97 == 5)]


BUGS: Bugs = {"forgets": {Store: Forgets}, "mixes": {Store: Mixes}}


async def program(case: Case) -> Found:
    workers, requests = case.args
    store_class, worker = pick(case, Store, BUGS), pick(case, Worker, BUGS)
    async with System() as system:
        case.start()
        store = system.spawn(store_class)
        refs = [system.spawn(partial(worker, e, store)) for e in range(workers)]
        done = await asyncio.gather(*(ref.ask(Run(requests), timeout=LONG) for ref in refs))
        total, written = await store.ask(Sums())
        await all_ended(case, system, [store, *refs])
        case.stop()
    return {
        "reads": sum(reads for reads, _ in done),
        "writes": sum(writes for _, writes in done),
        "final_sum": total,
        "keys_written": written,
    }
