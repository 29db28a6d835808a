"""Ordinary events that broke the first sketch of the dispatcher, each with its right outcome.

One test for each row of the list that the sketch was tried with (e1 to e19; e8 is in `test_fairness`, e14 in
`test_traps_deep`), for asks that are stepped at once and for
asks that take the queue, on asyncio and uvloop, with debug on and off.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from doers import (
    SEEN,
    Do,
    Doer,
    Ping,
    PlainDoer,
    Run,
    alive,
    kernel_alone,
    me,
    ready_doer,
    run,
    turns,
    way,
)

from understudy.actors.actor import Actor
from understudy.actors.errors import ActorStopped, WrongLoop
from understudy.actors.kernel import Kernel
from understudy.actors.refs import Ref
from understudy.actors.scheduling import Scheduler

__all__ = ["run", "way"]  # the fixtures

pytestmark = pytest.mark.promise(136)

Way = Scheduler | None


async def never() -> None:
    await asyncio.get_running_loop().create_future()


async def plain(kernel: Kernel, work: Any) -> Ref[Any]:
    ref = kernel.ref_of(kernel.spawn(lambda: PlainDoer(work)))
    await kernel.wait_started(ref.cell())
    await turns()
    return ref


def test_e1_a_handler_that_awaits_a_cancelled_future(run: Run, way: Way) -> None:
    async def work() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            ref = await ready_doer(kernel, work)
            with pytest.raises(ActorStopped, match="CancelledError"):
                await ref.ask(Do())
            assert me().cancelling() == 0
            assert await alive(kernel)

    run(main)


def test_e2_a_handler_that_cancels_its_task_and_returns(run: Run, way: Way) -> None:
    async def work() -> object:
        me().cancel()
        return 1

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            ref = await ready_doer(kernel, work)
            assert await ref.ask(Do()) == 1
            assert me().cancelling() == 0
            assert await alive(kernel)

    run(main)


def test_e3_a_suspended_handler_whose_child_was_cancelled(run: Run, way: Way) -> None:
    async def work() -> None:
        child = asyncio.create_task(asyncio.sleep(5))
        await asyncio.sleep(0)
        child.cancel()
        await child

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            ref = await ready_doer(kernel, work)
            with pytest.raises(ActorStopped, match="CancelledError"):
                await ref.ask(Do())
            with pytest.raises(ActorStopped):  # the incarnation has ended, and it has no supervisor
                await ref.ask(Ping())
            assert await alive(kernel)

    run(main)


def test_e4_a_timeout_in_the_handler_that_is_over_already(run: Run, way: Way) -> None:
    async def work() -> object:
        try:
            async with asyncio.timeout(0):
                await never()
        except TimeoutError:
            return "timed out", me().cancelling()
        return None

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            ref = await ready_doer(kernel, work)
            assert await ref.ask(Do()) == ("timed out", 0)
            assert me().cancelling() == 0
            assert await alive(kernel)

    run(main)


@pytest.mark.parametrize("kind", ["future", "task"])
def test_e5_two_handlers_await_one_future_in_the_same_turn(run: Run, way: Way, kind: str) -> None:
    async def main() -> None:
        async with kernel_alone(way) as kernel:
            loop = asyncio.get_running_loop()

            async def slow() -> int:
                await turns()
                return 7

            shared: asyncio.Future[int] = asyncio.create_task(slow()) if kind == "task" else loop.create_future()

            async def work() -> object:
                return await shared

            refs = [await ready_doer(kernel, work) for _ in range(3)]
            if kind == "task":
                shared = asyncio.create_task(slow())
            asking = [asyncio.create_task(ref.ask(Do())) for ref in refs]
            if kind == "future":
                await turns()
                shared.set_result(7)
            assert await asyncio.gather(*asking) == [7, 7, 7]
            assert await alive(kernel)

    run(main)


def test_e6_stop_iteration_out_of_a_def_handler(run: Run, way: Way) -> None:
    async def main() -> None:
        async with kernel_alone(way) as kernel:
            ref = await plain(kernel, lambda: next(iter(())))
            with pytest.raises(ActorStopped, match="StopIteration"):
                await ref.ask(Do())
            assert await alive(kernel)

    run(main)


def test_e7_a_def_handler_has_a_context_and_a_task_of_its_own(run: Run, way: Way) -> None:
    def look() -> object:
        before = SEEN.get()
        SEEN.set("LEAKED")
        return before, asyncio.current_task()

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            ref = await plain(kernel, look)
            SEEN.set("caller")
            for _ in range(20):  # more than it takes to be given a context to copy
                seen: Any = await ref.ask(Do())
                before, task = seen
                assert before == "base"
                assert task is not None
                assert task is not me()
                assert SEEN.get() == "caller"

    run(main)


def test_e9_every_task_is_cancelled_once(run: Run, way: Way) -> None:
    async def main() -> None:
        async with kernel_alone(way) as kernel:

            async def work() -> object:
                await asyncio.sleep(0)
                return me().cancelling()

            ref = await ready_doer(kernel, work)
            for task in asyncio.all_tasks() - {me()}:
                task.cancel()
            assert await ref.ask(Do()) == 0, "none of those that were cancelled serves what is asked afterwards"
            await turns()
            assert await alive(kernel)

    run(main)


def test_e10_what_is_open_from_start_to_stop_lives_in_the_lifespan(run: Run, way: Way) -> None:
    class Session(Actor[Do | Ping]):
        @contextlib.asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None]:
            async with anyio.create_task_group() as self.group:
                yield
                self.group.cancel_scope.cancel()

        async def do(self, m: Do) -> object:
            self.group.start_soon(anyio.sleep_forever)
            await asyncio.sleep(0)
            return "open"

        def ping(self, m: Ping) -> str:
            return "pong"

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            cell = kernel.spawn(Session)
            assert await kernel.ref_of(cell).ask(Do()) == "open"
            others = [await ready_doer(kernel, turns) for _ in range(3)]  # take the freed workers meanwhile
            await asyncio.gather(*(other.ask(Do()) for other in others))
            assert await kernel.ref_of(cell).ask(Ping()) == "pong"
            await kernel.stop(cell)
            assert cell.exit.expected

    run(main)


def test_e11_a_scope_that_was_left_open_is_cancelled(run: Run, way: Way) -> None:
    left: list[anyio.CancelScope] = []

    async def leave_open() -> None:
        scope = anyio.CancelScope()
        scope.__enter__()
        left.append(scope)

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            gate = anyio.Event()

            async def wait() -> object:
                await gate.wait()
                return "ok"

            waiting = [await ready_doer(kernel, wait) for _ in range(4)]
            await (await ready_doer(kernel, leave_open)).ask(Do())
            asking = [asyncio.create_task(ref.ask(Do())) for ref in waiting]
            await turns()
            left[0].cancel()
            await turns()
            gate.set()
            assert await asyncio.gather(*asking) == ["ok"] * 4

    run(main)


def test_e12_a_swallowed_cancel_and_the_next_handlers_task_group(run: Run, way: Way) -> None:
    async def swallow() -> object:
        me().cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await never()
        return me()

    async def group() -> object:
        async def bad() -> None:
            raise ValueError("x")

        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(bad())
                await never()
        except* ValueError:
            pass
        return me(), me().cancelling()

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            ref = await ready_doer(kernel, group)
            first = await (await ready_doer(kernel, swallow)).ask(Do())
            for _ in range(5):
                seen: Any = await ref.ask(Do())
                task, cancelling = seen
                assert task is not first
                assert cancelling == 0

    run(main)


def test_e13_a_handler_that_cancels_its_task_before_it_suspends(run: Run, way: Way) -> None:
    async def work() -> object:
        me().cancel()
        try:
            await never()
        except asyncio.CancelledError:
            return "delivered to the handler"
        return None

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            ref = await ready_doer(kernel, work)
            assert await ref.ask(Do()) == "delivered to the handler"
            assert me().cancelling() == 0
            assert await alive(kernel)

    run(main)


def test_e15_nothing_is_sent_before_the_await_and_failures_are_raised_there(run: Run, way: Way) -> None:
    served: list[str] = []

    async def work() -> object:
        served.append("work")
        raise ValueError("boom")

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            ref = await ready_doer(kernel, work)
            asking = ref.ask(Do())
            await turns()
            assert served == []
            asking.close()
            task = asyncio.create_task(ref.ask(Ping()))
            assert await task == "pong"
            async with anyio.create_task_group() as group:
                group.start_soon(ref.ask, Ping())
            failing = ref.ask(Do())
            with pytest.raises(ActorStopped, match="boom"):
                await failing
            assert served == ["work"]

    run(main)


def test_e16_asks_are_stepped_at_once_from_the_first_on(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:

            async def work() -> object:
                return None

            async def at_once() -> int:
                ref = kernel.ref_of(kernel.spawn(lambda: Doer(work)))
                await kernel.wait_started(ref.cell())
                count = 0
                for _ in range(100):
                    turned: list[int] = []
                    asyncio.get_running_loop().call_soon(turned.append, 1)
                    await ref.ask(Do())
                    count += not turned
                return count

            # A turn is over now and then, with debug on more often, and on a busy machine.
            counts = [await at_once()]
            while counts[-1] < 50 and len(counts) < 10:
                counts.append(await at_once())
            assert counts[-1] >= 50, counts

    run(main)


def test_e17_tell_from_a_thread(run: Run, way: Way) -> None:
    async def main() -> None:
        async with kernel_alone(way) as kernel:
            heard = asyncio.Event()

            async def work() -> None:
                heard.set()

            ref = await ready_doer(kernel, work)
            with pytest.raises(WrongLoop, match="tell_threadsafe"):
                await asyncio.to_thread(ref.tell, Do())
            await turns()
            assert not heard.is_set()
            thread = threading.Thread(target=ref.tell_threadsafe, args=(Do(),))
            thread.start()
            await heard.wait()
            thread.join()

    run(main)


def test_e18_a_context_variable_does_not_last_until_the_next_message(run: Run, way: Way) -> None:
    async def numbers() -> AsyncGenerator[int]:
        for n in range(3):
            await asyncio.sleep(0)
            yield n

    async def work() -> object:
        before, task = SEEN.get(), me()
        SEEN.set("from message 1")
        total = sum([n async for n in numbers()])
        assert me() is task
        return before, SEEN.get(), total

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            ref = await ready_doer(kernel, work)
            for _ in range(3):
                assert await ref.ask(Do()) == ("base", "from message 1", 3)

    run(main)


class Fatal(BaseException):
    pass


@pytest.mark.parametrize("error", [Fatal, GeneratorExit, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kind", ["def", "async", "suspending"])
def test_e19_any_base_exception_is_an_outcome(run: Run, way: Way, error: type[BaseException], kind: str) -> None:
    async def work() -> None:
        if kind == "suspending":
            await asyncio.sleep(0)
        raise error

    def at_once() -> None:
        raise error

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            kernel.on_interrupt = lambda interrupt: None
            ref = await plain(kernel, at_once) if kind == "def" else await ready_doer(kernel, work)
            mine = me()
            with pytest.raises(ActorStopped, match=error.__name__):
                await ref.ask(Do())
            assert me() is mine
            assert await alive(kernel)

    run(main)
