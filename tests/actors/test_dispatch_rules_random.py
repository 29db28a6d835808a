"""Random programs in random order with random cancellation: the invariants of every cell hold between any two turns."""

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from invariants import check
from programs import Op, Player, Trapper, World, actors, describe, message

from understudy.actors.cell import Cell
from understudy.actors.errors import UnderstudyError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.testing.simloop import SimClock, SimLoop


class CheckedLoop(SimLoop):
    """Looks at everything after each turn."""

    def __init__(self) -> None:
        super().__init__()
        self.look: Callable[[], None] = lambda: None

    def _run_once(self) -> None:
        super()._run_once()
        self.look()


class Dice:
    """Any order, turns of any length, asks stepped at once or not, from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def next_ready(self, ready: Sequence[Any]) -> int:
        return self._random.randrange(len(ready))

    def inline(self, path: str) -> bool:
        return self._random.random() < 0.7

    def end_turn(self, handled: int) -> bool:
        return self._random.random() < 0.3

    def next_timer(self, due: Sequence[float]) -> int:
        return self._random.randrange(len(due))


seconds = st.sampled_from([0.0, 0.0, 0.1, 0.5, 2.0])
leaf: st.SearchStrategy[Op] = st.one_of(
    st.sampled_from(
        [("note",), ("raise",), ("leave",), ("stash",), ("unstash",), ("cancel self",), ("swallow",), ("open",)]
    ),
    st.tuples(st.sampled_from(["stop", "halt", "halt", "suspend", "resume", "watch", "link"]), actors()),
    st.tuples(st.sampled_from(["sleep", "sleep", "scope"]), seconds),
    st.tuples(st.just("cancel worker"), st.integers(0, 9)),
)


def with_messages(inner: st.SearchStrategy[Op]) -> st.SearchStrategy[Op]:
    ops = st.lists(inner, max_size=3).map(tuple)
    return st.one_of(
        st.tuples(st.just("tell"), actors(), ops),
        st.tuples(st.sampled_from(["ask", "ask", "background"]), actors(), ops, st.sampled_from([0.2, 1.0, 5.0])),
        st.tuples(st.just("ask and cancel"), actors(), ops, seconds),
    )


op = st.recursive(leaf, lambda inner: st.one_of(inner, with_messages(inner)), max_leaves=8)
step = st.tuples(
    actors(),
    st.sampled_from(["ask", "ask", "tell", "send"]),
    st.lists(op, max_size=4).map(tuple),
    st.sampled_from([None, None, 0.0, 0.3, 3.0]),  # seconds until the next step; None: at once
)


async def play(plan: list[Any], seed: int, concurrency: int, workers_cancelled: bool) -> None:
    dice = random.Random(seed + 1)
    loop = asyncio.get_running_loop()
    assert isinstance(loop, CheckedLoop)
    async with Kernel(clock=SimClock(), scheduler=None if seed % 5 == 0 else Dice(seed)) as kernel:
        world = World(kernel)
        loop.look = lambda: check(kernel)

        def again(cell: Cell, number: int, exit: Exit) -> None:
            if number % 3 == 0:
                kernel.timers.after(0.25, lambda: kernel.restart(cell) if cell.state == "failed" else None)
            else:
                kernel.restart(cell)

        def spawn(n: int) -> Cell:
            kind = Trapper if n == 3 else Player
            return kernel.spawn(
                lambda: kind(world, starts=(None, 0.0, 0.2, None)[n], stops=n == 1),
                name=f"p{n}",
                on_exit=again,
                concurrency=concurrency if n == 2 else 1,
            )

        world.cells = [spawn(n) for n in range(4)]
        asking: list[asyncio.Task[Any]] = []
        for who, verb, ops, then in plan:
            ref, sent = world.ref(who), message(world, ops)
            if verb == "ask":
                asking.append(asyncio.ensure_future(ref.ask(sent)))
            elif verb == "tell":
                ref.tell(sent)
            else:
                asking.append(asyncio.ensure_future(ref.send(sent, timeout=1.0)))
            if then is not None:
                await asyncio.sleep(then)
            if workers_cancelled and dice.random() < 0.3:
                dice.choice([*kernel.dispatcher._tasks]).cancel()
        await asyncio.sleep(100)
        for task in (*asking, *world.left):
            assert task.done(), f"every ask and send has ended by its deadline: {task}"
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, UnderstudyError), describe(error)
        for cell in world.cells:
            assert cell.state in ("running", "suspended", "stopped"), repr(cell)
            if cell.state == "running" and cell.running == 0:
                assert cell.waiting == 0, f"forgotten: {cell}"
        assert kernel.fenced_handlers == 0
        loop.look = lambda: None
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, asyncio.all_tasks()


def go(plan: list[Any], seed: int, concurrency: int, workers_cancelled: bool) -> None:
    broken: list[Any] = []
    with asyncio.Runner(loop_factory=CheckedLoop) as runner:
        runner.get_loop().set_exception_handler(lambda loop, context: broken.append(context))
        runner.run(play(plan, seed, concurrency, workers_cancelled))
    assert not broken, broken


@pytest.mark.promise(142)
@given(
    plan=st.lists(step, max_size=8),
    seed=st.integers(0, 10_000),
    concurrency=st.integers(1, 3),
    workers_cancelled=st.booleans(),
)
@settings(max_examples=int(os.environ.get("TRAPS_EXAMPLES", "150")), suppress_health_check=[HealthCheck.too_slow])
def test_the_invariants_of_every_cell_hold_between_any_two_turns(
    plan: list[Any], seed: int, concurrency: int, workers_cancelled: bool
) -> None:
    go(plan, seed, concurrency, workers_cancelled)
