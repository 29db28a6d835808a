"""What supervisors remember of a former process: the restarts in their windows, and the failures of their children.

Pure: folded from the last events of the node's stream, and turned into the time of the new loop once. A supervisor
takes its own when its first incarnation of the process begins; a later one begins with nothing, as always. History ends
with the supervisor it belongs to: after one that gave up, whoever supervises it counts, and not it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import Struct, field

from understudy.actors.journal import events as ev

READ: Final = (1_000, 10_000)
"""Events of the node's stream that are looked at: so many, and the second number if those are all of the last hour."""
LONG: Final = 3_600.0
STAMPS: Final = 1_000
"""Restarts remembered of one supervisor or child, the last ones."""


class ChildPast(Struct):
    """Of one child: failures since it was last healthy, when it was started again after the last, its restarts."""

    failures: int = 0
    up_at: float = 0.0
    stamps: list[float] = field(default_factory=list[float])


class Past(Struct):
    """Of one supervisor: the times of its restarts, oldest first, and its children by path. Seconds of the loop."""

    stamps: list[float] = field(default_factory=list[float])
    children: dict[str, ChildPast] = field(default_factory=dict[str, ChildPast])


class History:
    """The past of every supervisor, to be taken once. `wall` and `now` are the clocks of one moment."""

    def __init__(self, records: Iterable[ev.Record] = (), *, wall: float = 0.0, now: float = 0.0) -> None:
        self._pasts: dict[str, Past] = {}
        for record in records:
            self._apply(record)
        for past in self._pasts.values():
            past.stamps = _moved(past.stamps, wall, now)
            for child in past.children.values():
                child.stamps = _moved(child.stamps, wall, now)
                child.up_at = now - max(0.0, wall - child.up_at)

    def take(self, path: str) -> Past:
        """What the supervisor at `path` remembers; nothing from then on."""
        return self._pasts.pop(path, None) or Past()

    def _apply(self, record: ev.Record) -> None:
        match record.event:
            case ev.BackedOff(supervisor=path, child=child, delay=delay, failures=failures):
                self._restarted(path, child, record.at, delay, failures)
            case ev.RestartCounted(supervisor=path, child=child, what="restart") as event:
                self._restarted(path, child, record.at, event.delay, event.failures)
            case ev.GaveUp(supervisor=path, child=child, alone=True):
                _stamp(self._child(path, child).stamps, record.at)
            case ev.RestartCounted(supervisor=path, child=child, what="aside"):
                _stamp(self._child(path, child).stamps, record.at)
            case ev.GaveUp(supervisor=path) | ev.Escalated(supervisor=path) | ev.RestartCounted(supervisor=path):
                self._forget(path)
            case ev.ChildExited(child=path):
                self._forget(path)
            case _:
                pass

    def _restarted(self, path: str, child: str, at: float, delay: float, failures: int) -> None:
        past = self._child(path, child)
        past.failures, past.up_at = failures, at + delay
        _stamp(past.stamps, at)
        _stamp(self._pasts[path].stamps, at)

    def _child(self, path: str, child: str) -> ChildPast:
        return self._pasts.setdefault(path, Past()).children.setdefault(child, ChildPast())

    def _forget(self, path: str) -> None:
        """A supervisor has ended, and those below with it."""
        for known in [known for known in self._pasts if known == path or known.startswith(f"{path}/")]:
            del self._pasts[known]


def _stamp(stamps: list[float], at: float) -> None:
    stamps.append(at)
    del stamps[:-STAMPS]


def _moved(stamps: list[float], wall: float, now: float) -> list[float]:
    """Wall times as loop times: none in the future, and ascending though the wall clock may have been set back."""
    moved: list[float] = []
    for at in stamps:
        moved.append(max(now - max(0.0, wall - at), moved[-1] if moved else -float("inf")))
    return moved
