"""Inspection: what an actor does, seen from outside, wherever its handler waits; in virtual time but for threads."""

import asyncio
import gc
import inspect
import linecache
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from probes import Note, Probe, Silent, Work, alone, probe, quiet

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.errors import SpecError, UsageError, WrongLoop
from understudy.actors.inspection import Inspection, cell_of, inspect_all, inspect_cell
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.mailbox import MailboxStatistics
from understudy.actors.messages import Message
from understudy.actors.refs import Ref
from understudy.actors.stacks import AwaitPoint


class Nudge(Message[object]):
    pass


async def forever() -> object:
    return await asyncio.get_running_loop().create_future()  # HERE


async def endless() -> AsyncIterator[int]:
    yield 1
    await forever()
    yield 2


def line_of(function: Callable[..., object], mark: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(n for n, line in enumerate(lines) if mark in line)


def at_mark(point: AwaitPoint | None, mark: str) -> bool:
    """Whether a point is the line of this file that ends with `# mark`."""
    assert point is not None
    return point.file == __file__ and linecache.getline(__file__, point.line).endswith(f"# {mark}\n")


async def busy(kernel: Kernel, work: Callable[[], Awaitable[object]], **options: Any) -> Cell:
    """An actor in the middle of `work`."""
    cell = probe(kernel, [], work, **options)
    await kernel.wait_started(cell)
    kernel.ref_of(cell).tell(Work())
    await quiet()
    return cell


# -- the place where a handler waits ---------------------------------------------------------------------------


@pytest.mark.promise(75)
def test_a_handler_that_waits_is_shown_with_the_innermost_line_of_the_users_code() -> None:
    async def main(kernel: Kernel) -> None:
        async def work() -> object:
            return await forever()

        (handler,) = inspect_cell(await busy(kernel, work)).handlers
        assert handler.message == "Work"
        assert (handler.running, handler.sender, handler.left, handler.waits_for) == (False, "", None, ())
        assert at_mark(handler.at, "HERE")
        assert str(handler.at) == f"{__file__}:{line_of(forever, 'HERE')} forever"
        assert [line.rpartition(" ")[2] for line in handler.stack.splitlines() if "File" in line] == [
            "do",
            "work",
            "forever",
        ]

    alone(main)


async def in_a_sleep() -> object:
    return await asyncio.sleep(1_000, "awake")  # sleep


async def in_an_anyio_task_group() -> object:
    async with anyio.create_task_group() as group:  # group
        group.start_soon(forever)
    return None


async def in_an_asyncio_task_group() -> object:
    async with asyncio.TaskGroup() as group:
        group.create_task(forever(), name="child")
        await asyncio.sleep(0)
    return None  # asyncio group


async def in_an_async_generator() -> object:
    return [each async for each in endless()]


async def in_an_async_generator_of_its_own() -> object:
    async for _ in endless():  # of its own
        pass
    return None


async def in_a_timeout() -> object:
    async with asyncio.timeout(100):
        return await forever()


async def in_wait_for() -> object:
    return await asyncio.wait_for(forever(), 100)  # wait_for


async def in_gather() -> object:
    return await asyncio.gather(forever(), asyncio.sleep(1_000))  # gather


async def in_a_task() -> object:
    return await asyncio.ensure_future(forever())  # task


async def in_an_event() -> object:
    await anyio.Event().wait()  # event
    return None


async def in_anext() -> object:
    numbers = endless()
    await anext(numbers)
    return await anext(numbers, 3)


@pytest.mark.promise(75)
@pytest.mark.parametrize(
    ("work", "mark", "in_stack"),
    [
        (in_a_sleep, "sleep", "in sleep"),
        (in_an_anyio_task_group, "group", "in forever"),
        (in_an_async_generator, "HERE", "in endless"),
        (in_an_async_generator_of_its_own, "HERE", "in endless"),
        (in_anext, "HERE", "in endless"),
        (in_a_timeout, "HERE", "in in_a_timeout"),
        (in_gather, "gather", "in forever"),
        (in_a_task, "task", "in forever"),
        (in_an_event, "event", "in wait"),
    ],
)
def test_it_is_found_through_generators_groups_and_tasks(
    work: Callable[[], Awaitable[object]], mark: str, in_stack: str
) -> None:
    async def main(kernel: Kernel) -> None:
        (handler,) = inspect_cell(await busy(kernel, work)).handlers
        assert at_mark(handler.at, mark), handler.stack
        assert in_stack in handler.stack

    alone(main)


@pytest.mark.parametrize("work", [in_wait_for, in_an_asyncio_task_group])
def test_what_a_helper_task_waits_for_is_in_the_stack_whatever_the_python(
    work: Callable[[], Awaitable[object]],
) -> None:
    async def main(kernel: Kernel) -> None:
        (handler,) = inspect_cell(await busy(kernel, work)).handlers
        assert handler.at is not None
        assert handler.at.file == __file__
        assert "create_future()  # HERE" in handler.stack

    alone(main)


@pytest.mark.promise(75)
def test_a_handler_that_waits_for_a_thread_is_shown_while_the_thread_works() -> None:
    release = threading.Event()

    async def work() -> object:
        return await anyio.to_thread.run_sync(release.wait, 60.0)  # thread

    async def main() -> None:
        async with Kernel() as kernel:
            cell = await busy(kernel, work)
            asking = asyncio.create_task(kernel.ref_of(cell).ask(Work(), timeout=60))
            while not cell.life or not cell.life.tasks:  # noqa: ASYNC110  # bounded by the test's time
                await asyncio.sleep(0)
            try:
                (handler,) = inspect_cell(cell).handlers
                assert at_mark(handler.at, "thread")
                assert "run_sync" in handler.stack
            finally:
                release.set()
            assert await asking is True

    async def limited() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(limited())


class Caller(Actor[Nudge]):
    """Asks another, in the way it is given."""

    def __init__(self, ask: Callable[[], Awaitable[object]]) -> None:
        self.ask = ask

    async def nudge(self, m: Nudge) -> object:
        return await self.ask()


@pytest.mark.promise(75)
@pytest.mark.parametrize("how", ["plain", "wait_for", "gather", "group"])
def test_an_actor_that_waits_for_the_answer_of_another_names_it(how: str) -> None:
    async def main(kernel: Kernel) -> None:
        target = kernel.ref_of(await busy(kernel, forever, name="target"))

        async def ask() -> object:
            asking = target.ask(Work(), timeout=50)
            if how == "wait_for":
                return await asyncio.wait_for(asking, 60)
            if how == "gather":
                return await asyncio.gather(asking)
            if how == "group":
                async with asyncio.TaskGroup() as group:
                    group.create_task(asking)
                return None
            return await asking

        caller = kernel.ref_of(kernel.spawn(lambda: Caller(ask), name="caller"))
        caller.tell(Nudge())
        await quiet()
        (handler,) = inspect_cell(caller.cell()).handlers
        assert handler.waits_for == ("target",)
        assert handler.at is not None
        assert handler.at.function.endswith("ask")

    alone(main)


def test_two_actors_that_wait_for_each_other_are_seen_to() -> None:
    async def main(kernel: Kernel) -> None:
        refs: dict[str, Ref[Any]] = {}

        def make(other: str) -> Caller:
            return Caller(lambda: refs[other].ask(Nudge(), timeout=5))

        refs["a"] = kernel.ref_of(kernel.spawn(lambda: make("b"), name="a"))
        refs["b"] = kernel.ref_of(kernel.spawn(lambda: make("a"), name="b"))
        await quiet()
        refs["a"].tell(Nudge())
        refs["b"].tell(Nudge())
        await quiet()
        waits = {each.path: [handler.waits_for for handler in each.handlers] for each in inspect_all(kernel).actors}
        assert waits == {"a": [("b",)], "b": [("a",)]}
        await asyncio.sleep(6)

    alone(main)


def test_with_concurrency_every_handler_is_shown_the_longest_first() -> None:
    async def main(kernel: Kernel) -> None:
        cell = await busy(kernel, forever, concurrency=3)
        ref = kernel.ref_of(cell)
        asking = asyncio.create_task(ref.ask(Work("second"), timeout=9))
        await quiet()
        first, second = inspect_cell(cell).handlers
        assert first.left is None
        assert second.left == pytest.approx(9, abs=1e-3)
        asking.cancel()

    alone(main)


def test_a_start_that_hangs_is_shown_as_such() -> None:
    async def main(kernel: Kernel) -> None:
        class Hangs(Silent):
            async def on_start(self) -> None:
                await forever()

        cell = kernel.spawn(Hangs)
        await quiet()
        seen = inspect_cell(cell)
        assert seen.state == "starting"
        assert [handler.message for handler in seen.handlers] == ["on_start"]
        assert at_mark(seen.handlers[0].at, "HERE")

    alone(main)


@pytest.mark.parametrize("first", [True, False])
def test_an_actor_that_inspects_itself_sees_itself_running(first: bool) -> None:
    async def main(kernel: Kernel) -> None:
        found: list[Inspection] = []

        async def work() -> object:
            if not first:
                await asyncio.sleep(0)
            found.append(inspect_cell(cell))
            return None

        cell = probe(kernel, [], work)
        await kernel.ref_of(cell).ask(Work())
        ((handler,),) = (each.handlers for each in found)
        assert (handler.message, handler.running, handler.at) == ("Work", True, None)

    alone(main)


# -- the rest of it ----------------------------------------------------------------------------------------------


@pytest.mark.promise(75)
def test_an_inspection_tells_mailbox_children_watchers_timers_and_ends() -> None:
    async def main(kernel: Kernel) -> None:
        class Parent(Probe):
            async def on_start(self) -> None:
                self.context.spawn(Silent, name="child")
                self.context.watch(kernel.ref_of(other))

        other = probe(kernel, [], forever, name="other")
        parent = kernel.spawn(lambda: Parent([]), name="parent", on_exit=lambda cell, number, exit: None)
        await quiet()
        kernel.timer(other, 7, Note("late"))
        kernel.timer(other, 3, Note("sooner"))
        kernel.timer(other, 1, Note("never")).cancel()
        for _ in range(4):
            kernel.ref_of(other).tell(Work())
        await asyncio.sleep(0.5)
        seen = inspect_cell(other)
        assert (seen.path, seen.state, seen.incarnation, seen.restarts) == ("other", "running", 1, 0)
        assert seen.mailbox == MailboxStatistics(3, 0, 0, 0, 1_000)
        assert seen.timers == 2
        assert seen.next_timer == pytest.approx(2.5, abs=1e-3)
        assert (seen.watchers, seen.watcher_count, seen.last_exit) == (("parent",), 1, None)
        kernel.ref_of(parent).tell(Note("fail"))
        await quiet()
        failed = inspect_cell(parent)
        assert (failed.state, failed.handlers) == ("failed", ())
        assert failed.last_exit == Exit("error", "ValueError: told to")
        kernel.restart(parent)
        await quiet()
        again = inspect_cell(parent)
        assert (again.state, again.incarnation, again.restarts) == ("running", 2, 1)
        assert again.last_exit == failed.last_exit
        assert (again.children, again.child_count) == (("parent/child",), 1)

    alone(main)


def test_a_stopped_actor_can_still_be_inspected_through_its_ref() -> None:
    async def main(kernel: Kernel) -> None:
        ref = kernel.ref_of(probe(kernel, [], name="gone"))
        await quiet()
        await kernel.stop(ref.cell())
        seen = inspect_cell(cell_of(kernel, ref))
        assert (seen.state, seen.last_exit) == ("stopped", Exit("shutdown"))
        with pytest.raises(UsageError, match="no actor 'gone'"):
            cell_of(kernel, "gone")

    alone(main)


def test_an_actor_is_found_by_path_by_ending_and_by_ref_and_by_nothing_else() -> None:
    async def main(kernel: Kernel) -> None:
        top = probe(kernel, [], name="top")
        low = probe(kernel, [], name="low", parent=top)
        assert {cell_of(kernel, "top/low"), cell_of(kernel, "low"), cell_of(kernel, kernel.ref_of(low))} == {low}
        probe(kernel, [], name="low")
        probe(kernel, [], name="b", parent=top)
        probe(kernel, [], name="b", parent=low)
        with pytest.raises(SpecError, match="'b' is ambiguous"):
            cell_of(kernel, "b")
        async with Kernel() as another:
            with pytest.raises(UsageError, match="another system"):
                cell_of(another, kernel.ref_of(low))

    alone(main)


def test_inspecting_from_another_thread_is_refused() -> None:
    async def main(kernel: Kernel) -> None:
        ref = kernel.ref_of(probe(kernel, []))
        errors: list[BaseException] = []

        def look() -> None:
            for call in (lambda: cell_of(kernel, ref), lambda: inspect_all(kernel)):
                try:
                    call()
                except WrongLoop as error:
                    errors.append(error)

        thread = threading.Thread(target=look)
        thread.start()
        thread.join(60)
        assert len(errors) == 2

    alone(main, real=True)


@pytest.mark.promise(76)
def test_a_whole_tree_is_inspected_parents_first_and_bounded() -> None:
    async def main(kernel: Kernel) -> None:
        for name in ("a", "b"):
            top = probe(kernel, [], name=name)
            for child in range(3):
                probe(kernel, [], name=str(child), parent=top)
        await quiet()
        tree = inspect_all(kernel)
        assert [each.path for each in tree.actors] == ["a", "a/0", "a/1", "a/2", "b", "b/0", "b/1", "b/2"]
        assert tree.left_out == 0
        assert tree.text().splitlines()[1] == "  a/0 #1 running"
        part = inspect_all(kernel, 5)
        assert ([each.path for each in part.actors][-1], part.left_out) == ("b", 3)
        assert part.text().endswith("\nand 3 more")
        with pytest.raises(UsageError, match="limit 0"):
            inspect_all(kernel, 0)

    alone(main)


def test_the_text_of_an_inspection_names_what_a_person_asks_for() -> None:
    async def main(kernel: Kernel) -> None:
        cell = await busy(kernel, forever, name="stuck")
        kernel.ref_of(cell).tell(Work())
        text = inspect_cell(cell).text()
        assert text.startswith("stuck #1 running\n")
        assert "mailbox 1/1000" in text
        assert f"Work: waits at {__file__}:{line_of(forever, 'HERE')} forever" in text
        assert "await asyncio.get_running_loop().create_future()" in text
        assert "Work: waits at" in inspect_all(kernel).text()

    alone(main)


@pytest.mark.promise(76)
def test_an_inspection_keeps_nothing_of_the_actor_alive_and_disturbs_no_handler() -> None:
    async def main(kernel: Kernel) -> None:
        class Large:
            pass

        kept: list[weakref.ref[Large]] = []

        async def work() -> object:
            large = Large()
            kept.append(weakref.ref(large))
            await asyncio.sleep(1)
            return large is not None

        cell = probe(kernel, [], work)
        asking = asyncio.create_task(kernel.ref_of(cell).ask(Work()))
        await quiet()
        seen = [inspect_cell(cell) for _ in range(3)]
        assert await asking is True
        await quiet()
        gc.collect()
        assert kept[0]() is None
        assert len(seen[0].handlers) == 1

    alone(main)
