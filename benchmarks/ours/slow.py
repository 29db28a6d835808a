"""C10: ten producers and a consumer that is slower, by policy: see `slow`. All are actors; notices are `Down`."""

import asyncio
import time
from functools import partial
from typing import Any, ClassVar, Final

from benchmarks import slow
from benchmarks.case import Case, CheckFailed, Found
from benchmarks.lines import ROOMY
from benchmarks.memory import kept_waiting_ms
from benchmarks.ours import inside
from benchmarks.ours.common import LONG
from benchmarks.slow import BATCH, PAUSE, Heard, Notice, Outcome, Play, payload
from understudy import Actor, Down, Message, Ref, System
from understudy.actors.mailbox import Overflow

CANARIES: Final = 20
"""Actors whose end the consumer is told of, one after another, while it has too much to do."""

BUGS: Final = ("leaks", "forgets", "reorders", "queues")
"""The mailbox has no bound; it does not count; two messages change places; notices do not overtake."""


class Item(Message[None]):
    producer: int
    text: bytes


class Produce(Message[tuple[int, float]]):
    """Answered with how many were refused, and the seconds spent in sending."""

    count: int


class Finish(Message[None]): ...


class Canary(Actor[Finish]):
    def finish(self, m: Finish) -> None:
        self.context.stop()


class Consumer(Actor[Item | Finish]):
    def __init__(self, heard: Heard, canaries: list[Ref[Finish]], told: asyncio.Event) -> None:
        self.heard, self.canaries, self.told = heard, canaries, told

    async def on_start(self) -> None:
        self.me = self.context.ref
        for canary in self.canaries:
            self.context.watch(canary)

    async def item(self, m: Item) -> None:
        self.heard.depth = max(self.heard.depth, inside.waiting(self.me))
        if self.heard.hear(m.producer, m.text):
            await asyncio.sleep(PAUSE)

    def down(self, m: Down) -> None:
        self.told.set()

    def finish(self, m: Finish) -> None:
        self.told.set()


def consumer_of(case: Case) -> type[Consumer]:
    """The consumer with the mailbox that the line asks for."""
    policy: dict[str, Overflow] = {"drop-newest": "drop_newest", "drop-oldest": "drop_oldest"}

    class Bounded(Consumer):
        overflow: ClassVar[Overflow] = policy.get(case.line, "refuse")
        mailbox_limit: ClassVar[int] = ROOMY if case.line == "roomy" or case.bug == "leaks" else case.args[2]

    return Bounded


class Producer(Actor[Produce]):
    """Waits for room, or tells and lets others have a turn."""

    def __init__(self, number: int, to: Ref[Any], case: Case) -> None:
        self.number, self.to, self.waits = number, to, case.line == "wait"
        self.late = case.bug == "reorders"

    async def produce(self, m: Produce) -> tuple[int, float]:
        to, mine, waits, clock = self.to, self.number, self.waits, time.perf_counter
        refused, blocked = 0, 0.0
        for number in range(m.count):
            item = Item(mine, payload(number ^ 1 if self.late else number))
            began = clock()
            taken = await to.send(item, timeout=LONG) if waits else to.tell(item)
            blocked += clock() - began
            refused += not taken
            if not waits and number % BATCH == 0:
                await asyncio.sleep(0)
        return refused, blocked


class Probe:
    """Ends canaries while the mailbox is half full, and notes how long the consumer takes to hear of each."""

    def __init__(self, consumer: Ref[Any], heard: Heard, told: asyncio.Event, case: Case) -> None:
        self.consumer, self.heard, self.told, self.bug = consumer, heard, told, case.bug
        self.busy = (case.args[2] or ROOMY) // 2
        self.notices: list[Notice] = []

    async def run(self, canaries: list[Ref[Finish]]) -> None:
        for canary in canaries:
            while inside.waiting(self.consumer) < self.busy:  # noqa: ASYNC110  # a mailbox has no event for it
                await asyncio.sleep(PAUSE)
            self.told.clear()
            began, handled, kept = time.perf_counter(), self.heard.delivered, kept_waiting_ms()
            if self.bug == "queues":
                await self.consumer.send(Finish(), timeout=LONG)
            else:
                canary.tell(Finish())
            await self.told.wait()
            span = (time.perf_counter() - began) * 1e3
            self.notices.append(Notice(span, self.heard.delivered - handled, kept_waiting_ms() - kept))


def player(case: Case) -> Play:
    """See `slow.Play`."""
    consumer_class = consumer_of(case)

    async def play(producers: int, count: int) -> Outcome:
        heard, told = Heard(producers), asyncio.Event()
        async with System() as system:
            canaries = [system.spawn(Canary) for _ in range(CANARIES)]
            consumer: Ref[Any] = system.spawn(lambda: consumer_class(heard, canaries, told))
            probe = Probe(consumer, heard, told, case)
            probing = asyncio.create_task(probe.run(canaries))
            senders = [system.spawn(partial(Producer, n, consumer, case)) for n in range(producers)]
            began = time.perf_counter()
            asked = await asyncio.gather(*(ref.ask(Produce(count), timeout=LONG) for ref in senders))
            counted = system.inspect(consumer).mailbox.dropped
            while heard.delivered + counted < producers * count:  # noqa: ASYNC110  # the driver ends a worker that is late
                await asyncio.sleep(PAUSE)
            wall = time.perf_counter() - began
            probing.cancel()
            counted -= case.bug == "forgets"
            if inside.dead_letters(system) != counted:
                raise CheckFailed(f"{counted} messages were lost and {inside.dead_letters(system)} are dead letters")
        return Outcome(heard, wall, sum(r for r, _ in asked), counted, sum(b for _, b in asked), probe.notices)

    return play


async def program(case: Case) -> Found:
    if case.line == "remote":
        from benchmarks.ours import slow_remote  # which has the messages from here

        return await slow.program(slow_remote.player(case), case)
    return await slow.program(player(case), case)
