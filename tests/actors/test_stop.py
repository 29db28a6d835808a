"""How an address ends: order, deadlines, fencing, and that nothing undoes it; in virtual time."""

import asyncio
from collections.abc import Callable
from typing import ClassVar

import anyio
import pytest
from probes import Log, Note, Probe, Silent, Work, alone, probe, quiet, reasons, stubborn

from understudy.actors.errors import ActorStopped, Fenced
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import NORMAL, SHUTDOWN, Exit
from understudy.actors.testing.simloop import run


def test_children_stop_before_their_parent_and_last_started_first() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        top = probe(kernel, log, name="top")
        a = probe(kernel, log, name="a", parent=top)
        probe(kernel, log, name="b", parent=top)
        probe(kernel, log, name="c", parent=a)
        await quiet()
        log.clear()
        await kernel.stop(top)
        assert log == [f"{path} on_stop shutdown" for path in ("top/b", "top/a/c", "top/a", "top")]
        assert kernel.registry.names() == ()

    alone(main)


def test_leaving_a_kernel_stops_the_last_started_first() -> None:
    log: Log = []

    async def main(kernel: Kernel) -> None:
        for name in ("a", "b", "c"):
            probe(kernel, log, name=name)
        await quiet()
        log.clear()

    alone(main)
    assert log == ["c on_stop shutdown", "b on_stop shutdown", "a on_stop shutdown"]


def test_a_running_handler_finishes_within_the_deadline_and_no_further_message_begins() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []

        async def work() -> object:
            await asyncio.sleep(3)
            return "finished"

        ref = kernel.ref_of(probe(kernel, log, work))
        first = asyncio.create_task(ref.ask(Work("1"), timeout=60))
        second = asyncio.create_task(ref.ask(Work("2"), timeout=60))
        await quiet()
        await kernel.stop(ref.cell())
        assert kernel.loop.time() == pytest.approx(3, abs=1e-3)
        assert await first == "finished"
        with pytest.raises(ActorStopped, match="shutdown"):
            await second
        assert "did 2" not in log
        assert reasons(kernel) == ["stopped"]

    alone(main)


def test_a_handler_past_the_deadline_is_cancelled_and_its_asker_is_told_why() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []

        async def work() -> object:
            await asyncio.sleep(1_000)
            return None

        ref = kernel.ref_of(probe(kernel, log, work))
        asking = asyncio.create_task(ref.ask(Work(), timeout=60))
        await quiet()
        await kernel.stop(ref.cell(), deadline=2)
        assert kernel.loop.time() == pytest.approx(2, abs=1e-3)
        with pytest.raises(ActorStopped, match="shutdown"):
            await asking
        assert reasons(kernel) == ["failed"]
        assert log[-1].endswith("on_stop shutdown")

    alone(main)


@pytest.mark.promise(5)
def test_a_handler_that_ignores_cancellation_is_fenced() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        caught: list[str] = []
        other = kernel.ref_of(probe(kernel, log, name="other"))
        actors: list[Probe] = []

        async def work() -> object:
            await stubborn()
            me = actors[0]
            calls: list[Callable[[], object]] = [
                lambda: other.tell(Note("never")),
                lambda: me.context.spawn(Silent),
                lambda: me.context.watch(other),
                lambda: me.context.unwatch(other),
                lambda: me.context.after(1, Note("never")),
                lambda: me.context.ref,
                lambda: me.context.sender,
                lambda: me.context.stop(),
            ]
            for call in calls:
                with pytest.raises(Fenced):
                    call()
                caught.append("call")
            for awaitable in (other.ask(Work()), other.send(Note("never"))):
                with pytest.raises(Fenced):
                    await awaitable
                caught.append("await")
            return "too late"

        def make() -> Probe:
            actors.append(Probe(log, work))
            return actors[-1]

        cell = kernel.spawn(make, name="stubborn")
        asking = asyncio.create_task(kernel.ref_of(cell).ask(Work(), timeout=600))
        await quiet()
        await kernel.stop(cell, deadline=2)
        assert kernel.loop.time() == pytest.approx(3, abs=1e-3)  # deadline and the grace after the cancel
        assert cell.exit.kind == "killed"
        assert kernel.fenced_handlers == 1
        with pytest.raises(ActorStopped, match="killed"):
            await asking
        assert "stubborn on_stop killed" not in log
        assert kernel.registry.find("stubborn") is None
        await asyncio.sleep(5_000)
        assert len(caught) == 10
        assert "never" not in log
        assert reasons(kernel) == ["failed"]  # and no late reply beside it

    alone(main)


@pytest.mark.promise(5)
@pytest.mark.parametrize("ends", ["returns", "raises"])
def test_what_a_fenced_handler_still_does_does_not_touch_the_next_incarnation(ends: str) -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        gate = asyncio.Event()

        async def work() -> object:
            if not gate.is_set():
                gate.set()
                await stubborn()
                assert ends == "returns"
            await asyncio.sleep(1)
            return None

        exits: list[str] = []
        cell = probe(kernel, log, work, on_exit=lambda c, number, exit: exits.append(exit.kind), concurrency=2)
        ref = kernel.ref_of(cell)
        ref.tell(Work("stubborn"))
        await gate.wait()
        ref.tell(Note("fail"))
        await asyncio.sleep(2)
        assert exits == ["error"]
        cell.concurrency = 1
        kernel.restart(cell)
        await asyncio.sleep(3_000)  # the fenced handler ends meanwhile
        assert (cell.running, cell.number, cell.state) == (0, 2, "running")
        assert exits == ["error"]
        log.clear()
        for what in ("1", "2"):
            ref.tell(Work(what))
        await asyncio.sleep(0.5)
        assert log == ["did 1"]  # one message at a time still

    alone(main)


