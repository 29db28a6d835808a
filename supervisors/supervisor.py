"""The actor that supervises: starts children in order, restarts them after back-off, gives up past the intensity.

It knows any actor, not only agents. Decisions are the pure tables of `strategies`, `intensity` and `backoff`; here
they are carried out. An exit arrives as a message, and so does the time to start a child again, so that the
supervisor stays responsive in between: stopping it always wins over a pending restart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.actors.actor import Actor, Leave
from understudy.actors.cell import Cell
from understudy.actors.clock import Dice
from understudy.actors.errors import UsageError
from understudy.actors.journal.events import AnyEvent, BackedOff, ChildExited, ChildStarted, GaveUp
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.messages import Message
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.intensity import Intensity, RestartWindow
from understudy.supervisors.strategies import RestartType, decide_exit

Observer = Callable[[str, AnyEvent], None]
"""Told of every supervision event, with the path of the child it is about."""


class ChildDown(Message[None]):
    """An incarnation of a child ended."""

    path: str
    number: int
    exit: Exit


class StartAgain(Message[None]):
    """The back-off of a child is over. `number` is the incarnation that ended."""

    path: str
    number: int


@dataclass(frozen=True)
class ChildPlan:
    """How to start one child: its name below the supervisor, its factory, and how it is kept."""

    name: str
    factory: Callable[[], Actor[Any]]
    restart: RestartType = "permanent"
    shutdown: float = 5.0
    concurrency: int = 1


@dataclass(frozen=True)
class SupervisorPlan:
    """Everything a supervisor's actor needs.

    `per_child` keeps one intensity window for each child instead of one for all; its exhaustion then removes that
    child only. `numbers` gives the incarnation that a path continues from, after a former process.
    """

    children: Sequence[ChildPlan]
    intensity: Intensity
    backoff: Backoff
    dice: Dice
    observe: Observer
    per_child: bool = False
    numbers: Callable[[str], int] = field(default=lambda path: 0)


@dataclass
class _Kept:
    plan: ChildPlan
    cell: Cell
    began: float
    failures: int = 0


class SupervisorActor(Actor[ChildDown | StartAgain]):
    """See the module."""

    def __init__(self, plan: SupervisorPlan) -> None:
        self._plan = plan
        self._kept: dict[str, _Kept] = {}
        self._window = RestartWindow(plan.intensity)
        self._windows: dict[str, RestartWindow] = {}

    @property
    def _own(self) -> Cell:
        if self._cell is None:
            raise UsageError("a supervisor's actor was not spawned by a kernel")
        return self._cell

    @property
    def _kernel(self) -> Kernel:
        return self._own.kernel

    async def on_start(self) -> None:
        """Start the children one after another; if one fails, those before it are stopped, last first."""
        for plan in self._plan.children:
            kept = self.keep(plan, self._own)
            failed = await self._kernel.wait_started(kept.cell)
            if failed is not None:
                raise Leave(Exit("start", f"child {plan.name}: {failed}"))

    def keep(self, plan: ChildPlan, parent: Cell | None) -> _Kept:
        """Start one child under `parent` (None: at the top) and supervise it."""
        path = f"{parent.path}/{plan.name}" if parent is not None else plan.name
        cell = self._kernel.spawn(
            plan.factory,
            name=plan.name,
            parent=parent,
            on_exit=self._on_exit,
            concurrency=plan.concurrency,
            number=self._plan.numbers(path),
        )
        cell.shutdown = plan.shutdown
        kept = self._kept[cell.path] = _Kept(plan, cell, self._kernel.loop.time())
        self._plan.observe(cell.path, ChildStarted(cell.path, cell.number))
        return kept

    def _on_exit(self, cell: Cell, number: int, exit: Exit) -> None:
        # Not bounded: a child has one exit at a time, and one that got lost would never be restarted.
        self._kernel.control(self._own, ChildDown(cell.path, number, exit), bounded=False)

    async def child_down(self, m: ChildDown) -> None:
        """Decide by the table what follows from an exit."""
        kept = self._kept.get(m.path)
        if kept is None or kept.cell.number != m.number or kept.cell.state != "failed":
            return
        self._plan.observe(m.path, ChildExited(m.path, m.number, m.exit))
        if decide_exit(kept.plan.restart, m.exit) == "restart":
            await self._restart(kept, m.exit)
        else:
            await self._remove(kept, m.exit)

    async def _restart(self, kept: _Kept, exit: Exit) -> None:
        now = self._kernel.loop.time()
        window = self._window_of(kept.cell.path)
        if not window.admit(now):
            await self._give_up(kept, exit)
            return
        ran_for = 0.0 if exit.kind == "start" else now - kept.began
        before = self._plan.backoff.failures_after(kept.failures, ran_for)
        delay = self._plan.backoff.delay(before, self._plan.dice.random())
        kept.failures = before + 1
        event = BackedOff(self.context.path, kept.cell.path, delay, kept.failures, window.count(now), exit)
        self._plan.observe(kept.cell.path, event)
        self._kernel.timer(self._own, delay, StartAgain(kept.cell.path, kept.cell.number))
        self._kernel.will_restart(kept.cell)

    def _window_of(self, path: str) -> RestartWindow:
        if not self._plan.per_child:
            return self._window
        return self._windows.setdefault(path, RestartWindow(self._plan.intensity))

    async def _give_up(self, kept: _Kept, exit: Exit) -> None:
        intensity = self._plan.intensity
        event = GaveUp(self.context.path, kept.cell.path, intensity.restarts, intensity.within, exit)
        self._plan.observe(kept.cell.path, event)
        text = f"gave up: more than {intensity}, the last {kept.cell.path}: {exit}"
        if self._plan.per_child:
            await self._remove(kept, Exit("shutdown", text))
            return
        raise Leave(Exit("shutdown", text))

    async def _remove(self, kept: _Kept, exit: Exit) -> None:
        del self._kept[kept.cell.path]
        self._windows.pop(kept.cell.path, None)
        await self._kernel.stop(kept.cell, exit)

    def start_again(self, m: StartAgain) -> None:
        """The back-off is over: start the next incarnation, unless something else happened meanwhile."""
        kept = self._kept.get(m.path)
        if kept is None or kept.cell.number != m.number or kept.cell.state != "failed":
            return
        kept.began = self._kernel.loop.time()
        self._kernel.restart(kept.cell)
        self._plan.observe(m.path, ChildStarted(m.path, kept.cell.number))
