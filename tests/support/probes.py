"""A probing actor, and a kernel in virtual time, for tests of the kernel."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any

from understudy.actors.actor import Actor, Leave
from understudy.actors.cell import Cell
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Down, Message
from understudy.actors.testing.simloop import SimClock, run

Log = list[str]


class Work(Message[object]):
    what: str = ""


class Note(Message[None]):
    text: str


class Probe(Actor[Work | Note]):
    """Logs what happens to it; `Work` awaits what it was made with."""

    def __init__(self, log: Log, work: Callable[[], Awaitable[object]] | None = None) -> None:
        self.log = log
        self.work = work

    async def on_start(self) -> None:
        self.log.append(f"{self.context.path} started #{self.context.incarnation}")

    async def on_stop(self, exit: Exit) -> None:
        self.log.append(f"{self.context.path} on_stop {exit.kind}")

    async def do(self, m: Work) -> object:
        self.log.append(f"did {m.what}")
        return await self.work() if self.work is not None else None

    def note(self, m: Note) -> None:
        if m.text == "fail":
            raise ValueError("told to")
        if m.text == "leave":
            raise Leave(Exit("normal", "had enough"))
        self.log.append(m.text)

    def down(self, m: Down) -> None:
        self.log.append(f"down {m.path} {m.kind} {m.restarting}")


class Silent(Actor[Note]):
    def note(self, m: Note) -> None:
        pass


async def stubborn() -> object:
    """Ignores two cancellations, as code that catches everything does."""
    for _ in range(3):
        try:
            await asyncio.sleep(1_000)
        except asyncio.CancelledError:
            continue
    return "too late"


async def quiet() -> None:
    """Let everything that is ready happen; in virtual time an instant."""
    await asyncio.sleep(1e-6)


def probe(kernel: Kernel, log: Log, work: Callable[[], Awaitable[object]] | None = None, **options: Any) -> Cell:
    return kernel.spawn(lambda: Probe(log, work), **options)


def reasons(kernel: Kernel) -> list[str]:
    return [letter.reason for letter in kernel.telemetry.dead_letters()]


def alone(main: Callable[[Kernel], Awaitable[None]], *, real: bool = False, **options: Any) -> None:
    """Run `main` with a kernel that must leave nothing behind; `real`: on the stock loop, for what needs threads."""

    async def whole() -> None:
        async with Kernel(clock=SimClock(), **options) as kernel:
            await main(kernel)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1
        assert not kernel.timers._heap
        assert len(kernel.registry) == 0
        gc.collect()

    if real:
        asyncio.run(whole())
    else:
        run(whole)
