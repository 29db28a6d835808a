"""A lifespan: entered and left in one task, and what follows when it fails."""

import asyncio
import contextvars
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from probes import Log, Note, Probe, Work, alone, quiet, stubborn

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.errors import ActorStopped, Fenced, ProtocolError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import SHUTDOWN, Exit
from understudy.actors.links import link

Hook = Callable[["Homely"], Awaitable[object]]
SET_BY_HOME: contextvars.ContextVar[str] = contextvars.ContextVar("set_by_home", default="")


class Homely(Probe):
    """Has a task group from start to stop; `entering` and `leaving` run in it."""

    def __init__(
        self,
        log: Log,
        entering: Hook | None = None,
        leaving: Hook | None = None,
        work: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(log, work)
        self.entering = entering
        self.leaving = leaving
        self.tasks: list[object] = []

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None, None]:
        self.tasks.append(asyncio.current_task())
        async with anyio.create_task_group() as self.group:
            if self.entering is not None:
                await self.entering(self)
            self.log.append("entered")
            yield
            if self.leaving is not None:
                await self.leaving(self)
            self.tasks.append(asyncio.current_task())
            self.log.append("left")
            self.group.cancel_scope.cancel()

    def note(self, m: Note) -> None:
        if m.text == "run":
            self.group.start_soon(asyncio.sleep, 1_000)
        elif m.text == "break":
            self.group.start_soon(broken)
        else:
            super().note(m)


async def broken() -> None:
    await asyncio.sleep(0)
    raise OSError("the line went dead")


async def rest(homely: Homely) -> None:
    await asyncio.sleep(1_000)


async def ignore(homely: Homely) -> None:
    await stubborn()


def homely(kernel: Kernel, log: Log, *hooks: Any, name: str = "h", **options: Any) -> tuple[Cell, list[Homely]]:
    made: list[Homely] = []

    def make() -> Homely:
        made.append(Homely(log, *hooks))
        return made[-1]

    return kernel.spawn(make, name=name, **options), made


@pytest.mark.promise(110)
def test_a_lifespan_is_entered_before_on_start_and_left_after_on_stop_in_one_task() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell, made = homely(kernel, log)
        ref = kernel.ref_of(cell)
        await ref.ask(Work("1"))
        ref.tell(Note("run"))
        await quiet()
        await kernel.stop(cell)
        assert log == ["entered", "h started #1", "did 1", "h on_stop shutdown", "left"]
        entered, left = made[0].tasks
        assert entered is left is not None

    alone(main)


@pytest.mark.promise(110)
def test_every_incarnation_has_a_home_of_its_own() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell, made = homely(kernel, log, on_exit=lambda cell, number, exit: kernel.restart(cell))
        await quiet()
        kernel.ref_of(cell).tell(Note("fail"))
        await quiet()
        assert log == ["entered", "h started #1", "h on_stop error", "left", "entered", "h started #2"]
        assert made[0].tasks[0] is not made[1].tasks[0]

    alone(main)


@pytest.mark.promise(111)
def test_a_raise_on_entering_is_a_failed_start() -> None:
    async def fails(homely: Homely) -> None:
        raise OSError("no such host")

    async def main(kernel: Kernel) -> None:
        log: Log = []
        exits: list[Exit] = []
        cell, _ = homely(kernel, log, fails, on_exit=lambda cell, number, exit: exits.append(exit))
        assert (await kernel.wait_started(cell) or SHUTDOWN).kind == "start"
        await quiet()
        assert log == []
        assert [exit.kind for exit in exits] == ["start"]
        assert "unhandled errors in a TaskGroup" in exits[0].detail

    alone(main)


@pytest.mark.promise(110)
def test_a_start_that_fails_after_it_was_entered_leaves_it() -> None:
    class Unlucky(Homely):
        async def on_start(self) -> None:
            raise LookupError("no such key")

    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell = kernel.spawn(lambda: Unlucky(log), name="h")
        assert await kernel.wait_started(cell) == Exit("start", "LookupError: no such key")
        await quiet()
        assert log == ["entered", "left"]

    alone(main)


@pytest.mark.promise(111)
def test_a_lifespan_that_only_raises_says_what() -> None:
    class Bad(Actor[Note]):
        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None, None]:
            raise OSError("no such host")
            yield  # type: ignore[unreachable]  # that is what makes it a generator

        def note(self, m: Note) -> None:
            pass

    async def main(kernel: Kernel) -> None:
        cell = kernel.spawn(Bad, name="bad")
        assert await kernel.wait_started(cell) == Exit("start", "OSError: no such host")

    alone(main)


@pytest.mark.promise(111)
@pytest.mark.parametrize("busy", [False, True])
def test_what_fails_in_its_task_group_ends_the_incarnation_with_error(busy: bool) -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell, _ = homely(kernel, log, None, None, asyncio.Event().wait)
        cell.on_exit = lambda cell, number, exit: None
        crashes: list[object] = []
        kernel.telemetry.crashes.add(lambda report: crashes.append(report.error))
        ref = kernel.ref_of(cell)
        ref.tell(Note("break"))
        asking = asyncio.create_task(ref.ask(Work(), timeout=60, on_restart="fail")) if busy else None
        await asyncio.sleep(0.1)
        assert cell.state == "failed"
        assert cell.exit == Exit("error", "lifespan: OSError: the line went dead")
        assert log[-1] == "h on_stop error"
        assert isinstance(crashes[0], ExceptionGroup)
        if asking is not None:
            with pytest.raises(ActorStopped, match="the line went dead"):
                await asking

    alone(main)


