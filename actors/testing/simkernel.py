"""The kernel of a simulated loop, and one run of a handler there: what is recorded of messages, and injected.

See `simulation`, whose part this is; what is recorded of ends, watches and replies is in `recording`.
"""

from __future__ import annotations

import asyncio
import copy
import types
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final, Literal

from understudy.actors.cell import Cell
from understudy.actors.delivery import (
    CLOSED,
    DELIVERY,
    START,
    Door,
    Entry,
    Envelope,
    Handler,
    Life,
    Notice,
    message_of,
    sender_of,
)
from understudy.actors.errors import ActorStopped, MailboxFull
from understudy.actors.kernel import Kernel
from understudy.actors.messages import Message, round_trip
from understudy.actors.refs import Refused
from understudy.actors.telemetry import LetterReason
from understudy.actors.testing.faults import (
    ClockJump,
    Crash,
    Delay,
    Drop,
    Duplicate,
    Fault,
    InjectedCrash,
    MailboxIsFull,
    ReplyLost,
)
from understudy.actors.testing.recording import LostReply, SimDispatcher, acting_parent, held, track
from understudy.actors.testing.simloop import ProcessKilled

if TYPE_CHECKING:
    from understudy.actors.testing.simulation import SimSimulation

_COROUTINE: Final = types.CoroutineType


class SimDoor(dict[type, tuple[Handler, bool]]):
    """The door of one address: closed to the short way of `tell`, so that every message is seen; open to the rest."""

    __slots__ = ("_cell", "_kernel", "_known")

    def __init__(self, kernel: SimKernel, cell: Cell, door: Door) -> None:
        super().__init__(door)
        self._kernel = kernel
        self._cell = cell
        self._known: dict[type, tuple[Handler, bool]] = {}

    def __contains__(self, message: object) -> bool:
        return False

    # The base has two overloads, of which dispatch uses one.
    def get(self, message: type, default: Any = None) -> Any:
        """The handler, recorded and faulted."""
        found = self._known.get(message)
        if found is None:
            plain = super().get(message)
            if plain is None:
                return default
            found = self._known[message] = (self._kernel.recorded(self._cell, plain[0], short=True), plain[1])
        return found


