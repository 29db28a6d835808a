"""Watching: one notice for each watch, in time, and none after it was taken back."""

import asyncio

import pytest
from probes import Log, Note, Silent, alone, probe, quiet

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.errors import NameTaken, SpecError, UsageError, WatchTimeout
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import SHUTDOWN, Exit
from understudy.actors.links import link
from understudy.actors.mailbox import CONTROL_LIMIT
from understudy.actors.watching import Watch


def fail(cell: Cell) -> None:
    cell.kernel.ref_of(cell).tell(Note("fail"))


def downs(log: Log) -> Log:
    return [line for line in log if line.startswith("down")]


@pytest.mark.promise(94)
def test_a_watch_of_what_is_gone_or_down_gives_its_notice_at_once_and_once() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        watcher = probe(kernel, log, name="watcher")
        gone = probe(kernel, [], name="gone")
        down = probe(kernel, [], name="down", on_exit=lambda cell, number, exit: kernel.will_restart(cell))
        await quiet()
        await kernel.stop(gone)
        fail(down)
        await quiet()
        for target in (gone, down):
            kernel.watch(watcher, target)
        await quiet()
        assert downs(log) == ["down gone gone False", "down down error True"]
        kernel.restart(down)
        await quiet()
        await kernel.stop(down)
        await quiet()
        assert len(downs(log)) == 2

    alone(main)


@pytest.mark.promise(94)
def test_each_watch_fires_once_and_is_of_one_incarnation() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []

        def again(cell: Cell, number: int, exit: Exit) -> None:
            kernel.will_restart(cell)
            kernel.restart(cell)

        watcher, target = probe(kernel, log, name="watcher"), probe(kernel, [], name="target", on_exit=again)
        await quiet()
        for _ in range(3):
            kernel.watch(watcher, target)
        for _ in range(2):
            fail(target)
            await quiet()
        assert downs(log) == ["down target error True"]
        kernel.watch(watcher, target)
        fail(target)
        await quiet()
        assert downs(log) == ["down target error True"] * 2

    alone(main)


@pytest.mark.promise(94)
def test_more_notices_at_once_than_the_control_lane_is_wide_all_arrive() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        watcher = probe(kernel, log, name="watcher")
        many = [kernel.spawn(Silent) for _ in range(CONTROL_LIMIT + 100)]
        await quiet()
        for target in many:
            kernel.watch(watcher, target)
            kernel.leave(target, SHUTDOWN)
        assert watcher.box().statistics().control == CONTROL_LIMIT + 100
        await quiet()
        assert len(downs(log)) == CONTROL_LIMIT + 100

    alone(main)


@pytest.mark.promise(95)
def test_no_notice_arrives_after_unwatch_not_even_one_that_is_waiting() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        watcher = probe(kernel, log, name="watcher")
        a, b = kernel.spawn(Silent, name="a"), kernel.spawn(Silent, name="b")
        await quiet()
        kernel.watch(watcher, a)
        kernel.watch(watcher, b, Note("b is gone"))
        kernel.leave(a, SHUTDOWN)
        kernel.leave(b, SHUTDOWN)
        assert watcher.box().statistics().control == 2
        kernel.unwatch(watcher, a)
        kernel.unwatch(watcher, b)
        kernel.unwatch(watcher, b)
        await quiet()
        assert log == ["watcher started #1"]

    alone(main)


@pytest.mark.promise(96)
def test_a_watch_may_bring_a_message_of_ones_own() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        watcher, target = probe(kernel, log, name="watcher"), probe(kernel, [], name="target")
        await quiet()
        kernel.watch(watcher, target, Note("it ended"))
        kernel.watch(watcher, target, Note("it ended"))
        await kernel.stop(target)
        await quiet()
        kernel.watch(watcher, target, Note("it has ended"))
        await quiet()
        assert log == ["watcher started #1", "it ended", "it has ended"]

    alone(main)


@pytest.mark.promise(96)
def test_two_kinds_of_watch_of_one_actor_are_a_mistake_until_the_first_is_taken_back() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        watcher, target = probe(kernel, log, name="watcher"), probe(kernel, [], name="target")
        await quiet()
        for first, second in ((None, Note("x")), (Note("x"), None), (Note("x"), Note("y"))):
            kernel.watch(watcher, target, first)
            with pytest.raises(UsageError, match="watcher: watches target with another message; unwatch it first"):
                kernel.watch(watcher, target, second)
            kernel.unwatch(watcher, target)
        kernel.watch(watcher, target)
        await kernel.stop(target)
        await quiet()
        assert downs(log) == ["down target shutdown False"]

    alone(main)


def test_a_watch_without_a_handler_for_its_notice_is_a_mistake() -> None:
    async def main(kernel: Kernel) -> None:
        deaf, target = kernel.spawn(Silent, name="deaf"), kernel.spawn(Silent, name="target")
        await quiet()
        with pytest.raises(UsageError, match="deaf: watches target and has no handler for Down"):
            kernel.watch(deaf, target)
        kernel.watch(deaf, target, Note("x"))

    alone(main)


