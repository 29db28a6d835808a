"""Dispatch: actors without tasks of their own, run by workers that give themselves away.

A *worker* is an ordinary task that drains one run queue of ready cells. It steps a handler by hand, in a fresh
copy of the actor's base context. Most handlers end at the first step: no task, no future, no turn of the loop.
A handler that suspends keeps the worker: from then on that task is the handler's, awaiting what the handler
awaits, and a spare worker takes over the queue. So `current_task()` is one object for the life of a handler,
and anyio scopes, timeouts, task groups and threads work in it.

Rules, by their numbers in the design: workers are made past the user's task factory (1); every end of a handler
is an outcome (2); a worker that is cancelled while it owns the queue, or idle, hands over first and retires (3);
a worker left cancelled or inside an open anyio scope is *dirty* and retires after its handler (4); `def` handlers
run in the delivery context too (7); the dispatcher asks a `Scheduler` which ready cell is next and at the end of a
turn (12), production has none.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from typing import Any, Final, Protocol

from understudy.actors.cell import DELIVERY, Cell, Delivery, Envelope, Life
from understudy.actors.scopes import inside_open_scope

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


class Outcomes(Protocol):
    """What the kernel does with the end of a delivery."""

    def expired(self, cell: Cell, envelope: Envelope) -> bool:
        """Whether the envelope is not wanted any more; it was then disposed of."""
        ...

    def entry(self, cell: Cell, envelope: Envelope) -> Callable[[], Any]:
        """What to call for this envelope, in the delivery's context."""
        ...

    def done(self, cell: Cell, life: Life, envelope: Envelope, value: object) -> None:
        """The handler returned."""
        ...

    def failed(self, cell: Cell, life: Life, envelope: Envelope, error: BaseException) -> None:
        """The handler raised, whatever it raised."""
        ...

    def settled(self, cell: Cell) -> None:
        """A delivery has ended, in any way."""
        ...


_Suspended = tuple[Coroutine[Any, Any, Any], Any, contextvars.Context]


def _enter(delivery: Delivery, call: Callable[[], Any]) -> tuple[Any, Coroutine[Any, Any, Any] | None]:
    """Run to the first suspension, inside the delivery's context: (value, None), or (what it awaits, coroutine)."""
    DELIVERY.set(delivery)
    value = call()
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
def _adopt(suspended: _Suspended) -> Generator[Any, Any, Any]:
    """Go on with a coroutine that has already yielded, as the task that awaits this."""
    coroutine, waiting, context = suspended
    argument: Any
    while True:
        step: Callable[[Any], Any]
        try:
            argument = yield waiting
        except BaseException as error:  # whatever was thrown into the task belongs to the handler
            step, argument = coroutine.throw, error
        else:
            step = coroutine.send
        try:
            waiting = context.run(step, argument)
        except StopIteration as stop:
            return stop.value


