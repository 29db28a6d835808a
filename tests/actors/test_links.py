"""Links: who ends with whom, and why; in virtual time."""

import asyncio
from typing import Any, ClassVar

import pytest
from probes import Log, Note, Probe, Silent, Work, alone, probe, quiet, reasons, stubborn

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.errors import ActorStopped, ProtocolError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import NORMAL, SHUTDOWN, Exit
from understudy.actors.links import link, unlink
from understudy.actors.messages import Down, Exited


class Trapping(Probe):
    trap_exits: ClassVar[bool] = True

    def exited(self, m: Exited) -> None:
        self.log.append(f"exited {m.path} #{m.incarnation} {m.kind} {m.detail}".strip())


def several(kernel: Kernel, log: Log, names: str, **options: Any) -> list[Cell]:
    return [probe(kernel, log, name=name, **options) for name in names]


def fail(cell: Cell, text: str = "fail") -> None:
    cell.kernel.ref_of(cell).tell(Note(text))


@pytest.mark.promise(89)
def test_a_failure_ends_the_linked_incarnation_with_its_reason_and_both_on_stops_run() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        a, b, c = several(kernel, log, "abc")
        await quiet()
        link(a, b)
        fail(b)
        await quiet()
        assert a.exit == Exit("error", "linked b: error(ValueError: told to)")
        assert [cell.state for cell in (a, b, c)] == ["stopped", "stopped", "running"]
        assert log[3:] == ["b on_stop error", "a on_stop error"]

    alone(main)


@pytest.mark.promise(89)
@pytest.mark.parametrize(
    ("exit", "other"),
    [
        (NORMAL, None),
        (SHUTDOWN, Exit("shutdown", "linked b: shutdown")),
        (Exit("loop", "period 2"), Exit("error", "linked b: loop(period 2)")),
        (Exit("killed"), Exit("error", "linked b: killed")),
    ],
)
def test_any_reason_but_normal_crosses_a_link_from_either_side(exit: Exit, other: Exit | None) -> None:
    async def main(kernel: Kernel) -> None:
        for way in (False, True):
            a, b = several(kernel, [], "ab")
            await quiet()
            link(*((a, b) if way else (b, a)))
            kernel.leave(b, exit)
            await quiet()
            assert a.state == ("running" if other is None else "stopped")
            if other is None:
                await kernel.stop(a)
            else:
                assert a.exit == other

    alone(main)


@pytest.mark.promise(89)
def test_the_handler_of_a_linked_actor_is_cancelled_and_its_asker_told_the_reason() -> None:
    async def main(kernel: Kernel) -> None:
        async def work() -> None:
            await asyncio.sleep(1_000)

        a, b = probe(kernel, [], work, name="a"), probe(kernel, [], name="b")
        asking = asyncio.create_task(kernel.ref_of(a).ask(Work(), timeout=60))
        await quiet()
        link(a, b)
        fail(b)
        with pytest.raises(ActorStopped, match=r"a: stopped: error\(linked b: error\(ValueError: told to\)\)"):
            await asking
        assert kernel.loop.time() < 0.1
        assert reasons(kernel) == ["failed", "failed"]

    alone(main)


@pytest.mark.promise(89)
def test_a_supervisor_restarts_an_incarnation_that_a_link_ended_as_any_other() -> None:
    async def main(kernel: Kernel) -> None:
        exits: list[tuple[str, int, Exit]] = []

        def on_exit(cell: Cell, number: int, exit: Exit) -> None:
            exits.append((cell.path, number, exit))
            kernel.restart(cell)

        a, b = several(kernel, [], "ab", on_exit=on_exit)
        await quiet()
        link(a, b)
        fail(b)
        await quiet()
        assert [(path, number, exit.kind) for path, number, exit in exits] == [("b", 1, "error"), ("a", 1, "error")]
        assert (a.number, b.number) == (2, 2)
        fail(b)
        await quiet()
        assert (a.number, b.number) == (2, 3), "the next incarnations are not linked"

    alone(main)


