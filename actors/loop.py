"""Dispatch: actors without tasks of their own, run by workers that give themselves away.

A *worker* is an ordinary task that drains one run queue of ready cells. It steps a handler by hand, in a fresh
copy of the actor's base context. Most handlers end at the first step: no task, no future, no turn of the loop.
A handler that suspends keeps the worker: from then on that task is the handler's, awaiting what the handler
awaits, and a spare worker takes over the queue. So `current_task()` is one object for the life of a handler,
and anyio scopes, timeouts, task groups and threads work in it.

Rules, by their numbers in the design: workers are made past the user's task factory (1); every end of a handler
is an outcome (2); a worker that is cancelled while it owns the queue, or idle, hands over first and retires, and
one that ends in any other way has its ownership taken up when its task is done (3); a worker left cancelled or
inside an open anyio scope is *dirty* and retires after its handler (4); `def` handlers run in the delivery context
too (7); two spares are kept ready, and more than 32 retire (8); the dispatcher asks a `Scheduler` which ready cell
is next and at the end of a turn (12), production has none.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Final, Protocol

from understudy.actors.cell import DELIVERY, Cell, Delivery, Envelope, Life
from understudy.actors.scopes import ScopeProbe
from understudy.actors.telemetry import log

BATCH: Final = 16
"""Messages one cell may handle before the next ready cell has its turn."""
TURN: Final = 64
"""Messages of one turn; then timers, I/O and cancellation are served."""
TURN_SECONDS: Final = 0.001
SPARES: Final = 2
SPARES_KEPT: Final = 32


class Scheduler(Protocol):
    """The one place that decides order, for a simulation. Production has none.

    Addressed by actor path: permuting tasks alone does not reach most orders.
    """

    def next_ready(self, paths: Sequence[str]) -> int:
        """The index of the ready actor that is served next."""
        ...

    def inline(self, path: str) -> bool:
        """Whether an ask of an idle actor may be served at once."""
        ...

    def end_turn(self, handled: int) -> bool:
        """Whether to give the event loop a turn now, after `handled` messages."""
        ...

    def next_timer(self, due: Sequence[float]) -> int:
        """The index of the timer, among those due together, that fires first."""
        ...


Handler = Callable[[Any, Any], Any]
"""What is called with the actor and the message."""


class Outcomes(Protocol):
    """What the kernel does at the begin and the end of a delivery."""

    def admit(self, cell: Cell, life: Life, envelope: Envelope) -> Handler | None:
        """The handler for the envelope; None when it is not wanted any more, and was disposed of."""
        ...

    def done(self, cell: Cell, life: Life, envelope: Envelope, value: object) -> None:
        """The handler returned."""
        ...

    def failed(self, cell: Cell, life: Life, envelope: Envelope, error: BaseException) -> None:
        """The handler raised, whatever it raised."""
        ...

    def settled(self, cell: Cell) -> None:
        """The last running delivery of a cell has ended, and somebody waits for that."""
        ...


_Suspended = tuple[Coroutine[Any, Any, Any], Any, contextvars.Context]
_Ended = tuple[Any, BaseException | None]


def _enter(
    delivery: Delivery, handler: Handler, actor: object, message: object
) -> tuple[Any, Coroutine[Any, Any, Any] | None]:
    """Run to the first suspension, inside the delivery's context: (value, None), or (what it awaits, coroutine)."""
    DELIVERY.set(delivery)
    value = handler(actor, message)
    if type(value) is not types.CoroutineType:
        return value, None
    try:
        return value.send(None), value
    except StopIteration as stop:
        return stop.value, None


@types.coroutine
def _turn() -> Generator[None, None, None]:
    yield


@types.coroutine
def _adopt(suspended: _Suspended) -> Generator[Any, Any, _Ended]:
    """Go on with a coroutine that has already yielded, as the task that awaits this, to its end: (value, error).

    Whatever is thrown into the task belongs to the handler. Raises only when this is closed itself.
    """
    coroutine, waiting, context = suspended
    argument: Any
    while True:
        step: Callable[[Any], Any] = coroutine.send
        try:
            argument = yield waiting
        except GeneratorExit:  # the loop was closed under us: nobody is left to tell
            coroutine.close()
            raise
        except BaseException as error:
            step, argument = coroutine.throw, error
        try:
            waiting = context.run(step, argument)
        except StopIteration as stop:
            return stop.value, None
        except BaseException as error:  # rule 2
            return None, error


