"""The rules of dispatch, one by one, where `test_loop`, `test_loop_turns` and `test_traps` do not show them already."""

import asyncio
import gc
import logging
import sys
import weakref
from pathlib import Path
from typing import Any

import anyio
import pytest
from doers import Do, Doer, Ping, Run, alive, kernel_alone, me, ready_doer, run, turns, way, workers
from invariants import check

from understudy.actors import loop as dispatch
from understudy.actors import workers as pool
from understudy.actors.actor import Actor
from understudy.actors.errors import ActorStopped
from understudy.actors.messages import Message
from understudy.actors.refs import Ref
from understudy.actors.scheduling import Scheduler

__all__ = ["run", "way"]  # the fixtures

Way = Scheduler | None
ROOT = Path(__file__).resolve().parents[2]


async def never() -> None:
    await asyncio.get_running_loop().create_future()


# -- rule 1 ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks are new in 3.12")
def test_an_eager_task_factory_changes_nothing(run: Run, way: Way) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
            return asyncio.Task(coro, loop=loop, eager_start=True, name=options.get("name"))  # type: ignore[call-arg, unused-ignore]  # new in 3.12

        loop.set_task_factory(factory)
        async with kernel_alone(way) as kernel:
            seen: list[object] = []

            async def work() -> object:
                task = me()
                seen.append(task)
                await asyncio.sleep(0)
                assert me() is task
                return "done"

            ref = await ready_doer(kernel, work)
            asking = [asyncio.create_task(ref.ask(Do())) for _ in range(3)]
            assert await asyncio.gather(*asking) == ["done"] * 3
            assert not set(asking) & set(seen)
            assert await alive(kernel)
        loop.set_task_factory(None)

    run(main)


# -- rule 2, in the hooks that end an incarnation --------------------------------------------------------------


