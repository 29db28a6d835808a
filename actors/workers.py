"""Workers: ordinary tasks that take turns in owning the run queue, and become the task of a handler that suspends.

See `loop` for the rules; here is what concerns the tasks themselves.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from understudy.actors.cell import QUEUED, Cell
from understudy.actors.delivery import Envelope, Life
from understudy.actors.reserves import Reserves
from understudy.actors.scheduling import TURN, TURN_SECONDS, Scheduler, clock_of, turn
from understudy.actors.scopes import ScopeProbe
from understudy.actors.steps import Stepper
from understudy.actors.tasks import HANDLE, new_task, note_code, note_driver, want_room
from understudy.actors.telemetry import log

SPARES: Final = 2
LATE: Final = 1_024
"""Calls that wait at most until nothing is ready."""
SPARES_KEPT: Final = 32
HOPS: Final = 5
"""Frames down that `Dispatcher.step` looks: past the driver of up to three coroutines, still within asyncio's own."""


class Suspended:
    """A handler that has suspended, and what it takes to go on with it."""

    __slots__ = ("cell", "context", "envelope", "life", "stepper", "waiting")

    def __init__(
        self,
        cell: Cell,
        life: Life,
        envelope: Envelope,
        stepper: Stepper,
        waiting: Any,  # whatever the coroutine yielded
        context: contextvars.Context,
    ) -> None:
        self.cell = cell
        self.life = life
        self.envelope = envelope
        self.stepper = stepper
        self.waiting = waiting
        self.context = context


class Spare:
    """A parked worker. Woken with a handler to adopt, or without: then the queue is its own."""

    __slots__ = ("cancelling", "key", "probe", "retire", "scoped", "suspended", "task", "wake")

    def __init__(self, task: asyncio.Task[None], probe: ScopeProbe, wake: asyncio.Future[None]) -> None:
        self.task = task
        self.probe = probe
        self.cancelling, self.key, self.scoped = task.cancelling, probe.key, probe.table
        self.wake = wake
        self.suspended: Suspended | None = None
        self.retire = False