@pytest.mark.promise(111)
@pytest.mark.parametrize("how", ["cancelled", "ended"])
def test_a_lifespan_that_ends_by_itself_ends_the_incarnation(how: str) -> None:
    async def main(kernel: Kernel) -> None:
        cell, made = homely(kernel, [])
        await quiet()
        if how == "cancelled":
            task = made[0].tasks[0]
            assert isinstance(task, asyncio.Task)
            task.cancel()
        else:
            made[0].group.cancel_scope.cancel()
        await quiet()
        text = "UnderstudyError: its task was cancelled" if how == "cancelled" else "it ended before the actor did"
        assert cell.exit == Exit("error", f"lifespan: {text}")

    alone(main)


@pytest.mark.promise(112)
def test_a_stop_while_it_is_entered_cancels_it() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell, _ = homely(kernel, log, rest)
        await quiet()
        assert cell.state == "starting"
        await kernel.stop(cell)
        assert kernel.loop.time() < 0.1
        assert log == []

    alone(main)


@pytest.mark.promise(112)
def test_leaving_has_the_seconds_of_shutdown_and_is_cancelled_then(caplog: pytest.LogCaptureFixture) -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cell, _ = homely(kernel, log, None, rest)
        cell.shutdown = 3.0
        await quiet()
        await kernel.stop(cell)
        assert kernel.loop.time() == pytest.approx(3, abs=1e-3)
        assert "left" not in log
        assert cell.exit == SHUTDOWN

    alone(main)
    assert [r.message for r in caplog.records if r.levelno >= logging.ERROR] == ["h: lifespan was not left within 3 s"]


@pytest.mark.promise(112)
@pytest.mark.parametrize("entering", [True, False])
def test_a_lifespan_that_ignores_its_cancellation_is_fenced(entering: bool) -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[str] = []

        async def ignores(homely: Homely) -> None:
            await stubborn()
            try:
                homely.context.spawn(lambda: Probe([]))
            except Fenced:
                seen.append("fenced")
                raise

        cell, _ = homely(kernel, [], ignores if entering else None, None if entering else ignores)
        await quiet()
        await kernel.stop(cell, deadline=1)
        assert kernel.loop.time() < 10
        assert cell.state == "stopped"
        assert kernel.fenced_handlers == 1
        await asyncio.sleep(10_000)
        assert seen == ["fenced"]

    alone(main)


@pytest.mark.promise(112)
def test_a_raise_on_leaving_is_logged_and_the_end_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(homely: Homely) -> None:
        raise OSError("too late")

    async def main(kernel: Kernel) -> None:
        cell, _ = homely(kernel, [], None, fails)
        await quiet()
        await kernel.stop(cell)
        assert cell.exit == SHUTDOWN
        await quiet()

    alone(main)
    assert any("h: lifespan raised" in record.message for record in caplog.records)


@pytest.mark.promise(112)
@pytest.mark.parametrize("when", ["entering", "leaving"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_lifespan_starts_an_ordered_stop(when: str, error: type[BaseException]) -> None:
    class Interrupted(Actor[Note]):
        @asynccontextmanager
        async def lifespan(self) -> AsyncGenerator[None, None]:
            if when == "entering":
                raise error
            yield
            raise error

        def note(self, m: Note) -> None:
            pass

    async def main(kernel: Kernel) -> None:
        other, _ = homely(kernel, [], name="other")
        cell = kernel.spawn(Interrupted, name="i")
        await quiet()
        if when == "leaving":
            assert kernel.interrupted is None
            await kernel.stop(cell)
        await asyncio.sleep(1)
        assert type(kernel.interrupted) is error
        assert (cell.state, other.state) == ("stopped", "stopped")

    alone(main)


@pytest.mark.promise(113)
def test_handlers_see_the_context_variables_it_set_and_change_them_for_themselves_only() -> None:
    async def main(kernel: Kernel) -> None:
        seen: list[str] = []

        async def sets(homely: Homely) -> None:
            SET_BY_HOME.set("home")
            assert homely.context.ref.path == "h"

        async def work() -> None:
            seen.append(SET_BY_HOME.get())
            SET_BY_HOME.set("handler")

        cell, _ = homely(kernel, [], sets, None, work)
        for _ in range(2):
            await kernel.ref_of(cell).ask(Work())
        assert seen == ["home", "home"]
        assert SET_BY_HOME.get() == ""

    alone(main)


@pytest.mark.promise(110)
def test_a_link_and_a_cancel_of_every_task_end_it_in_order() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        (a, _), (b, _) = homely(kernel, log, name="a"), homely(kernel, [], name="b")
        await quiet()
        link(a, b)
        me = asyncio.current_task()
        for task in asyncio.all_tasks():
            if task is not me and "lifespan-b" in task.get_name():
                task.cancel()
        await quiet()
        assert log[-2:] == ["a on_stop error", "left"]
        assert a.exit.detail == "linked b: error(lifespan: UnderstudyError: its task was cancelled)"

    alone(main)


@pytest.mark.promise(110)
def test_every_task_cancelled_at_any_moment_leaves_neither_a_task_nor_an_actor_behind() -> None:
    async def main(kernel: Kernel) -> None:
        me = asyncio.current_task()
        for turns in range(12):
            cell, _ = homely(kernel, [], name=f"h{turns}")
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in asyncio.all_tasks():
                if task is not me:
                    task.cancel()
            await quiet()
            await kernel.stop(cell)
            assert cell.state == "stopped"

    alone(main)


def test_a_lifespan_without_its_decorator_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"Bare\.lifespan: decorate it with @contextlib\.asynccontextmanager"):

        class Bare(Actor[Note]):
            async def lifespan(self) -> AsyncGenerator[None, None]:  # type: ignore[override]  # the mistake
                yield

            def note(self, m: Note) -> None:
                pass
