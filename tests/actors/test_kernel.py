"""One kernel: starting, stopping, restarting, fencing and watching, in virtual time."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import anyio
import pytest

from understudy.actors.actor import Actor, Leave
from understudy.actors.cell import Cell
from understudy.actors.errors import ActorStopped, Fenced, NotHandled, SpecError, UsageError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import NORMAL, SHUTDOWN, Exit
from understudy.actors.messages import Down, Message
from understudy.actors.refs import Ref
from understudy.actors.testing.simloop import SimClock, run

Log = list[str]


class Work(Message[object]):
    what: str = ""


class Note(Message[None]):
    text: str


class Probe(Actor[Work | Note]):
    """Logs what happens to it; `Work` awaits what it was made with."""

    def __init__(self, log: Log, work: Callable[[], Awaitable[object]] | None = None) -> None:
        self.log = log
        self.work = work

    async def on_start(self) -> None:
        self.log.append(f"{self.context.path} started #{self.context.incarnation}")

    async def on_stop(self, exit: Exit) -> None:
        self.log.append(f"{self.context.path} on_stop {exit.kind}")

    async def do(self, m: Work) -> object:
        self.log.append(f"did {m.what}")
        return await self.work() if self.work is not None else None

    def note(self, m: Note) -> None:
        if m.text == "fail":
            raise ValueError("told to")
        if m.text == "leave":
            raise Leave(Exit("normal", "had enough"))
        self.log.append(m.text)

    def down(self, m: Down) -> None:
        self.log.append(f"down {m.path} {m.kind} {m.restarting}")


class Silent(Actor[Note]):
    def note(self, m: Note) -> None:
        pass


async def stubborn() -> object:
    """Ignores two cancellations, as code that catches everything does."""
    for _ in range(3):
        try:
            await asyncio.sleep(1_000)
        except asyncio.CancelledError:
            continue
    return "too late"


async def quiet() -> None:
    """Let everything that is ready happen; in virtual time an instant."""
    await asyncio.sleep(1e-6)


def probe(kernel: Kernel, log: Log, work: Callable[[], Awaitable[object]] | None = None, **options: Any) -> Cell:
    return kernel.spawn(lambda: Probe(log, work), **options)


def reasons(kernel: Kernel) -> list[str]:
    return [letter.reason for letter in kernel.telemetry.dead_letters()]


def alone(main: Callable[[Kernel], Awaitable[None]], **options: Any) -> None:
    """Run `main` with a kernel that must leave nothing behind."""

    async def whole() -> None:
        async with Kernel(clock=SimClock(), **options) as kernel:
            await main(kernel)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1
        assert not kernel.timers._heap
        assert len(kernel.registry) == 0
        gc.collect()

    run(whole)


# -- stop ------------------------------------------------------------------------------------------------------


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

    alone(main)


def test_what_a_fenced_handler_still_does_is_not_counted_in_the_next_incarnation() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        gate = asyncio.Event()

        async def work() -> object:
            if not gate.is_set():
                gate.set()
                return await stubborn()
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
        assert cell.running == 0
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
        stopping = asyncio.create_task(kernel.stop(cell))
        await quiet()
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        await asyncio.sleep(4)
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
        class Hangs(Silent):
            async def on_stop(self, exit: Exit) -> None:
                await stubborn()

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
        await asyncio.sleep(3_000)

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
        ref.tell(Note("fail"))
        pending = asyncio.create_task(ref.ask(Work("pending"), timeout=60, on_restart="fail"))
        await quiet()
        with pytest.raises(ActorStopped, match="told to"):
            await pending
        with pytest.raises(ActorStopped, match="told to"):
            await ref.ask(Work("later"), timeout=60, on_restart="fail")
        kernel.restart(cell)
        await quiet()
        assert "did pending" not in log
        assert "did later" not in log

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
        assert len(cell.life.timers) <= 64

    alone(main)


class Down2(Message[None]):
    pass
