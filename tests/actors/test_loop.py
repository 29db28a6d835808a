"""Dispatch: ordinary events that break a naive dispatcher, each with its right outcome, with debug on and off."""

import asyncio
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from doers import Do, Doer, Ping, PlainDoer, Run, alive, doer, kernel_alone, me, run, turns, workers

from understudy.actors import scopes
from understudy.actors.errors import ActorStopped

__all__ = ["run"]  # the fixture

# -- every end of a handler is an outcome (rule 2) -------------------------------------------------------------


@pytest.mark.promise(126)
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


@pytest.mark.promise(126)
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


@pytest.mark.promise(126)
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


@pytest.mark.promise(126)
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


@pytest.mark.promise(52)
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


@pytest.mark.promise(127)
def test_cancelling_every_task_does_not_stop_dispatch(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            for rounds in range(1, 6):
                for task in asyncio.all_tasks() - {me()}:
                    task.cancel()
                await turns(rounds)  # from no turn between to several: unborn, retiring and parked workers
            assert await alive(kernel)

    run(main)


@pytest.mark.promise(127)
def test_a_worker_cancelled_before_its_first_step_is_replaced(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            for task in workers():
                task.cancel()  # not one of them has run yet
            assert await alive(kernel)

    run(main)


@pytest.mark.promise(127)
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
                if kernel.dispatcher._owner is task:
                    task.cancel()
            assert await alive(kernel)
            gate.set()
            assert await asking

    run(main)


@pytest.mark.promise(128)
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


@pytest.mark.promise(128)
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

    async def main() -> None:
        async with kernel_alone() as kernel:
            first = await doer(kernel, swallow).ask(Do())
            for _ in range(40):
                outcome: Any = await doer(kernel, group).ask(Do())
                assert outcome[0] is not first
                assert outcome[1] == 0

    run(main)


@pytest.mark.promise(128)
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


@pytest.mark.promise(128)
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


@pytest.mark.promise(133)
def test_without_anyios_table_every_worker_is_taken_for_dirty(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "_find_table", lambda: None)

    async def work() -> object:
        await asyncio.sleep(0)
        return me()

    async def main() -> None:
        async with kernel_alone() as kernel:
            ref = doer(kernel, work)
            ran_on = [await ref.ask(Do()) for _ in range(5)]
            assert len(set(ran_on)) == 5

    run(main)


def test_without_anyios_table_messages_that_are_told_are_handled(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "_find_table", lambda: None)

    async def main() -> None:
        async with kernel_alone() as kernel:
            served: list[object] = []

            async def work() -> object:
                served.append(me())
                return None

            refs = [doer(kernel, work) for _ in range(3)]
            for _ in range(4):
                for ref in refs:
                    ref.tell(Do())
                await turns(1)
            await turns(40)
            assert len(served) == 12
            assert len(set(served)) == 12

    run(main)
