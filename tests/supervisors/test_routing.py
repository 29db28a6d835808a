"""Pools and routes over real actors."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import pytest

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.errors import ActorStopped, NotHandled, SpecError, UsageError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Message
from understudy.actors.refs import Refused
from understudy.actors.testing.simloop import SimClock, run
from understudy.supervisors.routing import Pool, PoolRef, RouteRef, pool_ref
from understudy.supervisors.specs import ChildSpec, Route, Spread, Supervisor
from understudy.supervisors.tree import plan


class Who(Message[str]):
    rest: float = 0.0


class Other(Message[None]):
    pass


class Member(Actor[Who]):
    async def who(self, m: Who) -> str:
        await asyncio.sleep(m.rest)
        return self.context.path


def alone(main: Callable[[Kernel], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with Kernel(clock=SimClock()) as kernel:
            await main(kernel)

    run(whole)


async def pool(kernel: Kernel, spread: Spread, count: int = 3) -> tuple[PoolRef, list[Cell]]:
    cells = [kernel.spawn(Member, name=f"pool/{n + 1}") for n in range(count)]
    for cell in cells:
        await kernel.wait_started(cell)
    return PoolRef(Pool("pool", lambda: [cell for cell in cells if cell.state != "stopped"], spread)), cells


def test_round_robin_goes_round() -> None:
    async def main(kernel: Kernel) -> None:
        ref, _ = await pool(kernel, "round_robin")
        answers = [await ref.ask(Who()) for _ in range(6)]
        assert sorted(answers[:3]) == ["pool/1", "pool/2", "pool/3"]
        assert answers[3:] == answers[:3]
        assert ref.path == "pool"

    alone(main)


def test_the_least_busy_member_is_next_and_equals_take_turns() -> None:
    async def main(kernel: Kernel) -> None:
        ref, cells = await pool(kernel, "least_busy")
        for cell, waiting in zip(cells, (2, 1, 3), strict=True):
            for _ in range(waiting):
                kernel.ref_of(cell).tell(Who(10.0))
        await asyncio.sleep(0.1)
        assert ref.cell() is cells[1]
        kernel.ref_of(cells[1]).tell(Who(10.0))
        chosen = [ref.cell() for _ in range(6)]
        assert [chosen.count(cell) for cell in cells] == [3, 3, 0]

    alone(main)


def test_what_the_mailbox_does_not_show_counts_too() -> None:
    async def main(kernel: Kernel) -> None:
        _, cells = await pool(kernel, "least_busy")
        load = {"pool/1": 5, "pool/2": 0, "pool/3": 5}
        loaded = Pool("pool", lambda: cells, "least_busy", lambda cell: load[cell.path])
        assert [loaded.pick() for _ in range(4)] == [cells[1]] * 4

    alone(main)


@pytest.mark.parametrize("spread", ["round_robin", "least_busy"])
def test_a_member_in_back_off_is_passed_over_while_another_runs(spread: Spread) -> None:
    async def main(kernel: Kernel) -> None:
        cells = [kernel.spawn(Member, name=f"m{n}", on_exit=lambda c, n, exit: None) for n in range(2)]
        for cell in cells:
            await kernel.wait_started(cell)
        group = Pool("pool", lambda: cells, spread)
        kernel.leave(cells[0], cells[0].exit)
        assert [group.pick() for _ in range(3)] == [cells[1]] * 3
        kernel.leave(cells[1], cells[1].exit)
        await kernel.stop(cells[1])
        assert [group.pick() for _ in range(3)] == [cells[0]] * 3, "one that will be restarted keeps the message"

    alone(main)


def test_an_empty_pool_refuses_and_fails_an_ask_at_once() -> None:
    async def main(kernel: Kernel) -> None:
        ref, cells = await pool(kernel, "round_robin", 1)
        await kernel.stop(cells[0])
        assert ref.tell(Who()) == Refused("dead", "pool")
        assert await ref.send(Who()) == Refused("dead", "pool")
        with pytest.raises(ActorStopped, match="pool: stopped: gone"):
            await ref.ask(Who())
        ref.tell_threadsafe(Who())
        await asyncio.sleep(0.1)
        letters = [(letter.target, letter.reason) for letter in kernel.telemetry.dead_letters()]
        assert letters == [("pool", "stopped")] * 3

    alone(main)


def test_a_pool_spreads_what_comes_from_threads_too() -> None:
    async def main(kernel: Kernel) -> None:
        ref, cells = await pool(kernel, "round_robin")
        for _ in range(3):
            ref.tell_threadsafe(Who(1.0))
        await asyncio.sleep(0.1)
        assert [cell.running for cell in cells] == [1, 1, 1]

    alone(main)


def test_a_route_leads_by_type_and_what_has_none_is_refused() -> None:
    async def main(kernel: Kernel) -> None:
        desk, target = kernel.spawn(Member, name="desk"), kernel.spawn(Member, name="target")
        ref = RouteRef(desk, {Who: kernel.ref_of(target)})
        assert await ref.ask(Who()) == "target"
        assert ref.tell(Who()) is True
        assert await ref.send(Who()) is True
        assert ref.tell(Other()) == Refused("unknown", "desk")
        assert await ref.send(Other()) == Refused("unknown", "desk")
        with pytest.raises(NotHandled, match="desk: does not handle Other; it takes Who"):
            await ref.ask(Other())
        ref.tell_threadsafe(Who(1.0))
        await asyncio.sleep(0.1)
        assert (desk.running, target.running) == (0, 1)
        letters: list[Any] = [(letter.target, letter.reason) for letter in kernel.telemetry.dead_letters()]
        assert letters == [("desk", "unknown")] * 2

    alone(main)


# -- by hash, at random, to all ---------------------------------------------------------------------------------


class For(Message[str]):
    customer: str
    rest: float = 0.0


class Small(Actor[For | Who]):
    mailbox_limit: ClassVar[int] = 2

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def serve(self, m: For) -> str:
        self.seen.append(m.customer)
        await asyncio.sleep(m.rest)
        return self.context.path

    def who(self, m: Who) -> str:
        return " ".join(self.seen)


class Fixed:
    """Dice that show what they are told."""

    def __init__(self, *shown: float) -> None:
        self.shown = list(shown)

    def random(self) -> float:
        return self.shown.pop(0)


def kept(kernel: Kernel, count: int) -> list[Cell]:
    """Members that somebody supervises, so that a failed one is there still."""
    return [kernel.spawn(Small, name=f"pool/{n + 1}", on_exit=lambda c, n, e: None) for n in range(count)]


def present(cells: list[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.state != "stopped"]


@pytest.mark.promise(114)
def test_messages_with_one_key_go_to_one_member_by_every_verb_and_across_its_restart() -> None:
    async def main(kernel: Kernel) -> None:
        cells = kept(kernel, 5)
        ref = pool_ref(Pool("pool", lambda: present(cells), "consistent_hash", size=5, by={For: "customer"}))
        owners = {name: await ref.ask(For(name)) for name in "abcdefgh"}
        assert len(set(owners.values())) > 2
        assert ref.tell(For("a"))
        assert await ref.send(For("a"))
        owner = next(cell for cell in cells if cell.path == owners["a"])
        await asyncio.sleep(0.1)
        assert (await kernel.ref_of(owner).ask(Who())).split().count("a") == 3
        kernel.leave(owner, Exit("error", "x"))
        waiting = asyncio.create_task(ref.ask(For("a")))
        assert {name: await ref.ask(For(name)) for name in "bcdefgh" if owners[name] != owner.path} == {
            name: path for name, path in owners.items() if path != owner.path
        }
        kernel.restart(owner)
        assert await waiting == owner.path

    alone(main)


@pytest.mark.promise(114, 116)
def test_the_keys_of_a_stopped_member_go_to_others_and_come_back_with_it() -> None:
    async def main(kernel: Kernel) -> None:
        cells = kept(kernel, 4)
        by: dict[type, Any] = {For: lambda m: m.customer}
        ref = pool_ref(Pool("pool", lambda: present(cells), "consistent_hash", size=4, by=by))
        names = [f"c{n}" for n in range(40)]
        before = {name: await ref.ask(For(name)) for name in names}
        await kernel.stop(cells[1])
        during = {name: await ref.ask(For(name)) for name in names}
        assert {name for name in names if during[name] != before[name]} == {
            name for name in names if before[name] == "pool/2"
        }
        cells[1] = kernel.spawn(Small, name="pool/2")
        assert {name: await ref.ask(For(name)) for name in names} == before

    alone(main)


@pytest.mark.promise(114)
def test_a_key_that_cannot_be_told_is_a_mistake_naming_it_and_a_type_without_one_takes_turns() -> None:
    async def main(kernel: Kernel) -> None:
        cells = kept(kernel, 3)
        by: dict[type, Any] = {For: lambda m: {}[m.customer]}
        pool = Pool("pool", lambda: cells, "consistent_hash", size=3, by=by)
        with pytest.raises(UsageError, match=r"pool: no key of For by .*'a'"):
            pool_ref(pool).tell(For("a"))
        assert len({pool.pick(Who()).path for _ in range(3)}) == 3

    alone(main)


@pytest.mark.promise(115)
def test_a_broadcast_reaches_every_member_and_says_so_when_one_refuses() -> None:
    async def main(kernel: Kernel) -> None:
        cells = kept(kernel, 3)
        ref = pool_ref(Pool("pool", lambda: present(cells), "broadcast", size=3))
        for cell in cells:
            await kernel.wait_started(cell)
        for _ in range(3):
            kernel.ref_of(cells[1]).tell(For("slow", 1.0))
            await asyncio.sleep(1e-6)
        assert ref.tell(For("a")) == Refused("full", "pool/2")
        began = kernel.loop.time()
        assert await ref.send(For("b")) is True
        assert kernel.loop.time() - began == pytest.approx(1, abs=1e-2)
        await asyncio.sleep(5)
        assert [await kernel.ref_of(cell).ask(Who()) for cell in cells] == ["a b", "slow slow slow b", "a b"]
        with pytest.raises(UsageError, match="pool: ask of a broadcast"):
            await ref.ask(For("c"))
        for cell in cells:
            await kernel.stop(cell)
        assert ref.tell(For("d")) == Refused("dead", "pool")
        assert await ref.send(For("d")) == Refused("dead", "pool")

    alone(main)


@pytest.mark.promise(115)
def test_the_dice_choose_among_those_that_run() -> None:
    async def main(kernel: Kernel) -> None:
        cells = kept(kernel, 4)
        for cell in cells:
            await kernel.wait_started(cell)
        dice = Fixed(0.0, 0.99, 0.5, 0.5, 0.99)
        group = Pool("pool", lambda: present(cells), "random", size=4, dice=dice)
        assert [group.pick() for _ in range(3)] == [cells[0], cells[3], cells[2]]
        kernel.leave(cells[2], Exit("error", "x"))
        assert group.pick() is cells[3], "the second throw is among the three that run"
        assert dice.shown == []

    alone(main)


@pytest.mark.promise(115)
@pytest.mark.parametrize("spread", ["round_robin", "consistent_hash"])
def test_a_pick_among_very_many_that_run_looks_at_one(spread: Spread) -> None:
    class Counting(Pool):
        looks = 0

        def _look(self) -> None:
            self.looks += 1
            super()._look()

    async def main(kernel: Kernel) -> None:
        cells = [kernel.spawn(Member, name=f"m{n}") for n in range(1_000)]
        seen: list[str] = []

        class Watched(list[Cell]):
            """Notes every member that is looked at."""

            def __getitem__(self, n: Any) -> Any:
                seen.append(str(n))
                return super().__getitem__(n)

            def __iter__(self) -> Any:
                seen.extend("*" * len(self))
                return super().__iter__()

        group = Counting("pool", lambda: cells, spread, size=1_000, by={For: "customer"})
        group.pick(For("a"))
        group._known = Watched(group._known)
        seen.clear()
        picked = [group.pick(For(str(n))) for n in range(1_000)]
        assert group.looks == 1
        assert len(seen) <= 2_000
        assert spread != "round_robin" or len(set(picked)) == 1_000

    alone(main)


@pytest.mark.promise(116)
@pytest.mark.parametrize("spread", ["round_robin", "least_busy", "random", "consistent_hash", "broadcast"])
@pytest.mark.parametrize("size", [None, 3])
def test_a_pool_takes_off_who_stopped_and_without_any_a_message_is_a_dead_letter(
    spread: Spread, size: int | None
) -> None:
    async def main(kernel: Kernel) -> None:
        cells = kept(kernel, 3)
        ref = pool_ref(Pool("pool", lambda: present(cells), spread, size=size, by={For: "customer"}))
        for cell in cells[:2]:
            await kernel.stop(cell)
            for n in range(6):
                assert ref.tell(For(str(n)))
                await asyncio.sleep(1e-6)
        assert len((await kernel.ref_of(cells[2]).ask(Who())).split()) >= 6
        assert kernel.telemetry.letter_count == 0
        await kernel.stop(cells[2])
        assert ref.tell(For("a")) == Refused("dead", "pool")
        letters = [(letter.target, letter.reason) for letter in kernel.telemetry.dead_letters()]
        assert letters == [("pool", "stopped")]

    alone(main)


def test_refs_to_one_pool_are_equal_whoever_is_next() -> None:
    async def main(kernel: Kernel) -> None:
        cells = kept(kernel, 3)
        one, other = (Pool("pool", lambda: cells, "round_robin") for _ in range(2))
        assert len({pool_ref(one), pool_ref(one), pool_ref(other)}) == 2

    alone(main)


# -- what routes say -------------------------------------------------------------------------------------------


def test_a_route_says_how_its_pool_is_spread_and_the_tree_hands_it_on() -> None:
    child = ChildSpec(Small, count=3)
    tree = plan(Supervisor("desk", [child], routes=[Route(For, to=child, spread="consistent_hash", by="customer")]))
    assert tree.places["small"].spread == "consistent_hash"
    assert tree.places["small"].by == {For: "customer"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"spread": "consistent_hash"}, "route of For: spread 'consistent_hash' needs `by`"),
        ({"by": "customer"}, "route of For: spread 'round_robin' takes no `by`"),
        (
            {"spread": "consistent_hash", "by": "name"},
            "route of For: by 'name' is not a field of it; fields: customer, rest",
        ),
        ({"spread": "consistent_hash", "by": 5}, "route of For: by 5; the name of a field, or a function"),
        ({"spread": "hash"}, "route of For: spread 'hash'; one of round_robin, least_busy, random, consistent_hash"),
    ],
)
def test_a_route_with_a_mistake_in_its_spread_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError, match=re.escape(text)):
        Route(For, to="small", **options)


def test_two_routes_to_one_pool_cannot_want_two_spreads_of_which_one_is_by_hash() -> None:
    child = ChildSpec(Small, count=3)
    routes = [Route(For, to=child, spread="consistent_hash", by="customer"), Route(Who, to=child)]
    with pytest.raises(SpecError, match=r"desk/small: its routes want several spreads \(consistent_hash, round"):
        plan(Supervisor("desk", [child], routes=routes))
