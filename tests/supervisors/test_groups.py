"""Group restarts under virtual time: order, addresses, delays, and what happens in between."""

import asyncio

import pytest
from supervised import Child, Desk, Echo, End, Hang, alone

from understudy.actors.errors import ActorStopped
from understudy.actors.journal.events import BackedOff, ChildExited
from understudy.actors.lifecycle import Exit
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.groups import Group
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.strategies import Strategy
from understudy.supervisors.supervisor import ChildPlan

AT_ONCE = Backoff(first=0.0)


class Slow(Child):
    """Takes `seconds` to start, from the second incarnation on, and as long to stop."""

    def __init__(self, desk: Desk, seconds: float) -> None:
        super().__init__(desk)
        self.seconds = seconds

    async def on_start(self) -> None:
        if self.context.incarnation > 1:
            await asyncio.sleep(self.seconds)
        await super().on_start()

    async def on_stop(self, exit: Exit) -> None:
        await asyncio.sleep(self.seconds)
        await super().on_stop(exit)


def slow(desk: Desk, name: str, seconds: float = 1.0) -> ChildPlan:
    return ChildPlan(name, lambda: Slow(desk, seconds))


@pytest.mark.promise(30, 31, 32)
@pytest.mark.parametrize(
    ("strategy", "stopped", "started"),
    [("one_for_all", "dca", "abcd"), ("rest_for_one", "dc", "bcd"), ("one_for_one", "", "b")],
)
def test_all_stops_come_in_reverse_order_before_all_starts_in_order(
    strategy: Strategy, stopped: str, started: str
) -> None:
    async def main(desk: Desk) -> None:
        await desk.start(desk.plan(*(desk.child(name) for name in "abcd"), strategy=strategy))
        desk.log.clear()
        desk.tell("b", End("error"))
        await asyncio.sleep(2)
        stops = ["desk/b error", *(f"desk/{name} shutdown" for name in stopped)]
        assert desk.log == [*stops, *(f"desk/{name} up #2" for name in started)]
        (backed_off,) = [event for event in desk.events if isinstance(event, BackedOff)]
        assert (backed_off.child, backed_off.in_window) == ("desk/b", 1)

    alone(main)


@pytest.mark.promise(32)
def test_each_member_has_stopped_fully_before_the_next_and_started_fully_before_the_next() -> None:
    async def main(desk: Desk) -> None:
        children = (slow(desk, "a"), desk.child("b"), slow(desk, "c"))
        await desk.start(desk.plan(*children, strategy="one_for_all", backoff=AT_ONCE))
        desk.tell("b", End("error"))
        await asyncio.sleep(10)
        moves = list(zip(desk.log, desk.times, strict=True))[3:]
        assert moves == [
            ("desk/b error", 0.0),
            ("desk/c shutdown", 1.0),
            ("desk/a shutdown", 2.0),
            ("desk/a up #2", 3.0),
            ("desk/b up #2", 3.0),
            ("desk/c up #2", 4.0),
        ]

    alone(main)


@pytest.mark.promise(33)
def test_a_group_restart_keeps_the_siblings_addresses_and_mailboxes() -> None:
    async def main(desk: Desk) -> None:
        await desk.start(desk.plan(desk.child("a"), desk.child("b"), strategy="one_for_all"))
        ref = desk.kernel.ref_of(desk.cell("a"))
        desk.tell("b", End("error", "culprit"))
        await asyncio.sleep(0.5)
        asking = asyncio.create_task(ref.ask(Echo("while down"), timeout=60))
        await asyncio.sleep(0)
        assert ref.tell(Echo("and this"))
        with pytest.raises(ActorStopped):
            await ref.ask(Echo("not so"), on_restart="fail")
        assert await asking == "while down"
        assert await ref.ask(Echo("after")) == "after"
        assert [line for line in desk.log if not line.startswith("desk")] == ["while down", "and this", "after"]
        letters = [letter.message for letter in desk.kernel.telemetry.dead_letters()]
        assert letters == [End("error", "culprit")]

    alone(main)


