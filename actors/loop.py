"""Dispatch: actors without tasks of their own, run by workers that give themselves away.

A *worker* is an ordinary task that drains one run queue of ready cells. It steps a handler by hand, in a fresh context.
Most handlers end at the first step: no task, no future, no turn of the loop. A handler that suspends keeps the worker:
from then on that task is the handler's, awaiting what the handler awaits, and a spare worker takes over the queue. So
`current_task()` is one object for the life of a handler; anyio scopes, timeouts, task groups and threads work in it.

An ask of an idle actor does not wait for the queue: `step` runs the handler at once with a spare as the current task.
If the handler suspends, the spare adopts it and the asker waits on a future; the callee never runs on the asker's task.

Rules, by their numbers in the design: workers are made past the user's task factory (1); every end of a handler
is an outcome (2); a worker that is cancelled while it owns the queue, or idle, hands over first and retires, and
one that ends in any other way has its ownership taken up when its task is done (3); a worker left cancelled or
inside an open anyio scope is *dirty* and retires after its handler (4); what a spare is to do is a field of it, so
that a cancel between hand-over and adoption reaches the callee (5, 6); `def` handlers run in a delivery context too
(7); two spares are kept ready, and more than 32 retire (8); private names of asyncio are in `tasks` (10); asks draw on
the same turn as the queue (11); the dispatcher asks a `Scheduler` which ready cell is next, whether an ask is stepped
at once, and at the end of a turn (12), production has none.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from threading import get_ident
from typing import Any, Final, Protocol

from understudy.actors.cell import BUSY, DELIVERY, IDLE, QUEUED, START, Cell, Entry, Envelope, Handler, Life
from understudy.actors.mailbox import Mailbox, Overflow
from understudy.actors.scopes import ScopeProbe
from understudy.actors.steps import KEPT, Stepper, adopt, given
from understudy.actors.tasks import CURRENT, release
from understudy.actors.telemetry import Record, log

TURN: Final = 64
"""Messages of one turn; then timers, I/O and cancellation are served."""
TURN_SECONDS: Final = 0.001
BATCH: Final = 16
"""Messages after which the next ready cell has its turn. A power of two that divides `TURN`, as the next."""
LOOK: Final = 4
"""Messages after which the clock is looked at."""
SPARES: Final = 2
SPARES_KEPT: Final = 32
DEPTH: Final = 8
"""Asks that may be stepped at once inside one another; deeper ones take the queue."""
WARM: Final = 1_024
"""Lives that keep a context for their `def` handlers; the one that was given its own longest ago loses it first."""
WARM_FROM: Final = 8
"""Deliveries after which a life is given one: most actors handle few messages and rest."""


_Ended = tuple[Any, BaseException | None]
"""What a handler returned, or raised."""

PENDING: Final = object()
"""What `step` returns when the reply is not there yet: the envelope has a future of it."""
QUEUE: Final = object()
"""What `step` returns when nothing has happened: the ask must take the queue."""


STARTING: Final[tuple[Any, Cell | None]] = (START, None)
"""What a life handles while its actor is made."""
_COROUTINE: Final = types.CoroutineType


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
    """What the kernel does at the begin and the end of a delivery."""

    def start(self, cell: Cell, life: Life) -> Coroutine[Any, Any, None] | None:
        """Make the actor; what is left to await."""
        ...

    def admit(self, cell: Cell, life: Life, entry: Entry) -> tuple[Handler, bool] | None:
        """The handler for an entry and whether it is an `async def`; None for what was not wanted and disposed of."""
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


class _Suspended:
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


class _Spare:
    """A parked worker. Woken with a handler to adopt, or without: then the queue is its own."""

    __slots__ = ("probe", "retire", "suspended", "task", "wake")

    def __init__(self, task: asyncio.Task[None], probe: ScopeProbe, wake: asyncio.Future[None]) -> None:
        self.task = task
        self.probe = probe
        self.wake = wake
        self.suspended: _Suspended | None = None
        self.retire = False


def _call(life: Life, handler: Handler, actor: object, message: object) -> Any:
    DELIVERY.set(life)
    return handler(actor, message)


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The clock of turns: real seconds (uvloop's own time stands still within a turn), or a virtual loop's."""
    real = type(loop).time is asyncio.BaseEventLoop.time or type(loop).__module__.startswith("uvloop")
    return time.monotonic if real else loop.time


