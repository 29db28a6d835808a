"""Invariants 21 to 24: what is left of a tree, how long its end takes, and that it comes to rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from understudy.actors.testing.invariants.base import Invariant, invariant, when, who
from understudy.actors.testing.trace import Event, Trace

RESTLESS = 1_000.0
"""Events per virtual second that a tree may make when it is left alone; a heartbeat makes a few."""
ROUNDING = 1_000
"""Nanoseconds by which sums of float seconds may differ."""
WORKER: Final = "understudy-worker"
"""The name of the tasks that handlers run in."""


@invariant(21)
def nothing_is_left(trace: Trace) -> Iterator[str]:
    """Looked at when main has returned; tasks when every kernel was closed.

    A worker whose handler ignores every cancel is left behind by a kernel that closes, which says so; as many as there
    were handlers then are no fault of the kernel's.
    """
    ignored = _in_hand(trace)
    left = [name for name in trace.left_tasks if name != WORKER or (ignored := ignored - 1) < 0]
    if left:
        yield f"{len(left)} tasks are left: {', '.join(left[:10])}"
    if trace.left_timers:
        yield f"{trace.left_timers} timers of a closed kernel are left"
    for failure in trace.failures:
        yield f"nobody took notice of: {failure}"


def _in_hand(trace: Trace) -> int:
    """How many handlers were going on when the last kernel was closed."""
    running: set[tuple[str, int, int]] = set()
    found = 0
    for event in trace.events:
        if event.kind == "begin":
            running.add((event.path, event.number, event.message))
        elif event.kind == "end":
            running.discard((event.path, event.number, event.message))
        elif event.kind == "closed":
            found = len(running)
    return found


class _Stop:
    """The end of one address or incarnation that is under way, and what its children have taken so far."""

    __slots__ = ("below", "event", "together")

    def __init__(self, event: Event, before: _Stop | None = None) -> None:
        self.event = event
        self.together = event.detail == "together"
        self.below = 0 if before is None else before.longest()

    def add(self, longest: int) -> None:
        self.below = max(self.below, longest) if self.together else self.below + longest

    def longest(self) -> int:
        """Nanoseconds: its own, and its children's, one after another or together."""
        return self.event.size + self.below


@invariant(22)
def deadlines_of_a_stop(trace: Trace) -> Iterator[str]:
    """Own patience, `on_stop`, `lifespan` and a second for each cancel, and the children before that."""
    if trace.held_up:
        return
    above: dict[str, str] = {}
    stops: dict[str, _Stop] = {}
    for event in trace.events:
        kind, path = event.kind, event.path
        if kind == "spawned":
            above[path] = event.peer
            stops.pop(path, None)
        elif kind in ("ending", "halting"):
            stops[path] = _Stop(event)
        elif kind == "stopping":
            stops[path] = _Stop(event, stops.get(path))
        elif kind in ("ended", "released"):
            stop = stops.get(path)
            if stop is None or (kind == "ended" and stop.event.kind == "stopping"):
                continue
            del stops[path]
            if event.at - stop.event.at > stop.longest() + ROUNDING:
                took, may = (event.at - stop.event.at) / 1e9, stop.longest() / 1e9
                yield f"{who(event)} was {stop.event.kind} for {took:g} s {when(event)}, and may be for {may:g} s"
            parent = stops.get(above.get(path, ""))
            if parent is not None:
                parent.add(stop.longest())


@invariant(23)
def shutdown_is_final(trace: Trace) -> Iterator[str]:
    """A kernel that is closed twice, or while it is cancelled, is closed once."""
    there: dict[str, Event] = {}
    closed: dict[str, Event] = {}
    for event in trace.events:
        kind, path = event.kind, event.path
        if kind == "spawned":
            there[path] = event
        elif kind == "released":
            if there.pop(path, None) is None:
                yield f"{path} is released {when(event)}, and was before"
        elif kind == "closed":
            closed[path] = event
            for left in [each for each in there if _prefix(each) == path]:
                yield f"{left} is there when its kernel is closed {when(event)}"
        if closed and kind in _LIVELY and _prefix(path) in closed:
            yield f"{who(event)}: {kind} {when(event)}, and its kernel is closed"


_LIVELY = frozenset({"spawned", "starting", "started", "begin", "ended", "released"})


def _prefix(path: str) -> str:
    """Which kernel a path is of; see `Trace.kernels`."""
    number, colon, _ = path.partition(":")
    return f"{number}:" if colon and number.isdigit() else ""


def quiescence(per_second: float = RESTLESS) -> Invariant:
    """Invariant 24 for a tree that makes at most `per_second` events per virtual second when left alone; 0 is rest.

    Looked at in the second half of the time to settle (`World.run(settle=...)`).
    """

    def check(trace: Trace) -> Iterator[str]:
        if "settling" not in trace.kinds:
            return
        begun: int | None = None
        for index, event in enumerate(trace.events):
            if event.kind == "settling":
                begun = index
            elif event.kind == "settled" and begun is not None:
                start = trace.events[begun]
                middle = (start.at + event.at) / 2
                late = [each for each in trace.events[begun + 1 : index] if each.at > middle]
                if len(late) > per_second * (event.at - middle) / 1e9:
                    yield f"{len(late)} events after {middle / 1e9:g} s, when it was left alone; the last: {late[-1]}"

    return Invariant(24, check)


at_rest = quiescence()
"""Invariant 24 as it holds of every tree, with a heartbeat or without."""