@pytest.mark.promise(90)
def test_who_traps_exits_is_told_instead_also_of_a_normal_end_and_handles_it_before_work() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        a = kernel.spawn(lambda: Trapping(log), name="a")
        others = [kernel.spawn(Silent, name=name) for name in "bc"]
        await quiet()
        for other in others:
            link(a, other)
        kernel.ref_of(a).tell(Note("work"))
        kernel.leave(others[0], NORMAL)
        kernel.leave(others[1], Exit("killed", "so it was said"))
        await quiet()
        assert log[1:] == ["exited b #1 normal", "exited c #1 killed so it was said", "work"]
        assert (a.state, a.number) == ("running", 1)

    alone(main)


@pytest.mark.promise(90)
def test_an_actor_that_is_linked_before_it_has_started_traps_all_the_same() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []

        class Ready(Trapping):
            def __init__(self) -> None:
                super().__init__(log)

        a, b = kernel.spawn(Ready, name="a"), probe(kernel, [], name="b")
        link(a, b)
        await kernel.stop(b)
        await quiet()
        assert log == ["a started #1", "exited b #1 shutdown"]

    alone(main)


def test_to_trap_exits_without_a_handler_for_them_is_refused() -> None:
    with pytest.raises(ProtocolError, match="Deaf: trap_exits without a handler for Exited"):

        class Deaf(Actor[Note]):
            trap_exits: ClassVar[bool] = True

            def note(self, m: Note) -> None:
                pass


@pytest.mark.promise(91)
def test_to_link_with_what_is_gone_or_down_is_a_signal_at_once() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        trapping = kernel.spawn(lambda: Trapping(log), name="t")
        gone = probe(kernel, [], name="gone")
        down = probe(kernel, [], name="down", on_exit=lambda cell, number, exit: None)
        await quiet()
        await kernel.stop(gone)
        fail(down)
        await quiet()
        for target in (gone, down):
            link(trapping, target)
        await quiet()
        assert log[1:] == [
            "exited gone #1 gone",
            "exited down #1 gone between two incarnations: error(ValueError: told to)",
        ]
        plain = probe(kernel, [], name="plain")
        await quiet()
        link(plain, gone)
        await quiet()
        assert (plain.state, plain.exit) == ("stopped", Exit("error", "linked gone: gone"))

    alone(main)


@pytest.mark.promise(91)
@pytest.mark.parametrize("suspend", [False, True])
def test_a_handler_that_links_its_actor_with_a_dead_one_is_the_last(suspend: bool) -> None:
    async def main(kernel: Kernel) -> None:
        dead = probe(kernel, [], name="dead")
        await kernel.stop(dead)
        actors: list[Probe] = []

        async def work() -> str:
            actors[0].context.link(kernel.ref_of(dead))
            if suspend:
                await asyncio.sleep(10)
            return "said"

        def make() -> Probe:
            actors.append(Probe([], work))
            return actors[-1]

        cell = kernel.spawn(make, name="a")
        asking = asyncio.create_task(kernel.ref_of(cell).ask(Work()))
        await asyncio.wait([asking])
        await quiet()
        if suspend:
            assert isinstance(asking.exception(), ActorStopped)
        else:
            assert asking.result() == "said"
        assert (cell.state, cell.exit) == ("stopped", Exit("error", "linked dead: gone"))
        assert kernel.loop.time() < 0.1

    alone(main)


@pytest.mark.promise(92)
def test_links_are_idempotent_and_a_link_with_oneself_is_nothing() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        a, b = kernel.spawn(lambda: Trapping(log), name="a"), probe(kernel, [], name="b")
        await quiet()
        for one, other in ((a, b), (b, a), (a, b), (a, a)):
            link(one, other)
        await kernel.stop(b)
        await quiet()
        assert log[1:] == ["exited b #1 shutdown"]

    alone(main)


@pytest.mark.promise(92)
@pytest.mark.parametrize("count", [3, 2_000])
def test_a_ring_of_links_ends_once_and_everybody_for_the_first_reason(count: int) -> None:
    async def main(kernel: Kernel) -> None:
        ends: list[str] = []

        class Bare(Actor[Note]):
            def note(self, m: Note) -> None:
                raise ValueError("told to")

        def on_exit(cell: Cell, number: int, exit: Exit) -> None:
            ends.append(exit.detail)

        ring = [kernel.spawn(Bare, name=f"n{n}", on_exit=on_exit) for n in range(count)]
        await quiet()
        for one, other in zip(ring, ring[1:] + ring[:1], strict=True):
            link(one, other)
        fail(ring[0])
        await quiet()
        assert ends == ["ValueError: told to"] + ["linked n0: error(ValueError: told to)"] * (count - 1)
        assert not kernel.links.owed

    alone(main)


