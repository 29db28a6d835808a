"""The rules of dispatch, one by one, where `test_loop`, `test_loop_turns` and `test_traps` do not show them already."""

import asyncio
import contextlib
import gc
import logging
import os
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import anyio
import pytest
from doers import Do, Doer, Ping, PlainDoer, Run, alive, doer, kernel_alone, me, ready_doer, run, turns, way, workers
from invariants import check

from understudy.actors import loop as dispatch
from understudy.actors import tasks
from understudy.actors import workers as pool
from understudy.actors.actor import Actor
from understudy.actors.errors import ActorStopped, AskTimeout, CallCycle
from understudy.actors.kernel import Kernel
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
            kernel.dispatcher.until = float("inf")  # however slow the machine is
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


# -- rule 10 ---------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, logging, sys
logging.basicConfig(stream=sys.stdout, format="%(message)s")
table = asyncio.tasks._current_tasks
def current(loop=None):
    return table.get(asyncio.get_running_loop() if loop is None else loop)
asyncio.current_task = asyncio.tasks.current_task = current  # asyncio itself goes on working, whatever is broken
BREAK
from understudy.actors import tasks
from understudy.actors.actor import Actor
from understudy.actors.errors import ActorStopped
from understudy.actors.kernel import Kernel
from understudy.actors.messages import Message

class Do(Message[object]):
    what: str

class A(Actor[Do]):
    async def do(self, m: Do) -> object:
        task = asyncio.current_task()
        if m.what == "raise":
            raise ValueError("boom")
        if m.what == "wait":
            await asyncio.sleep(0)
            try:
                async with asyncio.timeout(0):
                    await asyncio.get_running_loop().create_future()
            except TimeoutError:
                pass
        return task is asyncio.current_task(), task.cancelling()

async def main() -> None:
    async with Kernel() as kernel:
        cell = kernel.spawn(A)
        ref = kernel.ref_of(cell)
        await kernel.wait_started(cell)
        print([await ref.ask(Do(what)) for what in ("now", "wait", "now", "wait")])
        try:
            await ref.ask(Do("raise"))
        except ActorStopped as error:
            print(type(error.__cause__))

asyncio.run(main())
print("inline", tasks.CURRENT is not None)
"""
RESULTS = "[(True, 0), (True, 0), (True, 0), (True, 0)]\n<class 'ValueError'>"
BREAKS = {
    "the table is not there": "del asyncio.tasks._current_tasks",
    "the table is another type": "asyncio.tasks._current_tasks = ()",
    "the table is a copy": "asyncio.tasks._current_tasks = dict(asyncio.tasks._current_tasks)",
    "entering is not there": "del asyncio.tasks._enter_task",
    "entering notes nothing": "asyncio.tasks._enter_task = lambda loop, task: None",
    "leaving is not there": "del asyncio.tasks._leave_task",
    "current_task looks elsewhere": """
there = lambda loop=None: current(loop) if isinstance(loop, asyncio.AbstractEventLoop | None) else None
asyncio.current_task = asyncio.tasks.current_task = there
""",
    "a future has no mark": """
class Bare:
    __class_getitem__ = classmethod(lambda cls, of: cls)
