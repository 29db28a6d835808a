"""Dispatch: ordinary events that break a naive dispatcher, each with its right outcome, with debug on and off."""

import asyncio
import contextlib
import contextvars
import functools
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from understudy.actors import loop as loops
from understudy.actors import scopes
from understudy.actors.actor import Actor
from understudy.actors.errors import ActorStopped, WrongLoop
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


# -- every end of a handler is an outcome (rule 2) -------------------------------------------------------------


def test_a_handler_that_awaits_a_cancelled_future_fails_and_the_dispatcher_lives(run: Run) -> None:
    async def work() -> object:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future
        return None

    async def main() -> None:
        async with kernel_alone() as kernel:
            with pytest.raises(ActorStopped, match="CancelledError"):
                await doer(kernel, work).ask(Do())
            assert await alive(kernel)

    run(main)


def test_a_cancelled_child_of_a_suspended_handler_is_a_failure_of_the_actor(run: Run) -> None:
    async def work() -> object:
        child = asyncio.ensure_future(asyncio.get_running_loop().create_future())
        await asyncio.sleep(0)
        child.cancel()
        return await child

    async def main() -> None:
        async with kernel_alone() as kernel:
            ref = doer(kernel, work)
            with pytest.raises(ActorStopped, match="CancelledError"):
                await ref.ask(Do())
            refused = ref.tell(Ping())
            assert not refused
            assert refused.reason == "dead"
            assert await alive(kernel)

    run(main)


