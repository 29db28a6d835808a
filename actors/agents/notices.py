"""What an operator must see without looking: the events of a run that are written to the log, one line each.

Through the standard `logging`, logger `understudy.runs`, level WARNING: a loop, a restart, a supervisor that gave up, a
doubt, a refused budget, and every run that ended `failed` or `stopped`. The record carries `run`, `seq` and `path`.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from understudy.actors.agents.guards import said
from understudy.actors.journal import events as ev
from understudy.actors.telemetry import LineLimit, heard

log: Final = logging.getLogger("understudy.runs")
log.addHandler(logging.NullHandler())


_TELLING: Final = frozenset(
    {
        ev.Judged,
        ev.BackedOff,
        ev.Quarantined,
        ev.Released,
        ev.Escalated,
        ev.GaveUp,
        ev.BudgetDenied,
        ev.InDoubt,
        ev.Finished,
    }
)
"""What `_told` has words for."""


def notice(record: ev.Record, lines: LineLimit) -> None:
    """Log a record that somebody should know of, if anybody listens; pass over the others.

    Of back-offs that belong to no run at most 10 a second and supervisor are told.
    """
    if type(record.event) not in _TELLING or not heard(log):
        return
    text = _told(record.event)
    if isinstance(record.event, ev.BackedOff) and record.run == ev.NODE_STREAM:
        admitted = lines.admit(record.event.supervisor, time.monotonic())
        lines.evict()
        if admitted is None:
            return
        text += f" (and {admitted[0]:,} more not told)" if admitted[0] else ""
    if text:
        where = f"{record.place} {record.path}".rstrip()
        extra = {"run": record.run, "seq": record.seq, "path": record.path}
        log.warning("%s: %s", where, text, extra=extra)


def _told(event: ev.AnyEvent) -> str:
    match event:
        case ev.Judged():
            response = type(event.verdict.response).__name__.lower()
            return f"loop, {event.verdict.rule}: {event.verdict.what}; {response}"
        case ev.BackedOff():
            return f"restarts in {event.delay:.2g} s after {event.exit}; {event.in_window} in the window"
        case ev.Quarantined():
            return f"{event.agent} is quarantined, {event.reason}; `understudy release {event.agent}`"
        case ev.Released():
            return f"{event.agent} was released by {event.by}"
        case ev.Escalated():
            return f"{event.supervisor} ends for its supervisor to decide about {event.child}: {event.exit}"
        case ev.GaveUp():
            return (
                f"{event.supervisor} gave up, more than {event.intensity} restarts in {event.within:g} s: {event.exit}"
            )
        case ev.BudgetDenied():
            return f"budget {event.pool} refused: {said(event.unit)}, {event.spent} of {event.limit} spent"
        case ev.InDoubt():
            return f"in doubt: {event.name}, {event.effect}; settle it with `understudy doubts {event.doubt}`"
        case ev.Finished() if event.status in ("failed", "stopped"):
            return f"{event.status}: {event.reason}"
        case _:
            return ""
