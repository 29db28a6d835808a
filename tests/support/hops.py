"""Slow and hopping actors, for tests of refs."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

from understudy.actors.actor import Actor
from understudy.actors.kernel import Kernel
from understudy.actors.messages import Message
from understudy.actors.refs import Ref
from understudy.actors.testing.simloop import SimClock, run


class Put(Message[int]):
    n: int


class Through(Message[object]):
    """Ask the next of `path` to go on; the last one sleeps `rest` seconds."""

    path: tuple[str, ...]
    rest: float = 0.0


class Strange(Message[None]):
    pass


class Slow(Actor[Put]):
    """Takes a second for each message; room for two."""

    mailbox_limit: ClassVar[int] = 2

    def __init__(self, seen: list[int]) -> None:
        self.seen = seen

    async def put(self, m: Put) -> int:
        self.seen.append(m.n)
        await asyncio.sleep(1)
        return m.n


class Hop(Actor[Through]):
    async def on_through(self, m: Through) -> object:
        if not m.path:
            await asyncio.sleep(m.rest)
            return self.context.deadline
        kernel = self.context.ref.cell().kernel
        cell = kernel.registry.find(m.path[0])
        assert cell is not None
        return await kernel.ref_of(cell).ask(Through(m.path[1:], m.rest))


def alone(main: Callable[[Kernel], Awaitable[None]], **options: Any) -> None:
    async def whole() -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
        async with Kernel(clock=SimClock(), **options) as kernel:
            await main(kernel)
        del kernel
        gc.collect()  # a future whose exception nobody took says so when it goes
        assert failures == []
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    run(whole)


async def slow(kernel: Kernel, seen: list[int], **options: Any) -> Ref[Put]:
    cell = kernel.spawn(lambda: Slow(seen), **options)
    assert await kernel.wait_started(cell) is None
    return kernel.ref_of(cell)


async def quiet() -> None:
    await asyncio.sleep(1e-6)


def letters(kernel: Kernel) -> list[tuple[object, str]]:
    return [(letter.message, letter.reason) for letter in kernel.telemetry.dead_letters()]
