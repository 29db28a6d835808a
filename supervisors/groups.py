"""A group restart as data: who is concerned, what is left of the present step, and when it may go on.

    stop ──all down──▶ wait ──its time──▶ start ──all up──▶ over
      ▲                  │                  │
      └── somebody of it is up, or fails ───┘

Every stop comes before every start. `failed` begins a group or joins it: siblings are stopped at once, the larger
range and the longer remaining delay win (erlang/eep#28). `retry` is for a member that does not start: those that
are up stay up until its delay is over. Who was stopped by hand meanwhile is `held`: this group does not start it.

Pure: names and numbers; `supervisor` carries out what `todo` says.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal

from understudy.supervisors.strategies import Strategy, affected

Step = Literal["stop", "wait", "start"]


class Group:
    """See the module. `todo` lists what the present step still has to do, the next one last."""

    __slots__ = ("due", "held", "members", "step", "todo")

    def __init__(self) -> None:
        self.members: tuple[str, ...] = ()
        self.step: Step = "wait"
        self.due = 0.0
        self.todo: list[str] = []
        self.held: set[str] = set()

    def failed(self, strategy: Strategy, order: Sequence[str], name: str, due: float) -> None:
        """`name` failed and may start at `due`: stop what is up of everything concerned, last first."""
        self._concern(strategy, order, name, due)
        self.stop()

    def retry(self, strategy: Strategy, order: Sequence[str], name: str, due: float) -> None:
        """`name` did not start and is tried again at `due`; what is up stays so until then."""
        self._concern(strategy, order, name, due)
        self.step = "wait"
        self.todo = []

    def _concern(self, strategy: Strategy, order: Sequence[str], name: str, due: float) -> None:
        range_ = affected(strategy, order, name)
        known = set(order)
        first = next((member for member in self.members if member in known), None)
        # Both are ends of one order, so the longer contains the other. A retry concerns those after it alone.
        if first is not None and self.step != "start":
            range_ = max(range_, tuple(order[order.index(first) :]), key=len)
        self.due = max(due, self.due) if self.step != "start" else due
        self.members = range_
        self.held &= known

    def stop(self) -> None:
        """Begin the step that stops the members, in reverse start order."""
        self.step = "stop"
        self.todo = list(self.members)

    def wait(self) -> None:
        """Begin the step that waits until `due`."""
        self.step = "wait"
        self.todo = []

    def start(self, known: Collection[str]) -> None:
        """Begin the step that starts the members that are still known and not held, in start order."""
        self.step = "start"
        self.todo = [name for name in reversed(self.members) if name in known and name not in self.held]