class Dispatcher:
    """One run queue and its workers, for one event loop."""

    def __init__(self, outcomes: Outcomes, scheduler: Scheduler | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._outcomes = outcomes
        self._scheduler = scheduler
        self._ready: deque[Cell] = deque()
        self._owner: asyncio.Task[None] | None = None
        self._wake: asyncio.Future[None] | None = None
        self._spares: list[tuple[asyncio.Task[None], asyncio.Future[None]]] = []
        self._tasks: dict[asyncio.Task[None], None] = {}  # in the order they were made: sets have no order to rely on
        self._closing = False
        self._start(owner=True)
        for _ in range(SPARES):
            self._start(owner=False)

    def schedule(self, cell: Cell) -> None:
        """Put a runnable cell that is not in the run queue into it."""
        cell.scheduled = True
        self._ready.append(cell)
        wake = self._wake
        if wake is not None:
            self._wake = None
            if not wake.done():
                wake.set_result(None)

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

    # -- workers -------------------------------------------------------------------------------------------

    def _start(self, *, owner: bool) -> None:
        if self._closing:
            return
        task: asyncio.Task[None] = asyncio.Task(self._worker(owner), loop=self._loop, name="understudy-worker")
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

    def _hand_over(self) -> None:
        """Make another worker the owner of the queue."""
        self._owner = None
        while self._spares and self._owner is None:
            task, future = self._spares.pop()
            if not future.done():
                future.set_result(None)
                self._owner = task
        if self._owner is None:
            self._start(owner=True)
        if len(self._spares) < SPARES:
            self._start(owner=False)

    async def _worker(self, owner: bool) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a worker is a task
        probe = ScopeProbe(task)
        while not self._closing:
            if not owner and not await self._park(task):
                return
            owner = False
            if not await self._drain(task, probe):
                if task is self._owner:
                    self._hand_over()
                return
            if len(self._spares) >= SPARES_KEPT:
                return

    async def _park(self, task: asyncio.Task[None]) -> bool:
        """Wait as a spare until the queue is ours; False when cancelled, which retires the worker."""
        spare = (task, self._loop.create_future())
        self._spares.append(spare)
        try:
            await spare[1]
        except asyncio.CancelledError:
            if spare in self._spares:
                self._spares.remove(spare)
            return False  # had it been given the queue at the same moment, `_ended` would take that up
        return True

    async def _drain(self, task: asyncio.Task[None], probe: ScopeProbe) -> bool:
        """Own the queue until a handler suspends, then finish that handler. False when the worker must retire."""
        ready, now = self._ready, self._loop.time
        handled, began = 0, now()
        while True:
            if not ready:
                if not await self._await_ready():
                    return False
                handled, began = 0, now()
            cell = self._next()
            served = self._serve(cell, task)
            if not isinstance(served, int):
                self._hand_over()
                await self._finish(cell, *served)
                return not _is_dirty(task, probe)
            if _is_dirty(task, probe):
                return False
            handled += served
            if self._scheduler.end_turn(handled) if self._scheduler else now() - began > TURN_SECONDS:
                handled = TURN
            if handled >= TURN:
                if not await self._give_turn():
                    return False
                handled, began = 0, now()

    def _next(self) -> Cell:
        if self._scheduler is None or len(self._ready) == 1:
            return self._ready.popleft()
        index = self._scheduler.next_ready([cell.path for cell in self._ready])
        cell = self._ready[index]
        del self._ready[index]
        return cell

    async def _await_ready(self) -> bool:
        self._wake = wake = self._loop.create_future()
        try:
            await wake
        except asyncio.CancelledError:
            self._wake = None
            return False
        return bool(self._ready)

    async def _give_turn(self) -> bool:
        try:
            await _turn()
        except asyncio.CancelledError:
            return False
        return True

    # -- one cell ------------------------------------------------------------------------------------------

    def _serve(self, cell: Cell, task: asyncio.Task[None]) -> int | tuple[Life, Envelope, _Suspended]:
        """Handle up to a batch of messages. The number handled, or the handler that suspended."""
        count = 0
        while count < BATCH:
            envelope = cell.take()
            if envelope is None:
                cell.scheduled = False
                return count
            count += 1
            life = cell.life
            assert life is not None  # noqa: S101  # take() returns nothing without a life
            handler = self._outcomes.admit(cell, life, envelope)
            if handler is None:
                continue
            suspended = self._first_step(cell, life, envelope, handler)
            if suspended is not None:
                life.tasks[envelope] = task
                self._requeue(cell)
                return life, envelope, suspended
            if task.cancelling():
                break
        self._requeue(cell)
        return count

    def _requeue(self, cell: Cell) -> None:
        if cell.runnable():
            self._ready.append(cell)
        else:
            cell.scheduled = False

    def _first_step(self, cell: Cell, life: Life, envelope: Envelope, handler: Handler) -> _Suspended | None:
        context = life.context.copy()
        delivery = Delivery(cell, life, envelope)
        cell.running += 1
        try:
            value, coroutine = context.run(_enter, delivery, handler, life.actor, envelope.message)
        except BaseException as error:  # rule 2
            self._end(cell, life, envelope, None, error)
            return None
        if coroutine is not None:
            return coroutine, value, context
        self._end(cell, life, envelope, value, None)
        return None

    def _end(self, cell: Cell, life: Life, envelope: Envelope, value: object, error: BaseException | None) -> None:
        if not life.fenced:  # what a fenced life still runs is counted no more
            cell.running -= 1
        if error is None:
            self._outcomes.done(cell, life, envelope, value)
        else:
            self._outcomes.failed(cell, life, envelope, error)
        if cell.idle is not None and cell.running == 0:
            self._outcomes.settled(cell)

    async def _finish(self, cell: Cell, life: Life, envelope: Envelope, suspended: _Suspended) -> None:
        """Be the handler's task until it ends."""
        value, error = await _adopt(suspended)
        life.tasks.pop(envelope, None)
        self._end(cell, life, envelope, value, error)
        if not cell.scheduled and cell.runnable():
            self.schedule(cell)


def _is_dirty(task: asyncio.Task[None], probe: ScopeProbe) -> bool:
    return bool(task.cancelling()) or probe.inside_open_scope()
