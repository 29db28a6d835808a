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
import sys
import types
from collections import deque
from threading import get_ident
from typing import Any, Final, Literal

from understudy.actors.cell import BUSY, IDLE, QUEUED, Cell
from understudy.actors.delivery import DELIVERY, START, Entry, Envelope, Handler, Life, Notice
from understudy.actors.outcomes import Outcomes
from understudy.actors.scheduling import LOOK, TURN, Scheduler
from understudy.actors.scopes import ScopeProbe
from understudy.actors.steps import ENDED, RUNNING, Stepper, adopt, given
from understudy.actors.tasks import CURRENT, DRIVERS, near_driver, note_driver, release
from understudy.actors.telemetry import Record, log
from understudy.actors.workers import Spare, Suspended, Workers

DEPTH: Final = 8
"""Asks that may be stepped at once inside one another; deeper ones take the queue."""
PENDING: Final = object()
"""What `step` returns when the reply is not there yet: the envelope has a future of it."""
QUEUE: Final = object()
"""What `step` returns when nothing has happened: the ask must take the queue."""
STARTING: Final[tuple[Any, Cell | None]] = (START, None)
"""What a life handles while its actor is made."""

_Ended = tuple[Any, BaseException | None]
"""What a handler returned, or raised."""
_COROUTINE: Final = types.CoroutineType
_LOOKS: Final = (None,) * LOOK
_frame: Final = sys._getframe


def _call(life: Life, handler: Handler, actor: object, message: object) -> Any:
    DELIVERY.set(life)
    return handler(actor, message)