def now_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """The clock of deadlines: `loop.time`, or what it calls."""
    return time.monotonic if type(loop).time is asyncio.BaseEventLoop.time else loop.time


@types.coroutine
def turn() -> Generator[None, None, None]:
    """One turn of the event loop."""
    yield


class Dispatcher:
    """One run queue and its workers, for one event loop.

    Deliveries run in copies of `base` and are noted in `flights`. `thread`, `ready`, `wake` and `rouse` are open to
    `Ref.tell`.
    """

    def __init__(
        self,
        outcomes: Outcomes,
        base: contextvars.Context,
        flights: deque[Record],
        scheduler: Scheduler | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._outcomes = outcomes
        self._base = base
        self._flights = flights
        self._scheduler = scheduler
        self._clock = clock_of(self._loop)
        self.thread: Final = get_ident()
        self.ready: Final = deque[Cell]()
        self.wake: asyncio.Future[None] | None = None
        self.left = TURN
        self.until = self._clock() + TURN_SECONDS
        self._owner: asyncio.Task[None] | None = None
        self._spares: list[_Spare] = []
        self._steppers: list[Stepper] = []
        self._boxes: list[Mailbox[Entry]] = []
        self._warm = deque[Life]()
        self._tasks: dict[asyncio.Task[None], None] = {}  # in the order they were made: sets have no order to rely on
        self._depth = 0
        self._closing = False
        self._start(owner=True)
        for _ in range(SPARES):
            self._start(owner=False)

    def schedule(self, cell: Cell) -> None:
        """Put a runnable cell that is not in the run queue into it."""
        cell.status = QUEUED
        self.ready.append(cell)
        if self.wake is not None:
            self.rouse()

    def rouse(self) -> None:
        """Wake the worker that owns the queue: it is not empty any more."""
        wake, self.wake = self.wake, None
        if wake is not None and not wake.done():
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
        self._warm.clear()
        if not self._tasks:
            return 0
        _, left = await asyncio.wait(self._tasks, timeout=grace)
        return len(left)

    # -- turns ---------------------------------------------------------------------------------------------

    def turn_over(self, now: float) -> bool:
        """Whether the loop is due a turn: 64 messages, or a millisecond, since it had one."""
        return self.left <= 0 or now > self.until

    def begin_turn(self) -> None:
        """The loop has had a turn."""
        self.left, self.until = TURN, self._clock() + TURN_SECONDS

    async def _give_turn(self) -> bool:
        try:
            await turn()
        except asyncio.CancelledError:
            return False
        self.begin_turn()
        return True

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
        probe = ScopeProbe(task)
        while not self._closing:
            if not owner:
                spare = _Spare(task, probe, self._loop.create_future())
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

    async def _park(self, spare: _Spare) -> bool:
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
        self.wake = wake = self._loop.create_future()
        try:
            await wake
        except asyncio.CancelledError:
            self.wake = None
            return False
        self.begin_turn()
        return bool(self.ready)

    def _next(self, scheduler: Scheduler) -> Cell:
        index = scheduler.next_ready([cell.path for cell in self.ready]) if len(self.ready) > 1 else 0
        cell = self.ready[index]
        del self.ready[index]
        return cell

    async def _drain(self, task: asyncio.Task[None], probe: ScopeProbe) -> bool:
        """Own the queue until a handler suspends, then finish that handler. False when the worker must retire.

        The hot path, and long for that reason: a call for each of its parts would cost as much as the parts.
        """
        ready, base, clock, note, scheduler = self.ready, self._base, self._clock, self._flights.append, self._scheduler
        cancelling, key, scoped = task.cancelling, probe.key, probe.table
        stepper = self._take_stepper()
        now = clock()
        suspended: _Suspended | None
        while True:
            suspended, dirty = None, False
            if not ready:
                if not await self._await_ready():
                    return False
                now = clock()
            # Any: mypy believes that a cell stays plain, or not, whatever is called.
            cell: Any = ready.popleft() if scheduler is None else self._next(scheduler)
            while True:  # one cell, as long as it has messages and may go on
                if not cell.plain:
                    suspended = self._serve(cell)
                    now = clock()
                    if now > self.until:
                        self.left = 0
                    dirty = probe.dirty()
                    if suspended is not None or not cell.plain or self.left <= 0 or dirty:
                        break
                entry: Any = cell.first  # a tuple or an envelope, which is looked at below
                if entry is not None:
                    cell.first = None
                else:
                    box = cell.mailbox
                    if box is None or (entry := box.take()) is None:
                        break
                life: Any = cell.life  # a plain cell has one
                found = cell.door.get(type(entry[0])) if type(entry) is tuple else None
                if found is None:
                    suspended = self._deliver(cell, entry)
                else:
                    message, sender = entry
                    note((now, cell, type(message), sender))
                    life.current = entry
                    if found[1]:
                        envelope = Envelope(message, sender, life)
                        context = base.copy()
                        try:
                            waiting = context.run(stepper.send, (envelope, found[0], life.actor, message))
                        except BaseException as error:  # what a generator cannot survive
                            stepper.ended, stepper.error = True, error
                        life.current = None
                        if not stepper.ended:
                            suspended = _Suspended(cell, life, envelope, stepper, waiting, context)
                        elif stepper.error is not None:
                            stepper = self._failed(envelope, stepper)
                        else:
                            stepper.value = None
                            if not cell.plain:
                                self._end(envelope, None, None)
                    else:
                        warm = life.context
                        try:
                            if warm is None:
                                value = base.copy().run(_call, life, found[0], life.actor, message)
                                self._warm_up(life)
                            else:
                                value = warm.copy().run(found[0], life.actor, message)
                        except BaseException as error:  # rule 2
                            self._end(self._leave_current(life), None, error)
                        else:
                            if value is not None and type(value) is _COROUTINE:
                                suspended = self._run(self._leave_current(life), given, value)
                            elif cell.plain:
                                life.current = None
                            else:
                                self._end(self._leave_current(life), None, None)
                self.left = left = self.left - 1
                if cancelling() or (key in scoped and probe.dirty()):
                    dirty = True
                    break
                if suspended is not None or not cell.plain:
                    break
                if not left & (LOOK - 1):
                    now = clock()
                    if left <= 0 or now > self.until:
                        self.left = 0
                        break
                    if not left & (BATCH - 1):
                        break
            if suspended is not None:
                self._suspend(suspended, task)
                self.rest(cell)
                self._hand_over()
                if suspended.stepper is not stepper:
                    self._keep(stepper)
                await self._finish(suspended)
                return not probe.dirty()
            if cell.first is None and cell.mailbox is None and cell.plain:
                cell.status = IDLE
            else:
                self.rest(cell)
            if dirty:
                self._keep(stepper)
                return False
            if scheduler is not None and scheduler.end_turn(TURN - self.left):
                self.left = 0
            if self.left <= 0:
                if not await self._give_turn():
                    self._keep(stepper)
                    return False
                now = clock()

    # -- one delivery --------------------------------------------------------------------------------------

    def _serve(self, cell: Cell) -> _Suspended | None:
        """Serve a cell that is not plain: its start, several runs of an agent at once, control while suspended."""
        if cell.fresh and cell.state == "starting":
            cell.fresh = False
            self.left -= 1
            return self._start_life(cell)
        for _ in range(BATCH):
            entry = cell.take()
            if entry is None:
                return None
            self.left -= 1
            suspended = self._deliver(cell, entry)
            if suspended is not None or cell.plain:
                return suspended
        return None

    def _start_life(self, cell: Cell) -> _Suspended | None:
        life = cell.life
        assert life is not None  # noqa: S101  # one that is starting has one
        life.current = STARTING
        try:
            later = self._base.copy().run(_call, life, self._outcomes.start, cell, life)
        except BaseException as error:  # rule 2
            life.current = None
            self._end(Envelope(START, None, life), None, error)
            return None
        life.current = None
        envelope = Envelope(START, None, life)
        if later is not None:
            return self._run(envelope, given, later)
        self._end(envelope, None, None)
        return None

    def _deliver(self, cell: Cell, entry: Entry) -> _Suspended | None:
        """Handle one entry by the long way."""
        life = cell.life
        assert life is not None  # noqa: S101  # nothing is taken without a life
        found = self._outcomes.admit(cell, life, entry)
        if found is None:
            return None
        envelope = entry if isinstance(entry, Envelope) else Envelope(entry[0], entry[1])
        envelope.life = life
        self._flights.append((self._clock(), cell, type(envelope.message), envelope.sender))
        return self._run(envelope, found[0], life.actor, is_async=found[1])

    def _run(self, envelope: Envelope, handler: Handler, actor: object, *, is_async: bool = True) -> _Suspended | None:
        """Run a handler to its end, which is told, or to where it suspends."""
        life = envelope.life
        assert life is not None  # noqa: S101  # set by every caller
        before, life.current = life.current, envelope
        try:
            outcome = self._first_step(life, envelope, handler, actor, is_async=is_async)
        finally:
            life.current = before
        if isinstance(outcome, _Suspended):
            return outcome
        self._end(envelope, *outcome)
        return None

    def _first_step(
        self, life: Life, envelope: Envelope, handler: Handler, actor: object, *, is_async: bool
    ) -> _Suspended | _Ended:
        """Step a handler, whatever it does: it suspends, or ends with (value, error)."""
        context = (life.base or self._base).copy()
        if not is_async:
            try:
                value = context.run(_call, life, handler, actor, envelope.message)
            except BaseException as error:  # rule 2
                return None, error
            if type(value) is not _COROUTINE:
                return value, None
            handler, actor = given, value
        stepper = self._take_stepper()
        waiting: Any = None
        try:
            waiting = context.run(stepper.send, (envelope, handler, actor, envelope.message))
        except BaseException as error:  # what a generator cannot survive
            stepper.ended, stepper.error = True, error
        if not stepper.ended:
            return _Suspended(life.cell, life, envelope, stepper, waiting, context)
        ended = stepper.outcome()
        self._keep(stepper)
        return ended

    def _leave_current(self, life: Life) -> Envelope:
        """The envelope of what a `def` handler handled, which is over."""
        entry, life.current = life.current, None
        if isinstance(entry, Envelope):
            return entry
        message, sender = entry if entry is not None else STARTING
        return Envelope(message, sender, life)

    def _failed(self, envelope: Envelope, stepper: Stepper) -> Stepper:
        """Tell a failure; the stepper to go on with."""
        _, error = stepper.outcome()
        self._end(envelope, None, error)
        if stepper.alive:
            return stepper
        return self._take_stepper()

    def _end(self, envelope: Envelope, value: object, error: BaseException | None) -> None:
        life = envelope.life
        assert life is not None  # noqa: S101  # it was delivered
        cell = life.cell
        if error is None:
            self._outcomes.done(cell, life, envelope, value)
        else:
            self._outcomes.failed(cell, life, envelope, error)
        if cell.idle is not None and cell.running == 0:
            self._outcomes.settled(cell)

    def _suspend(self, suspended: _Suspended, task: asyncio.Task[None]) -> None:
        """Note whose task the handler is on from now on."""
        life = suspended.life
        if life.tasks is None:
            life.tasks = {}
        life.tasks[suspended.envelope] = task

    async def _finish(self, suspended: _Suspended, *, early: bool = False) -> None:
        """Be the handler's task until it ends."""
        value, error = await adopt(suspended.stepper, suspended.waiting, suspended.context, early=early)
        self._keep(suspended.stepper)
        life, cell = suspended.life, suspended.cell
        if life.tasks is not None:
            life.tasks.pop(suspended.envelope, None)
            if not life.tasks:
                life.tasks = None
        self._end(suspended.envelope, value, error)
        if cell.status != QUEUED:
            self.rest(cell)

    def rest(self, cell: Cell) -> None:
        """Leave a cell that was served: to its next turn, or to rest."""
        if cell.runnable():
            self.schedule(cell)
            return
        box = cell.mailbox
        if box is not None and box.unused:
            cell.mailbox = None
            if len(self._boxes) < KEPT:
                self._boxes.append(box)
        life = cell.life
        cell.status = IDLE if cell.plain and life is not None and not life.tasks else BUSY

    # -- an ask, stepped at once ---------------------------------------------------------------------------

    def step(self, cell: Cell, envelope: Envelope) -> Any:
        """Handle a request of an idle cell now. The reply; `PENDING`; or `QUEUE`, and nothing has happened.

        The caller has looked at the cell's status and at the turn.
        """
        found = cell.door.get(type(envelope.message))
        table, loop, spares = CURRENT, self._loop, self._spares
        if found is None or table is None or not spares or self._depth >= DEPTH or self._closing:
            return QUEUE
        caller = table.get(loop)
        if caller is None or caller.cancelling():
            return QUEUE  # a future can be cancelled, a reply that is there cannot
        scheduler = self._scheduler
        if scheduler is not None and not scheduler.inline(cell.path):
            return QUEUE
        life: Any = cell.life  # an idle cell has one
        cell.status = QUEUED
        envelope.life = life
        life.current = envelope
        self._flights.append((self.until, cell, type(envelope.message), envelope.sender))
        self.left -= 1
        self._depth += 1
        spare = spares.pop()
        table[loop] = spare.task
        try:
            outcome = self._first_step(life, envelope, found[0], life.actor, is_async=found[1])
        finally:
            table[loop] = caller
            life.current = None
            self._depth -= 1
        if isinstance(outcome, _Suspended):
            return self._lend(spare, outcome)
        if spare.probe.dirty():
            self._retire(spare)
        else:
            spares.append(spare)
        value, error = outcome
        if error is not None or caller.cancelling():
            if envelope.reply is None:  # else it was put into the stash
                envelope.reply = loop.create_future()
            self._end(envelope, value, error)
            self.rest(cell)
            return PENDING
        if cell.plain and cell.first is None and cell.mailbox is None:
            cell.status = IDLE
        else:
            self._end(envelope, value, None)
            self.rest(cell)
            if envelope.reply is not None:
                return PENDING
        return value

    def _lend(self, spare: _Spare, suspended: _Suspended) -> Any:
        """Give a handler that has suspended to the spare that was its current task."""
        release(suspended.waiting)
        if suspended.envelope.reply is None:
            suspended.envelope.reply = self._loop.create_future()
        spare.suspended = suspended
        self._suspend(suspended, spare.task)
        if not spare.wake.done():
            spare.wake.set_result(None)
        self._fill()
        self.rest(suspended.cell)
        return PENDING

    def _retire(self, spare: _Spare) -> None:
        """End a spare that the handler left dirty (rule 4)."""
        spare.retire = True
        if not spare.wake.done():
            spare.wake.set_result(None)
        self._fill()

    # -- what is kept for the next ---------------------------------------------------------------------------

    def _take_stepper(self) -> Stepper:
        return self._steppers.pop() if self._steppers else Stepper()

    def _keep(self, stepper: Stepper) -> None:
        if len(self._steppers) < KEPT and stepper.alive:
            self._steppers.append(stepper)

    def take_box(self, limit: int, overflow: Overflow) -> Mailbox[Entry]:
        """An empty mailbox."""
        if not self._boxes:
            return Mailbox(limit, overflow)
        box = self._boxes.pop()
        box.limit, box.overflow = limit, overflow
        return box

    def _warm_up(self, life: Life) -> None:
        """Count a delivery to a `def` handler without a context of its own; make one for a busy actor."""
        life.heat += 1
        if life.heat < WARM_FROM:
            return
        context = self._base.copy()
        context.run(DELIVERY.set, life)
        life.context = context
        self._warm.append(life)
        if len(self._warm) > WARM:
            cold = self._warm.popleft()
            cold.context, cold.heat = None, 0
