"""Suspend, resume and peek: what OTP's `sys` does, with deadlines and cancellation; in virtual time."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from probes import Log, Note, Probe, Work, alone, probe, quiet, reasons, stubborn

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.errors import ActorStopped, AskTimeout, MailboxFull, UsageError, WrongLoop
from understudy.actors.inspection import inspect_cell
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.mailbox import CONTROL_LIMIT
from understudy.actors.messages import Message
from understudy.actors.refs import Refused
from understudy.actors.testing.simloop import run


async def three_seconds() -> object:
    await asyncio.sleep(3)
    return "finished"


async def begun(kernel: Kernel, log: Log, work: Any = three_seconds, **options: Any) -> Cell:
    cell = probe(kernel, log, work, name="it", **options)
    await kernel.wait_started(cell)
    log.clear()
    return cell


# -- suspend and resume ------------------------------------------------------------------------------------------


@pytest.mark.promise(77)
def test_suspending_lets_the_message_in_hand_end_and_begins_no_other() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = await begun(kernel, log)
        ref = kernel.ref_of(cell)
        first = asyncio.create_task(ref.ask(Work("1"), timeout=60))
        second = asyncio.create_task(ref.ask(Work("2"), timeout=60))
        await quiet()
        await kernel.suspensions.suspend(cell)
        assert kernel.loop.time() == pytest.approx(3, abs=1e-3)
        assert await first == "finished"
        assert [ref.tell(Note(text)) for text in "ab"] == [True, True]
        await asyncio.sleep(10)
        assert log == ["did 1"]
        assert (cell.state, inspect_cell(cell).mailbox.work) == ("suspended", 3)
        kernel.suspensions.resume(cell)
        assert await second == "finished"
        await quiet()
        assert log == ["did 1", "did 2", "a", "b"]
        assert not kernel.suspensions.any

    alone(main)


@pytest.mark.promise(77)
def test_the_bounds_of_a_suspended_mailbox_hold_and_asks_keep_their_deadlines() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = await begun(kernel, log)
        cell.box().limit = 2
        await kernel.suspensions.suspend(cell)
        ref = kernel.ref_of(cell)
        with pytest.raises(AskTimeout):
            await ref.ask(Work("expired"), timeout=1)
        assert ref.tell(Note("kept"))
        assert ref.tell(Note("one too many")) == Refused("full", "it")
        assert await ref.send(Note("waits for room"), timeout=2) == Refused("full", "it")
        kernel.suspensions.resume(cell)
        await quiet()
        assert log == ["kept"]
        assert reasons(kernel) == ["full", "full", "expired"]

    alone(main)


@pytest.mark.promise(77)
def test_the_control_lane_of_a_suspended_actor_is_served() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = await begun(kernel, log)
        other = probe(kernel, [], name="other")
        await kernel.wait_started(other)
        kernel.watch(cell, other)
        kernel.timer(cell, 1, Note("timer"))
        await kernel.suspensions.suspend(cell)
        kernel.ref_of(cell).tell(Note("work"))
        await kernel.stop(other)
        await asyncio.sleep(2)
        assert log == ["down other shutdown False", "timer"]

    alone(main)


def test_suspending_twice_and_resuming_what_runs_change_nothing() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = await begun(kernel, log)
        kernel.suspensions.resume(cell)
        await kernel.suspensions.suspend(cell)
        await kernel.suspensions.suspend(cell)
        kernel.suspensions.resume(cell)
        kernel.suspensions.resume(cell)
        kernel.ref_of(cell).tell(Note("runs"))
        await quiet()
        assert (log, cell.state) == (["runs"], "running")

    alone(main)


def test_every_handler_of_a_concurrent_actor_ends_before_it_is_suspended() -> None:
    async def main(kernel: Kernel) -> None:
        cell = await begun(kernel, [], concurrency=3)
        for _ in range(2):
            kernel.ref_of(cell).tell(Work())
            await asyncio.sleep(1)
        suspending = asyncio.create_task(kernel.suspensions.suspend(cell))
        await quiet()
        kernel.ref_of(cell).tell(Note("not begun, though there is a place"))
        await suspending
        assert kernel.loop.time() == pytest.approx(4, abs=1e-3)
        assert len(cell.box()) == 1

    alone(main)


def test_one_that_is_starting_is_suspended_when_it_has_started() -> None:
    async def main(kernel: Kernel) -> None:
        class Late(Probe):
            async def on_start(self) -> None:
                await asyncio.sleep(2)

        log: Log = []
        cell = kernel.spawn(lambda: Late(log))
        kernel.ref_of(cell).tell(Note("waits"))
        with pytest.raises(AskTimeout):
            await kernel.suspensions.suspend(cell, 1)
        assert cell.state == "starting"
        await kernel.suspensions.suspend(cell, 5)
        await asyncio.sleep(1)
        assert str(cell.state) == "suspended"
        assert kernel.loop.time() == pytest.approx(3, abs=1e-3)

    alone(main)


@pytest.mark.promise(78)
@pytest.mark.parametrize("how", ["deadline", "cancelled"])
def test_a_suspend_that_does_not_come_to_its_end_leaves_the_actor_running(how: str) -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = await begun(kernel, log)
        kernel.ref_of(cell).tell(Work("1"))
        await quiet()
        if how == "deadline":
            with pytest.raises(AskTimeout, match="it: no reply within 1 s"):
                await kernel.suspensions.suspend(cell, 1)
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await kernel.suspensions.suspend(cell)
        assert cell.state == "running"
        kernel.ref_of(cell).tell(Note("goes on"))
        await asyncio.sleep(5)
        assert log == ["did 1", "goes on"]
        assert not kernel.suspensions.any

    alone(main)


@pytest.mark.promise(78)
def test_a_suspend_that_gives_up_does_not_undo_that_of_another() -> None:
    async def main(kernel: Kernel) -> None:
        cell = await begun(kernel, [])
        kernel.ref_of(cell).tell(Work("1"))
        await quiet()
        patient = asyncio.create_task(kernel.suspensions.suspend(cell))
        with pytest.raises(AskTimeout):
            await kernel.suspensions.suspend(cell, 1)
        await patient
        assert cell.state == "suspended"

    alone(main)


def test_a_suspend_that_somebody_undoes_meanwhile_says_so() -> None:
    async def main(kernel: Kernel) -> None:
        cell = await begun(kernel, [])
        kernel.ref_of(cell).tell(Work("1"))
        await quiet()
        suspending = asyncio.create_task(kernel.suspensions.suspend(cell))
        await quiet()
        kernel.suspensions.resume(cell)
        with pytest.raises(UsageError, match="it was resumed before its handler had ended"):
            await suspending
        assert cell.state == "running"

    alone(main)


def test_cancelling_a_request_while_its_actor_is_being_suspended_is_no_crash() -> None:
    async def main(kernel: Kernel) -> None:
        cell = await begun(kernel, [])
        asking = asyncio.create_task(kernel.ref_of(cell).ask(Work(), cancel=True))
        await quiet()
        suspending = asyncio.create_task(kernel.suspensions.suspend(cell))
        await quiet()
        asking.cancel()
        await suspending
        assert (cell.state, cell.number) == ("suspended", 1)
        assert kernel.loop.time() < 1e-3

    alone(main)


# -- ends of a suspended actor -----------------------------------------------------------------------------------


@pytest.mark.promise(79)
def test_a_suspended_actor_can_be_stopped_and_its_mail_becomes_dead_letters() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = await begun(kernel, log)
        await kernel.suspensions.suspend(cell)
        kernel.ref_of(cell).tell(Note("waiting"))
        await kernel.stop(cell)
        assert (log, reasons(kernel)) == (["it on_stop shutdown"], ["stopped"])
        for call in (kernel.suspensions.suspend(cell), kernel.suspensions.peek(cell, str)):
            with pytest.raises(ActorStopped, match="shutdown"):
                await call
        with pytest.raises(ActorStopped):
            kernel.suspensions.resume(cell)

    alone(main)


@pytest.mark.promise(79)
def test_a_restart_of_a_suspended_actor_comes_back_running() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        exits: list[Exit] = []
        cell = await begun(kernel, log, on_exit=lambda cell, number, exit: exits.append(exit))
        await kernel.suspensions.suspend(cell)
        kernel.ref_of(cell).tell(Note("kept"))
        kernel.timer(cell, 1, Note("fail"))
        await asyncio.sleep(2)
        assert (exits, cell.state) == ([Exit("error", "ValueError: told to")], "failed")
        assert not kernel.suspensions.any
        with pytest.raises(ActorStopped, match="told to"):
            await kernel.suspensions.suspend(cell)
        kernel.suspensions.resume(cell)  # nothing to resume, and nothing wrong
        kernel.restart(cell)
        await quiet()
        assert (cell.state, log[-2:]) == ("running", ["it started #2", "kept"])

    alone(main)


@pytest.mark.promise(79)
@pytest.mark.parametrize("end", ["stop", "crash", "kill"])
def test_an_actor_that_ends_while_it_is_being_suspended_is_told_to_who_waits(end: str) -> None:
    async def main(kernel: Kernel) -> None:
        async def work() -> object:
            await asyncio.sleep(1)
            if end == "crash":
                raise ValueError("in hand")
            return await stubborn() if end == "kill" else None

        cell = await begun(kernel, [], work)
        kernel.ref_of(cell).tell(Work())
        await quiet()
        suspending = asyncio.create_task(kernel.suspensions.suspend(cell, 30))
        await quiet()
        if end != "crash":
            await kernel.stop(cell)
        with pytest.raises(ActorStopped, match="in hand" if end == "crash" else "shutdown"):
            await suspending
        assert kernel.loop.time() < 10
        assert not kernel.suspensions.any
        await asyncio.sleep(5_000)  # the stubborn handler ends in its own time

    alone(main)


def test_leaving_the_kernel_stops_what_is_suspended_and_what_waits_for_it() -> None:
    waiting: list[asyncio.Task[None]] = []

    async def main(kernel: Kernel) -> None:
        still = await begun(kernel, [])
        await kernel.suspensions.suspend(still)
        busy = probe(kernel, [], three_seconds)
        await quiet()
        kernel.ref_of(busy).tell(Work())
        await quiet()
        waiting.append(asyncio.create_task(kernel.suspensions.suspend(busy)))
        waiting.append(asyncio.create_task(kernel.suspensions.peek(busy, str)))  # type: ignore[arg-type]  # any task
        await quiet()

    async def whole() -> None:
        async with Kernel() as kernel:
            await main(kernel)
        for task in waiting:
            with pytest.raises(ActorStopped):
                await task

    run(whole)


# -- peek --------------------------------------------------------------------------------------------------------


@pytest.mark.promise(80)
@pytest.mark.parametrize("suspended", [False, True])
def test_peek_calls_a_function_with_the_actor_between_two_messages(suspended: bool) -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = await begun(kernel, log)
        for text in ("1", "2"):
            kernel.ref_of(cell).tell(Work(text))
        await quiet()
        if suspended:
            await kernel.suspensions.suspend(cell)
        seen = await kernel.suspensions.peek(cell, lambda actor: list(actor.log))
        assert seen == ["did 1"]  # it overtook the second
        assert kernel.loop.time() == pytest.approx(3, abs=1e-3)

    alone(main)


@pytest.mark.promise(80)
@pytest.mark.parametrize("error", [ValueError("mine"), asyncio.CancelledError(), StopIteration(1)])
def test_what_a_peek_raises_is_its_callers_and_the_actor_goes_on(error: BaseException) -> None:
    async def main(kernel: Kernel) -> None:
        def fn(actor: Probe) -> None:
            raise error

        log: Log = []
        cell = await begun(kernel, log)
        named = {StopIteration: RuntimeError, asyncio.CancelledError: UsageError}  # which would mean something else
        expected = named.get(type(error), type(error))
        with pytest.raises(expected):
            await kernel.suspensions.peek(cell, fn)
        kernel.ref_of(cell).tell(Note("goes on"))
        await quiet()
        assert (log, cell.number, reasons(kernel)) == (["goes on"], 1, [])

    alone(main)


@pytest.mark.promise(80)
def test_a_peek_at_an_actor_that_hangs_ends_at_its_deadline_and_leaves_nothing_behind() -> None:
    async def main(kernel: Kernel) -> None:
        calls: list[object] = []
        cell = await begun(kernel, [])
        kernel.ref_of(cell).tell(Work())
        await quiet()
        for _ in range(10):
            with pytest.raises(AskTimeout):
                await kernel.suspensions.peek(cell, calls.append, 0.1)
        assert not cell.box().has_control
        cancelled = asyncio.create_task(kernel.suspensions.peek(cell, calls.append))
        await quiet()
        cancelled.cancel()
        await asyncio.sleep(5)
        assert calls == []
        assert not kernel.suspensions.any

    alone(main)


@pytest.mark.parametrize("end", ["stop", "crash"])
def test_a_peek_at_an_actor_that_ends_first_is_told(end: str) -> None:
    async def main(kernel: Kernel) -> None:
        async def work() -> object:
            await asyncio.sleep(1)
            raise ValueError("in hand")

        cell = await begun(kernel, [], work)
        kernel.ref_of(cell).tell(Work())
        await quiet()
        peeking = asyncio.create_task(kernel.suspensions.peek(cell, str, 60))
        await quiet()
        if end == "stop":
            await kernel.stop(cell, deadline=0)
        with pytest.raises(ActorStopped):
            await peeking
        assert kernel.loop.time() < 5

    alone(main)


def test_a_peek_waits_for_one_that_starts() -> None:
    async def main(kernel: Kernel) -> None:
        cell = probe(kernel, [], name="new")
        assert await kernel.suspensions.peek(cell, lambda actor: actor.context.path) == "new"

    alone(main)


def test_a_full_control_lane_refuses_a_peek() -> None:
    async def main(kernel: Kernel) -> None:
        cell = await begun(kernel, [])
        kernel.ref_of(cell).tell(Work())
        await quiet()
        for _ in range(CONTROL_LIMIT):
            kernel.control(cell, Note("full"))
        with pytest.raises(MailboxFull):
            await kernel.suspensions.peek(cell, str)
        assert not kernel.suspensions.any

    alone(main)


def test_only_a_plain_function_is_taken() -> None:
    async def main(kernel: Kernel) -> None:
        async def wrong(actor: object) -> None:
            raise AssertionError

        cell = await begun(kernel, [])
        with pytest.raises(UsageError, match="wrong"):
            _ = await kernel.suspensions.peek(cell, wrong)
        with pytest.raises(UsageError, match="returned a coroutine"):
            _ = await kernel.suspensions.peek(cell, lambda actor: wrong(actor))
        for seconds in (float("inf"), float("nan")):
            with pytest.raises(UsageError, match="must have an end"):
                await kernel.suspensions.peek(cell, str, seconds)
            with pytest.raises(UsageError, match="must have an end"):
                await kernel.suspensions.suspend(cell, seconds)

    alone(main)


class Selfish(Message[str]):
    what: str


class Narcissus(Actor[Selfish]):
    async def look(self, m: Selfish) -> str:
        suspensions = self.context.ref.cell().kernel.suspensions
        try:
            if m.what == "suspend":
                await suspensions.suspend(self.context.ref.cell())
            else:
                await suspensions.peek(self.context.ref.cell(), str)
        except UsageError as error:
            return str(error)
        return "not refused"


@pytest.mark.parametrize("what", ["suspend", "peek"])
def test_a_handler_cannot_wait_for_its_own_end(what: str) -> None:
    async def main(kernel: Kernel) -> None:
        ref = kernel.ref_of(kernel.spawn(Narcissus, name="n"))
        assert await ref.ask(Selfish(what)) == f"{what} n: a handler of the actor itself would wait for itself"

    alone(main)


def test_other_threads_are_refused() -> None:
    async def main(kernel: Kernel) -> None:
        cell = await begun(kernel, [])

        def elsewhere() -> None:
            calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
                lambda: kernel.suspensions.suspend(cell),
                lambda: kernel.suspensions.peek(cell, str),
            ]
            for call in calls:
                with pytest.raises(WrongLoop):
                    asyncio.run(call())
            with pytest.raises(WrongLoop):
                kernel.suspensions.resume(cell)

        errors: list[BaseException] = []

        def guarded() -> None:
            try:
                elsewhere()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        thread.join(60)
        assert errors == []

    alone(main, real=True)
