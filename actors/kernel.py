"""The kernel: one node's addresses and everything that happens to them.

It takes objects only (clock, scheduler), opens nothing, and lives in the event loop it was entered in. Who may
be restarted, and when, is not decided here: an address that has a supervisor (`on_exit`) waits in state
`failed` until that supervisor calls `restart` or `stop`; one without stops with its incarnation. How ends proceed
is told in `endings`.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import anyio

from understudy.actors import home, watching
from understudy.actors.actor import Actor, Leave
from understudy.actors.cell import BUSY, IDLE, QUEUED, Cell
from understudy.actors.clock import Clock, SystemClock
from understudy.actors.delivery import DELIVERY, START, Entry, Envelope, Handler, Life, Notice, message_of, path_of
from understudy.actors.endings import Endings
from understudy.actors.errors import (
    ActorStopped,
    Fenced,
    NameTaken,
    NotHandled,
    SpecError,
    UsageError,
)
from understudy.actors.lifecycle import ALIVE, SHUTDOWN, Exit
from understudy.actors.links import Links
from understudy.actors.loop import Dispatcher
from understudy.actors.messages import Down, Message
from understudy.actors.posting import Posting
from understudy.actors.refs import Ref
from understudy.actors.registry import Name, Registry, parse
from understudy.actors.scheduling import Scheduler, now_of, simulation_of
from understudy.actors.suspension import Peek, Suspensions
from understudy.actors.tasks import new_task
from understudy.actors.telemetry import DeadLetter, Telemetry, log
from understudy.actors.timers import Timers
from understudy.actors.topics import Topics

if TYPE_CHECKING:
    from understudy.actors.durable.office import Office
    from understudy.actors.remote.nodes import Nodes

OnExit = Callable[[Cell, int, Exit], None]

DETAIL_LENGTH: Final = 500
"""Characters of an error that an exit keeps: exits are journalled, and errors quote errors."""


class Kernel(Posting):
    """See the module. Enter it with `async with`; leaving stops everything, last started first.

    `interrupted` keeps the first KeyboardInterrupt or SystemExit that a handler raised. It starts an ordered stop of
    every actor; with `on_interrupt` set, that is called instead.
    """

    def __init__(self, *, clock: Clock | None = None, scheduler: Scheduler | None = None, check: bool = False) -> None:
        self.clock: Clock = clock or SystemClock()
        self.check = check
        self.registry = Registry[Cell]()
        self.telemetry = Telemetry(self.clock.monotonic)
        self.links = Links()
        self.topics = Topics(self)
        self.interrupted: BaseException | None = None
        self.on_interrupt: Callable[[BaseException], None] | None = None
        self.on_released: Callable[[Cell, Exit], None] | None = None
        self.on_started: Callable[[Cell, Life], None] | None = None
        self.office: Office | None = None
        self.nodes: Nodes | None = None
        self.fenced_handlers = 0
        self.some_fail_fast = False  # whether an ask with on_restart="fail" was ever made: else no mailbox is searched
        self._scheduler = scheduler
        self._endings = Endings(self)
        self.suspensions = Suspensions(self)
        self._anonymous = 0
        self._slashed = False
        self._open = self._closing = False
        self._closer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if hasattr(self, "loop"):
            raise UsageError("a kernel is entered once; make another one")
        self.loop = asyncio.get_running_loop()
        simulation = simulation_of(self.loop)
        if simulation is not None:
            simulation.enter(self)
        self.thread = get_ident()
        self.now = now_of(self.loop)
        self.context = contextvars.copy_context()
        self.context.run(DELIVERY.set, None)
        self.timers = Timers(self.loop, self._scheduler.next_timer if self._scheduler else None, self.context)
        flights = self.telemetry.ring
        self.dispatcher = self.context.run(Dispatcher, self, self.context, flights, self._scheduler)
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop every actor, last started first, then the workers. Safe to call twice.

        Cancelling it does not cut it short: the cancellation is raised when everything has stopped.
        """
        self._closing = self._closing or self._open
        self._open = False
        cancelled: asyncio.CancelledError | None = None
        with anyio.CancelScope(shield=True):
            while self._closing:
                if self._closer is None or self._closer.done():
                    self._closer = new_task(self._close(), self.loop, context=self.context.copy())
                try:
                    await asyncio.wait([self._closer])
                except asyncio.CancelledError as error:
                    cancelled = error
        if cancelled is not None:
            raise cancelled

    async def _close(self) -> None:
        try:
            await self._stop_all()
            await self._endings.join()
        except asyncio.CancelledError:
            return  # begun again
        self.timers.close()
        if left := await self.dispatcher.aclose():
            log.error("%d handlers ignore cancellation and were left behind", left)
        self._closing = False

    async def _stop_all(self) -> None:
        while self.registry.top:
            for cell in reversed(list(self.registry.top.values())):
                await self.stop(cell)

    def interrupt(self, error: BaseException) -> None:
        """Note that somebody wants the process to end, and begin an ordered stop."""
        if self.interrupted is not None:
            return
        self.interrupted = error
        if self.on_interrupt is not None:
            self.on_interrupt(error)
        else:
            self._endings.reap(None, self._stop_all)

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
        """Make an address and begin its first incarnation. Raises `SpecError` for a malformed name, `NameTaken`.

        `on_exit` makes the caller its supervisor. `number` is the incarnation to continue from.
        """
        if not self._open and parent is None:
            raise UsageError(f"spawn {name!r}: the system is not running")
        if parent is not None and parent.state not in ALIVE:
            raise ActorStopped(parent.path, parent.exit)
        chosen = self._name(name, parent) if name else self._next()
        cell = Cell(self, chosen, factory, parent, on_exit)
        cell.concurrency, cell.number = concurrency, number
        if isinstance(factory, type) and issubclass(factory, Actor):
            self._know(cell, factory)
        if parent is not None:
            parent.adopt(cell)
        else:
            self.registry.top[chosen] = cell
        self._begin(cell, "start")
        return cell

    def _name(self, name: str, parent: Cell | None) -> Name:
        """The name as it is kept. Raises `SpecError` when it may not be, or is taken."""
        if name.startswith("@") or not all(name.split("/")):
            raise SpecError(f"actor name {name!r}: a leading '@' and empty parts are reserved")
        chosen = parse(name)
        siblings = parent.children if parent is not None else self.registry.top
        if "/" in name:
            self._slashed = True
        if chosen in siblings or self._slashed:  # a name with a "/" may be the path of somebody's child
            path = name if parent is None else f"{parent.path}/{name}"
            holder = self.registry.at(path)
            if holder is not None:
                raise NameTaken(path, holder.number, holder.state)
        return chosen

    def _next(self) -> int:
        self._anonymous += 1
        return self._anonymous

    def open_door(self, cell: Cell) -> None:
        """Let messages take the short way again."""
        if cell.kind is not None and cell.state not in ("stopping", "stopped"):
            self._know(cell, cell.kind)

    def widen(self, cell: Cell, by: int) -> None:
        """Let `by` more handlers of a cell run at once, or fewer."""
        cell.concurrency += by
        cell.heed()
        self.open_door(cell)
        self.wake(cell)

    def _know(self, cell: Cell, kind: type[Actor[Any]]) -> None:
        plain = not self.check and cell.concurrency == 1 and kind.lifespan is Actor.lifespan and kind._keeps is None
        cell.know(kind, short_way=plain)

    def anonymous(self) -> str:
        """A name that nobody chose."""
        return f"${self._next()}"

    def _begin(self, cell: Cell, event: Literal["start", "restart"]) -> None:
        cell.advance(event)
        cell.number += 1
        cell.leaving, cell.fresh = False, True
        cell.life = Life(cell, cell.number)
        if cell.status != QUEUED:
            self.dispatcher.schedule(cell)

    def when_started(self, cell: Cell) -> asyncio.Future[None]:
        """Done when the present incarnation, which is starting, has started or ended. Do not cancel it."""
        if cell.started is None or cell.started.done():
            cell.started = self.loop.create_future()
        return cell.started

    async def wait_started(self, cell: Cell) -> Exit | None:
        """Wait until the present incarnation has started; the exit if it failed to."""
        if cell.state == "starting":
            await asyncio.shield(self.when_started(cell))
        return None if cell.state in ("running", "suspended") else cell.exit

    def restart(self, cell: Cell) -> None:
        """Begin the next incarnation of a failed address, after `on_exit` told its end. Its mailbox is as it was."""
        if cell.life is not None:
            raise UsageError(f"restart {cell.path}: its incarnation {cell.number} has not ended")
        self._begin(cell, "restart")

    def will_restart(self, cell: Cell) -> None:
        """Tell the watchers of a failed address that its supervisor is going to restart it."""
        self._endings.notify(cell, restarting=True)

    def tell_watchers(self, cell: Cell, notice: Down) -> None:
        """Tell the watchers of an address what ended there. For addresses of other nodes."""
        self._endings.tell_watchers(cell, notice)

    def forget(self, cell: Cell) -> None:
        """Release the names of an address. For `endings`."""
        if cell.parent is not None:
            cell.parent.disown(cell)
        elif self.registry.top.get(cell.name) is cell:
            del self.registry.top[cell.name]

    def come_back(self, cell: Cell) -> None:
        """Let a cell that is running again take messages."""
        cell.heed()
        if cell.status != QUEUED:
            self.dispatcher.rest(cell)

    # -- what the dispatcher asks and tells ----------------------------------------------------------------

    def admit(self, cell: Cell, life: Life, entry: Entry) -> tuple[Handler, bool] | None:
        """The handler of an entry; None, and a dead letter, for what cannot be served or is not wanted any more."""
        message = message_of(entry)
        assert cell.kind is not None  # noqa: S101  # known since the life started
        found = cell.kind._door.get(type(message))
        if life.kit is not None and found is not None:
            found = life.kit.through(life, found)
        if found is None and type(message) is Peek:
            return Peek.serve, False
        if isinstance(entry, Envelope):
            if found is None:
                entry.fail(NotHandled(cell.path, type(message), cell.takes()))
            elif entry.deadline is not None and (entry.cancelled or entry.deadline <= self.loop.time()):
                self.expire(cell, entry)
                return None
        if found is None:
            self.letter(cell, entry, "unknown")
        return found

    @staticmethod
    def bind(actor: Actor[Any], cell: Cell) -> None:
        """Give an actor its address, so that `actor.context` works."""
        actor._cell = cell

    def start(self, cell: Cell, life: Life) -> Coroutine[Any, Any, None] | None:
        """Make the actor; its `on_start`, if it has one, is left to await."""
        actor = cell.factory()
        kind = type(actor)
        if not isinstance(actor, Actor):
            raise SpecError(f"{cell.path}: the factory returned {kind.__name__}, not an Actor")
        life.actor = actor
        actor._cell = cell
        if cell.kind is not kind:
            self._know(cell, kind)
        if not kind._starts:
            return None
        if kind._keeps is not None and self.office is not None:
            self.office.begin(cell, actor)
        return actor.on_start() if kind.lifespan is Actor.lifespan else self._settle_in(cell, life, actor)

    async def _settle_in(self, cell: Cell, life: Life, actor: Actor[Any]) -> None:
        await home.enter(self, cell, life, actor)
        await actor.on_start()

    def done(self, cell: Cell, life: Life, envelope: Envelope, value: object) -> None:
        """A handler returned."""
        if life.fenced:
            return  # its asker was told, and the message is a dead letter
        if envelope.message is START:
            self._started(cell, life)
        elif not envelope.answer(value):
            self.telemetry.dead(DeadLetter(path_of(envelope.sender), cell.path, "late", value))
        if cell.leaving:
            self._leave_now(cell, life)

    def _started(self, cell: Cell, life: Life) -> None:
        life.ready = True
        if cell.state != "starting":
            return
        cell.state = "running"  # as the table says, without the question
        cell.heed()
        self.telemetry.flight(cell, "started", life.number)
        if self.on_started is not None:
            self.on_started(cell, life)
        if cell.started is not None:
            if not cell.started.done():
                cell.started.set_result(None)
            cell.started = None

    def failed(self, cell: Cell, life: Life, envelope: Envelope, error: BaseException) -> None:
        """A handler raised."""
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            self.interrupt(error)
        if life.fenced:
            return
        starting = envelope.message is START
        cut = isinstance(error, asyncio.CancelledError)
        if cut and envelope.cancelled and cell.state in ("running", "suspended"):
            envelope.fail(ActorStopped(cell.path, Exit("killed", "the asker cancelled it")))
            self._leave_now(cell, life)
            return
        cut = cut and cell.state not in ALIVE  # by us, because the incarnation ends
        exit = cell.exit if cut else _exit_of(error, starting=starting)
        again = not cut and not starting and self._redeliver(cell, envelope, error)
        if not starting and not again:
            self._answer_failure(cell, envelope, exit, error)
        if not cut and not isinstance(error, Leave):
            message = None if starting else envelope.message
            chain = [each.life.cell for each in envelope.chain if each.life is not None]
            self.telemetry.crash(cell, life.number, exit, message, error, chain)
        if cell.state in ALIVE:
            self._endings.end_incarnation(cell, life, exit)

    def _redeliver(self, cell: Cell, envelope: Envelope, error: BaseException) -> bool:
        """Put the message that an incarnation failed with back to the front, if its actor wants that."""
        kind = cell.kind
        if kind is None or envelope.tries >= kind.redeliver or cell.on_exit is None or isinstance(error, Leave):
            return False
        if envelope.durable:
            return False  # its desk does that
        stashed = envelope.reply is not None and not isinstance(envelope.reply, asyncio.Future)
        if isinstance(envelope, Notice) or stashed or cell.state not in ALIVE:
            return False
        envelope.tries += 1
        cell.box().put_back([envelope])
        return True

    def _answer_failure(self, cell: Cell, envelope: Envelope, exit: Exit, error: BaseException) -> None:
        if envelope.reply is not None:
            stopped = ActorStopped(cell.path, exit)
            stopped.__cause__ = error if isinstance(error, Exception) else None
            envelope.fail(stopped)
        if not isinstance(error, Leave) and not envelope.durable:
            self.letter(cell, envelope, "failed", str(exit))

    def settled(self, cell: Cell) -> None:
        """The last running handler of a cell has ended."""
        idle, cell.idle = cell.idle, None
        cell.heed()
        if idle is not None and not idle.done():
            idle.set_result(None)

    def when_idle(self, cell: Cell) -> asyncio.Future[None]:
        """Done when the last running handler of a cell has ended. One future for all who wait; do not cancel it."""
        if cell.idle is None:
            cell.idle, cell.plain = self.loop.create_future(), False
        return cell.idle

    # -- ends ----------------------------------------------------------------------------------------------

    def leave(self, cell: Cell, exit: Exit) -> None:
        """End the present incarnation after its present message, or now when it handles none."""
        if cell.state not in ALIVE:
            return
        cell.exit, cell.leaving, cell.plain = exit, True, False
        if cell.status == IDLE:
            cell.status = BUSY
        life = cell.life
        if life is not None and life.current is None and not life.tasks:
            self._leave_now(cell, life)

    def _leave_now(self, cell: Cell, life: Life) -> None:
        if cell.leaving and cell.state in ("running", "suspended"):
            self._endings.end_incarnation(cell, life, cell.exit)

    async def stop(self, cell: Cell, exit: Exit = SHUTDOWN, *, deadline: float | None = None) -> None:
        """Stop an address for good; returns when it is gone. Idempotent, and not undone by cancellation.

        A running handler has `deadline` seconds (default: the child's `shutdown`, 5) to finish; one that is still
        starting has none. Children stop first, last started first.
        """
        await self._endings.stop(cell, exit, deadline=deadline)

    def begin_stop(self, cell: Cell, exit: Exit = SHUTDOWN) -> None:
        """`stop` without waiting for it."""
        self._endings.begin_stop(cell, exit)

    def halt(self, cell: Cell, exit: Exit = SHUTDOWN, *, deadline: float | None = None) -> None:
        """Begin to end the present incarnation and keep the address for the next one; see `Endings.halt`."""
        self._endings.halt(cell, exit, deadline)

    def end(self, cell: Cell, life: Life, exit: Exit) -> None:
        """End `life`, the present incarnation, at once, cancelling what it handles; nothing if it is ending already."""
        if cell.state in ALIVE:
            self._endings.end_incarnation(cell, life, exit)

    def watch(self, watcher: Cell, target: Cell, message: Message[Any] | None = None) -> None:
        """See `watching.watch`."""
        watching.watch(watcher, target, message)

    def unwatch(self, watcher: Cell, target: Cell) -> None:
        """See `watching.unwatch`."""
        watching.unwatch(watcher, target)


def _exit_of(error: BaseException, *, starting: bool) -> Exit:
    if isinstance(error, Leave):
        return error.exit
    if isinstance(error, Fenced):
        return Exit("killed", "fenced")
    detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    detail = detail if len(detail) <= DETAIL_LENGTH else f"{detail[: DETAIL_LENGTH - 1]}…"
    return Exit("start" if starting else "error", detail)