@pytest.mark.promise(97)
def test_code_outside_of_actors_sees_every_end_in_its_order() -> None:
    async def main(kernel: Kernel) -> None:
        cells = [probe(kernel, [], name=name) for name in "abcd"]
        await quiet()
        await kernel.stop(cells[3])
        watch = Watch(kernel, tuple(kernel.ref_of(cell) for cell in cells))
        assert len(watch) == 4
        kernel.leave(cells[2], Exit("loop", "period 2"))
        fail(cells[0])
        await quiet()
        await kernel.stop(cells[1])
        seen = [(down.path, down.kind) async for down in watch]
        assert seen == [("d", "gone"), ("c", "loop"), ("a", "error"), ("b", "shutdown")]
        assert len(watch) == 0
        with pytest.raises(UsageError, match="nothing is watched any more"):
            await watch

    alone(main)


@pytest.mark.promise(97)
def test_a_wait_for_an_end_has_a_deadline_and_the_watch_goes_on_after_it() -> None:
    async def main(kernel: Kernel) -> None:
        cell = probe(kernel, [], name="a")
        watch = Watch(kernel, (kernel.ref_of(cell),), timeout=2)
        with pytest.raises(WatchTimeout, match="a: still there after 2 s"):
            await watch
        with pytest.raises(WatchTimeout, match=r"after 0\.5 s"):
            await watch.next(timeout=0.5)
        assert kernel.loop.time() == pytest.approx(2.5, abs=1e-3)
        await kernel.stop(cell)
        assert (await watch).kind == "shutdown"
        for seconds in (float("inf"), float("nan")):
            with pytest.raises(UsageError, match="it must have an end"):
                Watch(kernel, (), timeout=seconds)

    alone(main)


@pytest.mark.promise(97)
def test_several_tasks_may_wait_for_ends_and_a_cancelled_one_loses_none() -> None:
    async def main(kernel: Kernel) -> None:
        cells = [probe(kernel, [], name=name) for name in "ab"]
        await quiet()
        watch = Watch(kernel, tuple(kernel.ref_of(cell) for cell in cells))
        tasks = [asyncio.create_task(watch.next()) for _ in range(4)]
        await quiet()
        for cell in cells:
            kernel.leave(cell, SHUTDOWN)
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [True, False, False, False]
        done = [task.result().path for task in tasks[1:] if task.exception() is None]
        assert sorted(done) == ["a", "b"]
        assert [type(task.exception()) for task in tasks[1:] if task.exception() is not None] == [UsageError]

    alone(main)


@pytest.mark.promise(97)
def test_a_watch_that_is_closed_leaves_nothing_behind() -> None:
    async def main(kernel: Kernel) -> None:
        cell = probe(kernel, [], name="a")
        with Watch(kernel, (kernel.ref_of(cell),)) as watch:
            watch.add(kernel.ref_of(cell))
            assert len(cell.watchers) == 1
            waiting = asyncio.create_task(watch.next())
            await quiet()
        assert not cell.watchers
        with pytest.raises(UsageError, match="nothing is watched"):
            await waiting
        assert [down async for down in watch] == []

    alone(main)


@pytest.mark.promise(98)
def test_a_taken_name_is_refused_naming_the_incarnation_that_has_it_and_it_is_free_when_the_notice_comes() -> None:
    async def main(kernel: Kernel) -> None:
        taken: list[str] = []

        class Heir(Actor[Note]):
            """Takes over the name of what it watches, in the very notice."""

            async def on_start(self) -> None:
                self.context.watch(kernel.ref_of(holder), message=Note("now"))

            def note(self, m: Note) -> None:
                taken.append(kernel.spawn(Silent, name="a/b").path)

        holder = kernel.spawn(Silent, name="a/b", number=6)
        kernel.spawn(Heir, name="heir")
        await quiet()
        with pytest.raises(NameTaken, match="the name 'a/b' is taken by its incarnation 7, which is running") as caught:
            kernel.spawn(Silent, name="a/b")
        assert isinstance(caught.value, SpecError)
        assert (caught.value.path, caught.value.incarnation, caught.value.state) == ("a/b", 7, "running")
        await kernel.stop(holder)
        await quiet()
        assert taken == ["a/b"]

    alone(main)


@pytest.mark.promise(119)
def test_who_uses_nothing_of_the_kit_has_none() -> None:
    async def main(kernel: Kernel) -> None:
        plain, linked = probe(kernel, [], name="plain"), probe(kernel, [], name="linked")
        await quiet()
        assert plain.life is not None
        assert plain.life.kit is None
        kernel.watch(plain, linked)
        assert plain.life.kit is None
        link(linked, plain)
        assert plain.life.kit is not None

    alone(main)
