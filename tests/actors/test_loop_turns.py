"""Dispatch: what a handler may rely on, whose turn it is, and how many workers there are."""

import asyncio
import functools
import logging
import threading
from collections.abc import Sequence
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from doers import SEEN, Do, Doer, Ping, PlainDoer, Run, alive, doer, kernel_alone, me, run, turns

from understudy.actors import scheduling
from understudy.actors import workers as pool
from understudy.actors.cell import BUSY, QUEUED
from understudy.actors.errors import WrongLoop
from understudy.actors.kernel import Kernel

__all__ = ["run"]  # the fixture

# -- what a handler may rely on --------------------------------------------------------------------------------


@pytest.mark.promise(124)
def test_one_task_scopes_timeouts_groups_and_threads_within_one_handler(run: Run) -> None:
    async def work() -> object:
        task = me()
        with anyio.move_on_after(60) as scope:
            async with asyncio.timeout(60):
                await anyio.lowlevel.checkpoint()
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 0)
        assert not scope.cancelled_caught
        with anyio.move_on_after(0) as scope:
            await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert await anyio.to_thread.run_sync(threading.get_ident) != threading.get_ident()
        assert me() is task
        return task.cancelling()

    async def main() -> None:
        async with kernel_alone() as kernel:
            ref = doer(kernel, work)
            for _ in range(3):
                assert await ref.ask(Do()) == 0

    run(main)


@pytest.mark.promise(124)
def test_a_timeout_that_is_already_over_ends_in_timeout_error(run: Run) -> None:
    async def work() -> object:
        try:
            async with asyncio.timeout(0):
                await asyncio.get_running_loop().create_future()
        except TimeoutError:
            return "timed out"
        return None

    async def main() -> None:
        async with kernel_alone() as kernel:
            assert await doer(kernel, work).ask(Do()) == "timed out"
            assert await alive(kernel)

    run(main)


@pytest.mark.promise(125)
@pytest.mark.parametrize("kind", ["def", "async", "suspending"])
def test_context_variables_do_not_leak_out_of_a_delivery(run: Run, kind: str) -> None:
    def look() -> object:
        before = SEEN.get()
        SEEN.set("from a message")
        return before

    async def work() -> object:
        if kind == "suspending":
            before = look()
            await asyncio.sleep(0)
            assert SEEN.get() == "from a message"
            return before
        return look()

    async def main() -> None:
        async with kernel_alone() as kernel:
            ref = kernel.ref_of(kernel.spawn(lambda: PlainDoer(look))) if kind == "def" else doer(kernel, work)
            SEEN.set("the asker's")
            assert [await ref.ask(Do()), await ref.ask(Do())] == ["base", "base"]
            assert SEEN.get() == "the asker's"

    run(main)


@pytest.mark.promise(129)
def test_workers_are_made_past_the_users_task_factory(run: Run) -> None:
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coro.__qualname__)
        return asyncio.Task(coro, loop=loop, **options)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        async with kernel_alone() as kernel:
            assert await alive(kernel)
        assert not [name for name in made if "worker" in name or "Kernel" in name or "Endings" in name]

    run(main)


# -- threads and loops (rule 9) --------------------------------------------------------------------------------


