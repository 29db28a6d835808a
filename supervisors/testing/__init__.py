"""Invariants 11 to 18, of a declared tree: strategies, intensities, back-off, restart types, order, stops.

    trace = world.run(main, check=(*invariants.default(), *supervision(desk)))

They read who started, ended and was told of it from the trace, and hold it against the specs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from understudy.actors.testing.invariants import Invariant
from understudy.actors.testing.invariants.base import when
from understudy.actors.testing.trace import Event, Trace
from understudy.supervisors.testing.desk import Desk, Finding
from understudy.supervisors.testing.rules import Declared, Rules, rules_of

__all__ = ["Declared", "supervision"]

NUMBERS: Final = (11, 12, 13, 14, 15, 16, 17, 18)


def supervision(declared: Declared) -> tuple[Invariant, ...]:
    """Oracles 11 to 18 for a tree: a `Supervisor`, or plans of supervisors' actors by path.

    Raises `SpecError` for a tree that could not start. They share one reading of a trace.
    """
    reading = _Reading(rules_of(declared))
    return tuple(Invariant(number, reading.of(number)) for number in NUMBERS)


class _Reading:
    """Reads each trace once for all."""

    def __init__(self, rules: tuple[Rules, ...]) -> None:
        self._rules = rules
        self._trace: Trace | None = None
        self._found: list[Finding] = []

    def of(self, number: int) -> _Part:
        """What concerns one invariant."""
        return _Part(self, number)

    def read(self, trace: Trace) -> list[Finding]:
        """All that is wrong with a trace."""
        if self._trace is not trace:
            self._trace, self._found = trace, list(_read(trace, self._rules))
        return self._found


class _Part:
    def __init__(self, reading: _Reading, number: int) -> None:
        self._reading = reading
        self._number = number

    def __call__(self, trace: Trace) -> Iterator[str]:
        return iter([sentence for number, sentence in self._reading.read(trace) if number == self._number])


_OWN: Final = frozenset({"starting", "ending", "halting", "stopping", "notice", "begin", "fault"})
_CHILD: Final = frozenset({"starting", "started", "halting", "stopping", "ended", "released"})


def _read(trace: Trace, rules: tuple[Rules, ...]) -> Iterator[Finding]:
    desks = {each.path: Desk(each) for each in rules}
    above: dict[str, Desk] = {path: desks[each.path] for each in rules for path in each.children}
    down = _Told()
    for index, event in enumerate(trace.events):
        kind, path = event.kind, event.path
        desk = desks.get(path)
        if desk is not None and kind in _OWN:
            yield from desk.own(index, event)
        if kind == "spawned" and path not in above and event.peer in desks and desks[event.peer].rules.template:
            above[path] = desks[event.peer]
        elif kind == "end" and event.detail in ("KeyboardInterrupt", "SystemExit"):
            for each in desks.values():
                each.interrupted = True
        elif kind == "notice" and event.what == "ChildDown" and event.peer in above:
            yield from down.notice(event, above[event.peer])
        elif kind in _CHILD and path in above:
            kid = above[path].kid(path)
            if kid is not None:
                yield from down.child(event, above[path], stopping=kid.stopping)
                yield from above[path].of_child(index, event, kid)
    yield from down.rest()
    for desk in desks.values():
        yield from desk.overdue(trace.ended_at)


class _Told:
    """Invariant 12: the end of a child is told to its parent, to nobody else, and once for each end."""

    def __init__(self) -> None:
        self._due: dict[str, Event] = {}
        self._told: dict[tuple[str, int], int] = {}

    def child(self, event: Event, desk: Desk, *, stopping: bool) -> Iterator[Finding]:
        """Something else happens to a child before its parent was told."""
        due = self._due.pop(event.path, None)
        if due is not None:
            yield 12, f"{due.path} #{due.number} ended {when(due)}, and {desk.rules.path} was not told"
        if event.kind == "ended" and desk.alive and not stopping:
            self._due[event.path] = event
        if event.kind == "starting":
            self._told.pop((event.path, event.number), None)

    def notice(self, event: Event, desk: Desk) -> Iterator[Finding]:
        """Somebody is told."""
        key = event.peer, event.size
        self._told[key] = self._told.get(key, 0) + 1
        self._due.pop(event.peer, None)
        if event.path != desk.rules.path:
            yield 12, f"{event.path} is told {when(event)} of the end of {event.peer}, a child of {desk.rules.path}"
        if self._told[key] > 2:  # of the end of the incarnation, and of the address
            yield 12, f"{event.path} is told {when(event)} of the end of {event.peer} #{event.size} once more"

    def rest(self) -> Iterator[Finding]:
        """Whom nobody told of until the end."""
        for event in self._due.values():
            yield 12, f"the end of {event.path} #{event.number} {when(event)} was told to nobody"
