"""The empty world on the simulated loop gives the observable result of the stock loop, inline asks or not.

Programs run on the stock loop in real time, so what they see must not depend on it: they wait for turns of the loop,
and timers are milliseconds apart.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import Op, Player, Trapper, World, message

from understudy.actors.errors import UnderstudyError
from understudy.actors.kernel import Kernel
from understudy.actors.testing import world
from understudy.actors.testing.simloop import run

TURNS = 20
"""Turns of the loop in which what one op sets going has come to rest; no time decides."""
LONG = 5.0
"""Seconds that nothing takes."""

who = st.integers(0, 3)
leaf: st.SearchStrategy[Op] = st.one_of(
    st.sampled_from([("note",), ("raise",), ("leave",), ("unstash",)]),
    st.tuples(st.sampled_from(["stop", "watch", "link"]), who),
)
op: st.SearchStrategy[Op] = st.recursive(
    leaf,
    lambda inner: st.one_of(
        inner,
        st.tuples(st.just("tell"), who, st.lists(leaf, max_size=2).map(tuple)),  # asks of two chains may wait for LONG
        st.tuples(st.just("ask"), who, st.lists(inner, max_size=2).map(tuple), st.just(LONG)),
    ),
    max_leaves=5,
)
step = st.one_of(
    st.tuples(who, st.just("ask"), st.lists(op, max_size=3).map(tuple)),
    st.tuples(who, st.just("tell"), st.lists(leaf, max_size=3).map(tuple)),
)


def apart(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    """With turns of the loop after whatever sets something else going: order between pairs of actors is no promise."""
    out: list[Op] = []
    for each in ops:
        inner = [apart(part) if isinstance(part, tuple) else part for part in each]
        out += [tuple(inner), ("turns", TURNS * (6 if each[0] == "tell" else 1))]  # what is told has two ops at most
    return tuple(out)


async def rest(story: World) -> None:
    """Until nothing has been noted for twice as long as any program says nothing."""
    seen = -1
    for _ in range(1_000):
        if seen == len(story.notes):
            return
        seen = len(story.notes)
        for _ in range(12 * TURNS):
            await asyncio.sleep(0)
    raise AssertionError("no rest")


async def play(plan: list[Any]) -> dict[str, Any]:
    """Run a plan, one step after the other; what a program can see of it."""
    async with Kernel() as kernel:
        story = World(kernel)
        story.cells = [
            kernel.spawn(lambda n=n: (Trapper if n == 3 else Player)(story), name=f"p{n}")  # type: ignore[misc]
            for n in range(4)
        ]
        await rest(story)
        replies: list[str] = []
        for target, verb, ops in plan:
            ref, sent = story.ref(target), message(story, apart(ops))
            if verb == "tell":
                replies.append(str(bool(ref.tell(sent))))
            else:
                try:
                    replies.append(repr(await ref.ask(sent, timeout=LONG)))
                except UnderstudyError as error:
                    replies.append(f"{type(error).__name__}: {getattr(error, 'exit', '')}")
            await rest(story)
        by_subject: dict[Any, list[Any]] = {}
        for note in story.notes:
            by_subject.setdefault(note[1], []).append(note)
        letters = Counter((each.target, each.reason) for each in kernel.telemetry.dead_letters())
        states = [(cell.path, cell.state, cell.number, str(cell.exit)) for cell in story.cells]
        return {"replies": replies, "notes": by_subject, "letters": letters, "states": states}


@pytest.mark.promise(193)
@given(plan=st.lists(step, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_programs_of_actors_see_the_same_in_the_empty_world_and_on_the_stock_loop(plan: list[Any]) -> None:
    real = asyncio.run(play(plan))
    assert run(lambda: play(plan)) == real
    assert world.World().run(lambda: play(plan), check=()).result == real
    assert world.World(inline=False).run(lambda: play(plan), check=()).result == real


# -- tasks without actors --------------------------------------------------------------------------------------


async def act(script: list[tuple[Any, ...]], said: list[str]) -> None:
    """One task per line of a script; how they interleave is decided by asyncio's rules alone."""
    events = [asyncio.Event() for _ in range(3)]
    queue: asyncio.Queue[int] = asyncio.Queue(2)
    lock = asyncio.Lock()

    async def one(number: int, ops: tuple[Any, ...]) -> None:
        try:
            for name, arg in ops:
                said.append(f"{number} {name} {arg}")
                match name:
                    case "yield":
                        await asyncio.sleep(0)
                    case "set":
                        events[arg].set()
                    case "wait":
                        await events[arg].wait()
                    case "put":
                        await queue.put(arg)
                    case "get":
                        said.append(f"{number} got {await queue.get()}")
                    case "lock":
                        async with lock:
                            await asyncio.sleep(0)
                    case "cancel":
                        tasks[arg % len(tasks)].cancel()
                    case _:
                        raise LookupError(number)
            said.append(f"{number} ended")
        except BaseException as error:
            said.append(f"{number} {type(error).__name__}")
            raise

    tasks = [asyncio.create_task(one(number, ops)) for number, ops in enumerate(script)]
    for _ in range(60):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    said.append(str([type(each).__name__ for each in ends]))


small = st.integers(0, 2)
line = st.lists(
    st.tuples(st.sampled_from(["yield", "set", "wait", "put", "get", "lock", "cancel", "raise"]), small), max_size=6
).map(tuple)


@pytest.mark.promise(193)
@given(script=st.lists(line, min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_random_programs_of_tasks_interleave_as_on_the_stock_loop(script: list[Any]) -> None:
    def once(runner: Any) -> list[str]:
        said: list[str] = []
        with contextlib.suppress(LookupError):
            runner(lambda: act(script, said))
        return said

    assert once(run) == once(lambda main: asyncio.run(main()))


timed = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=8)


@pytest.mark.promise(193)
@given(plan=timed)
@settings(max_examples=25, deadline=None)
def test_timers_that_are_apart_fire_in_the_order_of_the_stock_loop(plan: list[tuple[int, bool]]) -> None:
    async def main() -> list[str]:
        loop, fired = asyncio.get_running_loop(), list[str]()
        begin = loop.time()  # read once: a stall between two calls must not change the order
        handles = [
            loop.call_at(begin + 0.004 * slot + 1e-6 * number, fired.append, f"{slot}")
            for number, (slot, _) in enumerate(plan)
        ]
        done = loop.create_future()
        loop.call_at(begin + 0.02, done.set_result, None)
        for handle, (_, cancelled) in zip(handles, plan, strict=True):
            if cancelled:
                handle.cancel()
        await done
        return fired

    assert run(main) == asyncio.run(main())
