"""What is recorded of ends, watches, suspensions, crashes and replies: thin classes over those of production.

Each replaces the class of one object of a simulated kernel, notes what its base is about to do or has done, and leaves
the doing to it. What concerns messages and handlers is in `simulation`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.delivery import DELIVERY, Envelope, Life
from understudy.actors.endings import CANCEL_GRACE, Endings, _patience
from understudy.actors.kit import kit_of
from understudy.actors.lifecycle import ALIVE, Exit
from understudy.actors.links import Links
from understudy.actors.loop import Dispatcher
from understudy.actors.stash import Held
from understudy.actors.suspension import Suspensions, _Hold
from understudy.actors.telemetry import DeadLetter, Telemetry
from understudy.actors.testing.identity import SimFuture
from understudy.actors.testing.trace import Left

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from understudy.actors.telemetry import Who
    from understudy.actors.testing.simkernel import SimKernel
    from understudy.actors.workers import Spare, Suspended

SECOND = 1_000_000_000


class AskReply(SimFuture):
    """The reply that an asker waits for. Tells how it was answered; a future with this class is one of `track`."""

    kernel: SimKernel
    cell: Cell
    number: int
    what: str
    until: int

    def set_result(self, result: Any) -> None:  # as the base
        """See `asyncio.Future`."""
        super().set_result(result)
        self._tell("ok")

    def set_exception(self, exception: type | BaseException, /) -> None:
        """See `asyncio.Future`."""
        super().set_exception(exception)
        self._tell(exception.__name__ if isinstance(exception, type) else type(exception).__name__)

    def cancel(self, msg: Any | None = None) -> bool:  # as the base
        """See `asyncio.Future`."""
        cancelled = super().cancel(msg)
        if cancelled:
            self._tell("cancelled")
        return cancelled

    def _tell(self, how: str) -> None:
        simulation = self.kernel.simulation
        simulation.unanswered.pop(self.number, None)
        late = max(0, simulation.loop.nanoseconds - self.until)
        simulation.note("answered", self.cell, self.number, what=self.what, detail=how, size=late)


class LostReply(SimFuture):
    """Where a reply goes that a planned fault takes."""


def track(kernel: SimKernel, cell: Cell, envelope: Envelope, number: int) -> None:
    """Let the reply of a request tell how it is answered. Nothing for one that does so already."""
    reply: object = getattr(envelope.reply, "asked", envelope.reply)
    if type(reply) is not SimFuture or envelope.deadline is None:
        return
    reply.__class__ = AskReply
    assert isinstance(reply, AskReply)
    reply.kernel, reply.cell, reply.number = kernel, cell, number
    reply.what, reply.until = type(envelope.message).__name__, round(envelope.deadline * SECOND)
    kernel.simulation.unanswered[number] = cell.path, reply.until


class SimDispatcher(Dispatcher):
    """Tracks the reply of a request that was stepped at once and has suspended."""

    __slots__ = ()

    def _lend(self, spare: Spare, suspended: Suspended) -> Any:  # as the base
        result = super()._lend(spare, suspended)
        kernel: Any = suspended.cell.kernel
        track(kernel, suspended.cell, suspended.envelope, kernel.number_of(suspended.envelope.message))
        return result


class SimTelemetry(Telemetry):
    """Records crashes that count, and late replies."""

    kernel: SimKernel

    def dead(self, letter: DeadLetter) -> None:
        """See `Telemetry.dead`."""
        if letter.reason == "late" and self.kernel.done_with is not None:
            cell, number = self.kernel.done_with
            self.kernel.simulation.note("letter", cell, number, what=type(letter.message).__name__, detail="late")
        super().dead(letter)

    def crash(
        self,
        who: Who,
        incarnation: int,
        exit: Exit,
        message: object,
        error: BaseException | None,
        chain: Collection[Who] = (),
    ) -> None:
        """See `Telemetry.crash`."""
        if isinstance(who, Cell):
            event = self.kernel.simulation.note("crashed", who, what=exit.kind, detail=str(exit))
            event.number = incarnation
            event.peer = type(error).__name__
        super().crash(who, incarnation, exit, message, error, chain)


class SimLinks(Links):
    """Records whom an end concerns over a link."""

    def sever(self, cell: Cell, life: Life, exit: Exit) -> None:
        """See `Links.sever`."""
        kernel: Any = cell.kernel  # one of ours
        for other in kit_of(life).links:
            theirs = other.life
            if theirs is not None and theirs.kit is not None and cell in theirs.kit.links and other.state in ALIVE:
                kernel.simulation.note("severed", other, peer=cell, what=exit.kind)
        super().sever(cell, life, exit)


class SimSuspensions(Suspensions):
    """Records from when to when an incarnation is suspended."""

    _kernel: SimKernel

    async def _stand_still(self, cell: Cell, hold: _Hold, until: float, timeout: float) -> None:
        if hold.waiting == 1 and not hold.settled:
            self._kernel.simulation.note("suspended", cell)
        await super()._stand_still(cell, hold, until, timeout)

    def _resume(self, cell: Cell) -> None:
        if cell.state == "suspended":
            self._kernel.simulation.note("resumed", cell)
        super()._resume(cell)


class SimEndings(Endings):
    """Records how incarnations and addresses end."""

    _kernel: SimKernel

    def end_incarnation(self, cell: Cell, life: Life, exit: Exit) -> None:
        """See `Endings.end_incarnation`."""
        self._note_begin(cell, "ending", exit, 0.0)
        super().end_incarnation(cell, life, exit)

    def halt(self, cell: Cell, exit: Exit, deadline: float | None = None) -> None:
        """See `Endings.halt`."""
        if cell.state in ALIVE and cell.life is not None:
            self._note_begin(cell, "halting", exit, _patience(cell, deadline))
        super().halt(cell, exit, deadline)

    def begin_stop(self, cell: Cell, exit: Exit, deadline: float | None = None) -> None:
        """See `Endings.begin_stop`."""
        if cell.state not in ("stopping", "stopped"):
            self._note_begin(cell, "stopping", exit, _patience(cell, deadline))
        super().begin_stop(cell, exit, deadline)

    def _note_begin(self, cell: Cell, kind: Any, exit: Exit, patience: float) -> None:  # one of three kinds of event
        life = cell.life
        actor = None if life is None else life.actor
        together = actor is not None and actor.stops_together
        detail = ("together" if together else "") if kind == "stopping" else str(exit)
        size = round((0.0 if life is None else _longest(cell, actor, patience)) * SECOND)
        self._kernel.simulation.note(kind, cell, peer=acting_parent(cell), what=exit.kind, detail=detail, size=size)

    def _ended(self, cell: Cell, life: Life, exit: Exit) -> None:
        self._note_end(cell, life, exit)
        super()._ended(cell, life, exit)

    def _cut_off(self, cell: Cell, life: Life, exit: Exit) -> None:
        self._note_end(cell, life, exit)
        super()._cut_off(cell, life, exit)

    def _note_end(self, cell: Cell, life: Life, exit: Exit) -> None:
        if cell.life is life:
            simulation = self._kernel.simulation
            last = simulation.trace.events[-1]
            if last.kind == "ended" and last.path == cell.path and last.number == life.number:
                return
            simulation.note("ended", cell, what=exit.kind, detail=str(exit))

    def _fence(self, cell: Cell, life: Life) -> None:
        if not life.fenced:
            self._kernel.simulation.note("fenced", cell)
        super()._fence(cell, life)

    def release(self, cell: Cell, exit: Exit) -> None:
        """See `Endings.release`."""
        self._kernel.simulation.note("released", cell, what=exit.kind, detail=str(exit))
        super().release(cell, exit)


def _longest(cell: Cell, actor: Actor[Any] | None, patience: float) -> float:
    """Seconds that the end of an incarnation may take without its children: what it handles, `on_stop`, `lifespan`."""
    kind = type(actor) if actor is not None else None
    seconds = patience + CANCEL_GRACE if cell.running else 0.0
    if kind is not None and kind.on_stop is not Actor.on_stop:
        seconds += cell.shutdown + CANCEL_GRACE
    if kind is not None and kind.lifespan is not Actor.lifespan:
        seconds += cell.shutdown + CANCEL_GRACE
    return seconds


def acting_parent(cell: Cell) -> Cell | None:
    """The parent of a cell, if it is its parent that acts: in a handler, in `on_start`, or in its own end."""
    parent = cell.parent
    if parent is None:
        return None
    record = DELIVERY.get()
    if record is None:
        return parent if parent.reaper is not None and asyncio.current_task() is parent.reaper else None
    life = record if isinstance(record, Life) else record.life
    return parent if life is not None and life.cell is parent else None


def held(envelope: object) -> bool:
    """Whether a message was put aside by the handler that is about to end."""
    return isinstance(envelope, Envelope) and isinstance(envelope.reply, Held)


def left_of(kernel: SimKernel) -> Iterator[tuple[object, Left]]:
    """What waits in the mailboxes and stashes of a kernel, and where."""
    for cell in kernel.registry:
        where = Left(f"{kernel.prefix}{cell.path}", cell.state, cell.running)
        entries: list[Any] = [] if cell.first is None else [cell.first]
        if cell.mailbox is not None:
            entries += [*cell.mailbox.work, *cell.mailbox.outside()]
        for entry in entries:
            yield entry[0] if isinstance(entry, tuple) else entry.message, where
        kit = cell.life.kit if cell.life is not None else None
        if kit is not None and kit.stash is not None:
            for envelope in (*kit.stash._kept, *kit.stash._wanted):
                yield envelope.message, where._replace(state="stashed")