class SimKernel(Kernel):
    """A kernel in a simulated loop; see the module."""

    simulation: SimSimulation
    prefix: str
    """What the paths of its addresses begin with in the trace: nothing for the first kernel, "2:" for the next."""
    numbers: dict[int, tuple[object, int]]
    """Numbers of messages and notices, by identity; each is kept, so that no other can have its identity."""
    adrift: list[tuple[Cell, Envelope]]
    """Requests that a planned fault keeps from their actor. Nobody but the close can answer them in time."""
    again: Entry | None
    """What is posted once more, because it waits for room; set for the length of that call."""
    done_with: tuple[Cell, int] | None
    """Whose handler is ending, and of which message."""

    def number_of(self, message: object) -> int:
        """The number of a message, or of a notice; 0 for what was not seen."""
        found = self.numbers.get(id(message))
        return 0 if found is None else found[1]

    def number(self, message: object) -> int:
        """Give a message, or a notice, its number."""
        number = self.simulation.next_message()
        self.numbers[id(message)] = message, number
        return number

    async def aclose(self) -> None:
        """See `Kernel.aclose`."""
        simulation, first = self.simulation, self._open
        try:
            if first and simulation.settle:
                simulation.say("settling", self)
                await asyncio.sleep(simulation.settle)
                simulation.trace.settled = simulation.left()
                simulation.say("settled", self)
        finally:
            if first:
                simulation.say("closing", self)
            await super().aclose()
            for cell, envelope in self.adrift:
                envelope.fail(ActorStopped(cell.path, cell.exit))
            if first:
                simulation.say("closed", self)

    # -- addresses -----------------------------------------------------------------------------------------

    def _begin(self, cell: Cell, event: Literal["start", "restart"]) -> None:
        if event == "start":
            self.dispatcher.__class__ = SimDispatcher
            self.simulation.spawned(cell)
            if cell.kind is not None:
                self._note_kind(cell, cell.kind)
        super()._begin(cell, event)
        self.simulation.note("starting", cell, peer=acting_parent(cell), size=cell.concurrency)

    def _started(self, cell: Cell, life: Life) -> None:
        if cell.state == "starting":
            self.simulation.note("started", cell)
        super()._started(cell, life)

    def start(self, cell: Cell, life: Life) -> Coroutine[Any, Any, None] | None:
        """See `Kernel.start`."""
        for fault in self.simulation.faults.begin(cell.path, 0):
            self.simulation.fault(cell, fault)
            raise InjectedCrash(f"planned: {fault!r}")
        return super().start(cell, life)

    def _know(self, cell: Cell, kind: type[Any]) -> None:
        checked, self.check, before = self.check, False, cell.kind
        super()._know(cell, kind)
        self.check = checked
        if before is not kind and cell.number:
            self._note_kind(cell, kind)
        if cell.door is not CLOSED:
            cell.door = SimDoor(self, cell, cell.door)

    def _note_kind(self, cell: Cell, kind: type[Any]) -> None:
        self.simulation.note("known", cell, what=kind.__name__, detail=kind.overflow, size=kind.mailbox_limit)

    def widen(self, cell: Cell, by: int) -> None:
        """See `Kernel.widen`."""
        self.simulation.note("widened", cell, size=cell.concurrency + by)
        super().widen(cell, by)

    def watch(self, watcher: Cell, target: Cell, message: Message[Any] | None = None) -> None:
        """See `Kernel.watch`."""
        before, count = _watches(watcher, target), len(self.simulation.trace)
        super().watch(watcher, target, message)
        what = "Down" if message is None else type(message).__name__
        if not before and _watches(watcher, target):
            self.simulation.note("watch", watcher, peer=target, what=what, size=target.number)
        elif len(self.simulation.trace) > count:
            self.simulation.note("watch", watcher, peer=target, what=what, detail="gone", size=target.number)

    def unwatch(self, watcher: Cell, target: Cell) -> None:
        """See `Kernel.unwatch`."""
        self.simulation.note("unwatch", watcher, peer=target)
        super().unwatch(watcher, target)

    # -- messages ------------------------------------------------------------------------------------------

    def post(self, cell: Cell, entry: Entry, *, quiet: bool = False) -> Literal[True] | Refused:
        """See `Kernel.post`. What waits for room has been through the codec, and goes in as it is."""
        if cell.state in ("stopping", "stopped"):
            try:
                return super().post(cell, entry, quiet=quiet)
            except BaseException as error:
                what = type(message_of(entry)).__name__
                self.simulation.note("raised", cell, peer=sender_of(entry), what=what, detail=type(error).__name__)
                raise
        if entry is self.again:
            self.again, self.check = None, False
        elif id(message_of(entry)) in self.numbers:
            entry = _renewed(entry)  # a message that was passed on is another one
        try:
            return super().post(cell, entry, quiet=quiet)
        finally:
            self.check = True

    def _put(self, cell: Cell, entry: Entry, *, quiet: bool) -> Literal[True] | Refused:
        simulation, message = self.simulation, message_of(entry)
        if self.number_of(message):
            return super()._put(cell, entry, quiet=quiet)  # it has waited for room
        number = self.number(message)
        sender = sender_of(entry)
        what = type(message).__name__
        sent = simulation.note("sent", cell, number, sender, what, _how(entry, sender))
        if isinstance(entry, Envelope):
            track(self, cell, entry, number)
        for fault in simulation.faults.posting(cell.path, simulation.next_sent(cell.path)):
            simulation.fault(cell, fault, number)
            if isinstance(fault, MailboxIsFull):
                return self._full(cell, entry, number, quiet)
            done = self._inject(cell, entry, number, fault)
            if done is not None:
                return done
        posted = self._offer(cell, entry, number, quiet=quiet)
        if posted:
            sent.size = _work(cell)
        elif not quiet:
            simulation.note("refused", cell, number, sender, what, posted.reason)
        return posted

    def _offer(self, cell: Cell, entry: Entry, number: int, *, quiet: bool) -> Literal[True] | Refused:
        kind, box, size = cell.kind, cell.mailbox, _work(cell)
        if kind is None or not (size >= kind.mailbox_limit or (box is not None and box.waiting)):
            return super()._put(cell, entry, quiet=quiet)
        over = self.simulation.note("overflow", cell, number, detail=kind.overflow, size=size)
        posted = super()._put(cell, entry, quiet=quiet)
        over.what = "taken" if posted else "waits" if quiet else "refused"
        return posted

    async def post_when_room(self, cell: Cell, envelope: Entry, timeout: float) -> Literal[True] | Refused:
        """See `Kernel.post_when_room`."""
        if isinstance(envelope, tuple) and self._door(cell, envelope) is None:
            envelope = round_trip(envelope[0]), envelope[1]
            self.numbers[id(envelope[0])] = envelope[0], 0  # it has been through the codec, and is not sent yet
        self.again = envelope if id(message_of(envelope)) in self.numbers else None
        try:
            return await super().post_when_room(cell, envelope, timeout)
        except asyncio.CancelledError:
            number = self.number_of(message_of(envelope))
            if number and not any(each is envelope for each in (cell.mailbox.work if cell.mailbox else ())):
                self.simulation.note("withdrawn", cell, number, what=type(message_of(envelope)).__name__)
            raise
        finally:
            self.again = None

    def _full(self, cell: Cell, entry: Entry, number: int, quiet: bool) -> Refused:
        if not quiet:
            self.letter(cell, entry, "full")
            self.simulation.note("refused", cell, number, what=type(message_of(entry)).__name__, detail="full")
        return Refused("full", cell.path)

    def _inject(self, cell: Cell, entry: Entry, number: int, fault: Fault) -> Literal[True] | Refused | None:
        """Carry out a fault of delivery: None when the message is still to be put."""
        message = message_of(entry)
        if isinstance(entry, Envelope) and isinstance(fault, Drop | Delay | ReplyLost):
            self.adrift.append((cell, entry))
        match fault:
            case Drop():
                self.simulation.note("lost", cell, number, what=type(message).__name__, detail=repr(fault))
                return True
            case Duplicate():
                twin, sender = round_trip(message), sender_of(entry)
                second = self.number(twin)
                self.simulation.note("sent", cell, second, sender, type(message).__name__, "duplicate")
                self.simulation.fault(cell, fault, second)
                self.loop.call_soon(self._late, cell, (twin, sender), context=self.context.copy())
            case Delay():
                self.timers.after(fault.seconds, lambda: self._late(cell, entry))
                return True
            case ReplyLost() if isinstance(entry, Envelope) and entry.reply is not None:
                reply: asyncio.Future[Any] = self.loop.create_future()
                reply.__class__ = LostReply
                reply.add_done_callback(_look_away)
                copied = Envelope(entry.message, entry.sender, None, entry.deadline, entry.chain, reply)
                return super()._put(cell, copied, quiet=False) or True  # the asker learns nothing either way
            case _:
                pass
        return None

    def _late(self, cell: Cell, entry: Entry) -> None:
        """Put what was held up on its way."""
        if cell.state in ("stopping", "stopped"):
            self.lose(cell, entry, "stopped")
        elif not super()._put(cell, entry, quiet=False) and isinstance(entry, Envelope):
            entry.fail(MailboxFull(cell.path, cell.limit))

    def force(self, cell: Cell, message: Message[Any]) -> None:
        """See `Kernel.force`."""
        if id(message) in self.numbers:
            message = round_trip(message)
        number = self.number(message)
        self.simulation.note("sent", cell, number, what=type(message).__name__, detail="forced")
        super().force(cell, message)

    def control(
        self, cell: Cell, message: Message[Any], *, bounded: bool = True, about: Cell | None = None
    ) -> Notice | None:
        """See `Kernel.control`."""
        notice = super().control(cell, message, bounded=bounded, about=about)
        if notice is not None:
            # What a supervisor is told names the child, and its incarnation.
            whom = about if about is not None else getattr(message, "cell", None)
            of = getattr(message, "number", 0) if about is None else about.number
            number, what = self.number(notice), type(message).__name__
            self.simulation.note("notice", cell, number, whom, what, size=of if isinstance(of, int) else 0)
        return notice

    def cancel_request(self, cell: Cell, envelope: Envelope) -> None:
        """See `Kernel.cancel_request`."""
        number = self.number_of(envelope.message)
        self.simulation.note("cancelled", cell, number, what=type(envelope.message).__name__)
        super().cancel_request(cell, envelope)

    def letter(self, cell: Cell, entry: Entry, reason: LetterReason, detail: str = "") -> None:
        """See `Kernel.letter`."""
        message = message_of(entry)
        if not isinstance(entry, Notice):
            number, sender = self.number_of(message), sender_of(entry)
            self.simulation.note("letter", cell, number, sender, type(message).__name__, reason)
        super().letter(cell, entry, reason, detail)

    def begun_at_once(self, cell: Cell, envelope: Envelope) -> int:
        """A request that did not wait is about to begin: the number it gets."""
        envelope.message = copy.copy(envelope.message)  # the asker may send the same object again
        number = self.number(envelope.message)
        self.simulation.next_sent(cell.path)
        what = type(envelope.message).__name__
        self.simulation.note("sent", cell, number, envelope.sender, what, "ask at once")
        return number

    # -- handlers ------------------------------------------------------------------------------------------

    def admit(self, cell: Cell, life: Life, entry: Entry) -> tuple[Handler, bool] | None:
        """See `Kernel.admit`."""
        found = super().admit(cell, life, entry)
        return None if found is None else (self.recorded(cell, found[0]), found[1])

    def done(self, cell: Cell, life: Life, envelope: Envelope, value: object) -> None:
        """See `Kernel.done`."""
        self.done_with = cell, self.number_of(envelope.message)
        super().done(cell, life, envelope, value)
        self.done_with = None

    def failed(self, cell: Cell, life: Life, envelope: Envelope, error: BaseException) -> None:
        """See `Kernel.failed`."""
        if envelope.message is not START:
            track(self, cell, envelope, self.number_of(envelope.message))
        super().failed(cell, life, envelope, error)

    def _redeliver(self, cell: Cell, envelope: Envelope, error: BaseException) -> bool:
        again = super()._redeliver(cell, envelope, error)
        if again:
            number, what = self.number_of(envelope.message), type(envelope.message).__name__
            allowed = cell.kind.redeliver if cell.kind is not None else 0
            self.simulation.note("redelivered", cell, number, what=what, size=allowed)
        return again

    def recorded(self, cell: Cell, handler: Handler, *, short: bool = False) -> Handler:
        """The handler, with what is recorded about it and injected into it.

        `short`: it may be an ask that is stepped at once, whose message has not been through the codec.
        """

        def run(actor: object, message: Any) -> Any:
            if self.simulation.dead:
                raise ProcessKilled
            handling = Handling(self, cell, message)
            try:
                handling.strike(after=False)
                if short and handling.at_once:
                    message = round_trip(message)
                value = handler(actor, message)
                if handling.slow or type(value) is _COROUTINE:
                    return handling.rest(value)
                handling.strike(after=True)
            except BaseException as error:
                handling.ended(type(error).__name__)
                raise
            handling.ended("ok")
            return value

        return run