class _Spare:
    """A parked worker. `future` wakes it; it then owns the queue."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[None]) -> None:
        self.future = future


class Dispatcher:
    """One run queue and its workers, for one event loop."""

    def __init__(self, outcomes: Outcomes, scheduler: Scheduler | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._outcomes = outcomes
        self._scheduler = scheduler
        self._ready: deque[Cell] = deque()
        self._wake: asyncio.Future[None] | None = None
        self._spares: list[_Spare] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._start(owner=True)
        for _ in range(SPARES):
            self._start(owner=False)

    def schedule(self, cell: Cell) -> None:
        """Put a runnable cell into the run queue, once."""
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

    def _start(self, owner: bool) -> None:
        if self._closing:
            return
        task: asyncio.Task[None] = asyncio.Task(self._worker(owner), loop=self._loop, name="understudy-worker")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _hand_over(self) -> None:
        while self._spares:
            future = self._spares.pop().future
            if not future.done():
                future.set_result(None)
                if len(self._spares) < SPARES:
                    self._start(owner=False)
                return
        self._start(owner=True)

    async def _worker(self, owner: bool) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a worker is a task
        while not self._closing:
            if not owner and not await self._park():
                return
            owner = False
            if not await self._drain(task):
                return
            if len(self._spares) >= SPARES_KEPT:
                return

    async def _park(self) -> bool:
        """Wait as a spare; False when cancelled, which retires the worker."""
        spare = _Spare(self._loop.create_future())
        self._spares.append(spare)
        try:
            await spare.future
        except asyncio.CancelledError:
            if spare in self._spares:
                self._spares.remove(spare)
            elif spare.future.done() and not spare.future.cancelled():
                self._start(owner=True)  # it was given the queue at the same moment
            return False
        return True

    async def _drain(self, task: asyncio.Task[None]) -> bool:
        """Own the queue until a handler suspends, then finish that handler. False when the worker must retire."""
        handled, began = 0, self._loop.time()
        while True:
            if not self._ready and not await self._await_ready():
                return False
            while self._ready:
                cell = self._next()
                suspended = self._serve(cell, task)
                if isinstance(suspended, int):
                    handled += suspended
                else:
                    self._hand_over()
                    return await self._finish(cell, *suspended, task)
                if self._is_dirty(task):
                    self._start(owner=True)
                    return False
                if handled >= TURN or self._ends_turn(handled, began):
                    if not await self._give_turn():
                        return False
                    handled, began = 0, self._loop.time()
            began = self._loop.time()

    def _next(self) -> Cell:
        if self._scheduler is None or len(self._ready) == 1:
            return self._ready.popleft()
        index = self._scheduler.next_ready([cell.path for cell in self._ready])
        cell = self._ready[index]
        del self._ready[index]
        return cell

    def _ends_turn(self, handled: int, began: float) -> bool:
        if self._scheduler is not None:
            return self._scheduler.end_turn(handled)
        return self._loop.time() - began > TURN_SECONDS

    async def _await_ready(self) -> bool:
        self._wake = wake = self._loop.create_future()
        try:
            await wake
        except asyncio.CancelledError:
            self._wake = None
            self._start(owner=True)
            return False
        return True

    async def _give_turn(self) -> bool:
        try:
            await _turn()
        except asyncio.CancelledError:
            self._start(owner=True)
            return False
        return True

    # -- one cell ------------------------------------------------------------------------------------------

    def _serve(self, cell: Cell, task: asyncio.Task[None]) -> int | tuple[Life, Envelope, _Suspended]:
        """Handle up to a batch of messages. The number handled, or the handler that suspended."""
        count = 0
        while count < BATCH and (envelope := cell.take()) is not None:
            if self._outcomes.expired(cell, envelope):
                continue
            count += 1
            life = cell.life
            assert life is not None  # noqa: S101  # take() returns nothing without a life
            suspended = self._first_step(cell, life, envelope)
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
            cell.scheduled = True
            self._ready.append(cell)
        else:
            cell.scheduled = False

    def _first_step(self, cell: Cell, life: Life, envelope: Envelope) -> _Suspended | None:
        context = life.context.copy()
        cell.running += 1
        try:
            call = self._outcomes.entry(cell, envelope)
            value, coroutine = context.run(_enter, Delivery(cell, life, envelope), call)
        except BaseException as error:  # rule 2
            self._end(cell, life, envelope, None, error)
            return None
        if coroutine is not None:
            return coroutine, value, context
        self._end(cell, life, envelope, value, None)
        return None

    def _end(self, cell: Cell, life: Life, envelope: Envelope, value: object, error: BaseException | None) -> None:
        cell.running -= 1
        if error is None:
            self._outcomes.done(cell, life, envelope, value)
        else:
            self._outcomes.failed(cell, life, envelope, error)
        self._outcomes.settled(cell)

    async def _finish(
        self, cell: Cell, life: Life, envelope: Envelope, suspended: _Suspended, task: asyncio.Task[None]
    ) -> bool:
        """Be the handler's task until it ends. False when the worker must retire."""
        value: object = None
        failure: BaseException | None = None
        try:
            value = await _adopt(suspended)
        except GeneratorExit:  # the loop was closed under us: nobody is left to tell
            raise
        except BaseException as error:  # rule 2
            failure = error
        life.tasks.pop(envelope, None)
        self._end(cell, life, envelope, value, failure)
        if not cell.scheduled and cell.runnable():
            self.schedule(cell)
        return not self._is_dirty(task)

    @staticmethod
    def _is_dirty(task: asyncio.Task[None]) -> bool:
        return bool(task.cancelling()) or inside_open_scope(task)
