"""Dispatch under random work, random order and random cancellation: nothing is lost, nothing is left running."""

import asyncio
import random
from collections.abc import Sequence
from typing import Literal

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.actor import Actor
from understudy.actors.cell import BUSY, IDLE, Cell
from understudy.actors.errors import ActorStopped
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Message
from understudy.actors.refs import Ref
from understudy.actors.testing.simloop import SimClock, run

Kind = Literal["def", "suspend", "rest", "scope", "cancel", "swallow", "raise", "stop", "open"]


class Do(Message[int]):
    n: int
    kind: Kind


class Now(Message[int]):
    n: int


class Worker(Actor[Do | Now]):
    def __init__(self, served: list[int]) -> None:
        self.served = served

    def now(self, m: Now) -> int:
        self.served.append(m.n)
        return m.n

    async def do(self, m: Do) -> int:
        self.served.append(m.n)
        task = asyncio.current_task()
        assert task is not None
        if m.kind in ("suspend", "rest"):
            await asyncio.sleep(0 if m.kind == "suspend" else 1)
        elif m.kind == "scope":
            with anyio.move_on_after(0.5):
                await anyio.sleep(2)
        elif m.kind in ("cancel", "swallow"):
            task.cancel()
            if m.kind == "swallow":
                try:
                    await asyncio.sleep(1)
                except asyncio.CancelledError:
                    pass
        elif m.kind == "raise":
            raise ValueError(m.n)
        elif m.kind == "stop":
            self.context.stop(Exit("error", "leaving"))
        elif m.kind == "open":
            anyio.CancelScope().__enter__()
        assert asyncio.current_task() is task
        return m.n


class Dice:
    """Any order, and turns of any length, from one seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def next_ready(self, ready: Sequence[object]) -> int:
        return self._random.randrange(len(ready))

    def inline(self, path: str) -> bool:
        return False

    def end_turn(self, handled: int) -> bool:
        return self._random.random() < 0.3

    def next_timer(self, due: Sequence[float]) -> int:
        return self._random.randrange(len(due))


kinds: list[Kind] = ["def", "suspend", "rest", "scope", "cancel", "swallow", "raise", "stop", "open"]
steps = st.lists(
    st.tuples(
        st.integers(0, 2),  # to whom
        st.sampled_from(kinds),
        st.sampled_from(["same turn", "next turn", "later"]),  # when the next step follows
        st.one_of(st.none(), st.integers(0, 50)),  # which worker is cancelled then
    ),
    max_size=40,
)


@pytest.mark.promise(3, 126, 127)
@given(plan=steps, seed=st.integers(0, 10_000), concurrency=st.integers(1, 2))
def test_every_ask_ends_and_nothing_is_left_over(
    plan: list[tuple[int, Kind, str, int | None]], seed: int, concurrency: int
) -> None:
    async def main() -> None:
        async with Kernel(clock=SimClock(), scheduler=Dice(seed)) as kernel:
            served: list[int] = []

            def again(cell: Cell, number: int, exit: Exit) -> None:
                kernel.timers.after(0.25, lambda: kernel.restart(cell) if cell.state == "failed" else None)

            cells = [
                kernel.spawn(lambda: Worker(served), name=f"w{n}", on_exit=again, concurrency=concurrency)
                for n in range(3)
            ]
            asking: list[asyncio.Task[int]] = []
            for n, (who, kind, then, victim) in enumerate(plan):
                ref: Ref[Do | Now] = kernel.ref_of(cells[who])
                message = Now(n) if kind == "def" else Do(n, kind)
                asking.append(asyncio.create_task(ref.ask(message, timeout=10_000)))
                if then != "same turn":
                    await asyncio.sleep(0 if then == "next turn" else 0.3)
                workers = list(kernel.dispatcher._tasks)
                if victim is not None and workers:
                    workers[victim % len(workers)].cancel()
            outcomes = await asyncio.gather(*asking, return_exceptions=True)
            for n, outcome in enumerate(outcomes):
                assert outcome == n or isinstance(outcome, ActorStopped), (plan[n], outcome)
            assert sorted(served) == list(range(len(plan))), "each message was begun, and begun once"
            await asyncio.sleep(10)
            for cell in cells:
                assert (cell.state, cell.running, cell.status) == ("running", 0, IDLE if concurrency == 1 else BUSY)
                assert not cell.mailbox
                assert cell.life is not None
                assert not cell.life.tasks
            assert kernel.fenced_handlers == 0
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    run(main)