def test_a_supervisors_callback_that_raises_breaks_neither_asker_nor_dispatcher(
    run: Run, way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("broken callback")

    async def fail() -> None:
        raise ValueError("x")

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            cell = kernel.spawn(lambda: Doer(fail), on_exit=broken)
            await kernel.wait_started(cell)
            await turns()
            with pytest.raises(ActorStopped, match="x"):
                await kernel.ref_of(cell).ask(Do())
            check(kernel)
            assert await alive(kernel)
            kernel.restart(cell)
            assert await kernel.ref_of(cell).ask(Ping()) == "pong"

    with caplog.at_level(logging.ERROR, "understudy.actors"):
        run(main)
    assert "broken callback" in caplog.text


# -- rule 3 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_owner_is_cancelled_in_the_turn_in_which_something_becomes_ready(run: Run, when: str) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            ref = await ready_doer(kernel, turns)
            owner = kernel.dispatcher._owner
            assert owner is not None
            if when == "before":
                owner.cancel()
            ref.tell(Do())
            ref.tell(Ping())
            if when == "after":
                owner.cancel()
            await turns(1)
            check(kernel)
            assert await ref.ask(Ping()) == "pong"
            assert await alive(kernel)

    run(main)


# -- rule 4 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dirt", ["cancelled", "scope"])
@pytest.mark.parametrize("follower", ["tell", "ask", "start", "notice"])
def test_whatever_follows_on_a_dirty_worker_runs_on_another(run: Run, dirt: str, follower: str) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            ran: list[asyncio.Task[Any]] = []
            scopes: list[anyio.CancelScope] = []
            ended: list[str] = []

            async def soil() -> None:
                ran.append(me())
                if dirt == "cancelled":
                    me().cancel()
                else:
                    scopes.append(anyio.CancelScope())
                    scopes[0].__enter__()

            async def work() -> object:
                ran.append(me())
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                ended.append("well")
                return None

            class Starter(Actor[Do]):
                async def on_start(self) -> None:
                    await work()

                async def do(self, m: Do) -> object:
                    return await work()

            first = await ready_doer(kernel, soil)
            second = await ready_doer(kernel, work)
            first.tell(Do())
            if follower == "ask":
                second.tell(Ping())  # so that the request takes the queue
                asking = asyncio.create_task(second.ask(Do()))
                await turns(1)
            elif follower == "tell":
                second.tell(Do())
            elif follower == "start":
                kernel.spawn(Starter)
            else:
                kernel.control(second.cell(), Do())
            await turns(2)
            if scopes:
                scopes[0].cancel()
            await turns(10)
            if follower == "ask":
                assert await asking is None
            assert len(ran) == 2
            assert ran[0] is not ran[1]
            assert ended == ["well"]

    run(main)


# -- rule 5 ----------------------------------------------------------------------------------------------------


def test_a_cancel_between_hand_over_and_adoption_reaches_the_callee(run: Run, way: Way) -> None:
    async def main() -> None:
        async with kernel_alone(way) as kernel:
            told: list[str] = []
            task: list[asyncio.Task[Any]] = []

            async def work() -> object:
                task.append(me())
                try:
                    await never()
                except asyncio.CancelledError:
                    told.append("cancelled")
                    raise
                return None

            ref = await ready_doer(kernel, work)
            asking = asyncio.create_task(ref.ask(Do()))
            while not task:
                await turns(1)
            task[0].cancel()  # a spare has been handed the handler, and has not run yet
            with pytest.raises(ActorStopped, match="CancelledError"):
                await asking
            assert told == ["cancelled"]
            assert await alive(kernel)

    run(main)


def test_a_spare_that_was_cancelled_is_not_lent(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:

            async def work() -> object:
                before = me().cancelling()
                await asyncio.sleep(0)
                return before, me().cancelling()

            ref = await ready_doer(kernel, work)
            for spare in list(kernel.dispatcher._spares):
                spare.task.cancel()
            assert await ref.ask(Do()) == (0, 0)

    run(main)


# -- rule 6 ----------------------------------------------------------------------------------------------------


def test_a_future_that_two_callees_and_the_asker_await(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            shared: asyncio.Future[int] = asyncio.get_running_loop().create_future()

            async def work() -> object:
                return await shared

            async def outer() -> object:
                asking = [asyncio.ensure_future(ref.ask(Do())) for ref in refs[:2]]
                await turns(1)
                asyncio.get_running_loop().call_later(0, shared.set_result, 3)
                return [await shared, *await asyncio.gather(*asking)]

            refs = [await ready_doer(kernel, work) for _ in range(2)]
            last = await ready_doer(kernel, outer)
            assert await last.ask(Do()) == [3, 3, 3]
            assert await refs[0].ask(Do()) == 3

    run(main)


# -- rule 8 ----------------------------------------------------------------------------------------------------


def test_two_spares_are_ready_again_after_all_were_cancelled(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            await turns()
            for rounds in range(3):
                for task in workers():
                    task.cancel()
                await turns(6 + rounds)
                assert pool.SPARES <= len(kernel.dispatcher._spares) <= pool.SPARES_KEPT
            ref = await ready_doer(kernel, turns)
            at_once: list[int] = []
            asyncio.get_running_loop().call_soon(at_once.append, 1)
            await turns(1)
            kernel.dispatcher.begin_turn()
            kernel.dispatcher.until += 10  # debug mode is slow
            at_once.clear()
            asyncio.get_running_loop().call_soon(at_once.append, 1)
            assert await ref.ask(Ping()) == "pong"
            assert not at_once, "the ask was stepped at once"

    run(main)


def test_nothing_of_a_message_is_kept_when_nothing_happens_any_more(run: Run, way: Way) -> None:
    class Big:
        pass

    class Carry(Message[object]):
        what: Any

    class Carrier(Actor[Carry]):
        async def carry(self, m: Carry) -> object:
            if m.what is None:
                await asyncio.sleep(0)
            return Big()

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            cell = kernel.spawn(Carrier)
            ref = kernel.ref_of(cell)
            await kernel.wait_started(cell)
            big = Big()
            there = weakref.ref(big)
            ref.tell(Carry(big))
            await ref.ask(Carry(big))
            del big
            await turns()
            gc.collect()
            assert there() is None, gc.get_referrers(there())
            assert not [each for each in gc.get_objects() if type(each) is Big]
            life = cell.life
            assert life is not None
            assert life.actor is not None
            actor = weakref.ref(life.actor)
            del life
            await kernel.stop(cell)
            await turns()
            gc.collect()
            assert actor() is None, gc.get_referrers(actor())

    run(main)


# -- rule 11 ---------------------------------------------------------------------------------------------------


def test_a_cancelled_asker_is_cancelled_before_anything_is_sent(run: Run, way: Way) -> None:
    async def main() -> None:
        async with kernel_alone(way) as kernel:
            served: list[int] = []

            async def work() -> None:
                served.append(1)

            ref = await ready_doer(kernel, work)

            async def ask() -> None:
                me().cancel()
                await ref.ask(Do())

            asking = asyncio.create_task(ask())
            await asyncio.wait([asking])
            assert asking.cancelled()
            await turns()
            assert await ref.ask(Ping()) == "pong"

    run(main)


def test_a_callee_that_cancels_its_asker_at_once(run: Run, way: Way) -> None:
    async def main() -> None:
        async with kernel_alone(way) as kernel:

            async def work() -> str:
                asking.cancel()
                return "too late"

            ref = await ready_doer(kernel, work)

            async def ask() -> object:
                try:
                    return await ref.ask(Do())
                finally:
                    ended.append(me().cancelling())

            ended: list[int] = []
            asking = asyncio.create_task(ask())
            await asyncio.wait([asking])
            assert asking.cancelled()
            assert ended == [1]
            assert await ref.ask(Ping()) == "pong"

    run(main)


def test_asks_that_are_stepped_inside_one_another_are_bounded(run: Run) -> None:
    class Down(Message[int]):
        n: int

    deepest = 0
    dispatcher: Any = None
    refs: list[Ref[Any]] = []

    class Step(Actor[Down]):
        async def down(self, m: Down) -> int:
            nonlocal deepest
            deepest = max(deepest, dispatcher._depth)
            if not m.n:
                return 0
            return 1 + await refs[m.n - 1].ask(Down(m.n - 1))

    async def main() -> None:
        nonlocal dispatcher
        async with kernel_alone() as kernel:
            dispatcher = kernel.dispatcher
            refs[:] = [kernel.ref_of(kernel.spawn(Step)) for _ in range(31)]
            await turns()
            assert await refs[30].ask(Down(30)) == 30
            await turns()
            assert 1 < deepest <= dispatch.DEPTH

    run(main)
