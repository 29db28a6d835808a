"""What a simulated loop brings to every kernel entered in it: the order, the clock, the faults, and eyes.

A kernel is not replaced, its class is: `SimKernel` adds what is recorded and injected at five places (an address is
made, an incarnation begins or ends, a message is put into a mailbox, a handler runs) and leaves dispatch, delivery and
supervision as they are. Handlers run by the short ways of production; only `tell` always goes by the long one, which
does the same.
"""

from __future__ import annotations

import asyncio
import copy
import random
import types
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Literal

from understudy.actors.cell import Cell
from understudy.actors.delivery import CLOSED, Door, Entry, Envelope, Handler, Life, Notice, message_of, sender_of
from understudy.actors.endings import Endings
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Message, round_trip
from understudy.actors.refs import Refused
from understudy.actors.telemetry import LetterReason, Telemetry
from understudy.actors.testing.faults import (
    ActorFault,
    ClockJump,
    Crash,
    Delay,
    Drop,
    Duplicate,
    Fault,
    InjectedCrash,
    MailboxIsFull,
    ReplyLost,
    SlowConsumer,
)
from understudy.actors.testing.schedule import Plan
from understudy.actors.testing.simloop import ProcessKilled, SimClock, SimLoop
from understudy.actors.testing.trace import Event, Kind, Trace

_COROUTINE: Final = types.CoroutineType


class SimIds:
    """Run ids that count: "00000001" is the first."""

    def __init__(self) -> None:
        self._last = 0

    def run(self) -> str:
        """See `Ids.run`."""
        self._last += 1
        return f"{self._last:08x}"


