"""Asks in every state of asker and callee, stepped at once and from the queue: cycles, ends, deadlines, interrupts."""

import asyncio
import contextlib
import gc
import time
from pathlib import Path
from typing import Any

import pytest
from doers import Do, Doer, Ping, PlainDoer, Run, doer, kernel_alone, me, ready_doer, run, turns, way
from invariants import check

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
            outcome: object = await self.all[m.to[0]].ask(Go(m.to[1:]), timeout=30)
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


def test_an_ask_whose_deadline_passes_while_the_loop_has_its_turn_is_not_served(run: Run, way: Way) -> None:
    def block() -> None:
        until = time.monotonic() + 0.03
        while time.monotonic() < until:
            pass

    async def main() -> None:
        async with kernel_alone(way) as kernel:
            served: list[int] = []

            async def work() -> None:
                served.append(1)

            ref = await ready_doer(kernel, work)
            kernel.dispatcher.left = 0
            asyncio.get_running_loop().call_soon(block)
            with pytest.raises(AskTimeout):
                await ref.ask(Do(), timeout=0.005)
            await turns()
            assert not served
            assert await ref.ask(Ping()) == "pong"

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


def test_an_asker_that_is_cancelled_as_it_gets_room_leaves_no_error_behind(run: Run, way: Way) -> None:
    asking: Any = None
    gate: Any = None

    class Small(Actor[Do]):
        mailbox_limit = 1
        served = 0

        async def do(self, m: Do) -> object:
            self.served += 1
            if self.served == 1:
                await gate.wait()
            elif self.served == 2:
                asking.cancel()  # taking this message gave it room
            else:
                raise ValueError("of the request that nobody waits for")
            return None

    async def main() -> None:
        nonlocal asking, gate
        broken: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: broken.append(context))
        async with kernel_alone(way) as kernel:
            gate = asyncio.Event()
            ref = kernel.ref_of(kernel.spawn(Small))
            ref.tell(Do())
            await turns()
            ref.tell(Do())
            asking = asyncio.create_task(ref.ask(Do()))
            await turns()
            gate.set()
            await asyncio.wait([asking])
            assert asking.cancelled()
            await turns()
            assert ref.cell().state == "stopped"
        gc.collect()
        futures = [each for each in gc.get_objects() if isinstance(each, asyncio.Future) and each.done()]
        mine = [each for each in futures if each.get_loop() is loop]
        unseen = [each for each in mine if each._log_traceback]  # said when it is lost
        assert not [*broken, *unseen]

    run(main)