@pytest.mark.promise(92)
@pytest.mark.parametrize("by_first", [True, False])
def test_a_link_that_was_taken_back_signals_nothing_not_even_what_was_on_its_way(by_first: bool) -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        a, c = kernel.spawn(lambda: Trapping(log), name="a"), probe(kernel, [], name="c")
        b = kernel.spawn(Silent, name="b")
        await quiet()
        link(a, b)
        link(a, c)
        unlink(*((a, c) if by_first else (c, a)))
        fail(c)
        await quiet()
        kernel.leave(b, SHUTDOWN)
        assert a.box().has_control, "the notice waits: no worker has run since"
        unlink(a, b)
        await quiet()
        assert log == ["a started #1"]
        unlink(a, b)

    alone(main)


@pytest.mark.promise(93)
def test_a_signal_comes_after_the_name_of_the_ended_one_is_free() -> None:
    async def main(kernel: Kernel) -> None:
        free: list[object] = []

        class Looks(Trapping):
            def exited(self, m: Exited) -> None:
                free.append(kernel.registry.find(m.path))

        class Ends(Probe):
            async def on_stop(self, exit: Exit) -> None:
                free.append(kernel.registry.find("b"))

        a, c = kernel.spawn(lambda: Looks([]), name="a"), kernel.spawn(lambda: Ends([]), name="c")
        b = probe(kernel, [], name="b")
        await quiet()
        link(a, b)
        link(c, b)
        fail(b)
        await quiet()
        assert free == [None, None]

    alone(main)


@pytest.mark.promise(93)
def test_a_failure_that_a_stop_overtakes_still_signals_its_own_reason_once() -> None:
    async def main(kernel: Kernel) -> None:
        class Slow(Probe):
            async def on_stop(self, exit: Exit) -> None:
                await asyncio.sleep(1)

        log: Log = []
        a, b = kernel.spawn(lambda: Trapping(log), name="a"), kernel.spawn(lambda: Slow([]), name="b")
        await quiet()
        link(a, b)
        fail(b)
        await asyncio.sleep(0.5)
        await kernel.stop(b)
        await quiet()
        assert log[1:] == ["exited b #1 error ValueError: told to"]

    alone(main)


def test_a_fenced_incarnation_signals_that_it_was_killed() -> None:
    async def main(kernel: Kernel) -> None:
        a, b = kernel.spawn(lambda: Trapping(log), name="a"), probe(kernel, [], stubborn, name="b")
        kernel.ref_of(b).tell(Work())
        await quiet()
        link(a, b)
        await kernel.stop(b, deadline=1)
        await quiet()
        assert log[1:] == ["exited b #1 killed shutdown"]
        await asyncio.sleep(10_000)

    log: Log = []
    alone(main)


def test_linked_actors_and_a_watcher_outlive_nothing_when_the_kernel_is_left() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        cells = several(kernel, log, "abcd")
        await quiet()
        for one in cells:
            for other in cells:
                link(one, other)
        kernel.watch(cells[0], cells[3])
        await kernel.aclose()
        assert [cell.state for cell in cells] == ["stopped"] * 4
        assert kernel.registry.names() == ()

    alone(main)


def test_a_down_comes_beside_the_signal_of_a_link() -> None:
    async def main(kernel: Kernel) -> None:
        log: Log = []
        a, b = kernel.spawn(lambda: Trapping(log), name="a"), probe(kernel, [], name="b")
        await quiet()
        link(a, b)
        kernel.watch(a, b)
        fail(b)
        await quiet()
        assert sorted(log[1:]) == ["down b error False", "exited b #1 error ValueError: told to"]
        assert Down not in {type(letter.message) for letter in kernel.telemetry.dead_letters()}

    alone(main)
