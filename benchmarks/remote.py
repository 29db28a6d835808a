"""C9: a process asks an echo in another one over loopback, or tells it. The side that asks: the same for all.

What an implementation brings is a `Far`. Requests are numbered from 0; the payload of number i is text i mod 97 of a
list that both sides make for themselves, so nothing is confused, lost or changed unseen. Each run has a new process at
the other end, started and warmed up before the clock begins; what is timed is the messages alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, NamedTuple, Protocol

from benchmarks.case import Case, CheckFailed, Found
from benchmarks.workers import ROOT, Pipe

TEXTS: Final = 97
"""Different payloads: more than are ever under way at once."""
WARM: Final = 100
"""Requests before the clock begins."""
START_SECONDS: Final = 60.0


class Tally(NamedTuple):
    """What the other side has handled since it was last asked for it."""

    handled: int
    disorder: int
    """Messages whose number was not the next."""
    wrong: int
    """Messages whose payload was another's."""


class Far(Protocol):
    """An echo in another process, as an implementation reaches it."""

    def ask(self, number: int, text: bytes) -> Awaitable[bytes]:
        """Ask it; it answers with the text."""
        ...

    async def tell_all(self, count: int, texts: Sequence[bytes]) -> None:
        """Send it messages 0 to `count` - 1, without answers, as fast as it goes."""
        ...

    async def tally(self) -> Tally:
        """What it has handled, after all that was sent before; it begins again at number 0."""
        ...

    def cpu_seconds(self) -> float:
        """CPU seconds of the other process, or of all others."""
        ...

    def wire_bytes(self) -> int | None:
        """Bytes that went over the socket in both directions, None where nobody counts them."""
        ...


Opened = Callable[[Case], AbstractAsyncContextManager[Far]]


def payloads(size: int) -> list[bytes]:
    """The texts of so many bytes."""
    rng = random.Random(size)  # not a secret
    return [rng.randbytes(size) for _ in range(TEXTS)]


class Echo:
    """What the other side keeps."""

    def __init__(self, size: int) -> None:
        self.texts = payloads(size)
        self.handled = self.disorder = self.wrong = 0

    def hear(self, number: int, text: bytes) -> None:
        """A message has come."""
        self.disorder += number != self.handled
        self.wrong += text != self.texts[number % TEXTS]
        self.handled += 1

    def tally(self) -> Tally:
        """See `Far.tally`."""
        told = Tally(self.handled, self.disorder, self.wrong)
        self.handled = self.disorder = self.wrong = 0
        return told


class Other:
    """The other process: it says where it is in one line of JSON, and ends when its standard input does."""

    def __init__(self, module: str, *argv: object, python: str = sys.executable) -> None:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._pipe = Pipe([python, "-m", module, *map(str, argv)], env)
        try:
            self.where = json.loads(self._pipe.hear(START_SECONDS))
        except BaseException:
            self._pipe.close()
            raise
        self.pid = self._pipe.pid
        self.cpu_seconds = self._pipe.cpu_seconds

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.close()


async def serve(where: object) -> None:
    """In the other process: say where it is, and wait for the end."""
    print(json.dumps(where), flush=True)
    await asyncio.to_thread(sys.stdin.read)


def loop_kind() -> str:
    """The kind of loop that runs, for the other process: `asyncio` or `uvloop`."""
    return "uvloop" if type(asyncio.get_running_loop()).__module__.startswith("uvloop") else "asyncio"


async def program(opened: Opened, case: Case) -> Found:
    """C9 on an implementation."""
    texts = payloads(case.args[-1])
    async with opened(case) as far:
        await _warm_up(far, texts)
        cpu, wire = far.cpu_seconds(), far.wire_bytes()
        case.start()
        found = await (_one_way if case.name == "oneway" else _asks)(far, case, texts)
        case.stop()
        after, cpu_after = far.wire_bytes(), far.cpu_seconds()
    ops = case.args[0]
    case.extra["near_cpu_us"] = round(case.cpu / ops * 1e6, 3)
    case.extra["far_cpu_us"] = round((cpu_after - cpu) / ops * 1e6, 3)
    case.cpu += cpu_after - cpu
    if wire is not None and after is not None:
        case.extra["bytes_per_op"] = round((after - wire) / ops, 1)
    return found


async def _warm_up(far: Far, texts: Sequence[bytes]) -> None:
    for number in range(WARM):
        await far.ask(number, texts[number % TEXTS])
    if await far.tally() != Tally(WARM, 0, 0):
        raise CheckFailed("the other process did not handle the requests of the warm-up")


async def _asks(far: Far, case: Case, texts: Sequence[bytes]) -> Found:
    count, window, _ = case.args
    spans = await _one_by_one(far, count, texts) if window == 1 else []
    answered = count if window == 1 else await by_many(far, count, window, texts)
    tally = await far.tally()
    if spans:
        spans.sort()
        for share in (50, 99):
            case.extra[f"p{share}_us"] = round(spans[count * share // 100] / 1e3, 2)
    return {"answered": answered, "handled": tally.handled, "disorder": tally.disorder, "wrong": tally.wrong}


async def _one_by_one(far: Far, count: int, texts: Sequence[bytes]) -> list[int]:
    """Nanoseconds of every request."""
    spans, clock, ask = [], time.perf_counter_ns, far.ask
    for number in range(count):
        text = texts[number % TEXTS]
        began = clock()
        if await ask(number, text) != text:
            raise CheckFailed(f"request {number} got another's answer")
        spans.append(clock() - began)
    return spans


async def by_many(far: Far, count: int, window: int, texts: Sequence[bytes]) -> int:
    """So many callers, each of which asks again when it has its answer; answers come in the order of the requests."""
    asked = answered = 0
    ask = far.ask

    async def caller() -> None:
        nonlocal asked, answered
        while asked < count:
            number = asked
            asked += 1
            text = texts[number % TEXTS]
            if await ask(number, text) != text:
                raise CheckFailed(f"request {number} got another's answer")
            if number != answered:
                raise CheckFailed(f"answer {number} came where {answered} was due")
            answered += 1

    await asyncio.gather(*(caller() for _ in range(window)))
    return answered


async def _one_way(far: Far, case: Case, texts: Sequence[bytes]) -> Found:
    await far.tell_all(case.args[0], texts)
    tally = await far.tally()
    return tally._asdict()
