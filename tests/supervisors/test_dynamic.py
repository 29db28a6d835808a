"""Dynamic supervisors, alone and in a system."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from supervised import EXACT, Child, Desk, Echo, End, Hang, Middle, alone

from understudy import Actor, ChildSpec, DynamicSupervisor, Intensity, Message, Supervisor, System
from understudy.actors.errors import ActorStopped, SpecError, UsageError
from understudy.actors.journal.events import GaveUp
from understudy.actors.lifecycle import Exit
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.dynamic import DynamicActor, DynamicPlan
from understudy.supervisors.handles import DynamicRef
from understudy.supervisors.plans import ChildPlan
from understudy.supervisors.strategies import RestartType

TEMPLATE = ChildPlan("", Actor, "transient", shutdown=2.0)


def pool(
    body: Callable[[Desk, DynamicRef], Awaitable[None]],
    *,
    template: ChildPlan = TEMPLATE,
    intensity: Intensity | None = None,
    backoff: Backoff = EXACT,
    most: int | None = None,
) -> None:
    async def main(desk: Desk) -> None:
        plan = DynamicPlan(template, intensity, backoff, Middle(), desk._observe, most)
        await desk.start(lambda: DynamicActor(plan), "pool")
        await body(desk, DynamicRef(desk.kernel, "pool", lambda: Child(desk)))

    alone(main)


@pytest.mark.promise(47)
def test_children_are_started_while_it_runs_and_listed_in_order() -> None:
    async def body(desk: Desk, handle: DynamicRef) -> None:
        assert (await handle.start_child(name="x")).path == "pool/x"
        anonymous = await handle.start_child()
        assert await anonymous.ask(Echo("hi")) == "hi"
        assert [child.path for child in handle.children()] == ["pool/x", anonymous.path]
        with pytest.raises(SpecError, match="the name 'pool/x' is taken"):
            await handle.start_child(name="x")

    pool(body)


@pytest.mark.promise(47)
def test_max_children_counts_those_that_wait_to_be_restarted() -> None:
    async def body(desk: Desk, handle: DynamicRef) -> None:
        await handle.start_child(name="x")
        await handle.start_child(name="y")
        desk.tell("pool/x", End("error"))
        await asyncio.sleep(0.5)
        assert handle.children()[0].state == "restarting"
        with pytest.raises(UsageError, match="pool: 2 children already, which is max_children"):
            await handle.start_child()
        await handle.terminate_child("x")
        await handle.start_child(name="z")

    pool(body, most=2)


@pytest.mark.promise(48)
@pytest.mark.parametrize(
    ("restart", "kind", "stays"),
    [("transient", "normal", False), ("transient", "error", True), ("temporary", "error", False)],
)
def test_a_child_that_ends_for_good_is_removed(restart: RestartType, kind: str, *, stays: bool) -> None:
    async def body(desk: Desk, handle: DynamicRef) -> None:
        await handle.start_child(ChildSpec(lambda: Child(desk), name="x", restart=restart))
        desk.tell("pool/x", End(kind))  # type: ignore[arg-type]  # one of the kinds
        await asyncio.sleep(2)
        assert [child.incarnation for child in handle.children()] == ([2] if stays else [])
        actor = handle._actor()
        assert len(actor._records) == len(actor._plans) == stays
        assert (desk.kernel.registry.find("pool/x") is not None) == stays

    pool(body)


@pytest.mark.promise(48)
def test_a_child_whose_first_start_fails_is_removed_and_its_starter_told() -> None:
    async def body(desk: Desk, handle: DynamicRef) -> None:
        with pytest.raises(ActorStopped, match="no disk"):
            await handle.start_child(lambda: Child(desk, ["no disk"]), name="x")
        assert handle.children() == ()
        fails = ["no disk"]
        handle.start_child_nowait(lambda: Child(desk, fails), name="y")  # a failure like any other
        await asyncio.sleep(2)
        assert [(child.name, child.state, child.incarnation) for child in handle.children()] == [("y", "running", 2)]

    pool(body)


@pytest.mark.promise(38)
def test_a_dynamic_start_that_never_returns_is_a_failed_start() -> None:
    async def body(desk: Desk, handle: DynamicRef) -> None:
        class Never(Child):
            async def on_start(self) -> None:
                await asyncio.sleep(10_000)

        with pytest.raises(ActorStopped, match="not started within 3 s"):
            await handle.start_child(ChildSpec(lambda: Never(desk), name="x", start_within=3.0))
        assert desk.kernel.loop.time() == pytest.approx(3, abs=1e-3)
        assert handle.children() == ()

    pool(body)


@pytest.mark.promise(41, 39)
def test_to_terminate_cancels_a_pending_restart_and_strangers_are_not_found() -> None:
    async def body(desk: Desk, handle: DynamicRef) -> None:
        ref = await handle.start_child(name="x")
        desk.tell("pool/x", End("error"))
        await asyncio.sleep(0.5)
        await handle.terminate_child(ref)
        await asyncio.sleep(10)
        assert handle.children() == ()
        stranger = desk.kernel.ref_of(desk.kernel.spawn(lambda: Child(desk), name="stranger"))
        for who in (ref, stranger, "x"):
            with pytest.raises(UsageError, match="pool: no child"):
                await handle.terminate_child(who)

    pool(body)


@pytest.mark.promise(49)
def test_its_children_stop_all_at_once_within_their_deadlines() -> None:
    async def body(desk: Desk, handle: DynamicRef) -> None:
        for _ in range(20):
            (await handle.start_child()).tell(Hang())
        await asyncio.sleep(1)
        await desk.kernel.stop(desk.cell("pool"))
        assert desk.kernel.loop.time() == pytest.approx(1 + 2 + 1, abs=1e-3)  # not twenty times as long
        assert desk.kernel.fenced_handlers == 20
        assert desk.kernel.registry.names() == ()

    pool(body)


@pytest.mark.promise(42, 44)
def test_past_its_own_intensity_a_child_is_removed_past_the_supervisors_all_are() -> None:
    async def body(desk: Desk, handle: DynamicRef) -> None:
        for name in ("x", "y"):
            await handle.start_child(name=name)
        for _ in range(2):
            desk.tell("pool/x", End("error"))
            await asyncio.sleep(3)
        assert [child.name for child in handle.children()] == ["y"]
        await handle.start_child(ChildSpec(lambda: Child(desk), name="z"))
        for _ in range(3):
            desk.tell("pool/z", End("error"))
            await asyncio.sleep(9)
        assert desk.kernel.registry.names() == ()
        gave_up = [(event.child, event.intensity) for event in desk.events if isinstance(event, GaveUp)]
        assert gave_up == [("pool/x", 1), ("pool/z", 3)]

    own = ChildPlan("", Actor, "transient", intensity=Intensity(1, 60))
    pool(body, template=own, intensity=Intensity(3, 60))


@pytest.mark.promise(48)
def test_nothing_is_kept_of_a_child_that_has_not_failed() -> None:
    async def body(desk: Desk, handle: DynamicRef) -> None:
        for n in range(50):
            await handle.start_child(name=str(n))
        actor = handle._actor()
        assert (actor._records, actor._plans, actor._by_hand, actor._told) == ({}, {}, {}, {})
        assert len(actor._limits._batches) <= 2
        assert len({id(cell.on_exit) for cell in desk.cell("pool").children.values()}) == 1

    pool(body)


@pytest.mark.promise(48)
def test_a_child_stopped_by_somebody_else_leaves_nothing_behind() -> None:
    async def body(desk: Desk, handle: DynamicRef) -> None:
        await handle.start_child(ChildSpec(lambda: Child(desk), name="x"))
        desk.tell("pool/x", End("error"))
        await asyncio.sleep(0.5)
        await desk.kernel.stop(desk.cell("pool/x"), Exit("shutdown"))
        await asyncio.sleep(5)
        actor = handle._actor()
        assert (handle.children(), actor._records, actor._plans) == ((), {}, {})

    pool(body)


class Add(Message[int]):
    n: int


class Counter(Actor[Add]):
    def __init__(self, start: int) -> None:
        self.total = start

    def add(self, m: Add) -> int:
        self.total += m.n
        if self.total < 0:
            raise ValueError("below zero")
        return self.total


@pytest.mark.promise(47)
def test_in_a_tree_it_is_a_node_with_a_template_that_takes_arguments() -> None:
    async def main() -> None:
        counters = DynamicSupervisor("counters", Counter, backoff=Backoff(first=0.0))
        async with System(Supervisor("desk", [counters])) as system:
            handle = system.dynamic(counters)
            ref = await handle.start_child(None, 40, name="one")
            assert await ref.ask(Add(2)) == 42
            with pytest.raises(ActorStopped):
                await ref.ask(Add(-100))
            assert await ref.ask(Add(1)) == 41  # made anew with the same arguments
            assert await system.ref("one").ask(Add(1)) == 42
            assert [child.state for child in system.dynamic("desk/counters").children()] == ["running"]
            assert [child.name for child in system.supervisor("desk").children()] == ["counters"]
            with pytest.raises(UsageError, match="supervisor 'counters' is not in this tree; known: desk"):
                system.supervisor("counters")

    asyncio.run(main())


@pytest.mark.promise(44)
def test_a_spawned_actor_that_fails_too_often_is_removed_alone() -> None:
    async def main() -> None:
        async with System() as system:
            bad, good = (system.spawn(lambda: Counter(0), name=name) for name in ("bad", "good"))
            for _ in range(4):
                with pytest.raises(ActorStopped):
                    await bad.ask(Add(-1))
            while system.kernel.registry.find("bad") is not None:  # noqa: ASYNC110  # nobody is told
                await asyncio.sleep(0)
            assert await good.ask(Add(1)) == 1
            assert system._spawned is not None
            assert system._spawned._records == {}

    asyncio.run(main())


def test_bad_declarations_name_the_value_and_the_place() -> None:
    with pytest.raises(SpecError, match="dynamic supervisor 'd': max_children must be a whole number >= 1, got 0"):
        DynamicSupervisor("d", max_children=0)
    with pytest.raises(SpecError, match="dynamic supervisor 'd': template 7 is neither a ChildSpec nor a factory"):
        DynamicSupervisor("d", 7)  # type: ignore[arg-type]  # the mistake under test
    with pytest.raises(SpecError, match="dynamic supervisor 'd/e': a name is not empty"):
        DynamicSupervisor("d/e")