asyncio.Future = Bare
""",
}


def program(broken: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("BREAK", broken)], env=env, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return "".join(line for line in done.stdout.splitlines(keepends=True) if "crashed" not in line)


@pytest.mark.promise(140)
def test_with_asyncio_as_it_is_asks_are_stepped_at_once_and_nothing_is_said() -> None:
    assert program("") == f"{RESULTS}\ninline True\n"


@pytest.mark.promise(140)
@pytest.mark.parametrize("what", BREAKS)
def test_with_an_asyncio_that_is_not_as_expected_asks_take_the_queue_and_a_warning_says_so(what: str) -> None:
    out = program(BREAKS[what])
    assert "asyncio's current tasks are not as expected" in out
    assert "every ask takes the queue" in out
    assert out.endswith(f"{RESULTS}\ninline False\n")


@pytest.mark.promise(140)
def test_the_self_test_leaves_no_trace() -> None:
    table = tasks.find_table()
    assert table is asyncio.tasks._current_tasks  # type: ignore[attr-defined]  # what is tested
    assert table == {}


@pytest.mark.promise(140)
def test_without_the_table_every_ask_takes_the_queue_with_the_same_results(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "CURRENT", None)

    async def main() -> None:
        async with kernel_alone() as kernel:

            async def work() -> object:
                return me() in workers()

            ref = await ready_doer(kernel, work)
            turned: list[int] = []
            asyncio.get_running_loop().call_soon(turned.append, 1)
            assert await ref.ask(Do()) is True
            assert turned
            assert await alive(kernel)

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


# -- call cycles -----------------------------------------------------------------------------------------------


class Go(Message[object]):
    to: tuple[str, ...]


class Walker(Actor[Go]):
    """Asks the first of those named, with the rest."""

    def __init__(self, all: dict[str, Ref[Any]], outcomes: list[object]) -> None:
        self.all, self.outcomes = all, outcomes

    async def go(self, m: Go) -> object:
        if not m.to:
            return "end"
        if m.to[0] == "sleep":
            await asyncio.sleep(0)
            return await self.go(Go(m.to[1:]))
        try:
            outcome: object = await self.all[m.to[0]].ask(Go(m.to[1:]), timeout=0.2)
        except (CallCycle, AskTimeout) as error:
            outcome = error
        self.outcomes.append(outcome)
        return outcome


@pytest.mark.parametrize("first", ["tell", "ask"])
@pytest.mark.parametrize(
    "route",
    [("b", "a"), ("sleep", "b", "a"), ("b", "sleep", "a"), ("sleep", "b", "sleep", "a"), ("a",), ("sleep", "a")],
)
def test_a_call_cycle_is_named_however_its_first_message_came(
    run: Run, way: Way, first: str, route: tuple[str, ...]
) -> None:
    async def main() -> None:
        async with kernel_alone(way) as kernel:
            refs: dict[str, Ref[Any]] = {}
            outcomes: list[object] = []
            for name in ("a", "b"):
                refs[name] = kernel.ref_of(kernel.spawn(lambda: Walker(refs, outcomes), name=name))
            await turns()
            if first == "ask":
                await refs["a"].ask(Go(route))
            else:
                refs["a"].tell(Go(route))
                while not outcomes:
                    await turns(1)
            assert isinstance(outcomes[0], CallCycle), outcomes
            assert await refs["a"].ask(Go(())) == "end"

    run(main)


def test_what_a_handler_left_behind_is_no_cycle(run: Run, way: Way) -> None:
    class Leave(Message[None]):
        pass

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            left: list[asyncio.Task[Any]] = []

            class Leaver(Actor[Leave | Ping]):
                async def leave(self, m: Leave) -> None:
                    left.append(asyncio.create_task(other.ask(Do())))

                async def ping(self, m: Ping) -> str:
                    await turns(20)
                    return "pong"

            async def ask_back() -> object:
                return await leaver.ask(Ping())

            leaver = kernel.ref_of(kernel.spawn(Leaver))
            other = await ready_doer(kernel, ask_back)
            leaver.tell(Leave())
            leaver.tell(Ping())
            while not left:
                await turns(1)
            assert await left[0] == "pong"

    run(main)


# -- asks and the ends of those concerned ----------------------------------------------------------------------


@pytest.mark.parametrize("who", ["asker", "itself"])
@pytest.mark.parametrize("how", ["stop", "halt", "leave", "kill"])
@pytest.mark.parametrize("kind", ["def", "async", "suspending"])
def test_a_callee_may_end_its_asker_or_itself(run: Run, way: Way, who: str, how: str, kind: str) -> None:
    async def main() -> None:
        async with kernel_alone(way) as kernel:
            restarted: list[str] = []

            def again(cell: Any, number: int, exit: Any) -> None:
                restarted.append(cell.path)
                kernel.restart(cell)

            def act() -> str:
                cell = cells[who]
                if how == "stop":
                    kernel.begin_stop(cell)
                elif how == "halt":
                    kernel.halt(cell)
                elif how == "leave":
                    kernel.leave(cell, cell.exit)
                else:
                    kernel.end(cell, cell.life, cell.exit)
                return "done"

            async def suspending() -> str:
                act()
                await asyncio.sleep(0)
                return "done"

            async def at_once() -> str:
                return act()

            async def ask() -> object:
                try:
                    got.append(await kernel.ref_of(cells["itself"]).ask(Do()))
                except ActorStopped as error:
                    got.append(error)
                return got[0]

            got: list[object] = []
            cells: dict[str, Any] = {}
            cells["asker"] = kernel.spawn(lambda: Doer(ask), name="asker", on_exit=again)
            work = suspending if kind == "suspending" else at_once
            cells["itself"] = kernel.spawn(
                (lambda: PlainDoer(act)) if kind == "def" else (lambda: Doer(work)), name="callee", on_exit=again
            )
            await turns()
            with contextlib.suppress(ActorStopped):
                await kernel.ref_of(cells["asker"]).ask(Do())
            check(kernel)
            await turns(20)
            check(kernel)
            ended, other = cells[who], cells["itself" if who == "asker" else "asker"]
            if how == "stop":
                assert ended.state == "stopped"
            else:
                assert (ended.state, ended.number) == ("running", 2)
                assert restarted == [ended.path]
            assert (other.state, other.number) == ("running", 1)
            if how == "kill" and kind == "suspending":  # at once: who is suspended, asker or callee, is cancelled
                assert not got or isinstance(got[0], ActorStopped)
            elif how != "kill" or who == "itself":
                assert got == ["done"]

    run(main)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_within_asks_within_asks_leaves_each_on_its_own_task(
    run: Run, way: Way, error: type[BaseException]
) -> None:
    async def main() -> None:
        async with kernel_alone(way) as kernel:
            kernel.on_interrupt = lambda interrupt: None
            same: list[bool] = []

            async def fail() -> None:
                raise error

            async def middle() -> None:
                mine = me()
                with contextlib.suppress(ActorStopped):
                    await last.ask(Do())
                same.append(me() is mine)

            last = await ready_doer(kernel, fail)
            ref = await ready_doer(kernel, middle)
            mine = me()
            await ref.ask(Do())
            assert me() is mine
            assert same == [True]
            assert isinstance(kernel.interrupted, error)

    run(main)


def test_an_ask_whose_deadline_has_passed_is_not_sent(run: Run, way: Way) -> None:
    async def main() -> None:
        async with kernel_alone(way) as kernel:
            served: list[int] = []

            async def work() -> None:
                served.append(1)

            ref = await ready_doer(kernel, work)
            for seconds in (0, -1.0):
                with pytest.raises(AskTimeout):
                    await ref.ask(Do(), timeout=seconds)
            assert not served
            assert await ref.ask(Ping()) == "pong"
            assert not kernel.telemetry.dead_letters()

    run(main)


def test_an_ask_of_a_system_that_is_closing_or_closed_fails_at_once(run: Run, way: Way) -> None:
    async def main() -> None:
        asked: list[BaseException] = []
        kernel = Kernel(scheduler=way)
        async with kernel:
            ref = doer(kernel, turns)

            class Last(Actor[Ping]):
                def ping(self, m: Ping) -> str:
                    return "pong"

                async def on_stop(self, exit: Any) -> None:
                    try:
                        await ref.ask(Ping())
                    except ActorStopped as error:
                        asked.append(error)

            await kernel.wait_started(kernel.spawn(Last))
            await kernel.stop(ref.cell())
        with pytest.raises(ActorStopped):
            await ref.ask(Ping())
        assert not ref.tell(Ping())
        assert len(asked) == 1

    run(main)
