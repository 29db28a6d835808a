"""Supervision of a tree under virtual time, with fixed dice: every delay is exact."""

import asyncio
import sys

import pytest
from supervised import Child, Desk, Echo, End, Hang, High, alone

from understudy.actors import mailbox
from understudy.actors.actor import Actor
from understudy.actors.errors import ActorStopped
from understudy.actors.journal.events import BackedOff, ChildExited, ChildStarted, GaveUp
from understudy.actors.lifecycle import Exit, ExitKind
from understudy.actors.messages import Down
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.strategies import RestartType
from understudy.supervisors.supervisor import ChildPlan

# -- start and stop --------------------------------------------------------------------------------------------


def test_children_start_in_order_and_stop_last_first() -> None:
    async def main(desk: Desk) -> None:
        inner = desk.plan(desk.child("x"), desk.child("y"))
        cell = await desk.start(desk.plan(desk.child("a"), ChildPlan("inner", inner), desk.child("b")))
        assert desk.log == [f"desk/{name} up #1" for name in ("a", "inner/x", "inner/y", "b")]
        desk.log.clear()
        await desk.kernel.stop(cell)
        assert desk.log == [f"desk/{name} shutdown" for name in ("b", "inner/y", "inner/x", "a")]
        assert desk.kernel.registry.names() == ()

    alone(main)


def test_a_child_that_does_not_start_rolls_back_those_before_it() -> None:
    async def main(desk: Desk) -> None:
        children = (desk.child("a"), desk.child("b"), desk.child("bad", fails=["no disk"]), desk.child("never"))
        cell = await desk.start(desk.plan(*children))
        await asyncio.sleep(0.1)
        assert desk.log == ["desk/a up #1", "desk/b up #1", "desk/b shutdown", "desk/a shutdown"]
        assert cell.state == "stopped"
        assert str(cell.exit) == "start(child bad: start(LookupError: no disk))"
        assert desk.delays() == []
        assert desk.kernel.registry.names() == ()

    alone(main)


def test_stopping_a_supervisor_that_still_starts_its_children_stops_those_that_have() -> None:
    async def main(desk: Desk) -> None:
        class Slow(Child):
            async def on_start(self) -> None:
                await asyncio.sleep(1_000)

        children = (desk.child("a"), ChildPlan("slow", lambda: Slow(desk)), desk.child("never"))
        cell = desk.kernel.spawn(desk.plan(*children), name="desk")
        await asyncio.sleep(1)
        await desk.kernel.stop(cell)
        assert desk.log == ["desk/a up #1", "desk/a shutdown"]
        assert desk.kernel.loop.time() == pytest.approx(1, abs=1e-3)

    alone(main)


def test_incarnations_go_on_from_where_a_former_process_was() -> None:
    async def main(desk: Desk) -> None:
        await desk.start(desk.plan(desk.child("a"), numbers=lambda path: {"desk/a": 7}[path]))
        desk.tell("a", End("error"))
        await asyncio.sleep(2)
        assert desk.log == ["desk/a up #8", "desk/a error", "desk/a up #9"]

    alone(main)


# -- restart types ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("restart", "kind", "again"),
    [
        ("permanent", "normal", True),
        ("permanent", "shutdown", True),
        ("permanent", "error", True),
        ("transient", "normal", False),
        ("transient", "shutdown", False),
        ("transient", "error", True),
        ("transient", "loop", True),
        ("transient", "killed", True),
        ("temporary", "normal", False),
        ("temporary", "error", False),
        ("temporary", "loop", False),
    ],
)
def test_the_restart_type_says_who_is_started_again(restart: RestartType, kind: ExitKind, again: bool) -> None:
    async def main(desk: Desk) -> None:
        cell = await desk.start(desk.plan(desk.child("a", restart), desk.child("b")))
        desk.tell("a", End(kind, "reason"))
        await asyncio.sleep(2)
        assert ("desk/a up #2" in desk.log) == again
        assert (desk.kernel.registry.find("desk/a") is not None) == again
        assert cell.state == "running"
        assert desk.cell("b").number == 1
        exits = [event for event in desk.events if isinstance(event, ChildExited)]
        assert [(event.child, event.number, event.exit.kind) for event in exits] == [("desk/a", 1, kind)]

    alone(main)