def test_stop_iteration_out_of_a_def_handler_is_a_failure(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            ref = kernel.ref_of(kernel.spawn(lambda: PlainDoer(lambda: next(iter(())))))
            with pytest.raises(ActorStopped, match="StopIteration") as caught:
                await ref.ask(Do())
            assert isinstance(caught.value.__cause__, StopIteration)
            assert await alive(kernel)

    run(main)


class Fatal(BaseException):
    pass


@pytest.mark.parametrize("error", [Fatal, GeneratorExit, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("suspend", [False, True])
def test_any_base_exception_is_an_outcome(run: Run, error: type[BaseException], suspend: bool) -> None:
    async def work() -> object:
        if suspend:
            await asyncio.sleep(0)
        raise error

    async def main() -> None:
        async with kernel_alone() as kernel:
            kernel.on_interrupt = lambda interrupt: None
            with pytest.raises(ActorStopped, match=error.__name__):
                await doer(kernel, work).ask(Do())
            assert await alive(kernel)

    run(main)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_is_recorded_and_stops_everything_in_order(run: Run, error: type[BaseException]) -> None:
    async def work() -> object:
        raise error

    async def main() -> None:
        stopped: list[str] = []
        async with kernel_alone() as kernel:
            kernel.on_released = lambda cell, exit: stopped.append(cell.path)
            cells = [kernel.spawn(lambda: Doer(work), name=name) for name in ("a", "b", "c")]
            with pytest.raises(ActorStopped):
                await kernel.ref_of(cells[1]).ask(Do())
            assert isinstance(kernel.interrupted, error)
            await kernel.stop(cells[0])  # the last of the three to go; joins the stop that is under way
            assert stopped == ["b", "c", "a"]  # the culprit itself has no supervisor

    run(main)


# -- the queue never loses its owner (rule 3) ------------------------------------------------------------------


def test_cancelling_every_task_does_not_stop_dispatch(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            for rounds in range(1, 6):
                for task in asyncio.all_tasks() - {me()}:
                    task.cancel()
                await turns(rounds)  # from no turn between to several: unborn, retiring and parked workers
            assert await alive(kernel)

    run(main)


def test_a_worker_cancelled_before_its_first_step_is_replaced(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            for task in workers():
                task.cancel()  # not one of them has run yet
            assert await alive(kernel)

    run(main)


def test_a_spare_cancelled_in_the_moment_it_gets_the_queue_passes_it_on(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            await turns()
            gate = asyncio.Event()
            ref = doer(kernel, gate.wait)
            await turns(1)
            parked = set(workers())
            asking = asyncio.create_task(ref.ask(Do()))
            await turns(1)  # the handler has suspended: a spare's future is set, its task has not run
            for task in parked:
                if kernel._dispatcher._owner is task:
                    task.cancel()
            assert await alive(kernel)
            gate.set()
            assert await asking

    run(main)


def test_a_handler_that_cancels_its_own_task_answers_and_its_worker_retires(run: Run) -> None:
    ran_on: list[asyncio.Task[Any]] = []

    async def work() -> object:
        ran_on.append(me())
        me().cancel()
        return 1

    async def main() -> None:
        async with kernel_alone() as kernel:
            assert await doer(kernel, work).ask(Do()) == 1
            await turns()
            assert ran_on[0].done()
            assert await alive(kernel)

    run(main)


# -- dirty workers retire (rule 4) -----------------------------------------------------------------------------


def test_a_swallowed_cancel_does_not_reach_the_next_handler(run: Run) -> None:
    async def swallow() -> object:
        me().cancel()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return me()
        return None

    async def group() -> object:
        async def bad() -> None:
            raise ValueError("x")

        await asyncio.sleep(0)
        with pytest.raises(ExceptionGroup, match="unhandled errors"):  # noqa: PT012  # the group is the statement
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(bad())
                await asyncio.get_running_loop().create_future()
        return me(), me().cancelling()

    async def counts() -> object:
        return me().cancelling()

    async def main() -> None:
        async with kernel_alone() as kernel:
            first = await doer(kernel, swallow).ask(Do())
            for _ in range(40):
                assert await doer(kernel, group).ask(Do()) not in [(first, 0), (first, 1)]
                assert await doer(kernel, counts).ask(Do()) == 0

    run(main)


@pytest.mark.parametrize("suspend", [False, True])
def test_a_scope_left_open_does_not_cancel_the_next_handler(run: Run, suspend: bool) -> None:
    left: list[anyio.CancelScope] = []

    async def leave_open() -> object:
        if suspend:
            await asyncio.sleep(0)
        scope = anyio.CancelScope()
        scope.__enter__()
        left.append(scope)
        return None

    async def main() -> None:
        async with kernel_alone() as kernel:
            gate = anyio.Event()

            async def wait() -> object:
                await gate.wait()
                return "ok"

            await doer(kernel, leave_open).ask(Do())
            asking = asyncio.create_task(doer(kernel, wait).ask(Do()))
            await turns()
            left[0].cancel()
            await turns()
            gate.set()
            assert await asking == "ok"

    run(main)


def test_a_task_group_of_one_handler_cannot_be_closed_by_another(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            groups: list[anyio.abc.TaskGroup] = []

            async def work() -> object:
                if groups:
                    return await groups[0].__aexit__(None, None, None)
                groups.append(anyio.create_task_group())
                await groups[0].__aenter__()
                await asyncio.sleep(0)
                return "open"

            ref = doer(kernel, work)
            assert await ref.ask(Do()) == "open"
            with pytest.raises(ActorStopped, match="different task"):
                await ref.ask(Do())
            assert await alive(kernel)

    run(main)


def test_without_anyios_table_every_worker_is_taken_for_dirty(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "_table", None)

    async def work() -> object:
        await asyncio.sleep(0)
        return me()

    async def main() -> None:
        async with kernel_alone() as kernel:
            ref = doer(kernel, work)
            ran_on = [await ref.ask(Do()) for _ in range(5)]
            assert len(set(ran_on)) == 5

    run(main)


# -- what a handler may rely on --------------------------------------------------------------------------------


def test_one_task_scopes_timeouts_groups_and_threads_within_one_handler(run: Run) -> None:
    async def work() -> object:
        task = me()
        with anyio.move_on_after(5) as scope:
            async with asyncio.timeout(5):
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


def test_spares_grow_with_suspended_handlers_and_are_trimmed_afterwards(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            gate = asyncio.Event()
            refs = [doer(kernel, gate.wait) for _ in range(200)]
            asking = [asyncio.create_task(ref.ask(Do())) for ref in refs]
            await turns(500)
            assert 200 <= kernel._dispatcher.workers <= 200 + loops.SPARES_KEPT
            gate.set()
            await asyncio.gather(*asking)
            await turns()
            assert kernel._dispatcher.workers <= loops.SPARES_KEPT + loops.SPARES + 1

    run(main)


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
            assert turned >= 1_000 // loops.TURN

    run(main)


def test_a_busy_actor_lets_the_next_one_have_its_turn_after_a_batch(run: Run) -> None:
    async def main() -> None:
        order: list[str] = []
        async with kernel_alone() as kernel:

            async def work(name: str) -> object:
                order.append(name)
                return None

            first, second = doer(kernel, functools.partial(work, "a")), doer(kernel, functools.partial(work, "b"))
            await first.ask(Ping())
            await second.ask(Ping())
            for _ in range(3 * loops.BATCH):
                first.tell(Do())
            second.tell(Do())
            await second.ask(Ping())
            assert order.index("b") == loops.BATCH

    run(main)


class LastFirst:
    """Serves the newest ready actor first and ends a turn after each message."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.turns = 0

    def next_ready(self, paths: Sequence[str]) -> int:
        self.asked.append(tuple(paths))
        return len(paths) - 1

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
            assert scheduler.asked[-2:] == [("a", "b", "c"), ("a", "b")]
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
            assert ref.cell().scheduled
            stopping = asyncio.create_task(kernel.stop(ref.cell()))
            kernel._endings.begin_stop(ref.cell(), ref.cell().exit)
            await stopping
            assert not served
            assert not ref.cell().scheduled
            assert [letter.reason for letter in kernel.telemetry.dead_letters()] == ["stopped"]

    run(main)


def test_a_worker_that_breaks_is_logged_and_replaced(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            ref = doer(kernel, turns)
            await ref.ask(Ping())
            broken = ref.cell().take

            def take() -> None:
                raise MemoryError("no room")

            class Broken:
                path, scheduled = "broken", False

            cell: Any = Broken()
            cell.take = take
            assert broken() is None
            kernel._dispatcher.schedule(cell)
            await turns()
            assert await alive(kernel)

    with caplog.at_level(logging.ERROR, "understudy.actors"):
        run(main)
    assert "no room" in caplog.text
