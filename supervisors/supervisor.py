"""The actor that supervises a fixed list of children: starts them in order, restarts them, gives up past the intensity.

It knows any actor, not only agents. Decisions are the pure tables of `strategies`, `intensity`, `backoff` and
`groups`; here they are carried out. An exit arrives as a message, and so do the time to start a child again and the
news that it has started: no handler waits, so stopping, listing and the manual operations are served in between, and
stopping always wins over a pending restart. `DynamicActor` (module `dynamic`) keeps children that come and go.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Final, NoReturn

import anyio

from understudy.actors.actor import Leave
from understudy.actors.cell import Cell
from understudy.actors.errors import SpecError, UsageError
from understudy.actors.journal.events import BackedOff, ChildExited, ChildStarted, Escalated, GaveUp
from understudy.actors.lifecycle import ALIVE, DECLINED, SHUTDOWN, Exit
from understudy.actors.timers import Timer
from understudy.supervisors.groups import Group
from understudy.supervisors.intensity import Intensity, RestartWindow
from understudy.supervisors.keeping import Keeper, Kept, StartLimits, in_order, late_start
from understudy.supervisors.plans import (
    ChildDown,
    ChildInfo,
    ChildPlan,
    ChildUp,
    GroupAgain,
    Observer,
    StartAgain,
    SupervisorPlan,
    SweepStarts,
    state_of,
)
from understudy.supervisors.strategies import check_significant, decide_exit, shuts_down

NUDGE: Final = -1
"""A turn that is none: look what can be gone on with."""

__all__ = ["ChildPlan", "Observer", "SupervisorActor", "SupervisorPlan"]


class SupervisorActor(Keeper[ChildDown | ChildUp | StartAgain | GroupAgain | SweepStarts]):
    """See the module."""

    _hears_children = True
    stops_together = False

    def __init__(self, plan: SupervisorPlan) -> None:
        self._plan = plan
        self._observe = plan.observe
        self._alone = plan.strategy == "one_for_one"
        self._kept: dict[str, Kept] = {}  # in start order
        self._window = RestartWindow(plan.intensity)
        self._window.restore(plan.past.stamps)
        self._limits = StartLimits(self)
        self._group: Group | None = None
        self._turn = 0
        self._again: Timer | None = None
        self._over: asyncio.Future[None] | None = None

    # -- start ---------------------------------------------------------------------------------------------

    async def on_start(self) -> None:
        """Start the children one after another; if one fails, those before it are stopped, last first.

        Addresses that a group restart above has kept are taken up again; those of no child of the plan are stopped.
        """
        own, names = self._own, {plan.name for plan in self._plan.children}
        some_kept = bool(own.children)
        for name, cell in list(own.children.items()):
            if name not in names:
                self._kernel.begin_stop(cell)
        for plan in self._plan.children:
            adopted = plan.name in own.children
            kept = self._begin_new(plan)
            if some_kept:
                in_order(self._own, self._kept)
            failed: Exit | None = late_start(plan.start_within)
            with anyio.move_on_after(plan.start_within):
                failed = await self._kernel.wait_started(kept.cell)
            if failed == DECLINED:
                self._decline(kept)
            elif failed is not None and (failed.kind == "start" or not adopted):  # else a kept message ended it since
                raise Leave(Exit("start", f"child {plan.name}: {failed}"))

    def _begin_new(self, plan: ChildPlan) -> Kept:
        """Begin a child that is not kept yet. Raises `SpecError` when its address is taken."""
        now = self._kernel.loop.time()
        kept = Kept(plan, self._address(plan, self._plan.numbers(f"{self._own.path}/{plan.name}")), now)
        self._kept[plan.name] = kept
        if (past := self._plan.past.children.pop(kept.cell.path, None)) is not None:
            kept.remember(past, self._plan.backoff, now)
        self._say_started(kept)
        return kept

    def _address(self, plan: ChildPlan, number: int) -> Cell:
        """A cell with a fresh incarnation: the failed one of that name, or a new one."""
        own, kernel = self._own, self._kernel
        cell = own.children.get(plan.name)
        if cell is not None and cell.state == "failed":
            cell.factory, cell.on_exit = plan.factory, self._on_exit
            kernel.restart(cell)
        else:
            cell = kernel.spawn(
                plan.factory,
                name=plan.name,
                parent=own,
                on_exit=self._on_exit,
                concurrency=plan.concurrency,
                number=number,
            )
        cell.shutdown = plan.shutdown
        return cell

    def _begin(self, kept: Kept) -> None:
        """Begin the next incarnation of a child that is down. Raises `SpecError` when its address is taken."""
        kernel, cell = self._kernel, kept.cell
        now = kept.began = kernel.loop.time()
        kept.phase = "up"
        if cell.state == "failed":
            kernel.restart(cell)
        else:
            kept.cell = self._address(kept.plan, cell.number)
            in_order(self._own, self._kept)
        if kept.plan.start_within < inf:
            self._limits.note(kept.cell, now, kept.plan.start_within)
        self._say_started(kept)

    def _say_started(self, kept: Kept) -> None:
        if self._observe is not None:
            self._observe(kept.cell, lambda: ChildStarted(kept.cell.path, kept.cell.number), False)

    # -- what comes back -----------------------------------------------------------------------------------

    def _on_exit(self, cell: Cell, number: int, exit: Exit) -> None:
        # Not bounded: a child has one exit at a time, and one that got lost would never be restarted.
        if self._own.state in ALIVE:
            self._kernel.control(self._own, ChildDown(cell, number, exit), bounded=False)

    def _child_released(self, cell: Cell) -> None:
        kept = self._kept.get(cell.label)
        if kept is not None and kept.cell is cell and kept.phase != "stopped":
            self._on_exit(cell, cell.number, cell.exit)

    def child_down(self, m: ChildDown) -> None:
        """Decide by the table what follows from an exit; one of an older incarnation or of a stranger is ignored."""
        cell = m.cell
        kept = self._kept.get(cell.label)
        if kept is None or kept.cell is not cell or m.number != cell.number:
            self._go_on()  # a group may have waited for one that was deleted meanwhile
        elif cell.state == "stopped":
            self._gone(kept)
        elif cell.state == "failed" and cell.life is None:
            if kept.phase == "ending":
                kept.phase = "waiting"
                self._down(kept, m.exit, intended=True)
                self._go_on()
            elif kept.phase in ("up", "starting"):
                group = self._group
                if m.exit.kind == "escalate":
                    self._escalate(kept, m.exit)
                elif group is not None and group.step == "stop" and cell.label in group.members:
                    self._casualty(kept, m.exit)
                else:
                    self._ended(kept, m.exit)

    def _casualty(self, kept: Kept, exit: Exit) -> None:
        """It ended by itself before the group restart came to stop it: that is no further failure."""
        self._down(kept, exit)
        if kept.plan.restart == "temporary":
            self._let_go(kept, exit, forget=True)
        else:
            kept.phase = "waiting"
            if kept.cell.watchers:
                self._kernel.will_restart(kept.cell)
        self._go_on()

    def _down(self, kept: Kept, exit: Exit, *, intended: bool = False) -> None:
        cell = kept.cell
        if self._observe is not None:
            self._observe(cell, lambda: ChildExited(cell.path, cell.number, exit, intended), False)
        if intended and cell.watchers:
            self._kernel.will_restart(cell)

    def _gone(self, kept: Kept) -> None:
        """Its address is gone: somebody stopped it, or a group restart hit a temporary child."""
        if kept.phase == "stopped":
            return
        kept.phase = "stopped"
        if kept.plan.restart == "temporary":
            del self._kept[kept.plan.name]
        elif self._group is not None:
            self._group.held.add(kept.plan.name)
        self._go_on()

    def _ended(self, kept: Kept, exit: Exit) -> None:
        """A child ended on its own."""
        self._down(kept, exit)
        if exit == DECLINED:
            self._decline(kept)
        elif kept.by_hand and exit.kind == "start":
            kept.by_hand = False
            self._let_go(kept, exit, forget=kept.new)
        else:
            decision = decide_exit(kept.plan.restart, exit)
            if decision == "restart":
                self._restart(kept, exit)
                return
            self._let_go(kept, exit, forget=decision == "forget")
            self._ended_for_good(kept)
        self._go_on()

    def _decline(self, kept: Kept) -> None:
        """Nothing to do for it: the spec is kept without an actor."""
        self._let_go(kept, DECLINED, forget=kept.plan.restart == "temporary" or kept.new)

    def _let_go(self, kept: Kept, exit: Exit, *, forget: bool) -> None:
        """Release the address of a child that is down, and keep or forget its spec."""
        kept.phase = "stopped"
        if forget:
            self._kept.pop(kept.plan.name, None)
        elif self._group is not None:
            self._group.held.add(kept.plan.name)
        self._kernel.begin_stop(kept.cell, exit)

    def _ended_for_good(self, kept: Kept) -> None:
        """Automatic shutdown: the end of a significant child may be the end of us. Raises `Leave`."""
        if not kept.plan.significant:
            return
        others = [other for other in self._kept.values() if other.plan.significant and other is not kept]
        living = sum(other.phase != "stopped" and not other.gone for other in others)
        if shuts_down(self._plan.auto_shutdown, living):
            raise Leave(Exit("shutdown", f"significant child {kept.plan.name} ended: {kept.cell.exit}"))

    # -- restart -------------------------------------------------------------------------------------------

    def _restart(self, kept: Kept, exit: Exit) -> None:
        kernel = self._kernel
        if kernel.interrupted is not None:
            return  # the process is about to end: nothing is started any more
        if exit.kind == "normal" and not kept.told:
            kept.told = True
            self._report_normal_end(kept.cell.path)
        now = kernel.loop.time()
        if kept.window is not None and not kept.window.admit(now):
            self._set_aside(kept, kept.window.intensity, exit)
            return
        if not self._window.admit(now):
            self._give_up(kept, exit)
        unstarted = kept.phase == "starting" and exit.kind == "start"
        kept.phase = "waiting"
        kept.by_hand = kept.new = False
        delay = kept.next_delay(self._plan.backoff, self._plan.dice, exit, now)
        cell = kept.cell
        if self._observe is not None:
            in_window = self._window.count(now)
            self._observe(
                cell, lambda: BackedOff(self._own.path, cell.path, delay, kept.failures, in_window, exit), True
            )
        if cell.watchers:
            kernel.will_restart(cell)
        if not self._alone:
            self._regroup(kept, now + delay, retry=unstarted)
        elif delay > 0.0:
            kernel.timer(self._own, delay, StartAgain(cell, cell.number))
        else:  # the child has its turn before it can fail again, and that comes as a message: others are served
            self._begin(kept)

    def _give_up(self, kept: Kept, exit: Exit) -> NoReturn:
        raise Leave(Exit("shutdown", self._too_many(kept, self._plan.intensity, exit, alone=False)))

    def _escalate(self, kept: Kept, exit: Exit) -> NoReturn:
        """A guard wants our own supervisor to decide about this failure: we end, as past the intensity."""
        self._down(kept, exit)
        if self._observe is not None:
            self._observe(kept.cell, lambda: Escalated(self._own.path, kept.cell.path, exit), True)
        raise Leave(Exit("shutdown", f"escalated {kept.cell.path}: {exit.detail}"))

    def _set_aside(self, kept: Kept, intensity: Intensity, exit: Exit) -> None:
        """It alone failed too often: it stays stopped until somebody starts it by hand."""
        self._let_go(kept, Exit("shutdown", self._too_many(kept, intensity, exit, alone=True)), forget=False)
        self._ended_for_good(kept)
        self._go_on()

    def _too_many(self, kept: Kept, intensity: Intensity, exit: Exit, *, alone: bool) -> str:
        path = kept.cell.path
        if self._observe is not None:
            limit = intensity.restarts, intensity.within
            self._observe(kept.cell, lambda: GaveUp(self._own.path, path, *limit, exit, alone), True)
        return f"gave up: more than {intensity}, the last {path}: {exit}"

    def start_again(self, m: StartAgain) -> None:
        """The back-off is over: start the next incarnation, unless something else happened meanwhile."""
        kept = self._kept.get(m.cell.label)
        if kept is None or kept.cell is not m.cell or m.number != m.cell.number or kept.phase != "waiting":
            return
        if m.cell.state == "failed" and self._kernel.interrupted is None:
            self._begin(kept)

    def sweep_starts(self, m: SweepStarts) -> None:
        """Somebody's time to start is up."""
        self._limits.sweep()

    # -- group restart -------------------------------------------------------------------------------------

    def _regroup(self, kept: Kept, due: float, *, retry: bool) -> None:
        group = self._group or Group()
        self._group, order, strategy = group, tuple(self._kept), self._plan.strategy
        self._turn += 1
        if retry:
            group.retry(strategy, order, kept.plan.name, due)
            self._wait_group(group)
        else:
            group.failed(strategy, order, kept.plan.name, due)
            self._go_on()

    def _go_on(self) -> None:
        """Go on with the group restart, if there is one, as far as it goes without waiting."""
        group = self._group
        if group is None or group.step == "wait":
            return
        if group.step == "stop":
            if self._stop_next(group):
                self._wait_group(group)
        elif self._start_next(group):
            self._group = None
            if self._over is not None:
                self._over.set_result(None)
                self._over = None

    def _stop_next(self, group: Group) -> bool:
        """Stop the members one after another, each fully; True when all are down."""
        while group.todo:
            kept = self._kept.get(group.todo[-1])
            if kept is not None and (kept.phase in ("up", "starting") or kept.cell.state == "stopping"):
                self._end(kept)  # also one that is to stay stopped: its address must be free before anybody starts
            if kept is not None and kept.phase in ("ending", "leaving"):
                return False
            group.todo.pop()
        return True

    def _end(self, kept: Kept) -> None:
        """Begin to end one member; the end comes as a message."""
        kept.phase = "ending"
        if kept.plan.restart == "temporary" or kept.gone:
            kept.phase = "leaving"
            self._kernel.begin_stop(kept.cell)
            if kept.cell.state == "stopped":
                kept.phase = "stopped"
                if kept.plan.restart == "temporary":
                    self._kept.pop(kept.plan.name, None)
                elif self._group is not None:  # somebody stopped it, and that is about to be reported
                    self._group.held.add(kept.plan.name)
        elif kept.cell.state in ALIVE:
            self._kernel.halt(kept.cell, SHUTDOWN)
        # else it has just failed by itself: its exit is on its way, and is one of this group

    def _wait_group(self, group: Group) -> None:
        group.wait()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        delay = group.due - self._kernel.loop.time()
        if delay > 0.0:
            self._again = self._kernel.timer(self._own, delay, GroupAgain(self._turn))
        else:
            self._kernel.control(self._own, GroupAgain(self._turn), bounded=False)

    def group_again(self, m: GroupAgain) -> None:
        """The delay of a group restart is over: stop whoever is up (a retry), else start everybody."""
        group = self._group
        if m.turn == NUDGE:
            self._go_on()
            return
        if group is None or m.turn != self._turn or group.step != "wait" or self._kernel.interrupted is not None:
            return
        living = ("up", "starting", "ending", "leaving")
        if any(name in self._kept and self._kept[name].phase in living for name in group.members):
            group.stop()
        else:
            group.start(self._kept)
        self._go_on()

    def _start_next(self, group: Group) -> bool:
        """Start the members one after another; True when all that can be are up."""
        while group.todo:
            kept = self._kept.get(group.todo[-1])
            if kept is None or kept.phase == "up" or kept.plan.name in group.held:
                group.todo.pop()
                continue
            if kept.phase in ("starting", "leaving"):
                return False
            try:
                self._begin(kept)
            except SpecError as error:  # somebody took its address meanwhile
                kept.phase = "starting"
                self._restart(kept, Exit("start", str(error)))
                return False
            kept.phase = "starting"
            self._tell_when_up(kept.cell)
            return False
        return True

    def _tell_when_up(self, cell: Cell) -> None:
        own, number = self._own, cell.number
        if cell.state == "starting":
            kernel = self._kernel

            def tell(_: asyncio.Future[None]) -> None:
                kernel.control(own, ChildUp(cell, number), bounded=False)

            kernel.when_started(cell).add_done_callback(tell)

    def child_up(self, m: ChildUp) -> None:
        """A child that a group start waits for is up; had it failed, its exit says so."""
        kept = self._kept.get(m.cell.label)
        if kept is None or kept.cell is not m.cell or m.cell.number != m.number or kept.phase != "starting":
            return
        if m.cell.state in ("running", "suspended"):
            kept.phase = "up"
            self._go_on()

    # -- manual operations: never counted, called by `SupervisorRef` ------------------------------------------

    def infos(self) -> tuple[ChildInfo, ...]:
        """All children, in start order."""
        return tuple(self._info(kept) for kept in self._kept.values())

    def _info(self, kept: Kept) -> ChildInfo:
        state = "restarting" if kept.phase == "waiting" and not kept.gone else state_of(kept.cell)
        plan, cell = kept.plan, kept.cell
        return ChildInfo(plan.name, cell.path, state, plan.restart, cell.number, plan.significant)

    def regrouping(self) -> asyncio.Future[None] | None:
        """Done when the group restart in progress is over; None when there is none."""
        if self._group is not None and self._over is None:
            self._over = self._kernel.loop.create_future()
        return self._over

    def add(self, plan: ChildPlan) -> Cell:
        """Begin one more child, last in start order. Raises `SpecError` for a name that is taken, `UsageError`."""
        if plan.significant:
            check_significant(f"child {plan.name!r}", plan.restart, self._plan.auto_shutdown)
        if plan.name in self._kept:
            raise SpecError(f"{self._own.path}: there is a child {plan.name!r} already")
        kept = self._begin_new(plan)
        if plan.start_within < inf:
            self._limits.note(kept.cell, kept.began, plan.start_within)
        kept.by_hand = kept.new = True
        return kept.cell

    def start(self, name: str) -> Cell:
        """Begin a stopped child again. Raises `UsageError` unless it is stopped."""
        kept = self._find(name)
        self._must_be_stopped(kept, "started")
        self._begin(kept)
        kept.by_hand = True
        return kept.cell

    def started(self, cell: Cell) -> None:
        """The manual start of this child is over: its ends are decided as any, but for one of that start on its way."""
        kept = self._kept.get(cell.label)
        failed = cell.state == "failed" and cell.exit.kind == "start"
        if kept is not None and kept.cell is cell and not failed:
            kept.by_hand = kept.new = False

    def terminate(self, name: str) -> Cell:
        """Begin to stop a child for good, whatever it is about; a pending restart of it is off."""
        kept = self._find(name)
        temporary = kept.plan.restart == "temporary"
        if kept.phase in ("waiting", "stopped") or kept.gone:
            self._let_go(kept, SHUTDOWN, forget=temporary)
            self._kernel.control(self._own, GroupAgain(NUDGE), bounded=False)
        else:
            kept.phase = "leaving"
            self._kernel.begin_stop(kept.cell)  # its address will be reported as gone
        return kept.cell

    def delete(self, name: str) -> None:
        """Forget the spec of a stopped child. Raises `UsageError` unless it is stopped."""
        kept = self._find(name)
        self._must_be_stopped(kept, "deleted")
        del self._kept[name]

    def _find(self, name: str) -> Kept:
        kept = self._kept.get(name)
        if kept is None:
            known = ", ".join(self._kept) or "none"
            raise UsageError(f"{self._own.path}: no child {name!r}; children: {known}")
        return kept

    def _must_be_stopped(self, kept: Kept, what: str) -> None:
        info = self._info(kept)
        if info.state != "stopped":
            raise UsageError(f"{info.path} is {info.state}; only a stopped child can be {what}")
