"""What the kill suite found in the product: one test each."""

import asyncio
import contextlib
import gc
from collections.abc import Callable
from typing import Any

import pytest
from hops import Put, alone, letters, quiet
from supervised import Child, Desk, End, High

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.delivery import Envelope
from understudy.actors.errors import ActorStopped, Fenced
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Message
from understudy.actors.refs import Ref, Refused
from understudy.actors.testing.invariants import number
from understudy.actors.testing.schedule import Hold
from understudy.actors.testing.world import World
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.dynamic import DynamicActor, DynamicPlan
from understudy.supervisors.handles import DynamicRef
from understudy.supervisors.plans import ChildPlan


class Aside(Message[int]):
    """Put aside; then the incarnation ends."""


class One(Actor[Put | Aside]):
    """Takes a second for each message; room for one."""

    mailbox_limit = 1

    async def put(self, m: Put) -> int:
        await asyncio.sleep(1)
        return m.n

    def aside(self, m: Aside) -> int:
        self.context.stash()
        self.context.stop(Exit("error", "over"))
        return 0


def kept(cell: Cell, number: int, exit: Exit) -> None:
    """A supervisor that does nothing yet."""


async def one(kernel: Kernel, on_exit: Callable[[Cell, int, Exit], None] | None = None) -> Ref[Any]:
    cell = kernel.spawn(One, name="one", on_exit=on_exit)
    assert await kernel.wait_started(cell) is None
    return kernel.ref_of(cell)


@pytest.mark.promise(118)
def test_send_waits_for_room_also_in_a_mailbox_of_one() -> None:
    async def main(kernel: Kernel) -> None:
        ref = await one(kernel)
        ref.tell(Put(1))
        await quiet()
        assert ref.tell(Put(2))
        assert await ref.send(Put(3)) is True
        assert kernel.loop.time() == pytest.approx(1, abs=1e-2)
        assert letters(kernel) == []

    alone(main)


@pytest.mark.promise(1)
def test_a_mailbox_of_one_takes_one_also_after_somebody_looked_into_its_actor() -> None:
    async def main(kernel: Kernel) -> None:
        ref = await one(kernel)
        assert await kernel.suspensions.peek(ref.cell(), lambda actor: type(actor)) is One
        assert [ref.tell(Put(1)), ref.tell(Put(2))] == [True, Refused("full", "one")]

    alone(main)


@pytest.mark.promise(1)
def test_a_mailbox_that_has_once_refused_a_message_is_as_large_as_before() -> None:
    async def main(kernel: Kernel) -> None:
        ref = await one(kernel)
        for n in (1, 2):
            assert [ref.tell(Put(n)), ref.tell(Put(n))] == [True, Refused("full", "one")]
            await asyncio.sleep(5)

    alone(main)


@pytest.mark.promise(104)
@pytest.mark.parametrize("inline", [True, False])
def test_a_request_that_does_not_wait_for_a_restart_fails_also_from_the_stash(inline: bool) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            ref = await one(kernel, kept)
            with pytest.raises(ActorStopped, match="over"):
                await ref.ask(Aside(), on_restart="fail")
            assert kernel.loop.time() == 0.0
            assert letters(kernel) == [(Aside(), "stopped")]

    World(inline=inline).run(main)


@pytest.mark.promise(104)
def test_a_request_that_failed_while_it_waited_for_room_is_a_dead_letter_once() -> None:
    async def main(kernel: Kernel) -> None:
        ref = await one(kernel, kept)
        ref.tell(Put(1))
        await quiet()
        assert ref.tell(Put(2))
        waiting = asyncio.create_task(ref.ask(Put(3), on_restart="fail"))
        await quiet()
        kernel.halt(ref.cell(), Exit("error", "over"), deadline=0.1)
        await asyncio.wait([waiting])
        assert isinstance(waiting.exception(), ActorStopped)
        assert [letter for letter in letters(kernel) if letter[0] == Put(3)] == [(Put(3), "stopped")]

    alone(main)


class Deaf(Actor[Put]):
    """Does not hear that it is cancelled."""

    async def put(self, m: Put) -> int:
        for _ in range(2):
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                continue
        return m.n


@pytest.mark.promise(77)
def test_who_suspends_is_told_that_the_incarnation_ended_also_when_the_next_one_runs_already() -> None:
    async def main(kernel: Kernel) -> None:
        cell = kernel.spawn(Deaf, on_exit=lambda cell, number, exit: kernel.restart(cell))
        await kernel.wait_started(cell)
        kernel.ref_of(cell).tell(Put(1))
        await quiet()
        suspending = asyncio.create_task(kernel.suspensions.suspend(cell, 20.0))
        await quiet()
        kernel.halt(cell, deadline=0.1)
        await asyncio.wait([suspending])
        assert isinstance(suspending.exception(), ActorStopped)
        assert (cell.number, cell.state) == (2, "running")

    alone(main)


class Short(Deaf):
    """Ends when it is cancelled, and has room for one message."""

    mailbox_limit = 1

    async def put(self, m: Put) -> int:
        if m.n == 1:
            await asyncio.sleep(30)
        if m.n == 2:
            raise ValueError("two")
        return m.n


