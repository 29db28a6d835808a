"""The actor of a dynamic supervisor: children that are started while it runs, each restarted alone.

Nothing is kept of a child beside its address as long as it has not failed and follows the template; a child that
ends for good is removed. Children are stopped all at once, each within its own deadline. After Elixir's
DynamicSupervisor: `one_for_one` only, `max_children` counts those that wait to be restarted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any, ClassVar, Final

from understudy.actors.actor import Actor, Leave
from understudy.actors.cell import Cell
from understudy.actors.clock import Dice
from understudy.actors.errors import SpecError, UsageError
from understudy.actors.journal.events import BackedOff, ChildExited, ChildStarted, GaveUp
from understudy.actors.lifecycle import ALIVE, DECLINED, SHUTDOWN, Exit
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.history import Past
from understudy.supervisors.intensity import Intensity, RestartWindow
from understudy.supervisors.keeping import Keeper, Record, StartLimits
from understudy.supervisors.plans import ChildDown, ChildInfo, ChildPlan, Observer, StartAgain, SweepStarts, state_of
from understudy.supervisors.strategies import decide_exit

Factory = Callable[..., Actor[Any]]

TEMPLATE: Final = ChildPlan("", Actor, "transient")
"""How a child is kept when nothing else is said: restarted after a failure only, since it may end."""


@dataclass(frozen=True, slots=True)
class DynamicPlan:
    """Everything a dynamic supervisor's actor needs.

    `template`: how children are kept that bring no plan of their own. `intensity`: None never gives up. `max_children`:
    None is any number. `top`: children stand at the top of the tree instead of below (the guardian of `System.spawn`).
    `past`: what it remembers of a former process.
    """

    template: ChildPlan
    intensity: Intensity | None
    backoff: Backoff
    dice: Dice
    observe: Observer | None = None
    max_children: int | None = None
    top: bool = False
    past: Past = field(default_factory=Past)


class DynamicActor(Keeper[ChildDown | StartAgain | SweepStarts]):
    """See the module."""

    stops_together: ClassVar[bool] = True

    _hears_children = True

    def __init__(self, plan: DynamicPlan) -> None:
        self._plan = plan
        self._observe = plan.observe
        self._window = RestartWindow(plan.intensity) if plan.intensity is not None else None
        if self._window is not None:
            self._window.restore(plan.past.stamps)
        self._records: dict[Cell, Record] = {}  # of those that have failed
        self._plans: dict[Cell, ChildPlan] = {}  # of those that do not follow the template
        self._by_hand: dict[Cell, None] = {}  # whose first start somebody waits for
        self._told: dict[str, None] = {}
        self._limits = StartLimits(self)
        self._hear = self._on_exit  # one bound method for all

    # -- children ------------------------------------------------------------------------------------------

    def _cells(self) -> Iterator[Cell]:
        cells = self._kernel.registry if self._plan.top else list(self._own.children.values())
        return (cell for cell in cells if cell.on_exit == self._hear)

    def _plan_of(self, cell: Cell) -> ChildPlan:
        return self._plans.get(cell, self._plan.template)

    def begin(self, factory: Factory, name: str, plan: ChildPlan | None = None, *, by_hand: bool = False) -> Cell:
        """Begin one more child. `plan` is its own, None for the template's; an empty name is made up.

        `by_hand`: somebody waits for its start, and if that fails the child is removed without a restart. Raises
        `SpecError` for a name that is taken and `UsageError` past `max_children`.
        """
        kernel, own, most = self._kernel, self._own, self._plan.max_children
        if most is not None and len(own.children) >= most:
            raise UsageError(f"{own.path}: {most} children already, which is max_children")
        if plan is not None and plan.significant:
            raise SpecError(f"{own.path}: child {name!r} is significant; a dynamic supervisor has no auto_shutdown")
        how = plan if plan is not None else self._plan.template
        cell = kernel.spawn(
            factory,
            name=name,
            parent=None if self._plan.top else own,
            on_exit=self._hear,
            concurrency=how.concurrency,
        )
        cell.shutdown = how.shutdown
        if plan is not None:
            self._plans[cell] = plan
        if by_hand:
            self._by_hand[cell] = None
        if how.start_within < inf:
            self._limits.note(cell, kernel.loop.time(), how.start_within)
        return cell

    def started(self, cell: Cell) -> None:
        """Nobody waits for its first start any more. What failed to start is remembered until that is decided on."""
        if cell.state != "failed" or cell.exit.kind != "start":
            self._by_hand.pop(cell, None)

    def infos(self) -> tuple[ChildInfo, ...]:
        """All children, in the order they were started."""
        return tuple(
            ChildInfo(cell.label, cell.path, state_of(cell), self._plan_of(cell).restart, cell.number)
            for cell in self._cells()
        )

    def terminate(self, name: str) -> Cell:
        """Begin to stop a child for good; a pending restart of it is off. Raises `UsageError` for a stranger."""
        path = name if self._plan.top or name.startswith(f"{self._own.path}/") else f"{self._own.path}/{name}"
        cell = self._kernel.registry.find(path)
        if cell is None or cell.on_exit != self._hear:
            raise UsageError(f"{self._own.path}: no child {name!r}")
        self._remove(cell, SHUTDOWN)
        return cell

    def _remove(self, cell: Cell, exit: Exit) -> None:
        self.forget(cell)
        self._kernel.begin_stop(cell, exit)

    def forget(self, cell: Cell) -> None:
        """Keep nothing of a child that is gone."""
        self._records.pop(cell, None)
        self._plans.pop(cell, None)
        self._by_hand.pop(cell, None)
        self._told.pop(cell.path, None)

    # -- what comes back -----------------------------------------------------------------------------------

    def _on_exit(self, cell: Cell, number: int, exit: Exit) -> None:
        if self._own.state in ALIVE:  # not bounded: one that got lost would never be restarted
            self._kernel.control(self._own, ChildDown(cell, number, exit), bounded=False)

    def _child_released(self, cell: Cell) -> None:
        self.forget(cell)

    def child_down(self, m: ChildDown) -> None:
        """Decide by the table what follows from an exit; a child that ends for good is removed."""
        cell, exit = m.cell, m.exit
        if cell.number != m.number or cell.state != "failed" or cell.life is not None:
            return
        plan = self._plan_of(cell)
        unstarted = cell in self._by_hand and exit.kind == "start"
        restart = exit != DECLINED and not unstarted and decide_exit(plan.restart, exit) == "restart"
        if self._observe is not None and (restart or not exit.expected):
            self._observe(cell, lambda: ChildExited(cell.path, cell.number, exit), False)
        if restart:
            self._restart(cell, plan, exit)
        else:
            self._remove(cell, exit)

    def _restart(self, cell: Cell, plan: ChildPlan, exit: Exit) -> None:
        kernel = self._kernel
        if kernel.interrupted is not None:
            return
        if exit.kind == "normal" and cell.path not in self._told:
            self._told[cell.path] = None
            self._report_normal_end(cell.path)
        self._by_hand.pop(cell, None)
        now = kernel.loop.time()
        record = self._records.get(cell)
        if record is None:
            record = self._records[cell] = Record(now, plan.intensity)
            if (past := self._plan.past.children.pop(cell.path, None)) is not None:
                record.remember(past, self._plan.backoff, now)
        if record.window is not None and not record.window.admit(now):
            text = self._too_many(cell, record.window.intensity, exit, alone=True)
            self._remove(cell, Exit("shutdown", text))
            return
        if self._window is not None and not self._window.admit(now):
            raise Leave(Exit("shutdown", self._too_many(cell, self._window.intensity, exit, alone=False)))
        delay = record.next_delay(self._plan.backoff, self._plan.dice, exit, now)
        if self._observe is not None:
            window = record.window or self._window
            in_window = window.count(now) if window is not None else 0
            self._observe(
                cell, lambda: BackedOff(self._own.path, cell.path, delay, record.failures, in_window, exit), True
            )
        if cell.watchers:
            kernel.will_restart(cell)
        if delay > 0.0:
            kernel.timer(self._own, delay, StartAgain(cell, cell.number))
        else:  # the child has its turn before it can fail again, and that comes as a message: others are served
            self._again(cell, plan, record)

    def _too_many(self, cell: Cell, intensity: Intensity, exit: Exit, *, alone: bool) -> str:
        if self._observe is not None:
            limit = intensity.restarts, intensity.within
            self._observe(cell, lambda: GaveUp(self._own.path, cell.path, *limit, exit, alone), True)
        return f"gave up: more than {intensity}, the last {cell.path}: {exit}"

    def start_again(self, m: StartAgain) -> None:
        """The back-off is over: start the next incarnation, unless the child was stopped meanwhile."""
        cell = m.cell
        if cell.state != "failed" or self._kernel.interrupted is not None:
            return
        record = self._records.get(cell)
        if record is not None:
            self._again(cell, self._plan_of(cell), record)

    def _again(self, cell: Cell, plan: ChildPlan, record: Record) -> None:
        kernel = self._kernel
        now = record.began = kernel.loop.time()
        kernel.restart(cell)
        if plan.start_within < inf:
            self._limits.note(cell, now, plan.start_within)
        if self._observe is not None:
            self._observe(cell, lambda: ChildStarted(cell.path, cell.number), False)

    def sweep_starts(self, m: SweepStarts) -> None:
        """Somebody's time to start is up."""
        self._limits.sweep()