def test_only_the_child_that_failed_is_restarted_and_its_mailbox_is_kept() -> None:
    async def main(desk: Desk) -> None:
        await desk.start(desk.plan(desk.child("a"), desk.child("b")))
        for message in (Echo("1"), End("error", "culprit"), Echo("2"), Echo("3")):
            desk.tell("a", message)
        asking = asyncio.create_task(desk.kernel.ref_of(desk.cell("a")).ask(Echo("4"), timeout=60))
        await asyncio.sleep(0.5)
        desk.tell("b", Echo("b works on"))
        assert await asking == "4"
        assert desk.log[2:] == ["1", "desk/a error", "b works on", "desk/a up #2", "2", "3", "4"]
        letters = desk.kernel.telemetry.dead_letters()
        assert [(letter.message, letter.reason) for letter in letters] == [(End("error", "culprit"), "failed")]

    alone(main)


# -- back-off and intensity ------------------------------------------------------------------------------------


def test_delays_grow_to_the_cap_and_are_kept_to_the_microsecond() -> None:
    async def main(desk: Desk) -> None:
        await desk.start(desk.plan(desk.child("a")))
        for _ in range(6):
            desk.tell("a", End("error"))
            await asyncio.sleep(10)
        assert desk.delays() == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
        ends = [time for what, time in zip(desk.log, desk.times, strict=True) if what == "desk/a error"]
        starts = [time for what, time in zip(desk.log, desk.times, strict=True) if " up " in what][1:]
        assert [round(b - a, 6) for a, b in zip(ends, starts, strict=True)] == desk.delays()

    alone(main)


def test_jitter_is_what_the_dice_say() -> None:
    async def main(desk: Desk) -> None:
        await desk.start(desk.plan(desk.child("a"), dice=High()))
        desk.tell("a", End("error"))
        await asyncio.sleep(5)
        assert desk.delays() == [1.25]  # 1 · (1 - 0.5 + 2 · 0.5 · 0.75)

    alone(main)


def test_a_healthy_life_starts_the_delays_from_the_first_again() -> None:
    async def main(desk: Desk) -> None:
        await desk.start(desk.plan(desk.child("a")))
        for healthy in (1, 1, 150):
            await asyncio.sleep(healthy)
            desk.tell("a", End("error"))
            await asyncio.sleep(10)
        assert desk.delays() == [1.0, 2.0, 1.0]

    alone(main)


def test_a_start_that_takes_long_and_fails_is_no_healthy_life() -> None:
    async def main(desk: Desk) -> None:
        class Slow(Child):
            async def on_start(self) -> None:
                await asyncio.sleep(150 if self.context.incarnation > 1 else 0)
                await super().on_start()

        fails: list[str] = []
        await desk.start(desk.plan(ChildPlan("a", lambda: Slow(desk, fails), start_within=1_000.0)))
        fails += ["1", "2"]
        desk.tell("a", End("error"))
        await asyncio.sleep(1_000)
        assert desk.delays() == [1.0, 2.0, 4.0]

    alone(main)


def test_a_restart_whose_start_fails_counts_and_is_retried_with_a_longer_delay() -> None:
    async def main(desk: Desk) -> None:
        fails: list[str] = []
        cell = await desk.start(desk.plan(desk.child("a", fails=fails), intensity=Intensity(3, 60)))
        fails += ["1", "2"]
        desk.tell("a", End("error"))
        await asyncio.sleep(20)
        assert desk.delays() == [1.0, 2.0, 4.0]
        assert desk.log == ["desk/a up #1", "desk/a error", "desk/a up #4"]
        assert desk.kernel.registry.names() == ("desk", "desk/a")
        fails += ["3"]
        desk.tell("a", End("error"))
        await asyncio.sleep(20)
        assert cell.state == "stopped"

    alone(main)


def test_past_the_intensity_the_supervisor_gives_up_and_stops_its_children_in_reverse() -> None:
    async def main(desk: Desk) -> None:
        children = [desk.child(name) for name in ("a", "b", "c")]
        cell = await desk.start(desk.plan(*children, intensity=Intensity(2, 60)))
        for _ in range(3):
            assert cell.state == "running"
            desk.tell("b", End("error", "again"))
            await asyncio.sleep(5)
        assert cell.state == "stopped"
        assert desk.log[-3:] == ["desk/b error", "desk/c shutdown", "desk/a shutdown"]
        assert cell.exit.kind == "shutdown"
        assert cell.exit.detail == "gave up: more than 2 restarts in 60 s, the last desk/b: error(ValueError: again)"
        (gave_up,) = [event for event in desk.events if isinstance(event, GaveUp)]
        assert (gave_up.supervisor, gave_up.child) == ("desk", "desk/b")
        assert desk.kernel.registry.names() == ()

    alone(main)