@pytest.mark.promise(77)
def test_who_suspends_is_told_how_the_incarnation_ended_that_it_waited_for() -> None:
    async def main(kernel: Kernel) -> None:
        cell = kernel.spawn(Short, on_exit=lambda cell, number, exit: kernel.restart(cell) if number == 1 else None)
        await kernel.wait_started(cell)
        ref = kernel.ref_of(cell)
        ref.tell(Put(1))
        await quiet()
        suspending = asyncio.create_task(kernel.suspensions.suspend(cell, 20.0))
        await quiet()
        ref.tell(Put(2))  # is served by the next incarnation, at once, and ends it
        kernel.halt(cell, deadline=0.1)
        await asyncio.wait([suspending])
        assert cell.number == 2
        error = suspending.exception()
        assert isinstance(error, ActorStopped)
        assert error.exit == Exit("shutdown")

    alone(main)


@pytest.mark.promise(118)
def test_what_is_forced_into_a_mailbox_may_overtake_what_waits_for_room_in_it() -> None:
    async def main() -> list[int]:
        async with Kernel() as kernel:
            cell = kernel.spawn(Short)
            await kernel.wait_started(cell)
            ref = kernel.ref_of(cell)
            ref.tell(Put(1))
            await quiet()
            ref.tell(Put(3))
            asking = asyncio.create_task(ref.ask(Put(4), timeout=60))
            await quiet()
            kernel.force(cell, Put(5))
            return [await asking]

    trace = World().run(main)
    assert trace.result == [4]
    begun = [event.message for event in trace.events if event.kind == "begin"]
    assert begun == [1, 2, 4, 3]


class Later(Message[None]):
    """Leaves a task behind, and comes again."""


class Leaver(Actor[Later | Put]):
    redeliver = 1

    def __init__(self, ref: list[Any], said: list[str], how: str) -> None:
        self.ref, self.said, self.how = ref, said, how

    async def behind(self, number: int) -> None:
        await asyncio.sleep(5)
        try:
            self.ref[0].tell(Put(number))
        except Fenced:
            self.said.append(f"#{number} fenced")

    async def later(self, m: Later) -> None:
        number = self.context.incarnation
        if number == 1:
            self.ref.append(asyncio.ensure_future(self.behind(number)))
            if self.how == "redelivered":
                raise ValueError("once more")
            self.context.stash()

    def put(self, m: Put) -> int:
        self.said.append(f"told by #{m.n}")
        return m.n


@pytest.mark.promise(5)
@pytest.mark.parametrize("how", ["redelivered", "put aside"])
def test_what_an_incarnation_left_behind_is_fenced_also_when_its_message_comes_again(how: str) -> None:
    async def main(kernel: Kernel) -> None:
        refs: list[Any] = []
        said: list[str] = []
        cell = kernel.spawn(lambda: Leaver(refs, said, how), on_exit=lambda cell, number, exit: kernel.restart(cell))
        await kernel.wait_started(cell)
        refs.append(kernel.ref_of(cell))
        kernel.ref_of(cell).tell(Later())
        await quiet()
        if how == "put aside":
            kernel.halt(cell, Exit("error", "over"))
        await asyncio.sleep(10)
        assert cell.number == 2
        assert said == ["#1 fenced"]

    alone(main)


class Undecided(Actor[Put | Later]):
    """Puts a request aside, and takes it up again whenever it is told something."""

    async def put(self, m: Put) -> int:
        self.context.stash()
        return m.n

    async def later(self, m: Later) -> None:
        self.context.unstash_all()


def test_a_request_that_is_put_aside_again_and_again_is_kept_once_and_can_still_be_given_up() -> None:
    async def main(kernel: Kernel) -> None:
        cell = kernel.spawn(Undecided)
        await kernel.wait_started(cell)
        ref = kernel.ref_of(cell)
        request = Put(1)
        asking = asyncio.create_task(ref.ask(request, timeout=60, cancel=True))
        for _ in range(50):
            await quiet()
            ref.tell(Later())
        await quiet()
        gc.collect()
        assert sum(isinstance(each, Envelope) and each.message is request for each in gc.get_objects()) <= 3
        asking.cancel()
        await asyncio.wait([asking])
        ref.tell(Later())
        await quiet()
        assert cell.waiting == 0

    alone(main)


@pytest.mark.promise(47)
@pytest.mark.parametrize("schedule", [(), (Hold("desk", at=1, steps=20),)])
def test_a_child_that_did_not_start_is_removed_however_late_its_supervisor_is_served(
    schedule: tuple[Hold, ...],
) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            desk = Desk(kernel)
            template = ChildPlan("", Actor, "permanent")
            plan = DynamicPlan(template, None, Backoff(first=0.0), High(), desk._observe)
            await desk.start(lambda: DynamicActor(plan))
            handle = DynamicRef(kernel, "desk", None)
            with pytest.raises(ActorStopped, match="no disk"):
                await handle.start_child(lambda: Child(desk, ["no disk"]), name="x")
            await quiet()
            assert handle.children() == ()
            assert desk.log == []

    World(schedule=schedule).run(main)