def _renewed(entry: Entry) -> Entry:
    """An entry of an equal message that is nobody else's."""
    if isinstance(entry, Envelope):
        entry.message = copy.copy(entry.message)
        return entry
    return copy.copy(entry[0]), entry[1]


def _look_away(reply: asyncio.Future[Any]) -> None:
    """Nobody waits for this one."""
    if not reply.cancelled():
        reply.exception()


def _watches(watcher: Cell, target: Cell) -> bool:
    return watcher.life is not None and target in (watcher.life.watching or ())


def _work(cell: Cell) -> int:
    """Messages that wait in the work lane."""
    return (cell.first is not None) + (len(cell.mailbox.work) if cell.mailbox is not None else 0)


def _how(entry: Entry, sender: Cell | None) -> str:
    """`ask`, nothing for what a handler of the sender sends, `for` what is sent in its name, later or by others."""
    if isinstance(entry, Envelope) and entry.reply is not None:
        return "ask"
    if sender is None:
        return ""
    record = DELIVERY.get()
    life = record if record is None or isinstance(record, Life) else record.life
    return "" if life is not None and life.cell is sender else "for"


class Handling:
    """One run of a handler."""

    __slots__ = ("at_once", "cell", "entry", "faults", "incarnation", "kernel", "message", "simulation", "slow", "what")

    def __init__(self, kernel: SimKernel, cell: Cell, message: object) -> None:
        simulation = kernel.simulation
        path, begun, life = cell.path, simulation.plan.begun, cell.life
        at = begun[path] = begun.get(path, 0) + 1
        entry = None if life is None else life.current
        self.kernel = kernel
        self.simulation = simulation
        self.cell = cell
        self.what = type(message).__name__
        self.entry = entry
        self.at_once = False
        control = isinstance(entry, Notice)
        if simulation.inlined and isinstance(entry, Envelope):
            self.at_once = True
            self.message = kernel.begun_at_once(cell, entry)
        else:
            self.message = kernel.number_of(entry if control else message)
        simulation.inlined = False
        self.incarnation = cell.number
        self.faults = simulation.faults.begin(path, at)
        self.slow = simulation.faults.slowness(path, at)
        simulation.note("begin", cell, self.message, what=self.what, detail="control" if control else "")

    def strike(self, *, after: bool) -> None:
        """Carry out the faults of before, or after, the handler."""
        for fault in self.faults:
            if (isinstance(fault, Crash) and fault.after) is after:
                self.simulation.fault(self.cell, fault)
                if isinstance(fault, ClockJump):
                    self.simulation.clock.jump(fault.seconds)
                else:
                    raise InjectedCrash(f"planned: {fault!r}")

    async def rest(self, value: Any) -> object:
        """The part of a handler that may wait."""
        how = "ok"
        try:
            if self.slow:
                self.simulation.note("fault", self.cell, what="SlowConsumer", detail=f"{self.slow:g} s")
                await asyncio.sleep(self.slow)
            result: object = await value if type(value) is _COROUTINE else value
            self.strike(after=True)
        except BaseException as error:
            how = type(error).__name__
            raise
        finally:
            if type(value) is _COROUTINE:
                value.close()  # it may never have begun
            self.ended(how)
        return result

    def ended(self, how: str) -> None:
        """It has ended: "ok", or the class of what it raised."""
        simulation, cell, life, entry = self.simulation, self.cell, self.cell.life, self.entry
        if isinstance(entry, tuple) and life is not None:
            entry = life.current  # a `def` handler that put its message aside has an envelope by now
        aside = held(entry)
        if aside:
            simulation.note("stashed", cell, self.message, what=self.what)
        end = simulation.note("end", cell, self.message, what=self.what, detail=how)
        end.number = self.incarnation
        if aside or self.at_once:
            assert isinstance(entry, Envelope)  # both are of envelopes only
            if entry.reply is not None:
                track(self.kernel, cell, entry, self.message)
            elif how == "ok":
                simulation.note("answered", cell, self.message, what=self.what, detail="ok")