def test_restarts_outside_the_window_do_not_add_up() -> None:
    async def main(desk: Desk) -> None:
        cell = await desk.start(desk.plan(desk.child("a"), intensity=Intensity(1, 30)))
        for _ in range(5):
            desk.tell("a", End("error"))
            await asyncio.sleep(31)
        assert desk.cell("a").number == 6
        desk.tell("a", End("error"))
        await asyncio.sleep(15)
        desk.tell("a", End("error"))
        await asyncio.sleep(1)
        assert cell.state == "stopped"

    alone(main)


@pytest.mark.promise(42)
def test_restarts_of_all_children_count_together() -> None:
    async def main(desk: Desk) -> None:
        cell = await desk.start(desk.plan(desk.child("a"), desk.child("b"), intensity=Intensity(1, 60)))
        for name in ("a", "b"):
            desk.tell(name, End("error"))
            await asyncio.sleep(2)
        assert cell.state == "stopped"

    alone(main)


@pytest.mark.promise(44)
def test_a_child_past_its_own_intensity_is_stopped_alone_and_can_be_started_by_hand() -> None:
    async def main(desk: Desk) -> None:
        cell = await desk.start(desk.plan(desk.child("a", intensity=Intensity(1, 60)), desk.child("b")))
        for _ in range(2):
            desk.tell("a", End("error"))
            await asyncio.sleep(3)
        assert desk.kernel.registry.names() == ("desk", "desk/b")
        assert cell.state == "running"
        assert desk.states() == {"a": "stopped", "b": "running"}
        (gave_up,) = [event for event in desk.events if isinstance(event, GaveUp)]
        assert (gave_up.child, gave_up.intensity, gave_up.within) == ("desk/a", 1, 60)
        await desk.handle().restart_child("a")
        assert desk.log[-1] == "desk/a up #3"

    alone(main)


@pytest.mark.promise(44)
def test_a_restart_counts_in_both_layers_and_a_refused_one_in_the_childs_alone() -> None:
    async def main(desk: Desk) -> None:
        children = (desk.child("a", intensity=Intensity(1, 60)), desk.child("b"))
        cell = await desk.start(desk.plan(*children, intensity=Intensity(2, 60)))
        for name in ("a", "a", "b"):  # the second of a is not restarted, so it is none for the supervisor
            desk.tell(name, End("loop", "same"))
            await asyncio.sleep(3)
        assert set(desk.states()) == {"a", "b"}
        desk.tell("b", End("error"))
        await asyncio.sleep(3)
        assert cell.state == "stopped"

    alone(main)


# -- in between ------------------------------------------------------------------------------------------------


def test_stopping_during_back_off_wins() -> None:
    async def main(desk: Desk) -> None:
        cell = await desk.start(desk.plan(desk.child("a"), desk.child("b")))
        desk.tell("a", End("error"))
        await asyncio.sleep(0.5)
        child = desk.cell("a")
        asking = asyncio.create_task(desk.kernel.ref_of(child).ask(Echo("x"), timeout=60))
        await asyncio.sleep(0)
        await desk.kernel.stop(cell)
        assert desk.kernel.loop.time() < 1
        with pytest.raises(ActorStopped, match="shutdown"):
            await asking
        await asyncio.sleep(10)
        assert "desk/a up #2" not in desk.log

    alone(main)


def test_a_child_stopped_by_somebody_else_during_back_off_is_not_started_again() -> None:
    async def main(desk: Desk) -> None:
        cell = await desk.start(desk.plan(desk.child("a"), desk.child("b")))
        desk.tell("a", End("error"))
        await asyncio.sleep(0.5)
        await desk.kernel.stop(desk.cell("a"))
        await asyncio.sleep(10)
        assert desk.kernel.registry.names() == ("desk", "desk/b")
        assert cell.state == "running"

    alone(main)


def test_a_child_that_ignores_cancellation_is_killed_and_the_others_stop_in_order() -> None:
    async def main(desk: Desk) -> None:
        cell = await desk.start(desk.plan(desk.child("a"), desk.child("stuck", shutdown=2.0), desk.child("b")))
        desk.tell("stuck", Hang())
        await asyncio.sleep(1)
        stuck = desk.cell("stuck")
        await desk.kernel.stop(cell)
        assert desk.log[-2:] == ["desk/b shutdown", "desk/a shutdown"]
        assert stuck.exit == Exit("killed", "shutdown")
        assert desk.kernel.loop.time() == pytest.approx(1 + 2 + 1, abs=1e-3)
        assert desk.kernel.fenced_handlers == 1

    alone(main)


