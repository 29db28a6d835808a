"""What people do by hand, declined starts, and automatic shutdown."""

import asyncio
import logging
from typing import Any

import pytest
from supervised import Child, Desk, Echo, End, alone

from understudy.actors.actor import Leave
from understudy.actors.errors import ActorStopped, AskTimeout, SpecError, UsageError
from understudy.actors.journal.events import BackedOff
from understudy.actors.lifecycle import DECLINED
from understudy.supervisors.intensity import Intensity
from understudy.supervisors.plans import ChildInfo
from understudy.supervisors.specs import ChildSpec, DynamicSupervisor, Supervisor
from understudy.supervisors.strategies import AutoShutdown
from understudy.supervisors.supervisor import ChildPlan


@pytest.mark.promise(41)
def test_children_are_listed_in_start_order_with_what_they_are() -> None:
    async def main(desk: Desk) -> None:
        await desk.start(desk.plan(desk.child("b"), desk.child("a", "transient")))
        desk.tell("b", End("error"))
        await asyncio.sleep(0.5)
        assert desk.handle().children() == (
            ChildInfo("b", "desk/b", "restarting", "permanent", 1),
            ChildInfo("a", "desk/a", "running", "transient", 1),
        )

    alone(main)


@pytest.mark.promise(41)
def test_what_is_done_by_hand_is_neither_restarted_nor_counted_and_ends_nobody() -> None:
    async def main(desk: Desk) -> None:
        children = (desk.child("a", "transient", significant=True), desk.child("b"))
        plan = desk.plan(*children, intensity=Intensity(0, 60), auto_shutdown="any_significant")
        cell = await desk.start(plan)
        team = desk.handle()
        for turn in range(3):
            await team.terminate_child("a")
            assert desk.states() == {"a": "stopped", "b": "running"}
            await asyncio.sleep(10)
            ref = await team.restart_child("a")
            assert await ref.ask(Echo(f"{turn}")) == f"{turn}"
        assert cell.state == "running"
        assert desk.cell("a").number == 4
        assert desk.delays() == []

    alone(main)


@pytest.mark.promise(41, 39)
def test_to_terminate_a_child_in_back_off_cancels_its_restart() -> None:
    async def main(desk: Desk) -> None:
        await desk.start(desk.plan(desk.child("a"), desk.child("b")))
        desk.tell("a", End("error"))
        await asyncio.sleep(0.5)
        await desk.handle().terminate_child("a")
        await asyncio.sleep(10)
        assert desk.states() == {"a": "stopped", "b": "running"}
        assert desk.log[-1] == "desk/a error"

    alone(main)


@pytest.mark.promise(41)
def test_a_child_added_by_hand_is_supervised_and_stopped_as_the_last() -> None:
    async def main(desk: Desk) -> None:
        cell = await desk.start(desk.plan(desk.child("a")))
        ref = await desk.handle().start_child(ChildSpec(lambda: Child(desk), name="added"))
        assert ref.path == "desk/added"
        desk.tell("added", End("error"))
        await asyncio.sleep(2)
        assert desk.cell("added").number == 2
        with pytest.raises(SpecError, match="desk: there is a child 'added' already"):
            await desk.handle().start_child(ChildSpec(lambda: Child(desk), name="added"))
        await desk.kernel.stop(cell)
        assert desk.log[-2:] == ["desk/added shutdown", "desk/a shutdown"]

    alone(main)


@pytest.mark.promise(41)
def test_a_child_that_does_not_start_by_hand_is_not_tried_again() -> None:
    async def main(desk: Desk) -> None:
        fails: list[str] = []
        await desk.start(desk.plan(desk.child("a", fails=fails)))
        team = desk.handle()
        with pytest.raises(ActorStopped, match="no disk"):
            await team.start_child(ChildSpec(lambda: Child(desk, ["no disk"]), name="bad"))
        await team.terminate_child("a")
        fails.append("no net")
        with pytest.raises(ActorStopped, match="no net"):
            await team.restart_child("a")
        await asyncio.sleep(10)
        assert desk.states() == {"a": "stopped"}
        assert desk.delays() == []
        await team.restart_child("a")
        desk.tell("a", End("error"))
        await asyncio.sleep(2)
        assert desk.states() == {"a": "running"}

    alone(main)


