"""Actors that do what they are given, and a way to run them with debug on and off, for tests of dispatch."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from understudy.actors.actor import Actor
from understudy.actors.kernel import Kernel
from understudy.actors.messages import Message
from understudy.actors.refs import Ref

T = TypeVar("T")
SEEN: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="base")
Main = Callable[[], Coroutine[Any, Any, T]]
Run = Callable[[Main[Any]], Any]


@pytest.fixture(params=[False, True], ids=["plain", "debug"])
def run(request: pytest.FixtureRequest) -> Run:
    def go(main: Main[T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(20):
                return await main()

        return asyncio.run(limited(), debug=request.param)

    return go


class Do(Message[object]):
    """Asks a `Doer` to do what it was made with."""


class Ping(Message[str]):
    pass


class Doer(Actor[Do | Ping]):
    def __init__(self, work: Callable[[], Awaitable[object]]) -> None:
        self.work = work

    async def do(self, m: Do) -> object:
        return await self.work()

    def ping(self, m: Ping) -> str:
        return "pong"


class PlainDoer(Actor[Do]):
    def __init__(self, work: Callable[[], object]) -> None:
        self.work = work

    def do(self, m: Do) -> object:
        return self.work()


def doer(kernel: Kernel, work: Callable[[], Awaitable[object]]) -> Ref[Any]:
    return kernel.ref_of(kernel.spawn(lambda: Doer(work)))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def alive(kernel: Kernel) -> bool:
    async def work() -> object:
        await asyncio.sleep(0)
        return "alive"

    return bool(await doer(kernel, work).ask(Do()) == "alive")


def me() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def workers() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == "understudy-worker"]


@contextlib.asynccontextmanager
async def kernel_alone() -> AsyncIterator[Kernel]:
    """A kernel that leaves no task and no timer behind."""
    before = asyncio.all_tasks()
    async with Kernel() as kernel:
        yield kernel
    await turns(2)
    assert asyncio.all_tasks() <= before