class Workers(Reserves):
    """The workers of one event loop: one owns the queue of ready cells, others are spare, or busy with a handler."""

    __slots__ = (
        "_clock",
        "_closing",
        "_givers",
        "_loop",
        "_owner",
        "_spares",
        "_tasks",
        "hops",
        "late",
        "left",
        "ready",
        "until",
        "wake",
    )

    def __init__(self, base: contextvars.Context) -> None:
        super().__init__(base)
        self._loop = asyncio.get_running_loop()
        self._clock = clock_of(self._loop)
        self.ready: Final = deque[Cell]()
        self.wake: asyncio.Future[None] | None = None
        self.late: list[Callable[[], None]] = []
        self._givers = 0
        self.left = TURN
        self.until = self._clock() + TURN_SECONDS
        self._owner: asyncio.Task[None] | None = None
        self._spares: list[Spare] = []
        self._tasks: dict[asyncio.Task[None], None] = {}  # in the order they were made: sets have no order to rely on
        self._closing = False
        self.hops = HOPS
        self._start(owner=True)
        for _ in range(SPARES):
            self._start(owner=False)

    async def _drain(self, task: asyncio.Task[None], probe: ScopeProbe) -> bool:
        """Own the queue until a handler suspends, then finish that handler. False when the worker must retire."""
        raise NotImplementedError

    async def _finish(self, suspended: Suspended, *, early: bool = False) -> None:
        """Be the handler's task until it ends."""
        raise NotImplementedError

    def rouse(self) -> None:
        """Wake the worker that owns the queue: something is put into it.

        Raises `RecursionError` when the stack has no room to do that whole: a wake-up cut in the middle is lost.
        """
        want_room()
        wake, self.wake = self.wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    def schedule(self, cell: Cell) -> None:
        """Put a runnable cell that is not in the run queue into it."""
        if self.wake is not None:
            self.rouse()
        cell.status = QUEUED
        self.ready.append(cell)

    def _next(self, scheduler: Scheduler) -> Cell | None:
        index = scheduler.next_ready(self.ready)
        if index < 0:
            return None
        cell = self.ready[index]
        del self.ready[index]
        return cell

    def when_idle(self, call: Callable[[], None]) -> bool:
        """Call this when nothing is ready any more, or the loop gets its turn, if a worker is at work; else False.

        What it raises is logged. When the dispatcher is closed first, it is not called.
        """
        if self.wake is None and len(self.late) < LATE and not self._closing:
            self.late.append(call)
            return True
        return False

    def _do_late(self) -> None:
        late, self.late = self.late, []
        for call in late:
            try:
                self._base.copy().run(call)
            except Exception:
                log.exception("what was to be done when nothing is ready raised")

    @property
    def workers(self) -> int:
        """How many workers there are, idle or not."""
        return len(self._tasks)

    async def aclose(self, grace: float = 1.0) -> int:
        """End all workers; the number that did not end within `grace` seconds (their handlers ignore cancellation)."""
        self._closing = True
        for task in list(self._tasks):
            task.cancel()
        if not self._tasks:
            return 0
        _, left = await asyncio.wait(self._tasks, timeout=grace)
        return len(left)

    # -- turns ---------------------------------------------------------------------------------------------

    def begin_turn(self) -> None:
        """The loop has had a turn. All who gave it theirs go on within one, so that is shared."""
        among = 1 + self._givers
        self.left, self.until = TURN // among or 1, self._clock() + TURN_SECONDS / among

    async def give_turn(self) -> None:
        """Give the loop a turn, and begin the next."""
        self._givers += 1
        if self.late:
            self._do_late()
        try:
            await turn()
        finally:
            self._givers -= 1
        self.begin_turn()

    async def _give_turn(self) -> bool:
        try:
            await self.give_turn()
        except asyncio.CancelledError:
            return False
        return True

    # -- workers -------------------------------------------------------------------------------------------

    def _start(self, *, owner: bool) -> None:
        if self._closing:
            return
        task = new_task(self._worker(owner), self._loop, name="understudy-worker")
        self._tasks[task] = None
        if owner:
            self._owner = task
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The net of rule 3: a worker may be cancelled before its first step, and then runs no code of ours."""
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a worker ended with %r", error, exc_info=error)
        if task is self._owner:
            self._start(owner=True)
        self._fill()

    def _hand_over(self) -> None:
        """Make another worker the owner of the queue."""
        self._owner = None
        while self._spares and self._owner is None:
            spare = self._spares.pop()
            if not spare.wake.done():
                spare.wake.set_result(None)
                self._owner = spare.task
        if self._owner is None:
            self._start(owner=True)
        self._fill()

    def _fill(self) -> None:
        if len(self._spares) < SPARES:
            self._start(owner=False)

    async def _worker(self, owner: bool) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a worker is a task
        self._learn(sys._getframe().f_back)
        probe = ScopeProbe(task)
        while not self._closing:
            if not owner:
                spare = Spare(task, probe, self._loop.create_future())
                own = await self._park(spare)
                if spare.suspended is not None:
                    await self._finish(spare.suspended, early=not own)
                    if probe.dirty() or len(self._spares) >= SPARES_KEPT:
                        return
                    continue
                if not own or spare.retire:
                    return  # had it been given the queue at the same moment, `_ended` would take that up
            owner = False
            if not await self._drain(task, probe):
                if task is self._owner:
                    self._hand_over()
                return
            if len(self._spares) >= SPARES_KEPT:
                return

    def _learn(self, driver: FrameType | None) -> None:
        """Note what drives tasks. The loop of asyncio is known; uvloop has no frames, so there it is what runs it."""
        if driver is not None and driver.f_code is not HANDLE:
            note_code(driver.f_code)
            self.hops = 4

    async def _park(self, spare: Spare) -> bool:
        """Wait until there is something to do; False when cancelled."""
        self._spares.append(spare)
        try:
            await spare.wake
        except asyncio.CancelledError:
            if spare in self._spares:
                self._spares.remove(spare)
            return False
        return True

    async def _await_ready(self) -> bool:
        if self.late:
            self._do_late()
        self.wake = wake = self._loop.create_future()
        try:
            await wake
        except asyncio.CancelledError:
            self.wake = None
            return False
        self.begin_turn()
        return bool(self.ready)


note_driver(Workers._worker)