@pytest.mark.promise(41)
def test_only_a_stopped_child_is_restarted_or_deleted_and_strangers_are_named() -> None:
    async def main(desk: Desk) -> None:
        await desk.start(desk.plan(desk.child("a"), desk.child("b")))
        team = desk.handle()
        with pytest.raises(UsageError, match="desk/a is running; only a stopped child can be started"):
            await team.restart_child("a")
        desk.tell("a", End("error"))
        await asyncio.sleep(0.5)
        with pytest.raises(UsageError, match="desk/a is restarting; only a stopped child can be deleted"):
            team.delete_child("a")
        with pytest.raises(UsageError, match="desk: no child 'z'; children: a, b"):
            await team.terminate_child("z")
        await team.terminate_child("a")
        team.delete_child("a")
        assert desk.states() == {"b": "running"}

    alone(main)


@pytest.mark.promise(41)
def test_to_start_by_hand_waits_for_the_end_of_a_group_restart_and_no_longer_than_told() -> None:
    async def main(desk: Desk) -> None:
        await desk.start(desk.plan(desk.child("a"), desk.child("b"), strategy="one_for_all"))
        desk.tell("a", End("error"))
        await asyncio.sleep(0.2)
        added = ChildSpec(lambda: Child(desk), name="c")
        with pytest.raises(AskTimeout):
            await desk.handle().start_child(added, timeout=0.1)
        await desk.handle().start_child(added)
        assert desk.log[-3:] == ["desk/a up #2", "desk/b up #2", "desk/c up #1"]

    alone(main)


@pytest.mark.promise(41)
def test_a_handle_says_when_its_supervisor_is_down_and_is_good_again_after() -> None:
    async def main(desk: Desk) -> None:
        inner = desk.plan(desk.child("x"), intensity=Intensity(0, 60))
        await desk.start(desk.plan(ChildPlan("inner", inner)))
        team = desk.handle("desk/inner")
        desk.tell("x", End("error"))
        await asyncio.sleep(0.5)
        with pytest.raises(ActorStopped, match="gave up"):
            team.children()
        await asyncio.sleep(2)
        assert [child.name for child in team.children()] == ["x"]

    alone(main)


@pytest.mark.promise(55)
def test_a_child_that_declines_to_start_keeps_its_spec_without_an_actor() -> None:
    async def main(desk: Desk) -> None:
        class Declines(Child):
            async def on_start(self) -> None:
                if self.context.incarnation != 2:
                    raise Leave(DECLINED)
                await super().on_start()

        children = (ChildPlan("a", lambda: Declines(desk)), desk.child("b"))
        await desk.start(desk.plan(*children))
        assert desk.states() == {"a": "stopped", "b": "running"}
        await desk.handle().restart_child("a")
        desk.tell("a", End("error"))
        await asyncio.sleep(2)
        assert desk.states() == {"a": "stopped", "b": "running"}
        assert len([event for event in desk.events if isinstance(event, BackedOff)]) == 1

    alone(main)


@pytest.mark.promise(54)
def test_a_permanent_child_that_ends_normally_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main(desk: Desk) -> None:
        await desk.start(desk.plan(desk.child("a")))
        for _ in range(3):
            desk.tell("a", End("normal"))
            await asyncio.sleep(10)

    with caplog.at_level(logging.WARNING, "understudy.actors"):
        alone(main)
    told = [record for record in caplog.records if getattr(record, "code", "") == "permanent-ends"]
    assert [record.getMessage().split()[0] for record in told] == ["desk/a"]


# -- automatic shutdown ----------------------------------------------------------------------------------------