class Dispatcher(Workers):
    """One run queue and its workers, for one event loop.

    Deliveries run in copies of `base` and are noted in `flights`. `thread`, `ready`, `wake` and `rouse` are open to
    `Ref.tell`.
    """

    __slots__ = (
        "_depth",
        "_flights",
        "_outcomes",
        "_scheduler",
        "thread",
    )

    def __init__(
        self,
        outcomes: Outcomes,
        base: contextvars.Context,
        flights: deque[Record],
        scheduler: Scheduler | None = None,
    ) -> None:
        self._outcomes = outcomes
        self._flights = flights
        self._scheduler = scheduler
        self.thread: Final = get_ident()
        self._depth = 0
        super().__init__(base)

    async def _drain(self, task: asyncio.Task[None], probe: ScopeProbe) -> bool:
        """See `Workers`. One message of each ready cell in turn.

        The hot path, and long for that reason: a call for each of its parts would cost as much as the parts.
        """
        ready, base, clock, note, scheduler = self.ready, self._base, self._clock, self._flights.append, self._scheduler
        cancelling, key, scoped, popleft = task.cancelling, probe.key, probe.table, self.ready.popleft
        looks = _LOOKS if scheduler is None else (None,)
        stepper = self._take_stepper()
        # Any: mypy believes that a cell stays plain, or not, whatever is called.
        nothing: Any = None
        cell: Any = None
        entry: Any = None
        life: Any = None
        envelope: Any = None
        message: Any = None
        sender: Any = None
        now = clock()
        while True:
            if not ready:
                # What was handled last is nobody's any more, and it may be long until there is something else.
                stepper.value = cell = entry = found = handler = message = sender = life = nothing
                envelope = context = warm = value = waiting = reply = box = nothing
                if not await self._await_ready():
                    self._keep(stepper)
                    return False
                now = clock()
            suspended: Suspended | None = None
            for _ in looks:
                if not ready:
                    break
                if scheduler is None:
                    cell = popleft()
                elif (cell := self._next(scheduler)) is None:
                    self.left = 0
                    break
                entry = cell.first
                if not cell.plain:
                    if cancelling() or (key in scoped and probe.dirty()):  # not the one to run anything on
                        return self._retreat(cell, stepper)
                    suspended = self._serve(cell)
                    if suspended is None:
                        continue
                    break
                if entry is not None:
                    cell.first = None
                else:
                    box = cell.mailbox
                    if box is not None and len(box.work) > box.floor and not box.ahead:
                        entry = box.work.popleft()
                    elif box is None or (entry := box.take()) is None:
                        self.rest(cell)
                        continue
                envelope = nothing
                if type(entry) is tuple:
                    message, sender = entry
                    found = cell.door.get(type(message))
                elif type(entry) is Envelope and entry.life is None and entry.reply is not None:
                    # An ask. Of one that is late or cancelled the long way has more to say.
                    envelope, message, sender = entry, entry.message, entry.sender
                    due = entry.deadline is not None and entry.deadline > now
                    found = cell.door.get(type(message)) if due and not entry.cancelled else None
                else:
                    found = None
                if found is None:
                    if cancelling() or (key in scoped and probe.dirty()):
                        cell.box().put_back_first(entry, control=isinstance(entry, Notice))
                        return self._retreat(cell, stepper)
                    suspended = self._deliver(cell, entry)
                    if suspended is None:
                        self.rest(cell)
                        continue
                    break
                handler, is_async = found
                life = cell.life
                if is_async:
                    if cancelling() or (key in scoped and probe.dirty()):  # not the one to run it on
                        cell.box().put_back([entry])
                        return self._retreat(cell, stepper)
                    note((now, cell, type(message), sender))
                    if envelope is None:
                        envelope = Envelope(message, sender)
                    envelope.life = life
                    life.current = envelope
                    context, waiting = base.copy(), None
                    try:
                        waiting = context.run(stepper.send, (envelope, handler, life.actor, message))
                    except BaseException as error:  # what a generator cannot survive
                        stepper.fail(error)
                    life.current = None
                    if stepper.state is not ENDED:
                        suspended, stepper = self._not_ended(envelope, stepper, waiting, context)
                        if suspended is None:
                            self.rest(cell)
                            continue
                        break
                    if not cell.plain:
                        self._end(envelope, stepper.value, None)
                    elif (reply := envelope.reply) is not None:
                        value, stepper.value = stepper.value, None
                        if reply.done():
                            self._end(envelope, value, None)
                        else:
                            reply.set_result(value)
                else:
                    note((now, cell, type(message), sender))
                    life.current = entry
                    if envelope is not None:
                        envelope.life = life
                    warm = life.context
                    try:
                        if warm is None:
                            value = self._call_cold(life, handler, message)
                        else:
                            value = warm.copy().run(handler, life.actor, message)
                    except BaseException as error:  # rule 2
                        self._end(self._leave_current(life), None, error)
                    else:
                        if value is not None and type(value) is _COROUTINE:
                            suspended = self._run(self._leave_current(life), given, value)
                            if suspended is None:
                                self.rest(cell)
                                continue
                            break
                        if not cell.plain or (envelope is not None and envelope.reply.done()):
                            self._end(self._leave_current(life), value, None)
                        else:
                            life.current = None
                            if envelope is not None:
                                envelope.reply.set_result(value)
                if cell.plain:
                    box = cell.mailbox
                    if box is None:
                        if cell.first is None:
                            cell.status = IDLE
                        else:
                            ready.append(cell)
                        continue
                    if box.work:
                        ready.append(cell)
                        continue
                self.rest(cell)
            self.left -= len(looks)
            if suspended is not None:
                suspended.life.own(suspended.envelope, task)
                if suspended.stepper is not stepper:
                    self._keep(stepper)
                self.rest(suspended.cell)
                self._hand_over()
                await self._finish(suspended)
                return not probe.dirty()
            now = clock()
            if scheduler is not None and scheduler.end_turn(TURN - self.left):
                self.left = 0
            if self.left <= 0 or now > self.until:
                if not await self._give_turn():
                    self._keep(stepper)
                    return False
                now = clock()

    def _retreat(self, cell: Cell, stepper: Stepper) -> Literal[False]:
        """Leave a cell that was about to be served to the next owner of the queue."""
        self.ready.appendleft(cell)
        self._keep(stepper)
        return False

    # -- one delivery --------------------------------------------------------------------------------------

    def _serve(self, cell: Cell) -> Suspended | None:
        """Serve a cell that is not plain: its start, several runs of an agent at once, control while suspended."""
        suspended = None
        if cell.fresh and cell.state == "starting":
            cell.fresh = False
            suspended = self._start_life(cell)
        elif (entry := cell.take()) is not None:
            suspended = self._deliver(cell, entry)
        if suspended is None:
            self.rest(cell)
        return suspended

    def _start_life(self, cell: Cell) -> Suspended | None:
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

    def _deliver(self, cell: Cell, entry: Entry) -> Suspended | None:
        """Handle one entry by the long way."""
        life = cell.life
        assert life is not None  # noqa: S101  # nothing is taken without a life
        found = self._outcomes.admit(cell, life, entry)
        if found is None:
            return None
        envelope = entry if isinstance(entry, Envelope) else Envelope(entry[0], entry[1])
        if envelope.life is not None:  # of a former delivery, of which something may still run
            envelope = envelope.again()
        envelope.life = life
        self._flights.append((self._clock(), cell, type(envelope.message), envelope.sender))
        return self._run(envelope, found[0], life.actor, is_async=found[1])

    def _run(self, envelope: Envelope, handler: Handler, actor: object, *, is_async: bool = True) -> Suspended | None:
        """Run a handler to its end, which is told, or to where it suspends."""
        life = envelope.life
        assert life is not None  # noqa: S101  # set by every caller
        before, life.current = life.current, envelope
        try:
            outcome = self._first_step(life, envelope, handler, actor, is_async=is_async)
        finally:
            life.current = before
        if isinstance(outcome, Suspended):
            return outcome
        self._end(envelope, *outcome)
        return None

    def _first_step(
        self, life: Life, envelope: Envelope, handler: Handler, actor: object, *, is_async: bool
    ) -> Suspended | _Ended:
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
            stepper.fail(error)
        if stepper.state is RUNNING:
            return Suspended(life.cell, life, envelope, stepper, waiting, context)
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

    def _not_ended(
        self, envelope: Envelope, stepper: Stepper, waiting: object, context: contextvars.Context
    ) -> tuple[Suspended | None, Stepper]:
        """A handler has suspended, or failed, which is told; and the stepper to go on with."""
        life = envelope.life
        assert life is not None  # noqa: S101  # it was delivered
        if stepper.state is RUNNING:
            return Suspended(life.cell, life, envelope, stepper, waiting, context), self._take_stepper()
        _, error = stepper.outcome()
        self._end(envelope, None, error)
        return None, stepper if stepper.alive else self._take_stepper()

    def _call_cold(self, life: Life, handler: Handler, message: object) -> Any:
        """Call a `def` handler of a life that has no context for them."""
        value = self._base.copy().run(_call, life, handler, life.actor, message)
        self._warm_up(life)
        return value

    def _end(self, envelope: Envelope, value: object, error: BaseException | None) -> None:
        life = envelope.life
        assert life is not None  # noqa: S101  # it was delivered
        cell = life.cell
        try:
            if error is None:
                self._outcomes.done(cell, life, envelope, value)
            else:
                self._outcomes.failed(cell, life, envelope, error)
            if cell.idle is not None and cell.running == 0:
                self._outcomes.settled(cell)
        except Exception as broken:  # a callback of who supervises: no reason to lose the actor and its worker
            path = cell.path
            log.error("%s: the end of a handler raised %r", path, broken, exc_info=broken, extra={"path": path})

    async def _finish(self, suspended: Suspended, *, early: bool = False) -> None:
        """Be the handler's task until it ends."""
        value, error = await adopt(suspended.stepper, suspended.waiting, suspended.context, early=early)
        self._keep(suspended.stepper)
        life, cell = suspended.life, suspended.cell
        life.disown(suspended.envelope)
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
            self._keep_box(box)
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
        if caller is None or spares[-1].wake.done():
            return QUEUE  # a spare that was cancelled is no task for a handler that nobody has cancelled
        try:
            if id(_frame(self.hops).f_code) not in DRIVERS and not near_driver(_frame(2)):
                return QUEUE  # the handler would find the stack of a deep asker
        except ValueError:  # the stack ends before that
            return QUEUE
        if self._scheduler is not None and not self._scheduler.inline(cell.path):
            return QUEUE
        handler, is_async = found
        life: Any = cell.life  # an idle cell has one
        cell.status = QUEUED
        envelope.life = life
        life.current = envelope
        self._flights.append((self.until, cell, type(envelope.message), envelope.sender))
        self.left -= 1
        self._depth += 1
        waiting: Any = None
        spare = spares.pop()
        table[loop] = spare.task
        try:
            if is_async:
                context = self._base.copy()
                stepper = self._steppers.pop() if self._steppers else Stepper()
                try:
                    waiting = context.run(stepper.send, (envelope, handler, life.actor, envelope.message))
                except BaseException as raised:  # what a generator cannot survive
                    stepper.fail(raised)
                if stepper.state is RUNNING:
                    return self._lend(spare, Suspended(cell, life, envelope, stepper, waiting, context))
                value, error = stepper.value, stepper.error
                stepper.value = stepper.error = None
                if error is None or stepper.alive:
                    self._steppers.append(stepper)  # no more than ever ran at once, which `_keep` bounds
            else:
                outcome = self._first_step(life, envelope, handler, life.actor, is_async=False)
                if isinstance(outcome, Suspended):
                    return self._lend(spare, outcome)
                value, error = outcome
        finally:
            table[loop] = caller
            life.current = None
            self._depth -= 1
        cancelling = spare.cancelling  # a method of a field is looked up slowly when it is called in one go
        if cancelling() or (spare.key in spare.scoped and spare.probe.dirty()):
            self._retire(spare)
        else:
            spares.append(spare)
        if error is not None or caller.cancelling():
            if envelope.reply is None:  # else it was put into the stash
                envelope.reply = loop.create_future()
            self._end(envelope, value, error)
            self.rest(cell)
            return PENDING
        if cell.plain and cell.first is None and cell.mailbox is None:
            cell.status = IDLE
            return value
        self._end(envelope, value, None)
        self.rest(cell)
        return value if envelope.reply is None else PENDING

    def _lend(self, spare: Spare, suspended: Suspended) -> Any:
        """Give a handler that has suspended to the spare that was its current task."""
        release(suspended.waiting)
        if suspended.envelope.reply is None:
            suspended.envelope.reply = self._loop.create_future()
        spare.suspended = suspended
        suspended.life.own(suspended.envelope, spare.task)
        if not spare.wake.done():
            spare.wake.set_result(None)
        self._fill()
        suspended.life.current = None
        self.rest(suspended.cell)
        return PENDING

    def _retire(self, spare: Spare) -> None:
        """End a spare that the handler left dirty (rule 4)."""
        spare.retire = True
        if not spare.wake.done():
            spare.wake.set_result(None)
        self._fill()


note_driver(adopt, Dispatcher._drain, Dispatcher._finish, Dispatcher._first_step, Dispatcher.step)
