"""Dispatch: an ask that is stepped at once ends as one through the queue does, and never runs on the asker's task."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Literal

import anyio
import pytest
from doers import Do, Run, doer, kernel_alone, me, run, turns
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors import loop as dispatch
from understudy.actors import reserves, scheduling, tasks
from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Message
from understudy.actors.refs import Ref
from understudy.actors.testing.simloop import SimClock
from understudy.actors.testing.simloop import run as simulate

__all__ = ["run"]  # the fixture

Kind = Literal["return", "suspend", "rest", "raise", "raise later", "cancel", "stop", "tell"]
KINDS: list[Kind] = ["return", "suspend", "rest", "raise", "raise later", "cancel", "stop", "tell"]


class Now(Message[int]):
    """Handled by a `def`."""

    n: int
    kind: Kind


class Later(Message[int]):
    """Handled by an `async def`."""

    n: int
    kind: Kind


class Via(Message[int]):
    """Asks another one, `depth` relays on."""

    depth: int
    request: Now | Later
    timeout: float


class Worker(Actor[Now | Later]):
    def __init__(self, served: list[int]) -> None:
        self.served = served

    def now(self, m: Now) -> int:
        self.served.append(m.n)
        if m.kind in ("raise", "raise later"):
            raise ValueError(m.n)
        if m.kind == "stop":
            self.context.stop(Exit("error", "leaving"))
        if m.kind == "tell":
            self.context.ref.tell(Now(-m.n, "return"))
        return m.n

    async def later(self, m: Later) -> int:
        self.served.append(m.n)
        if m.kind == "raise":
            raise ValueError(m.n)
        if m.kind in ("suspend", "raise later"):
            await asyncio.sleep(0)
        if m.kind == "raise later":
            raise ValueError(m.n)
        if m.kind == "rest":
            await asyncio.sleep(1)
        if m.kind == "cancel":
            me().cancel()
        if m.kind == "stop":
            self.context.stop(Exit("error", "leaving"))
        if m.kind == "tell":
            self.context.ref.tell(Later(-m.n, "suspend"))
        return m.n


class Relay(Actor[Via]):
    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    async def via(self, m: Via) -> int:
        kernel = self._cell.kernel if self._cell is not None else None
        assert kernel is not None
        cell = kernel.registry.at(self.names[m.depth])
        assert cell is not None
        ref: Ref[Now | Later | Via] = kernel.ref_of(cell)
        if m.depth == 0:
            return await ref.ask(m.request, timeout=m.timeout)
        return await ref.ask(Via(m.depth - 1, m.request, m.timeout))


class InOrder:
    """Serves in order; asks are stepped at once, or never."""

    def __init__(self, at_once: bool) -> None:
        self.at_once = at_once

    def next_ready(self, ready: Sequence[object]) -> int:
        return 0

    def inline(self, path: str) -> bool:
        return self.at_once

    def end_turn(self, handled: int) -> bool:
        return False

    def next_timer(self, due: Sequence[float]) -> int:
        return 0


Request = tuple[Kind, bool, int, float]


def story(plan: Sequence[Request], at_once: bool) -> list[object]:
    """How each of these requests ended, and when; what was served; what was lost."""

    async def main() -> list[object]:
        async with Kernel(clock=SimClock(), scheduler=InOrder(at_once)) as kernel:
            served: list[int] = []

            def again(cell: Cell, number: int, exit: Exit) -> None:
                kernel.timers.after(0.25, lambda: kernel.restart(cell) if cell.state == "failed" else None)

            names = ("worker", "one", "two")
            worker = kernel.spawn(lambda: Worker(served), name="worker", on_exit=again)
            relays = [kernel.spawn(lambda: Relay(names), name=name, on_exit=again) for name in names[1:]]
            told: list[object] = []
            for n, (kind, is_async, depth, timeout) in enumerate(plan, 1):
                request = Later(n, kind) if is_async else Now(n, kind)
                try:
                    if depth == 0:
                        told.append(await kernel.ref_of(worker).ask(request, timeout=timeout))
                    else:
                        ref: Ref[Via] = kernel.ref_of(relays[depth - 1])
                        told.append(await ref.ask(Via(depth - 1, request, timeout)))
                except Exception as error:  # compared
                    told.append((type(error).__name__, str(error), repr(error.__cause__)))
                told.append(round(kernel.loop.time(), 3))
            await asyncio.sleep(10)
            lost = [(letter.message, letter.reason) for letter in kernel.telemetry.dead_letters()]
            return [*told, served, lost, worker.number, worker.state]

    return simulate(main)


@pytest.mark.promise(122)
@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.booleans(), st.integers(0, 2), st.sampled_from([0.5, 5.0])), max_size=12
    )
)
def test_an_ask_ends_the_same_whether_it_is_stepped_at_once_or_takes_the_queue(plan: list[Request]) -> None:
    assert story(plan, at_once=True) == story(plan, at_once=False)


@pytest.mark.promise(122, 133)
@pytest.mark.parametrize("kind", KINDS)
def test_without_asyncios_table_every_ask_takes_the_queue_and_ends_the_same(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan: list[Request] = [(kind, is_async, depth, 5.0) for is_async in (False, True) for depth in (0, 1, 2)]
    stepped = story(plan, at_once=True)
    monkeypatch.setattr(dispatch, "CURRENT", None)
    assert story(plan, at_once=True) == stepped


@pytest.mark.promise(133)
@pytest.mark.parametrize("other", [{}, None])
def test_a_table_of_tasks_that_is_not_as_expected_is_named_and_not_used(
    other: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert tasks.find_table() is not None
    monkeypatch.setattr(asyncio.tasks, "_current_tasks", other)
    with caplog.at_level(logging.WARNING, "understudy.actors"):
        assert tasks.find_table() is None
    assert "every ask takes the queue" in caplog.text


@pytest.mark.promise(123)
def test_a_handler_that_is_asked_has_a_task_of_its_own_and_its_scopes_leave_the_asker_alone(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:

            async def work() -> object:
                before = me()
                with anyio.move_on_after(0) as scope:
                    await anyio.sleep_forever()
                assert scope.cancelled_caught
                me().cancel()
                return before

            ref = doer(kernel, work)
            await turns()
            for _ in range(3):
                ran_on = await ref.ask(Do())
                assert ran_on is not me()
                assert me().cancelling() == 0

    run(main)


@pytest.mark.promise(123)
def test_a_scope_of_the_asker_ends_the_wait_and_not_the_handler(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            ended: list[str] = []
            gate = asyncio.Event()
            scope = anyio.CancelScope()

            async def work() -> object:
                asyncio.get_running_loop().call_soon(scope.cancel)
                await gate.wait()
                ended.append("whole")
                return None

            ref = doer(kernel, work)
            await turns()
            with scope:
                await ref.ask(Do())
            assert scope.cancelled_caught
            gate.set()
            await turns()
            assert ended == ["whole"]

    run(main)


@pytest.mark.promise(121)
def test_asks_that_are_stepped_at_once_let_the_loop_have_its_turn(run: Run) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            ref = kernel.ref_of(kernel.spawn(lambda: Worker([])))
            turned = 0

            async def others() -> None:
                nonlocal turned
                while True:
                    turned += 1
                    await asyncio.sleep(0)

            beside = asyncio.create_task(others())
            for n in range(1_000):
                assert await ref.ask(Now(n, "return")) == n
            beside.cancel()
            await asyncio.wait([beside])
            assert turned >= 1_000 // scheduling.TURN

    run(main)


# -- what a handler leaves behind ------------------------------------------------------------------------------


class Leave(Message[None]):
    """Leave a task behind that looks whom it serves."""


class Leaves(Actor):
    def __init__(self, seen: list[tuple[bool, bool]]) -> None:
        self.seen = seen
        self.left: set[asyncio.Task[None]] = set()

    async def look(self) -> None:
        self.seen.append((self.context.deadline is not None, bool(self.context.sender)))

    def _leave(self) -> None:
        self.left.add(asyncio.create_task(self.look()))


class LeavesPlainly(Leaves):
    def leave(self, m: Leave) -> None:
        self._leave()


class LeavesWaiting(Leaves):
    async def leave(self, m: Leave) -> None:
        self._leave()


@pytest.mark.promise(132)
@pytest.mark.parametrize(("kind", "serves"), [(LeavesPlainly, False), (LeavesWaiting, True)])
def test_what_a_def_handler_leaves_behind_serves_no_asker(run: Run, kind: type[Leaves], serves: bool) -> None:
    async def main() -> None:
        async with kernel_alone() as kernel:
            seen: list[tuple[bool, bool]] = []
            ref = kernel.ref_of(kernel.spawn(lambda: kind(seen)))

            async def work() -> object:
                for _ in range(2 * reserves.WARM_FROM):  # also with a context of its own
                    await ref.ask(Leave())
                return None

            await doer(kernel, work).ask(Do())
            await turns()
            assert seen == [(serves, serves)] * (2 * reserves.WARM_FROM)

    run(main)
