"""C10: ten producers and one consumer that awaits 1 ms after every 10 messages. What is measured, the same for all.

An implementation brings `Play`: it lets so many producers give so many messages each, as fast as its way to send
allows, and says what came of it. It is played three times: in small, uncounted; with n messages each, timed; and with
4n: what the process grows by may not depend on n, unless the mailbox has no bound.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from benchmarks.case import Case, CheckFailed, Found
from benchmarks.memory import reset_rss_peak, rss_bytes, rss_peak_bytes

BATCH: Final = 10
"""Messages after which the consumer awaits, and after which a producer that need not wait lets others have a turn."""
PAUSE: Final = 0.001
IDEAL: Final = BATCH / PAUSE
"""Messages a second that the consumer would take if they, and waking it, took no time."""
TEXT: Final = b"x" * 1_016
"""A payload is 1 KiB: the number, and this."""
GROWTH: Final = 4 << 20
"""Bytes that 4n messages may take more than n do."""
LIMIT_MS: Final = 20.0
"""Milliseconds that any notice may take, without what the machine kept its process waiting."""


def payload(number: int) -> bytes:
    """A new one each time: what waits takes memory."""
    return number.to_bytes(8) + TEXT


@dataclass
class Heard:
    """What the consumer has seen."""

    producers: int
    delivered: int = 0
    disorder: int = 0
    depth: int = 0
    """The most that waited in the mailbox."""
    last: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.last = [-1] * self.producers

    def hear(self, producer: int, text: bytes) -> bool:
        """A message has come. Whether it is time to pause."""
        number = int.from_bytes(text[:8])
        self.disorder += number <= self.last[producer]
        self.last[producer] = number
        self.delivered += 1
        return self.delivered % BATCH == 0


class Notice(NamedTuple):
    """One that was sent in the overload."""

    ms: float
    """Until it was handled."""
    handled: int
    """Messages that the consumer handled meanwhile."""
    kept_ms: float = 0.0
    """So long the machine did something else of that time, while the process that hears of it was ready to run."""


@dataclass
class Outcome:
    """One play."""

    heard: Heard
    wall: float
    """Seconds from the first message to the last that was handled."""
    refused: int = 0
    """Messages whose sender was told that they were not taken."""
    counted: int = 0
    """Messages that the mailbox says were lost or refused."""
    blocked: float = 0.0
    """Seconds all producers together spent in sending."""
    notices: list[Notice] = field(default_factory=list)
    grown: int = 0
    """Bytes that another process grew by."""
    cpu: float | None = None
    """CPU seconds of all processes, where there are several: without their start."""


Play = Callable[[int, int], Awaitable[Outcome]]
"""Takes the number of producers, and of messages each."""


async def program(play: Play, case: Case) -> Found:
    """C10 on an implementation."""
    producers, count, bound = case.args
    await play(producers, max(2 * bound // producers, 20))  # code, allocators, a full mailbox
    case.start()
    once, grown = await _grown(play, producers, count)
    case.stop()
    if once.cpu is not None:
        case.wall, case.cpu = once.wall, once.cpu
    more, grown_more = await _grown(play, producers, 4 * count)
    case.extra |= _told(once, producers)
    case.extra["rss_grew_kb"], case.extra["rss_grew_kb_4n"] = _kb(grown), _kb(grown_more)
    notices = once.notices + more.notices
    if notices:
        _check_notices(notices, case)
    return {
        "delivered": once.heard.delivered + more.heard.delivered,
        "disorder": once.heard.disorder + more.heard.disorder,
        "gap_is_counted": all(
            offered - each.heard.delivered == each.counted
            for each, offered in ((once, producers * count), (more, 4 * producers * count))
        ),
        "told_is_counted": all(each.refused in (0, each.counted) for each in (once, more)),
        "within_bound": max(once.heard.depth, more.heard.depth) <= bound,
        "bounded_memory": grown is None or grown_more is None or grown_more - grown <= GROWTH,
    }


async def _grown(play: Play, producers: int, count: int) -> tuple[Outcome, int | None]:
    """Play, and the most bytes that the process grew by meanwhile."""
    gc.collect()
    before, can_tell = rss_bytes(), reset_rss_peak()
    outcome = await play(producers, count)
    return outcome, rss_peak_bytes() - before + outcome.grown if can_tell else None


def _kb(size: int | None) -> int | None:
    return None if size is None else size // 1024


def _told(outcome: Outcome, producers: int) -> dict[str, object]:
    heard, wall = outcome.heard, outcome.wall
    told: dict[str, object] = {
        "handled": heard.delivered,
        "handled_per_s": round(heard.delivered / wall),
        "of_ideal": round(heard.delivered / wall / IDEAL, 3),
        "depth": heard.depth or None,  # not every library tells
        "refused": outcome.counted,
        "blocked": round(outcome.blocked / producers / wall, 3),
    }
    return told


def _check_notices(notices: list[Notice], case: Case) -> None:
    """Notices overtake what waits: each is handled in time, or with no more messages before it than one batch.

    Time that the machine gave to others does not count; the batch is what the consumer has begun when the notice comes.
    """
    for span, between, kept in notices:
        if span - kept > LIMIT_MS and between > BATCH:
            raise CheckFailed(f"a notice waited for {between} messages and {span:.0f} ms, {kept:.0f} for the machine")
    spans = sorted(notice.ms for notice in notices)
    case.extra["notices"] = len(spans)
    case.extra["notice_ms_p50"] = round(spans[len(spans) // 2], 3)
    case.extra["notice_ms_max"] = round(spans[-1], 3)
    case.extra["notice_own_ms_max"] = round(max(notice.ms - notice.kept_ms for notice in notices), 3)
    case.extra["handled_before_notice"] = max(notice.handled for notice in notices)


# -- the floor -----------------------------------------------------------------------------------------------


class Lost:
    """What a plain queue loses, by policy."""

    def __init__(self, policy: str, bound: int) -> None:
        self.queue: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(bound)
        self.policy = policy
        self.refused = self.counted = 0

    def put(self, item: tuple[int, bytes]) -> None:
        """Without waiting."""
        queue = self.queue
        if not queue.full():
            queue.put_nowait(item)
            return
        self.counted += 1
        if self.policy == "refuse":
            self.refused += 1
        elif self.policy == "drop-oldest":
            queue.get_nowait()
            queue.put_nowait(item)


def plain(case: Case) -> Play:
    """The floor: tasks and an `asyncio.Queue`. It has no notices."""
    bound, waits = case.args[2], case.line in ("wait", "roomy")

    async def play(producers: int, count: int) -> Outcome:
        heard, lost = Heard(producers), Lost(case.line, bound)
        queue, blocked, clock = lost.queue, 0.0, time.perf_counter

        async def produce(producer: int) -> None:
            nonlocal blocked
            for number in range(count):
                began = clock()
                if waits:
                    await queue.put((producer, payload(number)))
                else:
                    lost.put((producer, payload(number)))
                blocked += clock() - began
                if not waits and number % BATCH == 0:
                    await asyncio.sleep(0)

        async def consume() -> None:
            while True:
                heard.depth = max(heard.depth, queue.qsize())
                item = await queue.get()
                if item is None:
                    return
                if heard.hear(*item):
                    await asyncio.sleep(PAUSE)

        began = clock()
        consumer = asyncio.create_task(consume())
        await asyncio.gather(*(produce(producer) for producer in range(producers)))
        await queue.put(None)
        await consumer
        return Outcome(heard, clock() - began, lost.refused, lost.counted, blocked)

    return play
