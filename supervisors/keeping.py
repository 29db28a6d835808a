"""What every supervisor's actor does alike: counts restarts, draws delays, and limits the time of a start.

The cost of a restart is the same whatever the number of children and of restarts in the window, and nothing is
built that nobody looks at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from understudy.actors.actor import Actor
from understudy.actors.cell import Cell
from understudy.actors.clock import Dice
from understudy.actors.delivery import Life
from understudy.actors.errors import UsageError
from understudy.actors.kernel import Kernel
from understudy.actors.lifecycle import Exit
from understudy.actors.telemetry import log
from understudy.supervisors.backoff import Backoff
from understudy.supervisors.history import ChildPast
from understudy.supervisors.intensity import Intensity, RestartWindow
from understudy.supervisors.plans import ChildPlan, SweepStarts

if TYPE_CHECKING:
    from understudy.actors.timers import Timer

B = TypeVar("B")

SWEEP_SECONDS = 1.0
TOGETHER_SECONDS = 0.05


def in_order(own: Cell, names: Iterable[str]) -> None:
    """Children are stopped in reverse start order, which is that of the specs, not that of their addresses."""
    children = own.children
    ours: dict[str | int, Cell] = {name: children[name] for name in names if name in children}
    others = {name: cell for name, cell in children.items() if name not in ours}
    children.clear()
    children.update(ours | others)


class Record:
    """What is remembered of a child that has failed: since when it lives, its failures, its own window if it has one.

    `failures` since it was last healthy; `began` is loop time.
    """

    __slots__ = ("began", "failures", "window")

    def __init__(self, began: float, intensity: Intensity | None) -> None:
        self.began = began
        self.failures = 0
        self.window = RestartWindow(intensity) if intensity is not None else None

    def remember(self, past: ChildPast, backoff: Backoff, now: float) -> None:
        """Go on from a former process: its failures, unless it has been up for a healthy period, and its window."""
        self.failures = backoff.failures_after(past.failures, now - past.up_at)
        if self.window is not None:
            self.window.restore(past.stamps)

    def next_delay(self, backoff: Backoff, dice: Dice, exit: Exit, now: float) -> float:
        """Note one more failure; the seconds to wait before the next start."""
        # A start that took long and failed is no healthy life.
        before = self.failures if exit.kind == "start" else backoff.failures_after(self.failures, now - self.began)
        self.failures = before + 1
        return backoff.delay(before, dice.random()) if backoff.first else 0.0


class Kept(Record):
    """One child: its plan, its cell (the last one, when it is stopped), and what the supervisor is about with it.

    `phase`: `up` (an incarnation was begun), `starting` (a group start or a person waits for it), `ending` (asked
    to end, its address stays), `leaving` (asked to stop), `waiting` (down, and to be started), `stopped`.
    `by_hand`: a manual start is waited for; when it fails the child is not restarted (`new`: and is forgotten).
    """

    __slots__ = ("by_hand", "cell", "new", "phase", "plan", "told")

    def __init__(self, plan: ChildPlan, cell: Cell, began: float) -> None:
        super().__init__(began, plan.intensity)
        self.plan = plan
        self.cell = cell
        self.phase = "up"
        self.by_hand = self.new = self.told = False

    @property
    def gone(self) -> bool:
        """Without an address, or without one soon."""
        return self.cell.state in ("stopping", "stopped")


class Keeper(Actor[B], Generic[B]):
    """Base of the actors of supervisors. Every handler is a plain `def`: it acts and returns, and never waits.

    So a supervisor is responsive whatever its children do: what takes time comes back as a message.
    """

    @property
    def _own(self) -> Cell:
        if self._cell is None:
            raise UsageError("a supervisor's actor was not spawned by a kernel")
        return self._cell

    @property
    def _kernel(self) -> Kernel:
        return self._own.kernel

    def _report_normal_end(self, path: str) -> None:
        """Once per child: a permanent child that ends by itself is most often a wrong restart type."""
        text = "%s ended normally and is restarted because it is permanent; if it may end, keep it transient"
        log.warning(text, path, extra={"path": path, "code": "permanent-ends"})


class _Batch:
    """Lives that began within a moment of each other, and until when the last of them may take to start."""

    __slots__ = ("began", "due", "lives", "seconds")

    def __init__(self, now: float, seconds: float) -> None:
        self.began = now
        self.seconds = seconds
        self.due = now + seconds
        self.lives = deque[Life]()

    def prune(self, count: int) -> None:
        """Look at `count` of them, and drop those that have started or ended."""
        for _ in range(min(count, len(self.lives))):
            life = self.lives.popleft()
            if _starting(life):
                self.lives.append(life)


class StartLimits:
    """The children that are starting, and until when; one timer for all.

    Nothing is kept of a child that has started: each new entry looks at two old ones and drops those that are done, and
    while there are any, all are looked at once a second. Those that begin within 50 ms share a deadline, the last's.
    """

    __slots__ = ("_armed", "_batches", "_keeper", "_timer")

    def __init__(self, keeper: Keeper[Any]) -> None:
        self._keeper = keeper
        self._batches: deque[_Batch] = deque()
        self._timer: Timer | None = None
        self._armed = 0.0

    def note(self, cell: Cell, now: float, seconds: float) -> None:
        """`cell` begins to start at loop time `now` and has `seconds`."""
        batches, life = self._batches, cell.life
        if life is None:
            return
        if batches:
            batches[0].prune(2)
            if not batches[0].lives:
                batches.popleft()
        last = batches[-1] if batches else None
        if last is None or last.seconds != seconds or now - last.began > TOGETHER_SECONDS:
            last = _Batch(now, seconds)
            batches.append(last)
        last.due = now + seconds
        last.lives.append(life)
        if self._timer is None or self._timer.call is None or last.due < self._armed:
            self._arm(now, last.due)

    def _arm(self, now: float, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        keeper = self._keeper
        self._armed = when
        when = min(when, now + SWEEP_SECONDS)
        self._timer = keeper._kernel.timer(keeper._own, when - now, SweepStarts())

    def sweep(self) -> None:
        """End every start that is late, as a failed start; look again when the next one would be."""
        kernel = self._keeper._kernel
        now = kernel.loop.time()
        for batch in self._batches:
            batch.prune(len(batch.lives))
        left = [batch for batch in self._batches if batch.lives]
        late = [batch for batch in left if batch.due <= now + 1e-9]  # a timer's own rounding
        self._batches = deque(batch for batch in left if batch.due > now + 1e-9)
        self._timer = None
        if self._batches:
            self._arm(now, min(batch.due for batch in self._batches))
        for batch in late:
            for life in batch.lives:
                if _starting(life):
                    kernel.halt(life.cell, late_start(batch.seconds), deadline=0.0)


def _starting(life: Life) -> bool:
    return life.cell.life is life and life.cell.state == "starting"


def late_start(seconds: float) -> Exit:
    """The exit of a child whose `on_start` did not return in time."""
    return Exit("start", f"not started within {seconds:g} s")
