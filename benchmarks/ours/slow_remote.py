"""C10 over a link: the producers are here, the consumer and another actor are in a process of their own.

The other actor is asked, one request at a time, while the consumer has too much to do: what waits for the one may not
hold up the other. `python -m benchmarks.ours.slow_remote LOOP CASE PRODUCERS` is the other node.
"""

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import asdict
from typing import Any, Final

from benchmarks import remote
from benchmarks.case import Case
from benchmarks.memory import kept_waiting_ms, reset_rss_peak, rss_bytes, rss_peak_bytes
from benchmarks.ours import inside
from benchmarks.ours.common import LONG
from benchmarks.ours.slow import Item
from benchmarks.remote import Other
from benchmarks.slow import PAUSE, Heard, Notice, Outcome, Play, payload
from understudy import Actor, Message, Ref, System

SECRET: Final = b"a secret of at least thirty-two bytes"
EVERY: Final = 0.010
"""Seconds between two requests to the other actor."""


class Seen(Message[tuple[int, int, int, int]]):
    """How many came, how many out of order, the most that waited, the bytes that the process grew by."""


class Begin(Message[None]):
    """Memory is measured from now on."""


class Consumer(Actor[Item]):
    def __init__(self, heard: Heard) -> None:
        self.heard = heard

    async def on_start(self) -> None:
        self.me = self.context.ref

    async def item(self, m: Item) -> None:
        self.heard.depth = max(self.heard.depth, inside.waiting(self.me))
        if self.heard.hear(m.producer, m.text):
            await asyncio.sleep(PAUSE)


class Leaky(Consumer):
    mailbox_limit = 1_000_000


class Reordering(Consumer):
    async def item(self, m: Item) -> None:
        self.heard.disorder += self.heard.delivered == 100
        await super().item(m)


KINDS: Final = {"leaks": Leaky, "reorders": Reordering}


class Beside(Actor[Seen | Begin]):
    """Has nothing to do with the consumer but to know what it has seen."""

    def __init__(self, heard: Heard) -> None:
        self.heard, self.before = heard, 0

    def begin(self, m: Begin) -> None:
        self.before = rss_bytes() if reset_rss_peak() else 0

    def seen(self, m: Seen) -> tuple[int, int, int, int]:
        grown = rss_peak_bytes() - self.before if self.before else 0
        return self.heard.delivered, self.heard.disorder, self.heard.depth, grown


def player(case: Case) -> Play:
    """See `slow.Play`."""

    async def play(producers: int, count: int) -> Outcome:
        argv = (remote.loop_kind(), json.dumps(asdict(case)), producers)
        with Other("benchmarks.ours.slow_remote", *argv) as other:
            async with System(name="a", join={"b": other.where}, secret=SECRET) as system:
                await system.joined("b")
                return await _between(system, other, producers, count)

    return play


async def _between(system: System, other: Other, producers: int, count: int) -> Outcome:
    consumer, beside = system.ref("b/consumer"), system.ref("b/beside")
    await beside.send(Begin())
    notices: list[Notice] = []
    probing = asyncio.create_task(_probe(beside, notices, other.pid))
    began, blocked = time.perf_counter(), 0.0
    cpu = time.process_time() + other.cpu_seconds()

    async def produce(mine: int) -> int:
        nonlocal blocked
        refused = 0
        for number in range(count):
            item = Item(mine, payload(number))
            at = time.perf_counter()
            refused += not await consumer.send(item, timeout=LONG)
            blocked += time.perf_counter() - at
        return refused

    refused = sum(await asyncio.gather(*(produce(mine) for mine in range(producers))))
    sending = len(notices)
    while (seen := await beside.ask(Seen(), timeout=LONG))[0] + refused < producers * count:  # noqa: ASYNC110
        await asyncio.sleep(PAUSE)  # another process's
    wall = time.perf_counter() - began
    cpu = time.process_time() + other.cpu_seconds() - cpu
    probing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await probing
    delivered, disorder, depth, grown = seen
    heard = Heard(producers, delivered, disorder, depth)
    return Outcome(heard, wall, refused, refused, blocked, notices[:sending], grown, cpu)


async def _probe(beside: Ref[Any], notices: list[Notice], pid: int) -> None:
    """Ask the other actor again and again. `handled` is counted since the answer before; of the two processes the one
    that was kept waiting longer counts.
    """
    before = 0
    while True:
        kept, kept_there = kept_waiting_ms(), kept_waiting_ms(pid)
        began = time.perf_counter()
        handled = (await beside.ask(Seen(), timeout=LONG))[0]
        span = (time.perf_counter() - began) * 1e3
        kept = max(kept_waiting_ms() - kept, kept_waiting_ms(pid) - kept_there)
        notices.append(Notice(span, handled - before, kept))
        await asyncio.sleep(EVERY)
        before = (await beside.ask(Seen(), timeout=LONG))[0]


async def _serve(case: Case, producers: int) -> None:
    heard = Heard(producers)
    kind = KINDS.get(case.bug, Consumer)
    async with System(listen="tcp://127.0.0.1:0", name="b", secret=SECRET) as system:
        system.spawn(lambda: kind(heard), name="consumer")
        system.spawn(lambda: Beside(heard), name="beside")
        await remote.serve(system.listening[0])


if __name__ == "__main__":
    from benchmarks.worker import case_of, runner_of

    with runner_of(sys.argv[1])() as runner:
        runner.run(_serve(case_of(json.loads(sys.argv[2])), int(sys.argv[3])))
