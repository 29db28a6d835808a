"""One kernel: starting, failing, restarting and watching, in virtual time."""

import asyncio
from typing import Any, ClassVar

import pytest
from probes import Log, Note, Probe, Silent, Work, alone, probe, quiet, reasons

from understudy.actors.delivery import DELIVERY
from understudy.actors.errors import ActorStopped, Fenced, NotHandled, SpecError, UsageError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import SHUTDOWN, Exit
from understudy.actors.messages import Down, Message
from understudy.actors.refs import Ref
from understudy.actors.testing.simloop import run

# -- start -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["@x", "/x", "x/", "a//b"])
def test_a_malformed_name_is_refused(name: str) -> None:
    async def main(kernel: Kernel) -> None:
        with pytest.raises(SpecError, match=name):
            kernel.spawn(Silent, name=name)

    alone(main)


def test_a_taken_name_is_refused_and_free_again_after_a_stop() -> None:
    async def main(kernel: Kernel) -> None:
        cell = kernel.spawn(Silent, name="x")
        with pytest.raises(SpecError, match="'x' is taken"):
            kernel.spawn(Silent, name="x")
        await kernel.stop(cell)
        kernel.spawn(Silent, name="x")

    alone(main)


@pytest.mark.parametrize("kind", ["factory raises", "not an actor", "on_start raises"])
def test_a_failed_start_says_why_and_frees_the_name(kind: str) -> None:
    async def main(kernel: Kernel) -> None:
        class Bad(Silent):
            async def on_start(self) -> None:
                raise LookupError("no socket")

        def broken() -> Silent:
            raise LookupError("no socket")

        factory: Any = {"factory raises": broken, "not an actor": lambda: 7, "on_start raises": Bad}[kind]
        cell = kernel.spawn(factory, name="bad")
        exit = await kernel.wait_started(cell)
        assert exit is not None
        assert exit.kind == "start"
        assert ("no socket" in exit.detail) or ("int, not an Actor" in exit.detail)
        assert kernel.registry.find("bad") is None

    alone(main)


def test_spawning_before_or_after_is_refused() -> None:
    async def main() -> None:
        kernel = Kernel()
        with pytest.raises(UsageError, match="not running"):
            kernel.spawn(Silent, name="x")
        async with kernel:
            pass
        with pytest.raises(UsageError, match="not running"):
            kernel.spawn(Silent, name="x")
        with pytest.raises(UsageError, match="entered once"):
            await kernel.__aenter__()
        await kernel.aclose()

    run(main)


def test_a_kernel_entered_in_a_handler_of_another_belongs_to_no_delivery() -> None:
    async def main(kernel: Kernel) -> None:
        class Host(Probe):
            async def do(self, m: Work) -> object:
                async with Kernel() as inner:
                    return inner.context[DELIVERY]

        assert await kernel.ref_of(kernel.spawn(lambda: Host([]))).ask(Work()) is None

    alone(main)


@pytest.mark.promise(134)
def test_an_idle_actor_has_no_mailbox_and_no_task() -> None:
    async def main(kernel: Kernel) -> None:
        before = len(asyncio.all_tasks())
        cells = [kernel.spawn(Silent) for _ in range(100)]
        await quiet()
        assert {cell.state for cell in cells} == {"running"}
        assert all(cell.mailbox is None for cell in cells)
        assert len(asyncio.all_tasks()) <= before + 3

    alone(main)


# -- failure and restart ---------------------------------------------------------------------------------------


@pytest.mark.promise(6)
def test_the_mailbox_is_kept_across_a_restart_in_order_and_the_culprit_is_a_dead_letter() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        exits: list[tuple[int, str]] = []
        cell = probe(kernel, log, on_exit=lambda c, n, exit: exits.append((n, exit.kind)), name="x")
        ref = kernel.ref_of(cell)
        await quiet()
        for text in ("1", "fail", "2", "3"):
            ref.tell(Note(text))
        asking = asyncio.create_task(ref.ask(Work("4"), timeout=60))
        await quiet()
        assert exits == [(1, "error")]
        assert log[-2:] == ["1", "x on_stop error"]
        ref.tell(Note("5"))  # to a failed address: kept too
        await asyncio.sleep(30)
        assert not asking.done()
        kernel.restart(cell)
        await asking
        await quiet()
        assert log[-5:] == ["x started #2", "2", "3", "did 4", "5"]
        assert [(letter.message, letter.reason) for letter in kernel.telemetry.dead_letters()] == [
            (Note("fail"), "failed")
        ]

    alone(main)