@pytest.mark.promise(131)
def test_a_ref_used_from_another_thread_raises_and_names_the_safe_way(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            heard = asyncio.Event()

            async def work() -> object:
                heard.set()
                return None

            ref = doer(kernel, work)
            with pytest.raises(WrongLoop, match="tell_threadsafe"):
                await asyncio.to_thread(ref.tell, Do())
            with pytest.raises(WrongLoop, match="tell_threadsafe"):
                await asyncio.to_thread(lambda: asyncio.run(ref.ask(Do())))
            thread = threading.Thread(target=ref.tell_threadsafe, args=(Do(),))
            thread.start()
            await heard.wait()
            thread.join()

    run(main)


# -- how many workers (rule 8), and whose turn it is -----------------------------------------------------------


@pytest.mark.promise(129)
def test_spares_grow_with_suspended_handlers_and_are_trimmed_afterwards(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            gate = asyncio.Event()
            refs = [doer(kernel, gate.wait) for _ in range(200)]
            asking = [asyncio.create_task(ref.ask(Do(), timeout=60)) for ref in refs]
            await turns(500)
            assert 200 <= kernel.dispatcher.workers <= 200 + pool.SPARES_KEPT
            gate.set()
            await asyncio.gather(*asking)
            await turns()
            assert kernel.dispatcher.workers <= pool.SPARES_KEPT + pool.SPARES + 1

    run(main)


@pytest.mark.promise(121)
def test_a_flood_of_messages_lets_timers_and_the_loop_have_their_turn(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            turned = 0
            rest = 1_000
            finished = asyncio.Event()

            async def work() -> object:
                nonlocal rest
                rest -= 1
                if rest:
                    ref.tell(Do())
                else:
                    finished.set()
                return None

            async def others() -> None:
                nonlocal turned
                while not finished.is_set():
                    turned += 1
                    await asyncio.sleep(0)

            ref = doer(kernel, work)
            ref.tell(Do())
            await others()
            assert turned >= 1_000 // scheduling.TURN

    run(main)


@pytest.mark.promise(120)
def test_a_busy_actor_lets_the_next_one_have_its_turn_after_one_message(run: Run) -> None:
    async def main() -> None:
        order: list[str] = []
        async with kernel_alone() as kernel:

            async def work(name: str) -> object:
                order.append(name)
                return None

            first, second = doer(kernel, functools.partial(work, "a")), doer(kernel, functools.partial(work, "b"))
            await first.ask(Ping())
            await second.ask(Ping())
            for _ in range(48):
                first.tell(Do())
            second.tell(Do())
            await second.ask(Ping())
            assert order.index("b") == 1

    run(main)


class LastFirst:
    """Serves the newest ready actor first and ends a turn after each message."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.turns = 0

    def next_ready(self, ready: Sequence[Any]) -> int:
        self.asked.append(tuple(cell.path for cell in ready))
        return len(ready) - 1

    def inline(self, path: str) -> bool:
        return False

    def end_turn(self, handled: int) -> bool:
        self.turns += 1
        return True

    def next_timer(self, due: Sequence[float]) -> int:
        return 0


def test_a_scheduler_decides_who_is_next_and_when_a_turn_ends(run: Run) -> None:
    async def main() -> None:
        scheduler = LastFirst()
        order: list[str] = []
        async with Kernel(scheduler=scheduler) as kernel:

            async def work(name: str) -> object:
                order.append(name)
                return None

            names = ("a", "b", "c")
            cells = {n: kernel.spawn(functools.partial(Doer, functools.partial(work, n)), name=n) for n in names}
            for cell in cells.values():
                await kernel.wait_started(cell)
            for cell in cells.values():
                kernel.ref_of(cell).tell(Do())
            await turns(10)
            assert order == ["c", "b", "a"]
            assert scheduler.asked[-3:] == [("a", "b", "c"), ("a", "b"), ("a",)]
            assert scheduler.turns >= 6

    run(main)


def test_a_cell_that_stopped_while_it_was_in_the_run_queue_is_passed_over(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            served: list[int] = []

            async def work() -> object:
                served.append(1)
                return None

            ref = doer(kernel, work)
            await ref.ask(Ping())
            ref.tell(Do())
            assert ref.cell().status == QUEUED
            stopping = asyncio.create_task(kernel.stop(ref.cell()))
            kernel._endings.begin_stop(ref.cell(), ref.cell().exit)
            await stopping
            assert not served
            assert ref.cell().status == BUSY
            assert [letter.reason for letter in kernel.telemetry.dead_letters()] == ["stopped"]

    run(main)


@pytest.mark.promise(127)
def test_a_worker_that_breaks_is_logged_and_replaced(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            ref = doer(kernel, turns)
            await ref.ask(Ping())

            class Broken:
                path = "broken"

                @property
                def first(self) -> object:
                    raise MemoryError("no room")

            cell: Any = Broken()
            kernel.dispatcher.schedule(cell)
            await turns()
            assert await alive(kernel)

    with caplog.at_level(logging.ERROR, "understudy.actors"):
        run(main)
    assert "no room" in caplog.text