@pytest.mark.promise(33)
def test_a_sibling_finishes_its_message_within_its_deadline() -> None:
    async def main(desk: Desk) -> None:
        class Busy(Child):
            async def echo(self, m: Echo) -> str:  # type: ignore[override]  # a handler may be either
                await asyncio.sleep(2)
                return m.text

        await desk.start(
            desk.plan(ChildPlan("a", lambda: Busy(desk)), desk.child("b"), strategy="one_for_all", backoff=AT_ONCE)
        )
        asking = asyncio.create_task(desk.kernel.ref_of(desk.cell("a")).ask(Echo("done"), timeout=60))
        await asyncio.sleep(1)
        desk.tell("b", End("error"))
        assert await asking == "done"
        assert desk.kernel.loop.time() == pytest.approx(2)
        await asyncio.sleep(1)
        assert desk.log[-2:] == ["desk/a up #2", "desk/b up #2"]

    alone(main)


@pytest.mark.promise(33)
def test_a_nested_supervisor_hit_by_a_group_restart_keeps_the_addresses_below_it() -> None:
    async def main(desk: Desk) -> None:
        inner = desk.plan(desk.child("x"), desk.child("y"))
        await desk.start(desk.plan(ChildPlan("inner", inner), desk.child("b"), strategy="one_for_all"))
        x = desk.cell("x")
        desk.tell("b", End("error"))
        await asyncio.sleep(0.5)
        asking = asyncio.create_task(desk.kernel.ref_of(x).ask(Echo("kept"), timeout=60))
        await asyncio.sleep(5)
        assert await asking == "kept"
        assert desk.cell("x") is x
        assert desk.log[3:] == [
            "desk/b error",
            "desk/inner/y shutdown",
            "desk/inner/x shutdown",
            "desk/inner/x up #2",
            "kept",
            "desk/inner/y up #2",
            "desk/b up #2",
        ]
        desk.tell("x", End("error"))
        await asyncio.sleep(2)
        assert desk.log[-1] == "desk/inner/x up #3"

    alone(main)


@pytest.mark.promise(33, 39)
def test_what_a_group_restart_kept_below_is_released_when_the_stop_comes_in_between() -> None:
    async def main(desk: Desk) -> None:
        inner = desk.plan(desk.child("x"), desk.child("y"))
        cell = await desk.start(desk.plan(ChildPlan("inner", inner), desk.child("b"), strategy="one_for_all"))
        desk.tell("b", End("error"))
        await asyncio.sleep(0.5)
        assert desk.cell("x").state == "failed"
        await desk.kernel.stop(cell)
        assert desk.kernel.registry.names() == ()
        assert desk.log.count("desk/inner/x shutdown") == 1

    alone(main)


@pytest.mark.promise(35)
def test_a_group_restart_starts_who_was_stopped_and_forgets_temporary_siblings() -> None:
    async def main(desk: Desk) -> None:
        children = (desk.child("a"), desk.child("b", "transient"), desk.child("c", "temporary"), desk.child("d"))
        cell = await desk.start(desk.plan(*children, strategy="one_for_all"))
        desk.tell("b", End("normal"))
        await desk.handle().terminate_child("a")
        assert desk.states() == {"a": "stopped", "b": "stopped", "c": "running", "d": "running"}
        desk.log.clear()
        desk.tell("d", End("error"))
        await asyncio.sleep(2)
        ups = ["desk/a up #2", "desk/b up #2", "desk/d up #2"]
        assert desk.log == ["desk/d error", "desk/c shutdown", *ups]
        assert list(desk.states()) == ["a", "b", "d"]
        await desk.kernel.stop(cell)
        assert desk.log[-3:] == ["desk/d shutdown", "desk/b shutdown", "desk/a shutdown"]

    alone(main)


@pytest.mark.promise(36)
@pytest.mark.parametrize(
    ("strategy", "retried"),
    [
        ("one_for_all", ["desk/a shutdown", "desk/a up #3", "desk/b up #3", "desk/c up #2"]),
        ("rest_for_one", ["desk/b up #3", "desk/c up #2"]),
    ],
)
def test_a_member_that_does_not_start_is_retried_and_those_up_stay_for_the_moment(
    strategy: Strategy, retried: list[str]
) -> None:
    async def main(desk: Desk) -> None:
        fails: list[str] = []
        children = (desk.child("a"), desk.child("b", fails=fails), desk.child("c"))
        await desk.start(desk.plan(*children, strategy=strategy))
        fails.append("no disk")
        desk.tell("a", End("error"))
        await asyncio.sleep(1.5)
        assert desk.log[-1] == "desk/a up #2"
        assert desk.states() == {"a": "running", "b": "restarting", "c": "restarting"}
        assert await desk.kernel.ref_of(desk.cell("a")).ask(Echo("a serves")) == "a serves"
        await asyncio.sleep(2)
        assert desk.log[desk.log.index("a serves") + 1 :] == retried
        backed_off = [event for event in desk.events if isinstance(event, BackedOff)]
        assert [(event.child, event.delay, event.in_window) for event in backed_off] == [
            ("desk/a", 1.0, 1),
            ("desk/b", 1.0, 2),
        ]

    alone(main)


