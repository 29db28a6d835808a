"""Whose stack it is: a handler that is stepped on the stack of its asker finds enough left (e14 of `test_traps`)."""

import asyncio
import contextlib
import sys
from typing import Any

import pytest
from doers import Run, alive, kernel_alone, run, turns

from understudy.actors.actor import Actor
from understudy.actors.kernel import Kernel
from understudy.actors.messages import Message
from understudy.actors.refs import Ref

__all__ = ["run"]  # the fixture

pytestmark = pytest.mark.promise(137)


class Deep(Message[int]):
    n: int


class Digger(Actor[Deep]):
    """Needs a good part of the stack."""

    begun = ended = 0

    async def dig(self, m: Deep) -> int:
        Digger.begun += 1

        def down(n: int) -> int:
            return down(n - 1) + 1 if n else 0

        depth = down(m.n)
        Digger.ended += 1
        return depth


class Digging:
    """A digger, and what became of what was begun with it."""

    def __init__(self, kernel: Kernel) -> None:
        Digger.begun = Digger.ended = 0
        self.kernel = kernel
        self.crashes: list[object] = []
        kernel.telemetry.crashes.add(self.crashes.append)
        self.cell = kernel.spawn(Digger)
        self.ref = kernel.ref_of(self.cell)

    async def begin(self) -> "Digging":
        await self.kernel.wait_started(self.cell)
        await turns()
        return self

    async def end(self) -> None:
        await turns(20)
        assert Digger.begun == Digger.ended, "no handler was cut by the asker's lack of stack"
        assert not self.crashes
        assert await self.ref.ask(Deep(100)) == 100
        assert await alive(self.kernel)


@pytest.fixture
def frames() -> int:
    """Frames that are left here, but for those of the event loop and of the test."""
    frame, depth = sys._getframe(), 0
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    return sys.getrecursionlimit() - depth - 40


@pytest.mark.parametrize("verb", ["ask", "tell"])
def test_e14_a_deep_sync_caller_is_not_charged_to_the_callee(run: Run, frames: int, verb: str) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            digging = await Digging(kernel).begin()
            left: list[Any] = []

            def send() -> None:
                if verb == "tell":
                    digging.ref.tell(Deep(60))
                    return
                asking = digging.ref.ask(Deep(60), timeout=600)
                left.append(asking)
                with contextlib.suppress(StopIteration):
                    asking.send(None)  # driven by hand, by who knows whom

            def deep(n: int) -> None:
                if n:
                    deep(n - 1)
                else:
                    send()

            refused = 0
            for n in range(frames - 60, frames + 45):
                try:
                    deep(n)
                except RecursionError:
                    refused += 1
                for asking in left:
                    with contextlib.suppress(BaseException):
                        asking.close()
                left.clear()
                if n % 3 == 0:
                    await turns(1)
            assert refused
            await digging.end()

    run(main)


def test_e14_a_deep_chain_of_awaits_is_not_charged_to_the_callee(run: Run, frames: int) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            digging = await Digging(kernel).begin()

            async def deep(n: int) -> int:
                return await deep(n - 1) if n else await digging.ref.ask(Deep(frames - 200))

            for n in (0, 1, 2, 3, 5, 12, 16, 20, 100, 400, frames - 250, frames - 120):
                assert await deep(n) == frames - 200
            for n in range(frames - 80, frames + 45):
                try:
                    assert await deep(n) == frames - 200
                except RecursionError:
                    pass
            await digging.end()

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
def test_e14_an_eager_task_made_deep_in_the_stack_is_not_charged_to_the_callee(run: Run, frames: int) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            digging = await Digging(kernel).begin()
            loop = asyncio.get_running_loop()

            async def ask(hops: int) -> int:
                return await ask(hops - 1) if hops else await digging.ref.ask(Deep(frames - 200))

            def deep(n: int, hops: int) -> asyncio.Task[int]:
                if n:
                    return deep(n - 1, hops)
                return asyncio.Task(ask(hops), loop=loop, eager_start=True)  # type: ignore[call-arg, unused-ignore]  # new in 3.12

            for hops in range(4):
                for n in (0, 3, 10, 50, 300, frames - 250, frames - 120):
                    assert await deep(n, hops) == frames - 200
            await digging.end()

    run(main)


def test_e14_asks_within_asks_leave_the_callee_its_stack(run: Run, frames: int) -> None:
    class Down(Message[int]):
        n: int

    class Chain(Actor[Down]):
        def __init__(self, following: Ref[Any]) -> None:
            self.following = following

        async def down(self, m: Down) -> int:
            return await self.further(m, 10)

        async def further(self, m: Down, hops: int) -> int:
            if hops:
                return await self.further(m, hops - 1)
            last = self.following.cell().kind is Digger
            return int(await self.following.ask(Deep(m.n) if last else m))

    async def main() -> None:
        async with kernel_alone() as kernel:
            digging = await Digging(kernel).begin()
            ref: Ref[Any] = digging.ref
            for _ in range(20):
                ref = kernel.ref_of(kernel.spawn(lambda following=ref: Chain(following)))  # type: ignore[misc]
            await turns()
            assert await ref.ask(Down(frames - 400)) == frames - 400
            await digging.end()

    run(main)