def test_an_asker_that_does_not_wait_for_a_restart_fails_at_once() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = probe(kernel, log, on_exit=lambda c, n, exit: None)
        ref = kernel.ref_of(cell)
        assert await ref.ask(Work("a first start is no restart"), on_restart="fail") is None
        pending = asyncio.create_task(ref.ask(Work("pending"), timeout=60, on_restart="fail"))
        ref.tell(Note("fail"))  # is in the mailbox first
        await quiet()
        assert cell.state == "failed"
        with pytest.raises(ActorStopped, match="told to"):
            await pending
        with pytest.raises(ActorStopped, match="told to"):
            await ref.ask(Work("later"), timeout=60, on_restart="fail")
        kernel.restart(cell)
        await quiet()
        assert "did pending" not in log
        assert "did later" not in log

    alone(main)


def test_an_asker_that_waits_for_room_and_for_no_restart_fails_at_once() -> None:
    async def main(kernel: Kernel) -> None:
        class Small(Probe):
            mailbox_limit: ClassVar[int] = 1

        log: Log = []
        cell = kernel.spawn(lambda: Small(log), on_exit=lambda c, n, exit: None)
        await kernel.wait_started(cell)
        ref = kernel.ref_of(cell)
        asking = [asyncio.create_task(ref.ask(Work(str(n)), timeout=60, on_restart="fail")) for n in range(3)]
        ref.tell(Note("fail"))
        await quiet()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ActorStopped] * 3
        kernel.restart(cell)
        await quiet()
        assert not [line for line in log if line.startswith("did")]

    alone(main)


def test_notices_and_timers_of_one_incarnation_do_not_reach_the_next() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = probe(kernel, log, on_exit=lambda c, n, exit: None, name="x")
        other = kernel.spawn(Silent, name="other")
        await quiet()
        kernel.watch(cell, other)
        kernel.timer(cell, 1.0, Note("timer"))
        kernel.control(cell, Note("notice"))
        kernel.ref_of(cell).tell(Note("unused"))
        kernel.leave(cell, Exit("error", "now"))
        with pytest.raises(UsageError, match="x: its incarnation 1 has not ended"):
            kernel.restart(cell)
        await kernel.stop(other)
        await quiet()
        kernel.control(cell, Note("a notice to nobody"))
        kernel.restart(cell)
        await asyncio.sleep(5)
        assert log == ["x started #1", "x on_stop error", "x started #2", "unused"]
        assert not other.watchers

    alone(main)


def test_nothing_is_handled_before_the_start_has_ended() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []

        class Slow(Probe):
            async def on_start(self) -> None:
                await asyncio.sleep(1)
                await super().on_start()

        cell = kernel.spawn(lambda: Slow(log), name="x")
        kernel.ref_of(cell).tell(Note("work"))
        kernel.control(cell, Note("control"))
        await asyncio.sleep(2)
        assert log == ["x started #1", "control", "work"]

    alone(main)


def test_leaving_ends_the_incarnation_after_the_present_message() -> None:
    async def main(kernel: Kernel) -> None:
        class Leaver(Probe):
            def note(self, m: Note) -> None:
                self.context.stop(Exit("normal", m.text))
                self.log.append("after")

        log: Log = []
        cell = kernel.spawn(lambda: Leaver(log), name="x")
        await quiet()
        await kernel.ref_of(cell).ask(Note("done"))
        await quiet()
        assert log == ["x started #1", "after", "x on_stop normal"]
        assert str(cell.exit) == "normal(done)"
        assert reasons(kernel) == []

        raised = probe(kernel, log, name="y")
        with pytest.raises(ActorStopped, match="had enough"):
            await kernel.ref_of(raised).ask(Note("leave"))
        assert reasons(kernel) == []

    alone(main)


def test_leaving_from_a_task_of_an_idle_actor_ends_it_at_once() -> None:
    async def main(kernel: Kernel) -> None:
        tasks: list[asyncio.Task[None]] = []
        exits: list[str] = []

        class Background(Silent):
            def note(self, m: Note) -> None:
                tasks.append(asyncio.create_task(self.later()))

            async def later(self) -> None:
                await asyncio.sleep(1)
                self.context.stop()
                with pytest.raises(Fenced):
                    _ = self.context.ref

        cell = kernel.spawn(Background, on_exit=lambda c, n, exit: exits.append(exit.kind))
        kernel.ref_of(cell).tell(Note(""))
        await asyncio.sleep(2)
        await tasks[0]
        assert exits == ["normal"]

    alone(main)


def test_when_one_of_several_handlers_fails_the_others_are_cancelled_and_their_askers_told() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = probe(kernel, log, lambda: asyncio.sleep(1_000), concurrency=3)
        ref: Ref[Any] = kernel.ref_of(cell)
        asking = [asyncio.create_task(ref.ask(Work(str(n)), timeout=60)) for n in range(2)]
        await quiet()
        ref.tell(Note("fail"))
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["$1: stopped: error(ValueError: told to)"] * 2
        assert reasons(kernel) == ["failed"] * 3
        await quiet()
        assert cell.state == "stopped"

    alone(main)


