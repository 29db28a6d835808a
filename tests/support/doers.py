"""Actors that do what they are given, and a way to run them with debug on and off, for tests of dispatch."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pytest

from understudy.actors.actor import Actor
from understudy.actors.kernel import Kernel
from understudy.actors.messages import Message
from understudy.actors.refs import Ref
from understudy.actors.scheduling import Scheduler

T = TypeVar("T")
SEEN: contextvars.ContextVar[str] = contextvars.ContextVar("seen", default="base")
Main = Callable[[], Coroutine[Any, Any, T]]
Run = Callable[[Main[Any]], Any]


LOOPS = ("asyncio", "asyncio-debug", "uvloop", "uvloop-debug")


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name.startswith("asyncio"):
        return asyncio.SelectorEventLoop()
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a test's `main` on each event loop, with debug on and off."""

    def go(main: Main[T]) -> T:
        async def limited() -> T:
            async with asyncio.timeout(60):
                return await main()

        debug = request.param.endswith("debug")
        with asyncio.Runner(debug=debug, loop_factory=lambda: new_loop(request.param)) as runner:
            return runner.run(limited())

    return go


class Way:
    """A scheduler that changes one thing: whether asks are stepped at once."""

    def __init__(self, *, inline: bool) -> None:
        self._inline = inline

    def next_ready(self, ready: Sequence[Any]) -> int:
        return 0

    def inline(self, path: str) -> bool:
        return self._inline

    def end_turn(self, handled: int) -> bool:
        return False

    def next_timer(self, due: Sequence[float]) -> int:
        return 0


@pytest.fixture(params=["inline", "queued"])
def way(request: pytest.FixtureRequest) -> Scheduler | None:
    """None steps asks of idle actors at once, as in production; the other way none."""
    return None if request.param == "inline" else Way(inline=False)


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


async def ready_doer(kernel: Kernel, work: Callable[[], Awaitable[object]]) -> Ref[Any]:
    """A `Doer` that has started and is idle."""
    ref = doer(kernel, work)
    assert await ref.ask(Ping()) == "pong"
    await turns()
    return ref


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
async def kernel_alone(scheduler: Scheduler | None = None) -> AsyncIterator[Kernel]:
    """A kernel that leaves no task and no timer behind."""
    before = asyncio.all_tasks()
    async with Kernel(scheduler=scheduler) as kernel:
        yield kernel
    await turns(2)
    assert asyncio.all_tasks() <= before
