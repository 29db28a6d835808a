"""The simulated loop: asyncio and anyio as they are, in virtual time, and what it says when nothing goes on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import sys
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from understudy.actors.actor import Actor
from understudy.actors.errors import UsageError
from understudy.actors.kernel import Kernel
from understudy.actors.messages import Message
from understudy.actors.testing.simloop import IDLE_STEPS, Deadlock, Livelock, SimLoop, run
from understudy.actors.testing.world import World

# -- asyncio and anyio as they are -----------------------------------------------------------------------------


async def anyio_program() -> list[str]:
    """What anyio promises, as a story whose every line is known."""
    said: list[str] = []
    async with anyio.create_task_group() as group:

        async def serve(*, task_status: anyio.abc.TaskStatus[str]) -> None:
            await anyio.sleep(0.01)
            task_status.started("ready")
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.01)
                    said.append("shielded")

        said.append(await group.start(serve))
        group.cancel_scope.cancel()
    with anyio.move_on_after(0.01) as scope:
        await anyio.sleep(1)
    said.append(f"moved on {scope.cancelled_caught}")
    with pytest.raises(TimeoutError), anyio.fail_after(0.01):
        await anyio.sleep(1)
    send, receive = anyio.create_memory_object_stream[int](1)

    async def produce() -> None:
        async with send:
            for number in range(3):
                await send.send(number)

    async with anyio.create_task_group() as group:
        group.start_soon(produce)
        async with receive:
            said += [f"got {number}" async for number in receive]
    lock, event, condition = anyio.Lock(), anyio.Event(), anyio.Condition()
    semaphore, limiter = anyio.Semaphore(1), anyio.CapacityLimiter(1)

    async def wait(name: str) -> None:
        await event.wait()
        async with lock, semaphore, limiter:
            await anyio.sleep(0.001)
            said.append(name)
        async with condition:
            condition.notify()

    async with anyio.create_task_group() as group:
        for name in "abc":
            group.start_soon(wait, name)
        event.set()
        async with condition:
            await condition.wait()
            said.append("notified")
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep_forever)
            raise LookupError("body")
    except* LookupError as errors:
        said.append(str(errors.exceptions[0]))
    said.append(str(await anyio.to_thread.run_sync(sum, [1, 2, 3])))
    return said


async def asyncio_program() -> list[str]:
    """The same of asyncio."""
    said: list[str] = []
    queue: asyncio.Queue[int] = asyncio.Queue(1)

    async def produce() -> None:
        for number in range(3):
            await queue.put(number)

    async with asyncio.TaskGroup() as group:
        group.create_task(produce())
        for _ in range(3):
            said.append(f"got {await queue.get()}")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.sleep(1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)

    async def late(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    said.append(str(await asyncio.gather(late(0.02), late(0.01))))
    tasks = [asyncio.create_task(late(seconds)) for seconds in (0.005, 5)]
    done, pending = await asyncio.wait(tasks, timeout=0.05)
    said.append(f"{len(done)} done, {len(pending)} pending")
    for task in pending:
        task.cancel()
    said.append(str([await first for first in asyncio.as_completed([late(0.02), late(0.01)])]))
    said.append(str(await asyncio.shield(late(0.001))))
    said.append(str(await asyncio.to_thread(sum, [1, 2])))
    said.append(str(await asyncio.get_running_loop().run_in_executor(None, max, 1, 2)))
    return said


@pytest.mark.promise(188)
@pytest.mark.parametrize("program", [anyio_program, asyncio_program])
def test_programs_run_unchanged_and_do_what_they_do_on_the_stock_loop(program: Any) -> None:
    assert run(program) == asyncio.run(program())


@pytest.mark.promise(188)
def test_whatever_takes_a_loop_factory_takes_this_one() -> None:
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        first = runner.run(anyio_program())
        runner.run(asyncio.sleep(3_600))
        assert runner.get_loop().time() > 3_600
        assert runner.run(anyio_program()) == first
    assert anyio.run(anyio_program, backend_options={"loop_factory": SimLoop}) == first


@pytest.mark.promise(188)
def test_a_loop_in_debug_mode_does_the_same() -> None:
    assert run(anyio_program, debug=True) == run(anyio_program)


# -- time ------------------------------------------------------------------------------------------------------


@pytest.mark.promise(188)
def test_delays_are_exact_to_the_nanosecond() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        for _ in range(10):
            await asyncio.sleep(0.1)
        assert loop.nanoseconds == 1_000_000_000
        await asyncio.sleep(86_400)
        await asyncio.sleep(1e-9)
        assert loop.nanoseconds == 86_401_000_000_001

    run(main)


@pytest.mark.promise(188)
def test_no_timer_fires_before_its_time_as_floats_tell_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        early: list[float] = []

        def fire(when: float) -> None:
            if loop.time() < when:
                early.append(when)

        when = 0.0
        for number in range(1, 5_000):
            when += 0.1 / number
            loop.call_at(when, fire, when)
        await asyncio.sleep(when + 1)
        assert early == []

    run(main)


@pytest.mark.promise(188)
def test_who_sleeps_until_a_time_arrives_there_in_one_go_or_two() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in range(1, 300):
            deadline, sleeps = loop.time() + 0.1 / number, 0
            while loop.time() < deadline:
                await asyncio.sleep(deadline - loop.time())
                sleeps += 1
            assert sleeps <= 2

    run(main)


def test_timers_fire_in_the_order_of_their_times_then_in_that_of_setting() -> None:
    async def main() -> list[str]:
        loop, fired = asyncio.get_running_loop(), list[str]()
        for name, delay in [("c", 0.2), ("a", 0.1), ("d", 0.2), ("b", 0.1), ("past", -1.0)]:
            loop.call_later(delay, fired.append, name)
        loop.call_later(0.15, fired.append, "cancelled").cancel()
        loop.call_later(math.inf, fired.append, "never")
        await asyncio.sleep(1)
        return fired

    assert run(main) == ["past", "a", "b", "c", "d"]


def test_a_thousand_cancelled_timers_are_not_kept() -> None:
    loop = SimLoop()

    async def main() -> None:
        for _ in range(1_000):
            loop.call_later(1_000, int).cancel()
        assert len(loop._timers) < 200
        for _ in range(200):
            await asyncio.sleep(0.001)  # cancels its timer when that has fired, which is no cancelling
        assert 0 <= loop._cancelled <= len(loop._timers)

    run(main, loop=loop)


def test_stopping_a_loop_that_waits_takes_no_time() -> None:
    loop = SimLoop()
    loop.call_later(60, int)
    loop.stop()
    loop.run_forever()
    assert loop.time() == 0
    loop.close()


# -- deadlock and livelock -------------------------------------------------------------------------------------


class Open(Message[str]):
    pass


class Bank(Actor[Open]):
    async def open(self, m: Open) -> str:
        await asyncio.Event().wait()
        return "never"


async def stuck() -> None:
    async with Kernel() as kernel:
        bank = kernel.spawn(Bank, name="bank")
        kernel.ref_of(bank).tell(Open())

        async def ours() -> None:
            await asyncio.Event().wait()

        waiting = asyncio.create_task(ours(), name="ours")
        await waiting


@pytest.mark.promise(190)
@pytest.mark.parametrize("how", ["run", "world"])
def test_a_deadlock_names_actors_by_path_and_handler_and_tasks_by_name_with_their_lines(how: str) -> None:
    with pytest.raises(Deadlock) as caught:
        (run if how == "run" else World().run)(stuck)
    text = str(caught.value)
    assert "nothing is ready at 0 s" in text
    assert "bank (Bank.open) at " in text
    assert f"{__file__}" in text
    assert "ours at " in text
    assert "main at " in text
    assert "understudy-worker" not in text


@pytest.mark.promise(190)
def test_a_run_in_which_time_stands_still_is_a_livelock_that_names_who_waits() -> None:
    async def spin() -> None:
        while True:  # noqa: ASYNC110  # that is the mistake
            await asyncio.sleep(0)

    async def main() -> None:
        spinning = asyncio.create_task(spin(), name="spinning")
        await asyncio.sleep(1)
        spinning.cancel()

    with pytest.raises(Livelock, match=f"{IDLE_STEPS:,} callbacks at 0 s and no end; .*spinning at"):
        run(main)


def test_a_timer_at_the_end_of_time_saves_nobody_from_a_deadlock() -> None:
    async def main() -> None:
        await asyncio.sleep(math.inf)

    with pytest.raises(Deadlock):
        run(main)


@pytest.mark.promise(190)
def test_what_main_raises_is_not_hidden_by_a_task_that_does_not_end() -> None:
    async def stubborn() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()

    async def main() -> None:
        asyncio.create_task(stubborn(), name="stubborn")  # noqa: RUF006  # the loop keeps it
        await asyncio.sleep(0)
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine") as caught:
        run(main)
    assert any("stubborn" in note for note in caught.value.__notes__)


# -- the end ---------------------------------------------------------------------------------------------------


def test_what_is_left_is_cancelled_also_what_cleaning_up_begins() -> None:
    said: list[str] = []

    async def wait(name: str, then: str = "") -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            said.append(name)
            if then:
                asyncio.create_task(wait(then))  # noqa: RUF006

    async def main() -> None:
        asyncio.create_task(wait("first", "second"))  # noqa: RUF006
        await asyncio.sleep(0)

    loop = SimLoop()
    run(main, loop=loop)
    assert said == ["first"] or said == ["first", "second"]  # the second may be cancelled before it began
    assert loop.is_closed()
    assert not asyncio.all_tasks(loop)


def test_exceptions_that_nobody_retrieved_are_kept_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(text: str) -> None:
        raise LookupError(text)

    held: list[asyncio.Task[None]] = []

    async def main() -> None:
        held.append(asyncio.create_task(fail("held")))
        asyncio.create_task(fail("dropped"))  # noqa: RUF006
        await asyncio.sleep(1)

    loop = SimLoop()
    with caplog.at_level(logging.CRITICAL, "asyncio"):
        run(main, loop=loop)
    assert sorted(str(each["exception"]) for each in loop.failures) == ["dropped", "held"]


def test_generators_that_were_not_ended_are_closed_in_the_order_they_were_begun() -> None:
    closed: list[int] = []

    async def count(number: int) -> AsyncGenerator[int, None]:
        try:
            yield number
        finally:
            await asyncio.sleep(0.01)
            closed.append(number)

    begun: list[AsyncGenerator[int, None]] = []

    async def main() -> None:
        for number in range(40):
            begun.append(count(number))
            await anext(begun[-1])

    run(main)
    assert closed == list(range(40))


def test_an_interrupt_passes_through(caplog: pytest.LogCaptureFixture) -> None:
    async def interrupt() -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        task = asyncio.create_task(interrupt())
        await asyncio.sleep(1)
        await task

    loop = SimLoop()
    with pytest.raises(KeyboardInterrupt):
        run(main, loop=loop)
    assert loop.is_closed()


def test_a_run_within_a_run_is_refused_and_makes_nothing() -> None:
    made: list[str] = []

    async def inner() -> None:
        made.append("inner")

    async def main() -> str:
        with pytest.raises(UsageError, match="inside a running loop"):
            run(inner)
        with pytest.raises(UsageError, match="inside a running loop"):
            await asyncio.to_thread(run, inner)
        with pytest.raises(UsageError, match="inside a running loop"):
            World().run(inner)
        return "went on"

    assert run(main) == "went on"
    assert made == []

    async def real() -> None:
        run(inner)

    with pytest.raises(UsageError, match="inside a running loop"):
        asyncio.run(real())


# -- tasks -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_begin_at_once_and_are_as_stable_as_others() -> None:
    async def main() -> list[str]:
        said: list[str] = []

        async def work(name: str) -> None:
            said.append(f"begin {name}")
            await asyncio.sleep(0.01)
            said.append(f"end {name}")

        loop = asyncio.get_running_loop()
        loop.set_task_factory(vars(asyncio)["eager_task_factory"])
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work(name)) for name in "ab"]
            said.append("made")
        loop.set_task_factory(None)
        assert [hash(task) for task in tasks] == sorted({hash(task) for task in tasks})
        assert all(hash(task) < 1_000 for task in tasks)
        assert [task.get_name() for task in tasks] == ["task-1", "task-2"]
        return said

    assert run(main) == ["begin a", "begin b", "made", "end a", "end b"]


def test_a_task_factory_of_the_program_is_used() -> None:
    made: list[str] = []

    class Mine(asyncio.Task[Any]):
        pass

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> asyncio.Task[Any]:
        made.append("mine")
        return Mine(coro, loop=loop, **more)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        named = asyncio.create_task(asyncio.sleep(0), name="named")
        assert isinstance(named, Mine)
        assert named.get_name() == "named"
        await named

    run(main)
    assert made == ["mine"]


# -- threads ---------------------------------------------------------------------------------------------------


@pytest.mark.promise(188)
def test_a_function_for_a_thread_runs_a_fixed_time_later_with_no_loop_running() -> None:
    def work() -> str:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return "worked"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await asyncio.to_thread(work) == "worked"
        assert loop.time() == 0.001
        assert await anyio.to_thread.run_sync(work) == "worked"
        assert loop.time() == 0.002
        with ThreadPoolExecutor(1) as pool:
            assert await loop.run_in_executor(pool, work) == "worked"

    run(main)


def test_errors_of_functions_for_threads_arrive_and_a_stop_iteration_does_not_hang() -> None:
    def fail(error: BaseException) -> None:
        raise error

    async def main() -> None:
        with pytest.raises(LookupError):
            await asyncio.to_thread(fail, LookupError())
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.to_thread(fail, StopIteration())

    run(main)


def test_a_function_whose_asker_is_gone_runs_all_the_same() -> None:
    """No thread is cancelled: what it does to the world happens, and nobody hears of it."""
    done: list[str] = []

    async def main() -> None:
        task = asyncio.create_task(asyncio.to_thread(done.append, "cancelled"))
        await asyncio.sleep(0)
        task.cancel()
        with anyio.move_on_after(0):
            await anyio.to_thread.run_sync(done.append, "abandoned", abandon_on_cancel=True)
        await asyncio.sleep(0.01)
        asyncio.get_running_loop().run_in_executor(None, done.append, "left")

    run(main)
    assert done[0] == "cancelled"
    assert done[-1] == "left"


def test_check_cancelled_asks_the_scope_of_who_asked() -> None:
    async def main() -> list[str]:
        seen: list[str] = []

        def look() -> None:
            try:
                anyio.from_thread.check_cancelled()
                seen.append("go on")
            except BaseException as error:
                seen.append(type(error).__name__)
                raise

        await anyio.to_thread.run_sync(look)
        with anyio.CancelScope() as scope:
            asyncio.get_running_loop().call_later(0.0005, scope.cancel)
            with contextlib.suppress(asyncio.CancelledError):  # anyio 4.11 does not catch it in the scope
                await anyio.to_thread.run_sync(look)
        return seen

    assert run(main) == ["go on", "CancelledError"]