def test_a_failure_while_stopping_is_reported() -> None:
    async def main(kernel: Kernel) -> None:
        crashes: list[str] = []
        kernel.telemetry.crashes.add(lambda report: crashes.append(str(report.exit)))

        async def work() -> object:
            await asyncio.sleep(1)
            raise ValueError("at the end")

        cell = probe(kernel, [], work)
        kernel.ref_of(cell).tell(Work())
        await quiet()
        await kernel.stop(cell)
        assert crashes == ["error(ValueError: at the end)"]
        assert cell.exit == SHUTDOWN
        assert reasons(kernel) == ["failed"]

    alone(main)


def test_a_stop_wins_over_a_pending_restart() -> None:
    async def main(kernel: Kernel) -> None:
        cell = probe(kernel, [], on_exit=lambda c, n, exit: None, name="x")
        ref = kernel.ref_of(cell)
        ref.tell(Note("fail"))
        asking = asyncio.create_task(ref.ask(Work(), timeout=60))
        await quiet()
        assert cell.state == "failed"
        await kernel.stop(cell)
        with pytest.raises(ActorStopped, match="shutdown"):
            await asking
        with pytest.raises(ActorStopped):
            await ref.ask(Work())

    alone(main)


def test_a_stop_waits_for_the_end_of_an_incarnation_that_is_under_way() -> None:
    async def main(kernel: Kernel) -> None:
        class Slow(Probe):
            async def on_stop(self, exit: Exit) -> None:
                await asyncio.sleep(2)
                await super().on_stop(exit)

        log: Log = []
        exits: list[str] = []
        cell = kernel.spawn(lambda: Slow(log), name="x", on_exit=lambda c, n, exit: exits.append(exit.kind))
        kernel.ref_of(cell).tell(Note("fail"))
        await quiet()
        await kernel.stop(cell)
        assert log == ["x started #1", "x on_stop error"]
        assert exits == []  # nobody has to decide any more
        assert cell.state == "stopped"

    alone(main)


# -- watching --------------------------------------------------------------------------------------------------


def test_a_watcher_is_told_once_and_the_name_is_free_by_then() -> None:
    async def main(kernel: Kernel) -> None:
        free: list[object] = []

        class Watcher(Probe):
            def down(self, m: Down) -> None:
                super().down(m)
                free.append(kernel.registry.find(m.path))

        log: Log = []
        target = kernel.spawn(Silent, name="target")
        watcher = kernel.spawn(lambda: Watcher(log), name="watcher")
        await quiet()
        for _ in range(2):
            kernel.watch(watcher, target)
        await kernel.stop(target)
        await quiet()
        kernel.watch(watcher, target)
        await quiet()
        assert log == ["watcher started #1", "down target shutdown False", "down target gone False"]
        assert free == [None, None]

    alone(main)


def test_a_watcher_learns_whether_the_target_will_be_restarted() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        target = probe(kernel, [], on_exit=lambda c, n, exit: None, name="target")
        watcher = probe(kernel, log, name="watcher")
        await quiet()
        kernel.watch(watcher, target)
        kernel.ref_of(target).tell(Note("fail"))
        await quiet()
        assert log == ["watcher started #1"]  # its supervisor has not decided yet
        kernel.will_restart(target)
        await quiet()
        assert log[1:] == ["down target error True"]
        kernel.watch(watcher, target)  # it has no incarnation now
        await quiet()
        assert log[2:] == ["down target error True"]

    alone(main)


def test_a_watch_that_was_taken_back_or_whose_watcher_ended_is_forgotten() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        target = kernel.spawn(Silent, name="target")
        watcher, other = probe(kernel, log, name="watcher"), probe(kernel, log, name="other")
        await quiet()
        kernel.watch(watcher, target)
        kernel.unwatch(watcher, target)
        kernel.watch(other, target)
        await kernel.stop(other)
        assert not target.watchers
        await kernel.stop(target)
        await quiet()
        assert not [line for line in log if line.startswith("down")]

    alone(main)


# -- timers of actors ------------------------------------------------------------------------------------------


def test_a_timer_reaches_its_incarnation_and_refuses_a_message_without_handler() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = probe(kernel, log, name="x")
        await quiet()
        kernel.timer(cell, 2.0, Note("later"))
        kernel.timer(cell, 1.0, Note("never")).cancel()
        with pytest.raises(NotHandled, match="does not handle Down2"):
            kernel.timer(cell, 1.0, Down2())
        await asyncio.sleep(1.9)
        assert "later" not in log
        await asyncio.sleep(0.2)
        assert log == ["x started #1", "later"]
        for _ in range(1_000):
            kernel.timer(cell, 10.0, Note("never")).cancel()
        assert cell.life is not None
        assert len(cell.life.timers or ()) <= 64

    alone(main)


class Down2(Message[None]):
    pass