def test_a_nested_supervisor_that_gives_up_escalates() -> None:
    async def main(desk: Desk) -> None:
        inner = desk.plan(desk.child("x"), desk.child("y"), intensity=Intensity(0, 60))
        cell = await desk.start(desk.plan(ChildPlan("inner", inner), desk.child("b"), intensity=Intensity(1, 60)))
        desk.tell("x", End("error"))
        await asyncio.sleep(2)
        assert desk.log[3:] == [
            "desk/inner/x error",
            "desk/inner/y shutdown",
            "desk/inner/x up #1",  # the new supervisor's children are new addresses
            "desk/inner/y up #1",
        ]
        assert desk.cell("inner").number == 2
        desk.tell("x", End("error"))
        await asyncio.sleep(2)
        assert cell.state == "stopped"
        assert desk.kernel.registry.names() == ()

    alone(main)


def test_what_the_former_supervisor_was_told_does_not_reach_the_next() -> None:
    async def main(desk: Desk) -> None:
        inner = desk.plan(desk.child("x"), desk.child("y"), intensity=Intensity(1, 60))
        await desk.start(desk.plan(ChildPlan("inner", inner)))
        desk.tell("x", End("error"))  # waits a second for its restart
        await asyncio.sleep(0.5)
        desk.tell("y", End("error"))  # the inner one gives up and is back a second later
        await asyncio.sleep(1.2)
        assert desk.cell("inner").number == 2
        desk.log.clear()
        desk.tell("x", End("error"))  # incarnation 1 of a new address; the old timer was for an incarnation 1 too
        await asyncio.sleep(0.9)
        assert desk.log == ["desk/inner/x error"]
        await asyncio.sleep(0.2)
        assert desk.log == ["desk/inner/x error", "desk/inner/x up #2"]

    alone(main)


def test_a_watcher_of_a_child_is_told_at_once_whether_it_comes_back() -> None:
    async def main(desk: Desk) -> None:
        seen: list[tuple[str, bool, float]] = []

        class Watcher(Actor[Echo]):
            def echo(self, m: Echo) -> str:
                self.context.watch(desk.kernel.ref_of(desk.cell(m.text)))
                return ""

            def down(self, m: Down) -> None:
                seen.append((m.path, m.restarting, round(desk.kernel.loop.time(), 3)))

        await desk.start(desk.plan(desk.child("back"), desk.child("gone", "temporary")))
        desk.kernel.spawn(Watcher, name="watcher")
        for name in ("back", "gone"):
            await desk.kernel.ref_of(desk.cell("watcher")).ask(Echo(name))
            desk.tell(name, End("error"))
        await asyncio.sleep(5)
        assert seen == [("desk/back", True, 0.0), ("desk/gone", False, 0.0)]

    alone(main)


def test_every_start_exit_and_delay_is_observed_in_order() -> None:
    async def main(desk: Desk) -> None:
        await desk.start(desk.plan(desk.child("a")))
        desk.tell("a", End("loop", "same(3)"))
        await asyncio.sleep(2)
        kinds = [type(event) for event in desk.events]
        assert kinds == [ChildStarted, ChildExited, BackedOff, ChildStarted]
        backed_off = desk.events[2]
        assert isinstance(backed_off, BackedOff)
        assert (backed_off.child, backed_off.failures, backed_off.in_window) == ("desk/a", 1, 1)
        assert backed_off.exit == Exit("loop", "same(3)")

    alone(main)


def test_more_children_than_the_control_lane_has_room_for_may_fail_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox, "CONTROL_LIMIT", 4)

    async def main(desk: Desk) -> None:
        count = 200
        plan = desk.plan(*(desk.child(str(n)) for n in range(count)), intensity=Intensity(count, 60))
        await desk.start(plan)
        for n in range(count):
            desk.tell(f"desk/{n}", End("error"))
        await asyncio.sleep(5)
        assert {desk.cell(f"desk/{n}").number for n in range(count)} == {2}

    alone(main)


@pytest.mark.promise(43)
def test_a_restart_takes_the_same_steps_among_few_children_and_among_many() -> None:
    def steps(children: int) -> int:
        counts: list[int] = []

        async def main(desk: Desk) -> None:
            plan = desk.plan(*(desk.child(str(n)) for n in range(children)), backoff=Backoff(first=0.0))
            await desk.start(plan)
            for _ in range(3):
                count = 0

                def trace(*_: object) -> None:
                    nonlocal count
                    count += 1

                desk.tell("desk/0", End("error"))
                sys.setprofile(trace)
                for _ in range(20):
                    await asyncio.sleep(0)
                sys.setprofile(None)
                counts.append(count)
            assert desk.cell("desk/0").number == 4

        alone(main)
        return counts[-1]

    assert steps(300) == steps(3)
