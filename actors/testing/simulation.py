"""What a simulated loop brings to every kernel entered in it: the order, the clock, the faults, and eyes.

A kernel is not replaced, its class is: `SimKernel` adds what is recorded and injected at five places (an address is
made, an incarnation begins or ends, a message is put into a mailbox, a handler runs) and leaves dispatch, delivery and
supervision as they are. Handlers run by the short ways of production; only `tell` always goes by the long one, which
does the same.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from understudy.actors.cell import Cell
from understudy.actors.testing.faults import ActorFault, ClockJump, Crash, Fault, SlowConsumer
from understudy.actors.testing.recording import SimEndings, SimLinks, SimSuspensions, SimTelemetry, left_of
from understudy.actors.testing.schedule import Plan
from understudy.actors.testing.simkernel import SimKernel
from understudy.actors.testing.simloop import SimClock, SimLoop
from understudy.actors.testing.trace import Event, Kind, Left, Trace

if TYPE_CHECKING:
    from understudy.actors.kernel import Kernel


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

    def add(self, fault: Fault) -> None:
        """One more, while the world runs; of an actor by its path."""
        assert isinstance(fault, ActorFault), f"{fault!r} is not of an actor"
        assert isinstance(fault.actor, str), f"{fault!r} has no path"
        self._add(fault.actor, fault)

    def clear(self) -> None:
        """No more faults from now on."""
        for each in (self._posts, self._begins, self._slow, self._unnamed):
            each.clear()

    def spawned(self, path: str) -> None:
        """An address was made."""
        number, self._spawned = self._spawned, self._spawned + 1
        for fault in self._unnamed.pop(number, ()):
            self._add(path, fault)

    def posting(self, path: str, at: int) -> Sequence[Fault]:
        """Of the `at`th message sent to an actor. Each comes once."""
        return self._posts.pop((path, at), ()) if self._posts else ()

    def aims_at(self, path: str, at: int) -> bool:
        """Whether there is one of the `at`th message sent to an actor."""
        return (path, at) in self._posts

    def begin(self, path: str, at: int) -> Sequence[Fault]:
        """Of the `at`th message that an actor begins. Each comes once."""
        return self._begins.pop((path, at), ()) if self._begins else ()

    def slowness(self, path: str, at: int) -> float:
        """Seconds that the `at`th message takes longer."""
        return sum(each.seconds for each in self._slow.get(path, ()) if at >= each.at) if self._slow else 0.0


class SimScheduler:
    """The plan of a world, except that an ask which a fault is aimed at takes the queue, where faults are."""

    def __init__(self, simulation: SimSimulation) -> None:
        plan = simulation.plan
        self._simulation = simulation
        self.next_ready = plan.next_ready
        self.end_turn = plan.end_turn
        self.next_timer = plan.next_timer

    def inline(self, path: str) -> bool:
        """See `Scheduler`."""
        simulation = self._simulation
        simulation.inlined = simulation.plan.inline(path) and not simulation.faults.aims_at(
            path, simulation.sent(path) + 1
        )
        return simulation.inlined


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
        self.inlined = False
        """Whether the next handler to begin is that of an ask which is served at once."""
        self.settle = 0.0
        """Seconds that every kernel goes on for before it is closed; see `World.run`."""
        self.unanswered: dict[int, tuple[str, int]] = {}
        self._sent: dict[str, int] = {}
        self._paths: dict[Cell, str] = {}
        self._messages = 0
        self._left: SimSimulation | None = None

    def die(self, fault: Fault) -> None:
        """The process was killed by a fault: what its end does is neither recorded nor faulted, and moves no count."""
        if self.dead:
            return
        self.trace.add(Event(self.loop.nanoseconds, "fault", "@node", what=type(fault).__name__, detail=repr(fault)))
        self._left = self._copy(self.loop, self.trace)
        self.dead = True
        self.trace, self.faults = Trace(), ActorFaults(())

    def next_process(self, loop: SimLoop, trace: Trace) -> SimSimulation:
        """The simulation of the process that comes after this one: same plan, faults and clocks, counts go on."""
        after = (self._left or self)._copy(loop, trace)
        loop.simulation = after
        loop.set_exception_handler(lambda _, context: loop.failures.append(context))
        return after

    def _copy(self, loop: SimLoop, trace: Trace) -> SimSimulation:
        made = SimSimulation(loop, copy.deepcopy(self.plan), copy.deepcopy(self.faults), trace)
        made.clock, made.ids, made.dice = copy.copy(self.clock), copy.copy(self.ids), copy.deepcopy(self.dice)
        made._sent, made._messages = dict(self._sent), self._messages
        return made

    def enter(self, kernel: Kernel) -> None:
        """See `Simulation`."""
        kernel.__class__ = SimKernel
        assert isinstance(kernel, SimKernel)
        kernel.simulation = self
        self.trace.kernels += 1
        kernel.prefix = f"{self.trace.kernels}:" if self.trace.kernels > 1 else ""
        kernel.numbers = {}
        kernel.done_with = kernel.again = None
        kernel.adrift = []
        kernel._endings.__class__ = SimEndings
        kernel.suspensions.__class__ = SimSuspensions
        kernel.links.__class__ = SimLinks
        kernel._scheduler = SimScheduler(self)
        kernel.check = True
        if not isinstance(kernel.clock, SimClock) and type(kernel.clock).__name__ == "SystemClock":
            kernel.clock = self.clock
        telemetry = kernel.telemetry = SimTelemetry(kernel.clock.monotonic)
        telemetry.kernel = kernel
        self.kernels.append(kernel)

    # -- the trace -----------------------------------------------------------------------------------------

    def note(
        self,
        kind: Kind,
        cell: Cell,
        message: int = 0,
        peer: Cell | None = None,
        what: str = "",
        detail: str = "",
        size: int = 0,
    ) -> Event:
        """Record an event about an address."""
        paths = self._paths
        path = paths.get(cell) or self._path_of(cell)
        whose = "" if peer is None else paths.get(peer) or self._path_of(peer)
        event = Event(self.loop.nanoseconds, kind, path, cell.number, message, whose, what, detail, size)
        self.trace.add(event)
        return event

    def _path_of(self, cell: Cell) -> str:
        """How the trace calls an address. Kept: a path is put together anew whenever somebody asks for it."""
        kernel = cell.kernel
        assert isinstance(kernel, SimKernel)
        path = self._paths[cell] = f"{kernel.prefix}{cell.path}"
        return path

    def say(self, kind: Kind, kernel: SimKernel) -> None:
        """Record an event about a kernel."""
        self.trace.add(Event(self.loop.nanoseconds, kind, kernel.prefix))

    def left(self) -> dict[int, Left]:
        """What waits in mailboxes and stashes, by the numbers of messages."""
        return {
            kernel.number_of(message): where
            for kernel in self.kernels
            if isinstance(kernel, SimKernel)
            for message, where in left_of(kernel)
        }

    def fault(self, cell: Cell, fault: Fault, message: int = 0) -> None:
        """A planned fault came true."""
        self.note("fault", cell, message, what=type(fault).__name__, detail=repr(fault))

    def spawned(self, cell: Cell) -> None:
        """An address was made."""
        path = cell.path
        self.plan.spawned(path)
        self.faults.spawned(path)
        parent = cell.parent
        self.note("spawned", cell, peer=parent)

    def next_message(self) -> int:
        """The number of the next message."""
        self._messages += 1
        return self._messages

    def sent(self, path: str) -> int:
        """How many messages were sent to an address."""
        return self._sent.get(path, 0)

    def next_sent(self, path: str) -> int:
        """How many messages were sent to an address, this one included."""
        count = self._sent[path] = self._sent.get(path, 0) + 1
        return count