@pytest.mark.promise(36)
def test_children_stop_in_reverse_order_of_their_specs_also_when_some_of_their_addresses_were_kept() -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            desk = Desk(kernel)
            sub = desk.plan(desk.child("d"), desk.child("e"))
            below = ChildPlan("sub", sub, shutdown=60.0)
            cell = await desk.start(desk.plan(desk.child("a"), below, strategy="one_for_all"))
            await desk.handle("desk/sub").terminate_child("d")
            desk.tell("desk/a", End("error"))
            await asyncio.sleep(10)
            assert desk.log[-3:] == ["desk/a up #2", "desk/sub/d up #1", "desk/sub/e up #2"]
            await kernel.stop(cell)
            assert desk.log[-3:] == ["desk/sub/e shutdown", "desk/sub/d shutdown", "desk/a shutdown"]

    World().run(main)


@pytest.mark.promise(41)
def test_a_child_that_was_stopped_by_hand_as_a_group_restart_began_keeps_its_spec() -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            desk = Desk(kernel)
            plain = [ChildPlan(name, One) for name in "de"]
            await desk.start(desk.plan(*plain, strategy="one_for_all"))
            await quiet()
            kernel.halt(desk.cell("desk/e"), Exit("error", "over"))
            kernel.begin_stop(desk.cell("desk/d"))
            await asyncio.sleep(10)
            assert desk.states() == {"d": "stopped", "e": "running"}
            await desk.handle().restart_child("d")
            assert desk.states() == {"d": "running", "e": "running"}

    World().run(main)


class Lingering(Child):
    async def on_stop(self, exit: Exit) -> None:
        await asyncio.sleep(0.5)


@pytest.mark.promise(41)
def test_a_group_restart_waits_for_a_child_that_is_stopped_by_hand_and_does_not_give_up() -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            desk = Desk(kernel)
            lingering = ChildPlan("d", lambda: Lingering(desk))
            await desk.start(desk.plan(lingering, desk.child("e"), strategy="one_for_all", backoff=Backoff(first=0.0)))
            await quiet()
            kernel.begin_stop(desk.cell("desk/d"))
            terminating = asyncio.create_task(desk.handle().terminate_child("d"))
            await quiet()
            desk.tell("desk/e", End("error"))
            await asyncio.wait([terminating])
            await asyncio.sleep(10)
            assert desk.states() == {"d": "stopped", "e": "running"}

    World().run(main)


@pytest.mark.promise(41)
@pytest.mark.parametrize("schedule", [(), (Hold("desk", at=2, steps=20),)])
def test_a_manual_start_that_failed_stays_stopped_however_late_its_supervisor_is_served(
    schedule: tuple[Hold, ...],
) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            desk = Desk(kernel)
            fails: list[str] = []
            await desk.start(desk.plan(desk.child("x", fails=fails)))
            await desk.handle().terminate_child("x")
            await quiet()
            fails.append("no disk")
            with pytest.raises(ActorStopped, match="no disk"):
                await desk.handle().restart_child("x")
            await asyncio.sleep(10)
            assert desk.states() == {"x": "stopped"}

    World(schedule=schedule).run(main)


class Tick(Message[None]):
    """Of a timer; put aside."""


class Patient(Actor[Put | Tick]):
    """Takes up what a timer sent while it is busy; room for one, and the oldest goes."""

    mailbox_limit = 1
    overflow = "drop_oldest"

    def tick(self, m: Tick) -> None:
        self.context.stash()

    async def put(self, m: Put) -> int:
        if m.n:
            self.context.unstash_all()
            await asyncio.sleep(1)
        else:
            self.context.after(0.1, Tick())
        return m.n


@pytest.mark.promise(118)
def test_a_notice_that_was_put_aside_and_is_dropped_for_a_newer_message_breaks_no_invariant() -> None:
    async def main() -> list[str]:
        async with Kernel() as kernel:
            cell = kernel.spawn(Patient, name="patient")
            ref = kernel.ref_of(cell)
            for n in (0, 1, 0):
                assert ref.tell(Put(n))
                await asyncio.sleep(0.5)
            return [f"{type(letter.message).__name__} {letter.reason}" for letter in kernel.telemetry.dead_letters()]

    assert World().run(main).result == ["Tick dropped"]


class Stubborn(Actor[Put]):
    """Bears every cancellation."""

    async def put(self, m: Put) -> int:
        for _ in range(m.n):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(30)
        return m.n


@pytest.mark.promise(191)
def test_a_handler_that_ignores_every_cancel_is_left_behind_and_is_no_fault_of_the_kernel() -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            cell = kernel.spawn(Stubborn)
            await kernel.wait_started(cell)
            kernel.ref_of(cell).tell(Put(9))
            await quiet()

    trace = World().run(main)
    assert trace.left_tasks == ("understudy-worker",)
    trace.left_tasks = ("understudy-worker", "understudy-worker")
    assert list(number(21)(trace)) == ["invariant #21 'nothing is left': 1 tasks are left: understudy-worker"]