@pytest.mark.promise(36, 42)
def test_a_member_that_never_starts_uses_the_intensity_up_and_the_group_is_stopped() -> None:
    async def main(desk: Desk) -> None:
        fails: list[str] = []
        children = (desk.child("a"), desk.child("b", fails=fails))
        cell = await desk.start(desk.plan(*children, strategy="rest_for_one", intensity=Intensity(4, 60)))
        fails += ["no"] * 10
        desk.tell("a", End("error"))
        await asyncio.sleep(60)
        assert cell.state == "stopped"
        assert 10 - len(fails) == 4  # OTP: with an intensity of 4 the start is called four times after the crash
        assert desk.log[-1] == "desk/a shutdown"

    alone(main)


@pytest.mark.promise(37)
def test_a_child_that_fails_while_the_group_waits_joins_it_and_the_longer_delay_wins() -> None:
    async def main(desk: Desk) -> None:
        await desk.start(desk.plan(*(desk.child(name) for name in "abc"), strategy="rest_for_one"))
        for _ in range(2):  # c waits one second, then two
            desk.tell("c", End("error"))
            await asyncio.sleep(4)
        desk.log.clear()
        desk.times.clear()
        desk.tell("c", End("error"))  # waits for four seconds
        await asyncio.sleep(1)
        desk.tell("a", End("error"))  # would wait for one
        await asyncio.sleep(10)
        ends = [("desk/c error", 8.0), ("desk/a error", 9.0), ("desk/b shutdown", 9.0)]
        starts = [("desk/a up #2", 12.0), ("desk/b up #2", 12.0), ("desk/c up #4", 12.0)]
        assert list(zip(desk.log, desk.times, strict=True)) == ends + starts

    alone(main)


@pytest.mark.promise(37)
def test_a_sibling_that_fails_while_it_is_about_to_be_stopped_is_not_counted() -> None:
    async def main(desk: Desk) -> None:
        await desk.start(desk.plan(*(desk.child(name) for name in "abc"), strategy="one_for_all"))
        desk.tell("c", End("error", "1"))
        desk.tell("a", End("error", "2"))
        await asyncio.sleep(5)
        assert [event.child for event in desk.events if isinstance(event, BackedOff)] == ["desk/c"]
        exits = [(event.child, str(event.exit)) for event in desk.events if isinstance(event, ChildExited)]
        assert ("desk/a", "error(ValueError: 2)") in exits
        assert {desk.cell(name).number for name in "abc"} == {2}

    alone(main)


@pytest.mark.promise(37)
def test_a_member_that_fails_while_the_group_starts_begins_it_anew() -> None:
    async def main(desk: Desk) -> None:
        children = (desk.child("a"), slow(desk, "b", 5.0))
        await desk.start(desk.plan(*children, strategy="one_for_all"))
        desk.tell("b", End("error"))
        await asyncio.sleep(5 + 1 + 1)  # it takes five seconds to end, waits for one, and is starting since a second
        assert desk.states() == {"a": "running", "b": "starting"}
        desk.tell("a", End("error"))
        await asyncio.sleep(10)
        assert desk.states() == {"a": "running", "b": "running"}
        assert desk.log[-3:] == ["desk/a error", "desk/a up #3", "desk/b up #3"]

    alone(main)


