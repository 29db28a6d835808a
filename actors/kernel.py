"""The kernel: one node's addresses and everything that happens to them.

It takes objects only (clock, scheduler), opens nothing, and lives in the event loop it was entered in. Who may
be restarted, and when, is not decided here: an address that has a supervisor (`on_exit`) waits in state
`failed` until that supervisor calls `restart` or `stop`; one without stops with its incarnation.

Order of an end: no further message begins; the running handler finishes within the deadline, else is cancelled,
else fenced; children stop, last started first; `on_stop` runs; names are released; then notices go out.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Literal, Self

from understudy.actors.actor import Actor, Leave
from understudy.actors.cell import START, Cell, Envelope, Life
from understudy.actors.clock import Clock, SystemClock
from understudy.actors.errors import ActorStopped, Fenced, NotHandled, SpecError, UsageError, WrongLoop
from understudy.actors.lifecycle import SHUTDOWN, Exit
from understudy.actors.loop import Dispatcher, Scheduler
from understudy.actors.messages import Down, Message, round_trip
from understudy.actors.refs import Ref, Refused
from understudy.actors.registry import Registry
from understudy.actors.telemetry import DeadLetter, LetterReason, Telemetry, log
from understudy.actors.timers import Timer, Timers

CANCEL_GRACE: Final = 1.0
"""Seconds a cancelled handler has to end before it is fenced."""

OnExit = Callable[[Cell, int, Exit], None]


class Kernel:
    """See the module. Enter it with `async with`; leaving stops everything, last started first."""

    def __init__(self, *, clock: Clock | None = None, scheduler: Scheduler | None = None, check: bool = False) -> None:
        self.clock: Clock = clock or SystemClock()
        self.check = check
        self.registry = Registry[Cell]()
        self.telemetry = Telemetry(self.clock.monotonic)
        self.interrupted: BaseException | None = None
        self.on_interrupt: Callable[[BaseException], None] | None = None
        self.on_released: Callable[[Cell, Exit], None] | None = None
        self.fenced_handlers = 0
        self._scheduler = scheduler
        self._top: dict[str, Cell] = {}
        self._reapers: set[asyncio.Task[None]] = set()
        self._anonymous = 0
        self._open = False

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self.timers = Timers(self.loop, self._scheduler.next_timer if self._scheduler else None)
        self._thread = threading.get_ident()
        self._context = contextvars.copy_context()
        self._dispatcher = Dispatcher(self, self._scheduler)
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop every actor, last started first, then the workers. Safe to call twice."""
        if not self._open:
            return
        try:
            for cell in reversed(list(self._top.values())):
                await self.stop(cell)
        finally:
            self._open = False
            self.timers.close()
            if left := await self._dispatcher.aclose():
                log.error("%d handlers ignore cancellation and were left behind", left)

    def check_thread(self) -> None:
        """Raise `WrongLoop` when called from another thread, or after the kernel was closed."""
        if threading.get_ident() != self._thread:
            raise WrongLoop("a ref was used from another thread; use ref.tell_threadsafe(...) there")

    # -- addresses -----------------------------------------------------------------------------------------

    def ref_of(self, cell: Cell) -> Ref[Any]:
        """A ref to a cell."""
        return Ref(cell)

    def spawn(
        self,
        factory: Callable[[], Actor[Any]],
        *,
        name: str = "",
        parent: Cell | None = None,
        on_exit: OnExit | None = None,
        concurrency: int = 1,
        number: int = 0,
    ) -> Cell:
        """Make an address and begin its first incarnation. Raises `SpecError` for a taken or malformed name.

        `on_exit` makes the caller its supervisor. `number` is the incarnation to continue from.
        """
        if not self._open:
            raise UsageError(f"spawn {name!r}: the system is not running")
        if name.startswith(("@", "/")) or name.endswith("/"):
            raise SpecError(f"actor name {name!r}: a leading '@' and empty parts are reserved")
        if parent is not None and parent.state in ("stopping", "stopped"):
            raise ActorStopped(parent.path, parent.exit)
        name = name or self.anonymous()
        path = f"{parent.path}/{name}" if parent is not None else name
        cell = Cell(self, path, name, factory)
        cell.parent, cell.on_exit, cell.concurrency, cell.number = parent, on_exit, concurrency, number
        if isinstance(factory, type) and issubclass(factory, Actor):
            cell.table = dict(factory.handlers)
        self.registry.add(path, cell)
        siblings = parent.children if parent is not None else self._top
        siblings[name] = cell
        self._begin(cell, "start")
        return cell

    def anonymous(self) -> str:
        """A name that nobody chose."""
        self._anonymous += 1
        return f"${self._anonymous}"

    def _begin(self, cell: Cell, event: Any) -> None:
        cell.advance(event)
        cell.number += 1
        cell.restarting = False
        cell.life = Life(cell.number, self._context.copy(), self.loop.time())
        cell.started = self.loop.create_future()
        cell.box().put_control(Envelope(START))
        self._wake(cell)

    async def wait_started(self, cell: Cell) -> Exit | None:
        """Wait until the present incarnation has started; the exit if it failed to."""
        if cell.started is not None and not cell.started.done():
            await asyncio.shield(cell.started)
        return None if cell.state in ("running", "suspended") else cell.exit

    def restart(self, cell: Cell) -> None:
        """Begin the next incarnation of a failed address. Its mailbox is as it was."""
        self._begin(cell, "restart")

    def _wake(self, cell: Cell) -> None:
        if not cell.scheduled and cell.runnable():
            self._dispatcher.schedule(cell)

    # -- sending -------------------------------------------------------------------------------------------

    def post(self, cell: Cell, envelope: Envelope, *, quiet: bool = False) -> Literal[True] | Refused:
        """Put an envelope into the mailbox: True or `Refused`. `quiet` leaves a refusal for `full` to the caller."""
        self.check_thread()
        refused = self._door(cell, envelope)
        if refused is not None:
            self._letter(cell, envelope, "stopped" if refused.reason == "dead" else "unknown")
            return refused
        offer, dropped = cell.box().offer(envelope)
        if offer == "full":
            if not quiet:
                self._letter(cell, envelope, "full")
            return Refused("full", cell.path)
        if dropped is not None:
            self._lose(cell, dropped, "dropped")
        self._wake(cell)
        return True

    def _door(self, cell: Cell, envelope: Envelope) -> Refused | None:
        if cell.state in ("stopping", "stopped"):
            return Refused("dead", cell.path)
        if cell.table is not None and type(envelope.message) not in cell.table:
            return Refused("unknown", cell.path)
        if self.check:
            envelope.message = round_trip(envelope.message)
        return None

    async def post_when_room(self, cell: Cell, envelope: Envelope, timeout: float) -> Literal[True] | Refused:
        """`post`, waiting for room at most `timeout` seconds."""
        posted = self.post(cell, envelope, quiet=True)
        if posted or posted.reason != "full":
            return posted
        granted: asyncio.Future[bool] = self.loop.create_future()

        def grant() -> bool:
            if granted.done():
                return False
            granted.set_result(True)
            self.loop.call_soon(self._wake, cell)
            return True

        cell.box().wait_for_room(envelope, grant)

        def give_up() -> None:
            if not granted.done():
                granted.set_result(False)

        timer = self.timers.after(timeout, give_up)
        try:
            if await granted:
                return True
        finally:
            timer.cancel()
            granted.cancel()
        reason: LetterReason = "stopped" if cell.state in ("stopping", "stopped") else "full"
        self._letter(cell, envelope, reason)
        return Refused("dead" if reason == "stopped" else "full", cell.path)

    def force(self, cell: Cell, message: Message[Any]) -> None:
        """Put accepted work into a mailbox whatever its size."""
        cell.box().force(Envelope(message))
        self._wake(cell)

    def control(self, cell: Cell, message: Message[Any]) -> None:
        """Put a notice into the control lane, if the address lives and has a handler for it."""
        if cell.state in ("stopping", "stopped") or (cell.table is not None and type(message) not in cell.table):
            return
        if not cell.box().put_control(Envelope(message)):
            self.telemetry.dead(DeadLetter(cell.path, "", "full", message))
        self._wake(cell)

    def cancel_request(self, cell: Cell, envelope: Envelope) -> None:
        """End the handler of one request, or let it never begin."""
        envelope.cancelled = True
        life = cell.life
        if life is not None and envelope in life.tasks:
            life.tasks[envelope].cancel()

    def timer(self, cell: Cell, seconds: float, message: Message[Any]) -> Timer:
        """Send `message` to the present incarnation later."""
        life = cell.life
        if life is None:
            raise ActorStopped(cell.path, cell.exit)

        def fire() -> None:
            if cell.life is life:
                self.control(cell, message)

        life.timers = [t for t in life.timers if t.call is not None]
        timer = self.timers.after(seconds, fire)
        life.timers.append(timer)
        return timer

    def _letter(self, cell: Cell, envelope: Envelope, reason: LetterReason, detail: str = "") -> None:
        self.telemetry.dead(DeadLetter(cell.path, envelope.sender, reason, envelope.message, detail))

    def _lose(self, cell: Cell, envelope: Envelope, reason: LetterReason) -> None:
        envelope.fail(ActorStopped(cell.path, cell.exit if reason == "stopped" else Exit("gone", reason)))
        self._letter(cell, envelope, reason)

    # -- what the dispatcher asks and tells ----------------------------------------------------------------

    def expired(self, cell: Cell, envelope: Envelope) -> bool:
        """Drop what cannot be served: requests nobody waits for any more, and messages without a handler."""
        if cell.table is not None and envelope.message is not START and type(envelope.message) not in cell.table:
            names = tuple(sorted(t.__name__ for t in cell.table))
            envelope.fail(NotHandled(cell.path, type(envelope.message), names))
            self._letter(cell, envelope, "unknown")
            return True
        if envelope.deadline is None or (envelope.deadline > self.loop.time() and not envelope.cancelled):
            return False
        self._letter(cell, envelope, "expired")
        return True

    def entry(self, cell: Cell, envelope: Envelope) -> Callable[[], Any]:
        """The handler of an envelope, bound to actor and message."""
        life = cell.life
        assert life is not None  # noqa: S101  # the dispatcher serves living cells only
        if envelope.message is START:
            return functools.partial(self._start_life, cell, life)
        assert cell.table is not None  # noqa: S101  # set when the life started
        return functools.partial(cell.table[type(envelope.message)], life.actor, envelope.message)

    async def _start_life(self, cell: Cell, life: Life) -> None:
        actor = cell.factory()
        if not isinstance(actor, Actor):
            raise SpecError(f"{cell.path}: the factory returned {type(actor).__name__}, not an Actor")
        life.actor = actor
        actor._cell = cell
        cell.table = dict(actor.handlers)
        cell.limit, cell.overflow = actor.mailbox_limit, actor.overflow
        cell.box().limit, cell.box().overflow = cell.limit, cell.overflow
        await actor.on_start()

    def done(self, cell: Cell, life: Life, envelope: Envelope, value: object) -> None:
        """A handler returned."""
        if envelope.message is START:
            if cell.state == "starting":
                cell.advance("started")
                self.telemetry.flight(cell.path, "started", f"#{life.number}")
            if cell.started is not None and not cell.started.done():
                cell.started.set_result(None)
        elif not envelope.answer(value):
            self.telemetry.dead(DeadLetter(envelope.sender, cell.path, "late", value))
        if cell.restarting and cell.state == "running":
            self._end_incarnation(cell, life, cell.exit)

    def failed(self, cell: Cell, life: Life, envelope: Envelope, error: BaseException) -> None:
        """A handler raised."""
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            self.interrupted = error
            if self.on_interrupt is not None:
                self.on_interrupt(error)
        if life.fenced or life is not cell.life:
            envelope.fail(ActorStopped(cell.path, cell.exit))
            return
        if isinstance(error, asyncio.CancelledError) and envelope.cancelled and cell.state == "running":
            envelope.fail(ActorStopped(cell.path, Exit("killed", "the asker cancelled it")))
            return
        exit = _exit_of(error, starting=envelope.message is START)
        if envelope.message is not START:
            stopped = ActorStopped(cell.path, exit)
            stopped.__cause__ = error if isinstance(error, Exception) else None
            envelope.fail(stopped)
        if cell.state in ("stopping", "stopped", "failed"):
            return
        if not isinstance(error, Leave):
            if envelope.message is not START:
                self._letter(cell, envelope, "failed", str(exit))
            self.telemetry.crash(cell.path, life.number, exit, envelope.message, error)
        self._end_incarnation(cell, life, exit)

    def settled(self, cell: Cell) -> None:
        """A delivery ended; somebody may wait for the last one."""
        if cell.running == 0 and cell.idle is not None and not cell.idle.done():
            cell.idle.set_result(None)

    # -- ends ----------------------------------------------------------------------------------------------

    def leave(self, cell: Cell, exit: Exit) -> None:
        """End the present incarnation after its present message."""
        cell.exit, cell.restarting = exit, True
        if cell.running == 0 and cell.state == "running" and cell.life is not None:
            self._end_incarnation(cell, cell.life, exit)

    def _end_incarnation(self, cell: Cell, life: Life, exit: Exit) -> None:
        cell.advance("fail")
        cell.exit = exit
        life.end_timers()
        life.cancel()
        if cell.running or cell.children or (life.actor is not None and _has_on_stop(life.actor)):
            self._reap(cell, self._end_life(cell, life, exit))
        else:
            self._ended(cell, life, exit)

    def _reap(self, cell: Cell, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.Task(work, loop=self.loop, name=f"understudy-end-{cell.path}")
        self._reapers.add(task)
        task.add_done_callback(self._reapers.discard)
        cell.reaper = task
        return task

    async def _end_life(self, cell: Cell, life: Life, exit: Exit) -> None:
        await self._quiesce(cell, life, 0.0)
        await self._wind_up(cell, life, exit)
        self._ended(cell, life, exit)

    def _ended(self, cell: Cell, life: Life, exit: Exit) -> None:
        life.fenced = True
        cell.life = None
        if cell.started is not None and not cell.started.done():
            cell.started.set_result(None)
        self._fail_fast(cell, exit)
        self._notify(cell, life.number, exit, restarting=cell.on_exit is not None)
        if cell.state != "failed":
            return  # a stop came meanwhile and goes on from here
        if cell.on_exit is not None:
            cell.on_exit(cell, life.number, exit)
        else:
            cell.advance("stop")
            self._release(cell, exit)

    def _fail_fast(self, cell: Cell, exit: Exit) -> None:
        if cell.mailbox is None or not cell.mailbox.has_work:
            return
        for envelope in list(cell.mailbox._work):
            if envelope.fail_fast:
                envelope.fail(ActorStopped(cell.path, exit))

    async def _quiesce(self, cell: Cell, life: Life, seconds: float) -> bool:
        """Wait for running handlers `seconds`, then cancel them, then fence. False when fenced."""
        if await self._idle_within(cell, seconds):
            return True
        life.cancel()
        if await self._idle_within(cell, CANCEL_GRACE):
            return True
        life.fenced = True
        self.fenced_handlers += 1
        log.error("%s #%d ignores cancellation; it was fenced", cell.path, life.number, extra={"path": cell.path})
        cell.running = 0
        return False

    async def _idle_within(self, cell: Cell, seconds: float) -> bool:
        if cell.running == 0:
            return True
        if seconds <= 0:
            return False
        cell.idle = self.loop.create_future()
        await asyncio.wait([cell.idle], timeout=seconds)
        cell.idle = None
        return cell.running == 0

    async def _wind_up(self, cell: Cell, life: Life, exit: Exit) -> None:
        """Children, then `on_stop`, each with its deadline."""
        for child in reversed(list(cell.children.values())):
            await self.stop(child, exit if exit.kind == "shutdown" else SHUTDOWN)
        if life.actor is None or life.fenced or not _has_on_stop(life.actor):
            return
        task = asyncio.Task(life.actor.on_stop(exit), loop=self.loop, context=life.context.copy())
        _, pending = await asyncio.wait([task], timeout=cell.shutdown)
        if pending:
            task.cancel()
            await asyncio.wait([task], timeout=CANCEL_GRACE)
            log.error("%s: on_stop did not end within %g s", cell.path, cell.shutdown, extra={"path": cell.path})
        elif not task.cancelled() and task.exception() is not None:
            log.error("%s: on_stop raised %r", cell.path, task.exception(), extra={"path": cell.path})

    async def stop(self, cell: Cell, exit: Exit = SHUTDOWN, *, deadline: float | None = None) -> None:
        """Stop an address for good; returns when it is gone. Idempotent, and not undone by cancellation.

        A running handler has `deadline` seconds (default: the child's `shutdown`, 5) to finish.
        """
        if cell.state == "stopped":
            return
        if cell.state != "stopping":
            before = cell.reaper
            cell.advance("stop")
            cell.exit = exit
            cell.stopped = self.loop.create_future()
            self._reap(cell, self._stop(cell, exit, cell.shutdown if deadline is None else deadline, before))
        if cell.stopped is not None:
            await asyncio.shield(cell.stopped)

    async def _stop(self, cell: Cell, exit: Exit, deadline: float, before: asyncio.Task[None] | None) -> None:
        try:
            if before is not None:
                await asyncio.wait([before])
            life = cell.life
            if life is not None:
                life.end_timers()
                patience = 0.0 if life.actor is not None and life.actor.cancel_on_stop else deadline
                if not await self._quiesce(cell, life, patience):
                    exit = cell.exit = Exit("killed", str(exit))
                await self._wind_up(cell, life, exit)
                life.fenced = True
                cell.life = None
                self._notify(cell, life.number, exit, restarting=False)
        finally:
            self._release(cell, exit)

    def _release(self, cell: Cell, exit: Exit) -> None:
        cell.advance("end")
        cell.exit = exit
        siblings = cell.parent.children if cell.parent is not None else self._top
        if siblings.get(cell.name) is cell:
            del siblings[cell.name]
        self.registry.remove(cell.path)
        if cell.started is not None and not cell.started.done():
            cell.started.set_result(None)
        for envelope in cell.mailbox.drain() if cell.mailbox is not None else ():
            if envelope.message is not START:
                self._lose(cell, envelope, "stopped")
        self.telemetry.flight(cell.path, "stopped", str(exit))
        self._notify(cell, cell.number, exit, restarting=False)
        if self.on_released is not None:
            self.on_released(cell, exit)
        if cell.stopped is not None and not cell.stopped.done():
            cell.stopped.set_result(None)

    # -- watching ------------------------------------------------------------------------------------------

    def watch(self, watcher: Cell, target: Cell) -> None:
        """Note a watch; idempotent until it has fired."""
        if target.state == "stopped":
            self.control(watcher, Down(target.path, target.number, "gone"))
        else:
            target.watchers[watcher] = target.number

    def unwatch(self, watcher: Cell, target: Cell) -> None:
        """Forget a watch."""
        target.watchers.pop(watcher, None)

    def _notify(self, cell: Cell, number: int, exit: Exit, *, restarting: bool) -> None:
        watchers, cell.watchers = cell.watchers, {}
        for watcher in watchers:
            self.control(watcher, Down(cell.path, number, exit.kind, exit.detail, restarting))


def _has_on_stop(actor: Actor[Any]) -> bool:
    return type(actor).on_stop is not Actor.on_stop


def _exit_of(error: BaseException, *, starting: bool) -> Exit:
    if isinstance(error, Leave):
        return error.exit
    if isinstance(error, Fenced):
        return Exit("killed", "fenced")
    detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Exit("start" if starting else "error", detail)
