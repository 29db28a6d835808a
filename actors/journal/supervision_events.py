"""Events of supervision: incarnations begin and end, and what their supervisor does about it."""

from __future__ import annotations

from typing import Literal

from understudy.actors.journal.event import Event
from understudy.actors.lifecycle import Exit


class ChildStarted(Event, frozen=True):
    """An incarnation began."""

    child: str
    number: int


class ChildExited(Event, frozen=True):
    """An incarnation ended. `intended` says that its supervisor asked for it."""

    child: str
    number: int
    exit: Exit
    intended: bool = False


class BackedOff(Event, frozen=True):
    """The supervisor waits `delay` seconds before it starts `child` again; `failures` since it was healthy."""

    supervisor: str
    child: str
    delay: float
    failures: int
    in_window: int
    exit: Exit | None = None


class Escalated(Event, frozen=True):
    """A guard's verdict about `child` is for the supervisor above: `supervisor` ends, as if it had given up."""

    supervisor: str
    child: str
    exit: Exit


class GaveUp(Event, frozen=True):
    """More restarts than the intensity allows; the supervisor ends, and `child` was the last straw.

    `alone`: the intensity was that of `child` itself, which stays stopped; its supervisor goes on.
    """

    supervisor: str
    child: str
    intensity: int
    within: float
    exit: Exit
    alone: bool = False


class RestartCounted(Event, frozen=True):
    """In the stream of the node: what `supervisor` remembers of an event that is in a run, at `run:seq`.

    So the next process finds the history of its windows in one stream, whatever became of the runs. `what` is
    `restart` (`BackedOff`, with its `delay` and `failures`), `aside` (`GaveUp`, the child alone) or `over` (the
    supervisor ends).
    """

    supervisor: str
    child: str
    run: str
    seq: int
    what: Literal["restart", "aside", "over"] = "restart"
    delay: float = 0.0
    failures: int = 0