def test_stopping_twice_and_from_many_places_is_one_stop() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = probe(kernel, log, name="x")
        await quiet()
        await asyncio.gather(*(kernel.stop(cell) for _ in range(5)))
        await kernel.stop(cell)
        assert log.count("x on_stop shutdown") == 1

    alone(main)


def test_a_stop_goes_on_when_who_waits_for_it_is_cancelled() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []

        async def work() -> object:
            await asyncio.sleep(3)
            return None

        cell = probe(kernel, log, work, name="x")
        kernel.ref_of(cell).tell(Work())
        await quiet()
        stopping, other = asyncio.create_task(kernel.stop(cell)), asyncio.create_task(kernel.stop(cell))
        await quiet()
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        assert not other.done()
        await other
        assert cell.state == "stopped"

    alone(main)


@pytest.mark.parametrize("when", [0, 1, 2, 3])
def test_cancelling_every_task_does_not_undo_a_stop(when: int) -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []

        async def work() -> object:
            return await stubborn()

        top = probe(kernel, log, name="top")
        child = probe(kernel, log, work, name="child", parent=top)
        kernel.ref_of(child).tell(Work())
        await quiet()
        kernel._endings.begin_stop(top, SHUTDOWN)
        for _ in range(when):
            await asyncio.sleep(0)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await kernel.stop(top)
        assert (top.state, child.state) == ("stopped", "stopped")
        assert log[-1] == "top on_stop shutdown"

    alone(main)


@pytest.mark.parametrize("native", [True, False])
def test_leaving_a_kernel_is_not_cut_short_by_cancellation(native: bool) -> None:
    log: Log = []

    async def main() -> None:
        entered = asyncio.Event()

        async def host() -> None:
            async with Kernel() as kernel:
                probe(kernel, log, lambda: asyncio.sleep(2), name="x")
                kernel.ref_of(kernel.registry.find("x") or pytest.fail("no x")).tell(Work())
                entered.set()
                await asyncio.sleep(0.1)

        if native:
            task = asyncio.create_task(host())
            await asyncio.sleep(0.5)  # it is waiting for the handler now
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            with anyio.move_on_after(0.5) as scope:
                await host()
                await asyncio.sleep(0)
            assert scope.cancelled_caught
        assert asyncio.get_running_loop().time() == pytest.approx(2, abs=0.2)
        assert log[-1] == "x on_stop shutdown"
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    run(main)


def test_an_actor_may_ask_for_a_prompt_cancel_when_it_is_stopped() -> None:
    async def main(kernel: Kernel) -> None:
        class Prompt(Probe):
            cancel_on_stop: ClassVar[bool] = True

        cell = kernel.spawn(lambda: Prompt([], lambda: asyncio.sleep(1_000)))
        kernel.ref_of(cell).tell(Work())
        await quiet()
        await kernel.stop(cell)
        assert kernel.loop.time() < 0.1

    alone(main)


def test_an_on_stop_that_hangs_or_raises_does_not_hold_up_the_end() -> None:
    async def main(kernel: Kernel) -> None:
        fenced: list[Exit] = []

        class Hangs(Silent):
            async def on_stop(self, exit: Exit) -> None:
                await stubborn()
                with pytest.raises(Fenced):
                    _ = self.context.ref
                fenced.append(exit)

        class Raises(Silent):
            async def on_stop(self, exit: Exit) -> None:
                raise RuntimeError("in on_stop")

        hangs, raises = kernel.spawn(Hangs), kernel.spawn(Raises)
        await quiet()
        await kernel.stop(raises)
        assert raises.state == "stopped"
        await kernel.stop(hangs)
        assert hangs.state == "stopped"
        assert kernel.loop.time() == pytest.approx(5 + 1, abs=1e-3)
        assert kernel.fenced_handlers == 1
        assert not fenced
        await asyncio.sleep(3_000)
        assert fenced == [SHUTDOWN]

    alone(main)


def test_a_stop_while_starting_cancels_the_start_and_runs_no_on_stop() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []

        class Slow(Probe):
            async def on_start(self) -> None:
                await asyncio.sleep(1_000)

        cell = kernel.spawn(lambda: Slow(log), name="slow")
        asking = asyncio.create_task(kernel.ref_of(cell).ask(Work(), timeout=60))
        waiting = asyncio.create_task(kernel.wait_started(cell))
        await quiet()
        await kernel.stop(cell)
        assert kernel.loop.time() < 0.1
        assert (await waiting) == SHUTDOWN
        assert log == []
        with pytest.raises(ActorStopped):
            await asking

    alone(main)


def test_a_stop_right_after_spawn_never_makes_the_actor() -> None:
    async def main(kernel: Kernel) -> None:
        made: list[int] = []

        def make() -> Silent:
            made.append(1)
            return Silent()

        cell = kernel.spawn(make)
        await kernel.stop(cell)
        await quiet()
        assert not made

    alone(main)


def test_an_ending_incarnation_cannot_start_children() -> None:
    async def main(kernel: Kernel) -> None:
        refused: list[str] = []

        class Late(Silent):
            async def on_stop(self, exit: Exit) -> None:
                try:
                    self.context.spawn(Silent)
                except ActorStopped as error:
                    refused.append(str(error))

        failing = kernel.spawn(Late, name="failing")
        stopping = kernel.spawn(Late, name="stopping")
        await quiet()
        kernel.leave(failing, NORMAL)
        await kernel.stop(stopping)
        await quiet()
        assert refused == ["failing: stopped: normal", "stopping: stopped: shutdown"]

    alone(main)