class ActorFaults:
    """The faults of actors of one world, by what they are addressed with."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._posts: dict[tuple[str, int], list[Fault]] = {}
        self._begins: dict[tuple[str, int], list[Fault]] = {}
        self._slow: dict[str, list[SlowConsumer]] = {}
        self._unnamed: dict[int, list[ActorFault]] = {}
        self._spawned = 0
        for fault in faults:
            if isinstance(fault, ActorFault):
                if isinstance(fault.actor, int):
                    self._unnamed.setdefault(fault.actor, []).append(fault)
                else:
                    self._add(fault.actor, fault)

    def _add(self, path: str, fault: ActorFault) -> None:
        if isinstance(fault, SlowConsumer):
            self._slow.setdefault(path, []).append(fault)
        elif isinstance(fault, Crash | ClockJump):
            self._begins.setdefault((path, fault.at), []).append(fault)
        else:
            self._posts.setdefault((path, fault.at), []).append(fault)

    def spawned(self, path: str) -> None:
        """An address was made."""
        number, self._spawned = self._spawned, self._spawned + 1
        for fault in self._unnamed.pop(number, ()):
            self._add(path, fault)

    def posting(self, path: str, at: int) -> Sequence[Fault]:
        """Of the `at`th message sent to an actor. Each comes once."""
        return self._posts.pop((path, at), ()) if self._posts else ()

    def begin(self, path: str, at: int) -> Sequence[Fault]:
        """Of the `at`th message that an actor begins. Each comes once."""
        return self._begins.pop((path, at), ()) if self._begins else ()

    def slowness(self, path: str, at: int) -> float:
        """Seconds that the `at`th message takes longer."""
        return sum(each.seconds for each in self._slow.get(path, ()) if at >= each.at) if self._slow else 0.0


class SimSimulation:
    """See the module. One for each loop; `plan` and `faults` may be those of a former process of the same world."""

    def __init__(self, loop: SimLoop, plan: Plan, faults: ActorFaults, trace: Trace, *, seed: int = 0) -> None:
        self.loop = loop
        self.plan = plan
        self.faults = faults
        self.trace = trace
        self.clock = SimClock()
        self.ids = SimIds()
        self.dice = random.Random(seed)
        self.kernels: list[Kernel] = []
        self.check = True
        self.dead = False
        """Whether the process was killed: what its end does is neither recorded nor faulted."""
        self._sent: dict[str, int] = {}
        self._messages = 0
        self._left: SimSimulation | None = None

    def die(self) -> None:
        """The process was killed: what its end does is neither recorded nor faulted, and moves no count."""
        if not self.dead:
            self._left = self._copy(self.loop)
            self.dead = True

    def next_process(self, loop: SimLoop) -> SimSimulation:
        """The simulation of the process that comes after this one: same plan, same trace, counts go on."""
        after = (self._left or self)._copy(loop)
        loop.simulation = after
        loop.set_exception_handler(lambda _, context: loop.failures.append(context))
        return after

    def _copy(self, loop: SimLoop) -> SimSimulation:
        made = SimSimulation(loop, copy.deepcopy(self.plan), copy.deepcopy(self.faults), self.trace)
        made.clock, made.ids, made.dice = copy.copy(self.clock), copy.copy(self.ids), copy.deepcopy(self.dice)
        made._sent, made._messages = dict(self._sent), self._messages
        return made

    def enter(self, kernel: Kernel) -> None:
        """See `Simulation`."""
        kernel.__class__ = SimKernel
        assert isinstance(kernel, SimKernel)
        kernel.simulation = self
        kernel.waiting = {}
        kernel._endings.__class__ = SimEndings
        kernel._scheduler = self.plan
        kernel.check = True
        if not isinstance(kernel.clock, SimClock) and type(kernel.clock).__name__ == "SystemClock":
            kernel.clock = self.clock
        kernel.telemetry = Telemetry(kernel.clock.monotonic)
        self.kernels.append(kernel)

    # -- the trace -----------------------------------------------------------------------------------------

    def note(
        self, kind: Kind, cell: Cell, message: int = 0, peer: Cell | None = None, what: str = "", detail: str = ""
    ) -> None:
        """Record an event about an address."""
        if self.dead:
            return
        self.trace.add(
            Event(
                self.loop.nanoseconds,
                kind,
                cell.path,
                cell.number,
                message,
                "" if peer is None else peer.path,
                what,
                detail,
            )
        )

    def fault(self, cell: Cell, fault: Fault) -> None:
        """A planned fault came true."""
        self.note("fault", cell, what=type(fault).__name__, detail=repr(fault))

    def fault_of_process(self, fault: Fault) -> None:
        """A planned fault ended the process, or hit its disk."""
        self.trace.add(Event(self.loop.nanoseconds, "fault", "@node", what=type(fault).__name__, detail=repr(fault)))

    def spawned(self, cell: Cell) -> None:
        """An address was made."""
        path = cell.path
        self.plan.spawned(path)
        self.faults.spawned(path)
        self.note("spawned", cell, what="" if cell.parent is None else cell.parent.path)

    def next_message(self) -> int:
        """The number of the next message."""
        self._messages += 1
        return self._messages

    def next_sent(self, path: str) -> int:
        """How many messages were sent to an address, this one included."""
        count = self._sent[path] = self._sent.get(path, 0) + 1
        return count


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


class SimEndings(Endings):
    """Records how incarnations and addresses end."""

    _kernel: SimKernel

    def _ended(self, cell: Cell, life: Life, exit: Exit) -> None:
        self._note_end(cell, life, exit)
        super()._ended(cell, life, exit)

    def _cut_off(self, cell: Cell, life: Life, exit: Exit) -> None:
        self._note_end(cell, life, exit)
        super()._cut_off(cell, life, exit)

    def _note_end(self, cell: Cell, life: Life, exit: Exit) -> None:
        if cell.life is life:
            simulation = self._kernel.simulation
            last = simulation.trace.events[-1] if simulation.trace.events else None
            if last is not None and last.kind == "ended" and last.path == cell.path and last.number == life.number:
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


class SimKernel(Kernel):
    """A kernel in a simulated loop; see the module."""

    simulation: SimSimulation
    waiting: dict[Cell, list[tuple[Any, int]]]
    """Messages that were sent to an address and not begun, with their numbers."""

    # -- addresses -----------------------------------------------------------------------------------------

    def _begin(self, cell: Cell, event: Literal["start", "restart"]) -> None:
        if event == "start":
            self.simulation.spawned(cell)
        super()._begin(cell, event)
        self.simulation.note("starting", cell)

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
        checked, self.check = self.check, False
        super()._know(cell, kind)
        self.check = checked
        if cell.door is not CLOSED:
            cell.door = SimDoor(self, cell, cell.door)

    # -- messages ------------------------------------------------------------------------------------------

    def _put(self, cell: Cell, entry: Entry, *, quiet: bool) -> Literal[True] | Refused:
        simulation, message = self.simulation, message_of(entry)
        number = simulation.next_message()
        sender = sender_of(entry)
        what = type(message).__name__
        simulation.note(
            "sent", cell, number, sender, what, "ask" if isinstance(entry, Envelope) and entry.reply else ""
        )
        self.waiting.setdefault(cell, []).append((message, number))
        for fault in simulation.faults.posting(cell.path, simulation.next_sent(cell.path)):
            simulation.fault(cell, fault)
            if isinstance(fault, MailboxIsFull):
                return self._full(cell, entry, quiet)
            done = self._inject(cell, entry, number, fault)
            if done is not None:
                if done is not entry:
                    return True
                entry = done
        posted = super()._put(cell, entry, quiet=quiet)
        if not posted and not quiet:
            simulation.note("refused", cell, number, sender, what, posted.reason)
        return posted

    def _full(self, cell: Cell, entry: Entry, quiet: bool) -> Refused:
        if not quiet:
            self.letter(cell, entry, "full")
        return Refused("full", cell.path)

    def _inject(self, cell: Cell, entry: Entry, number: int, fault: Fault) -> Entry | Literal[True] | None:
        """Carry out a fault of delivery: True when nothing is left to put."""
        message = message_of(entry)
        put = super()._put
        match fault:
            case Drop():
                self._forget(cell, message)
                self.simulation.note("lost", cell, number, what=type(message).__name__, detail=repr(fault))
                return True
            case Duplicate():
                second = self.simulation.next_message()
                sender = sender_of(entry)
                self.simulation.note("sent", cell, second, sender, type(message).__name__, "duplicate")
                self.waiting[cell].append((message, second))
                self.loop.call_soon(self._late, cell, (message, sender), context=self.context.copy())
            case Delay():
                self.timers.after(fault.seconds, lambda: self._late(cell, entry))
                return True
            case ReplyLost() if isinstance(entry, Envelope) and entry.reply is not None:
                copy = Envelope(
                    entry.message, entry.sender, None, entry.deadline, entry.chain, self.loop.create_future()
                )
                put(cell, copy, quiet=False)
                return True
            case _:
                pass
        return None

    def _late(self, cell: Cell, entry: Entry) -> None:
        """Put what was held up on its way."""
        if cell.state in ("stopping", "stopped"):
            self.lose(cell, entry, "stopped")
        elif not super()._put(cell, entry, quiet=False) and isinstance(entry, Envelope):
            self.lose(cell, entry, "dropped")

    def force(self, cell: Cell, message: Message[Any]) -> None:
        """See `Kernel.force`."""
        number = self.simulation.next_message()
        self.simulation.note("sent", cell, number, what=type(message).__name__, detail="forced")
        self.waiting.setdefault(cell, []).append((message, number))
        super().force(cell, message)

    def control(
        self, cell: Cell, message: Message[Any], *, bounded: bool = True, about: Cell | None = None
    ) -> Notice | None:
        """See `Kernel.control`."""
        notice = super().control(cell, message, bounded=bounded, about=about)
        if notice is not None:
            self.simulation.note("notice", cell, peer=about, what=type(message).__name__)
        return notice

    def letter(self, cell: Cell, entry: Entry, reason: LetterReason, detail: str = "") -> None:
        """See `Kernel.letter`."""
        message = message_of(entry)
        if not isinstance(entry, Notice):
            number = self._forget(cell, message)
            sender = sender_of(entry)
            self.simulation.note("letter", cell, number, sender, type(message).__name__, reason)
        super().letter(cell, entry, reason, detail)

    def _forget(self, cell: Cell, message: object) -> int:
        """The number of a message that waits no more; 0 when it was begun before, or is none of those."""
        waiting = self.waiting.get(cell)
        if waiting:
            for index, (each, number) in enumerate(waiting):
                if each is message:
                    del waiting[index]
                    return number
        return 0

    # -- handlers ------------------------------------------------------------------------------------------

    def admit(self, cell: Cell, life: Life, entry: Entry) -> tuple[Handler, bool] | None:
        """See `Kernel.admit`."""
        found = super().admit(cell, life, entry)
        return None if found is None else (self.recorded(cell, found[0]), found[1])

    def recorded(self, cell: Cell, handler: Handler, *, short: bool = False) -> Handler:
        """The handler, with what is recorded about it and injected into it.

        `short`: it may be an ask that is stepped at once, whose message has not been through the codec.
        """

        def run(actor: object, message: Any) -> Any:
            if self.simulation.dead:
                raise ProcessKilled
            handling = Handling(self.simulation, cell, message, self._forget(cell, message))
            try:
                handling.strike(after=False)
                if short and not handling.message:
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


class Handling:
    """One run of a handler."""

    __slots__ = ("cell", "faults", "incarnation", "message", "simulation", "slow", "what")

    def __init__(self, simulation: SimSimulation, cell: Cell, message: object, number: int) -> None:
        path, begun = cell.path, simulation.plan.begun
        at = begun[path] = begun.get(path, 0) + 1
        self.simulation = simulation
        self.cell = cell
        self.what = type(message).__name__
        self.message = number
        self.incarnation = cell.number
        self.faults = simulation.faults.begin(path, at)
        self.slow = simulation.faults.slowness(path, at)
        simulation.note("begin", cell, number, what=self.what)

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
                value.close()  # it was ended before it began
            self.ended(how)
        return result

    def ended(self, how: str) -> None:
        """It has ended: "ok", or the class of what it raised."""
        simulation = self.simulation
        if simulation.dead:
            return
        simulation.trace.add(
            Event(
                simulation.loop.nanoseconds,
                "end",
                self.cell.path,
                self.incarnation,
                self.message,
                what=self.what,
                detail=how,
            )
        )
