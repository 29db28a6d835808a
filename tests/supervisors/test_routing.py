"""Pools and routes over real actors."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.errors import ActorStopped, NotHandled
from understudy.actors.kernel import Kernel
from understudy.actors.messages import Message
from understudy.actors.refs import Refused
from understudy.actors.testing.simloop import SimClock, run
from understudy.supervisors.routing import Pool, PoolRef, RouteRef
from understudy.supervisors.specs import Spread


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