@pytest.mark.promise(38)
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all"])
def test_a_start_that_never_returns_is_a_failed_start_after_its_deadline(strategy: Strategy) -> None:
    async def main(desk: Desk) -> None:
        class Never(Child):
            async def on_start(self) -> None:
                if self.context.incarnation == 2:
                    await asyncio.sleep(10_000)
                await super().on_start()

        children = (ChildPlan("a", lambda: Never(desk), start_within=30.0), desk.child("b"))
        await desk.start(desk.plan(*children, strategy=strategy))
        desk.tell("a", End("error"))
        await asyncio.sleep(1 + 29.9)
        assert desk.states()["a"] == "starting"
        await asyncio.sleep(0.2)
        assert desk.states()["a"] == "restarting"
        await asyncio.sleep(5)
        assert desk.states() == {"a": "running", "b": "running"}
        exits = [str(event.exit) for event in desk.events if isinstance(event, BackedOff)]
        assert exits == ["error(ValueError)", "start(not started within 30 s)"]

    alone(main)


@pytest.mark.promise(38, 40)
def test_at_the_first_start_too_and_those_before_it_are_stopped() -> None:
    async def main(desk: Desk) -> None:
        class Never(Child):
            async def on_start(self) -> None:
                await asyncio.sleep(10_000)

        children = (desk.child("a"), ChildPlan("never", lambda: Never(desk), start_within=3.0), desk.child("c"))
        cell = await desk.start(desk.plan(*children))
        assert desk.kernel.loop.time() == pytest.approx(3, abs=1e-3)
        await asyncio.sleep(1)
        assert str(cell.exit) == "start(child never: start(not started within 3 s))"
        assert desk.log == ["desk/a up #1", "desk/a shutdown"]

    alone(main)


@pytest.mark.promise(50)
def test_a_member_that_ignores_its_end_is_fenced_and_the_group_goes_on() -> None:
    async def main(desk: Desk) -> None:
        children = (desk.child("a"), desk.child("stuck", shutdown=2.0), desk.child("c"))
        await desk.start(desk.plan(*children, strategy="one_for_all", backoff=AT_ONCE))
        desk.tell("stuck", Hang())
        await asyncio.sleep(1)
        desk.tell("a", End("error"))
        await asyncio.sleep(2 + 1 + 0.1)
        assert desk.kernel.fenced_handlers == 1
        assert desk.states() == {"a": "running", "stuck": "running", "c": "running"}
        exits = {event.child: event.exit for event in desk.events if isinstance(event, ChildExited) and event.intended}
        assert exits == {"desk/c": Exit("shutdown"), "desk/stuck": Exit("killed", "shutdown")}

    alone(main)


@pytest.mark.promise(39)
@pytest.mark.parametrize("at", [1.5, 2.5, 3.5, 4.5])
def test_a_supervisor_is_stopped_at_any_time_of_a_group_restart(at: float) -> None:
    """Two stops of one second each, one second of back-off, then a start of a second."""

    async def main(desk: Desk) -> None:
        children = (slow(desk, "a"), desk.child("b"), slow(desk, "c"))
        cell = await desk.start(desk.plan(*children, strategy="one_for_all", backoff=Backoff(first=3.0, jitter=0.0)))
        await asyncio.sleep(1)
        desk.tell("b", End("error"))
        await asyncio.sleep(at - 1)
        await desk.kernel.stop(cell)
        assert desk.kernel.registry.names() == ()
        assert desk.kernel.loop.time() <= at + 3
        seen = len(desk.log)
        await asyncio.sleep(60)
        assert len(desk.log) == seen

    alone(main)


@pytest.mark.promise(39)
def test_a_supervisor_answers_while_its_group_is_stopped_waits_and_starts() -> None:
    async def main(desk: Desk) -> None:
        children = (slow(desk, "a", 2.0), desk.child("b"), slow(desk, "c", 2.0))
        await desk.start(desk.plan(*children, strategy="one_for_all", backoff=Backoff(first=6.0, jitter=0.0)))
        desk.tell("b", End("error"))
        seen = []
        for _ in range(6):
            await asyncio.sleep(1.7)
            seen.append(tuple(desk.states().values()))
        down = "restarting"
        assert seen == [
            ("running", down, down),
            (down, down, down),
            (down, down, down),
            ("starting", down, down),
            ("running", "running", "starting"),
            ("running", "running", "running"),
        ]

    alone(main)