@pytest.mark.promise(45, 46)
@pytest.mark.parametrize(
    ("mode", "ends", "over"),
    [
        ("never", ["t1", "t2"], None),
        ("any_significant", ["other"], None),
        ("any_significant", ["other", "t1"], "t1"),
        ("all_significant", ["t1"], None),
        ("all_significant", ["t1", "t2"], "t2"),
        ("all_significant", ["t2", "t1"], "t1"),
    ],
)
def test_a_supervisor_ends_when_its_significant_children_have(
    mode: AutoShutdown, ends: list[str], over: str | None
) -> None:
    async def main(desk: Desk) -> None:
        significant = mode != "never"
        children = (
            desk.child("t1", "transient", significant=significant),
            desk.child("t2", "temporary", significant=significant),
            desk.child("other", "transient"),
        )
        cell = await desk.start(desk.plan(*children, auto_shutdown=mode))
        for name in ends:
            assert cell.state == "running"
            desk.tell(name, End("error" if name == "t2" else "normal"))
            await asyncio.sleep(1)
        assert (cell.state == "stopped") == (over is not None)
        if over is not None:
            assert (cell.exit.kind, cell.exit.detail.split(":")[0]) == ("shutdown", f"significant child {over} ended")

    alone(main)


@pytest.mark.promise(46)
def test_a_significant_child_that_waits_for_its_restart_still_counts_as_running() -> None:
    async def main(desk: Desk) -> None:
        children = (desk.child("a", "transient", significant=True), desk.child("b", "transient", significant=True))
        cell = await desk.start(desk.plan(*children, auto_shutdown="all_significant"))
        desk.tell("a", End("error"))
        await asyncio.sleep(0.5)
        desk.tell("b", End("normal"))
        await asyncio.sleep(3)
        assert desk.states() == {"a": "running", "b": "stopped"}
        desk.tell("a", End("normal"))
        await asyncio.sleep(1)
        assert cell.state == "stopped"

    alone(main)


@pytest.mark.promise(45)
def test_a_casualty_of_a_group_restart_is_no_end_for_good() -> None:
    async def main(desk: Desk) -> None:
        children = (desk.child("a", "temporary", significant=True), desk.child("b"))
        cell = await desk.start(desk.plan(*children, strategy="one_for_all", auto_shutdown="any_significant"))
        desk.tell("b", End("error"))
        await asyncio.sleep(3)
        assert cell.state == "running"
        assert desk.states() == {"b": "running"}

    alone(main)


@pytest.mark.promise(45)
def test_an_automatic_shutdown_cascades_upwards() -> None:
    async def main(desk: Desk) -> None:
        inner = desk.plan(desk.child("x", "temporary", significant=True), auto_shutdown="any_significant")
        middle = ChildPlan("inner", inner, "transient", significant=True)
        cell = await desk.start(desk.plan(middle, desk.child("b"), auto_shutdown="all_significant"))
        desk.tell("x", End("normal"))
        await asyncio.sleep(1)
        assert cell.exit.kind == "shutdown"
        assert desk.kernel.registry.names() == ()

    alone(main)


@pytest.mark.promise(53)
def test_a_nested_transient_supervisor_that_gave_up_is_not_restarted() -> None:
    async def main(desk: Desk) -> None:
        inner = desk.plan(desk.child("x"), intensity=Intensity(0, 60))
        await desk.start(desk.plan(ChildPlan("inner", inner, "transient"), desk.child("b")))
        desk.tell("x", End("error"))
        await asyncio.sleep(30)
        assert desk.states() == {"inner": "stopped", "b": "running"}

    alone(main)


@pytest.mark.promise(45)
def test_significance_that_makes_no_sense_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="child 'child': a permanent child cannot be significant"):
        ChildSpec(Child, significant=True)  # type: ignore[arg-type]  # never made
    child: ChildSpec[Any] = ChildSpec(Child, restart="transient", significant=True)  # type: ignore[arg-type]  # never made
    with pytest.raises(SpecError, match=r"supervisor 's': child 'child': significant, but .* auto_shutdown is 'never'"):
        Supervisor("s", [child])
    with pytest.raises(SpecError, match="auto_shutdown 'any' is unknown; allowed: never, any_significant"):
        Supervisor("s", [child], auto_shutdown="any")  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(SpecError, match="dynamic supervisor 'd': a template has no count and is not significant"):
        DynamicSupervisor("d", child)
