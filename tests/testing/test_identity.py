"""Sets of tasks, futures and cancel scopes have one order, whatever their addresses are."""

from __future__ import annotations

import asyncio
import random

import anyio
import pytest

from understudy.actors.testing.identity import SimFuture, SimTask, order_of
from understudy.actors.testing.simloop import SimLoop, run
from understudy.actors.testing.world import World

garbage: list[object] = []


def litter(seed: int) -> None:
    """Allocate and free, so that addresses differ from run to run."""
    dice = random.Random(seed)
    garbage.extend(bytearray(dice.randrange(16, 2_000)) for _ in range(200))
    for _ in range(150):
        garbage.pop(dice.randrange(len(garbage)))


async def cancelled_together() -> list[int]:
    """The order in which anyio and asyncio cancel children, which they walk sets for."""
    order: list[int] = []

    async def wait(number: int) -> None:
        with anyio.CancelScope():
            try:
                await anyio.sleep_forever()
            finally:
                order.append(number)

    async with anyio.create_task_group() as outer:
        for base in range(4):
            inner = await outer.__aenter__() if base < 0 else outer
            for number in range(4):
                inner.start_soon(wait, base * 4 + number)
        await anyio.sleep(0.01)
        outer.cancel_scope.cancel()
    futures = {asyncio.get_running_loop().create_future(): number for number in range(8)}
    order += [futures[each] for each in set(futures)]
    return order


def test_sets_have_the_same_order_in_every_run_whatever_was_allocated() -> None:
    seen: set[tuple[int, ...]] = set()
    for seed in range(25):
        litter(seed)
        seen.add(tuple(run(cancelled_together)))
    assert len(seen) == 1


def test_the_stock_loop_has_other_orders_so_that_this_test_can_fail() -> None:
    async def futures() -> tuple[int, ...]:
        made = {asyncio.get_running_loop().create_future(): number for number in range(8)}
        return tuple(made[each] for each in set(made))

    seen = set()
    for seed in range(25):
        litter(seed)
        seen.add(asyncio.run(futures()))
    assert len(seen) > 1


def test_as_completed_begins_coroutines_in_the_order_given() -> None:
    async def main() -> list[int]:
        begun: list[int] = []

        async def begin(number: int) -> int:
            begun.append(number)
            return number

        for each in asyncio.as_completed([begin(number) for number in range(30)]):
            await each
        return begun

    assert run(main) == list(range(30))


def test_equality_stays_identity_and_hashes_differ() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: list[asyncio.Future[None]] = [loop.create_future() for _ in range(5)]
        made += [loop.create_task(asyncio.sleep(0)) for _ in range(5)]
        assert len({hash(each) for each in made}) == len(set(made)) == 10
        assert all((one == other) is (one is other) for one in made for other in made)
        assert isinstance(made[0], SimFuture)
        assert isinstance(made[-1], SimTask)
        assert sorted(made[5:], key=order_of) == made[5:]
        await asyncio.gather(*made[5:])

    run(main)


def test_scopes_of_no_loop_and_of_a_stock_loop_hash_as_well() -> None:
    async def main() -> int:
        return len({anyio.CancelScope() for _ in range(3)})

    assert run(main) == asyncio.run(main()) == 3


def test_tasks_without_a_name_are_named_by_their_loop() -> None:
    async def main() -> list[str]:
        made = [asyncio.create_task(asyncio.sleep(0)) for _ in range(2)]
        await asyncio.gather(*made)
        return [task.get_name() for task in made]

    assert run(main) == run(main) == ["task-1", "task-2"]


@pytest.mark.parametrize("kind", ["run", "world"])
def test_two_runs_number_from_one_again(kind: str) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimLoop)
        return loop.next_id()

    def once() -> object:
        return run(main) if kind == "run" else World().run(main).result

    assert once() == once()