@pytest.mark.promise(39)
@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("name", ["a", "b", "c"])
@pytest.mark.parametrize("at", [0.5, 1.5, 2.5, 5.5])
def test_a_member_that_somebody_stops_meanwhile_stays_stopped_and_the_group_goes_on(
    name: str, at: float, *, by_hand: bool
) -> None:
    async def main(desk: Desk) -> None:
        children = (slow(desk, "a"), desk.child("b"), slow(desk, "c"))
        await desk.start(desk.plan(*children, strategy="one_for_all", backoff=Backoff(first=5.0, jitter=0.0)))
        desk.tell("b", End("error"))
        await asyncio.sleep(at)
        if by_hand:
            await desk.handle().terminate_child(name)
        else:
            await desk.kernel.stop(desk.cell(name))
        await asyncio.sleep(30)
        assert desk.states() == {each: "stopped" if each == name else "running" for each in "abc"}
        if name != "b":
            desk.tell("b", End("error"))
            await asyncio.sleep(30)
            assert set(desk.states().values()) == {"running"}

    alone(main)


@pytest.mark.promise(39)
def test_a_member_that_is_deleted_meanwhile_does_not_hold_the_group_up() -> None:
    async def main(desk: Desk) -> None:
        children = (desk.child("a"), desk.child("b"), slow(desk, "c"))
        await desk.start(desk.plan(*children, strategy="one_for_all"))
        desk.tell("b", End("error"))
        await asyncio.sleep(0.5)
        await desk.handle().terminate_child("c")
        desk.handle().delete_child("c")
        await asyncio.sleep(5)
        assert desk.states() == {"a": "running", "b": "running"}

    alone(main)


@pytest.mark.promise(51)
def test_an_exit_of_an_older_incarnation_or_of_a_stranger_is_ignored() -> None:
    async def main(desk: Desk) -> None:
        cell = await desk.start(desk.plan(desk.child("a"), desk.child("b")))
        a = desk.cell("a")
        desk.tell("a", End("error"))
        await asyncio.sleep(2)
        assert a.number == 2
        assert a.on_exit is not None
        stranger = desk.kernel.spawn(lambda: Child(desk), name="stranger")
        a.on_exit(a, 1, Exit("error", "stale"))
        a.on_exit(stranger, 1, Exit("error", "not ours"))
        await asyncio.sleep(5)
        assert a.number == 2
        assert cell.state == "running"
        assert len([event for event in desk.events if isinstance(event, BackedOff)]) == 1

    alone(main)


@pytest.mark.promise(39)
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all"])
def test_a_parent_that_gives_up_ends_a_supervisor_in_its_group_restart(strategy: Strategy) -> None:
    async def main(desk: Desk) -> None:
        inner = desk.plan(slow(desk, "x", 3.0), desk.child("y"), strategy="one_for_all")
        cell = await desk.start(
            desk.plan(ChildPlan("inner", inner), desk.child("b"), strategy=strategy, intensity=Intensity(0, 60))
        )
        desk.tell("y", End("error"))
        await asyncio.sleep(1)
        desk.tell("b", End("error"))
        await asyncio.sleep(10)
        assert cell.state == "stopped"
        assert desk.kernel.registry.names() == ()
        assert "desk/inner/y up #2" not in desk.log

    alone(main)


@pytest.mark.promise(52)
@pytest.mark.parametrize("strategy", ["one_for_one", "one_for_all"])
def test_a_keyboard_interrupt_in_a_child_stops_in_order_and_restarts_nobody(strategy: Strategy) -> None:
    async def main(desk: Desk) -> None:
        class Breaks(Child):
            def echo(self, m: Echo) -> str:
                raise KeyboardInterrupt

        children = (desk.child("a"), ChildPlan("b", lambda: Breaks(desk)))
        await desk.start(desk.plan(*children, strategy=strategy, backoff=AT_ONCE))
        desk.kernel.ref_of(desk.cell("b")).tell(Echo(""))
        await asyncio.sleep(5)
        assert isinstance(desk.kernel.interrupted, KeyboardInterrupt)
        assert [line for line in desk.log if "#2" in line] == []
        assert desk.kernel.registry.names() == ()

    alone(main)


def test_a_group_names_who_is_concerned_and_forgets_who_is_not_there_any_more() -> None:
    group = Group()
    group.failed("rest_for_one", ["a", "b", "c"], "b", 2.0)
    assert (group.step, group.todo, group.due) == ("stop", ["b", "c"], 2.0)
    group.held.add("c")
    group.failed("rest_for_one", ["a", "b"], "a", 1.0)
    assert (group.members, group.due, group.held) == (("a", "b"), 2.0, set())
    group.start({"a", "b"})
    assert group.todo == ["b", "a"]
