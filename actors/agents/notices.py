"""The events of runs and of supervision in the log: one line each, through the standard `logging`.

Logger `understudy.runs`. By level: WARNING for what an operator must see without looking (a loop, a restart, a
supervisor that gave up, a doubt, a refused budget, every run that ended `failed` or `stopped`), INFO for how runs
come and go and what people say, DEBUG for every step. Each line carries `run`, `seq`, `sub`, `path`, `incarnation`,
`cause`, `event`, and of a run `trace_id`, `span_id` and `parent_id` (see `actors.trace`). What nobody listens to is not
made; a handler that raises breaks nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Final

from understudy.actors.agents.guards import said
from understudy.actors.journal import events as ev
from understudy.actors.journal.replay import describe_event
from understudy.actors.journal.state import Run
from understudy.actors.telemetry import LineLimit, heard, logger_of

log: Final = logger_of("understudy.runs")

_LEVELS: Final[Mapping[type[ev.Event], int]] = {
    **dict.fromkeys(
        (
            ev.Judged,
            ev.BackedOff,
            ev.Quarantined,
            ev.Released,
            ev.Escalated,
            ev.GaveUp,
            ev.BudgetDenied,
            ev.InDoubt,
            ev.Finished,
        ),
        logging.WARNING,
    ),
    **dict.fromkeys(
        (
            ev.RunStarted,
            ev.SubStarted,
            ev.AttemptStarted,
            ev.Recalled,
            ev.Resumed,
            ev.StopAsked,
            ev.HandedOff,
            ev.Parked,
            ev.Unparked,
            ev.ModelSwitched,
            ev.Compacted,
            ev.Moved,
            ev.StateTimedOut,
            ev.BudgetLow,
            ev.BudgetBreached,
            ev.SpendCorrected,
            ev.ApprovalAsked,
            ev.ApprovalGiven,
            ev.ApprovalRefused,
            ev.DoubtSettled,
            ev.ChildStarted,
            ev.ChildExited,
            ev.Pruned,
        ),
        logging.INFO,
    ),
}
"""Whatever is not here is DEBUG; a run that ended well is INFO."""


def notice(record: ev.Record, lines: LineLimit, run: Run | None = None) -> None:
    """Log a record, if anybody listens at its level. `run`: the run it belongs to, if any.

    Of back-offs that belong to no run at most 10 a second and supervisor are told.
    """
    level = _LEVELS.get(type(record.event), logging.DEBUG)
    if not log.isEnabledFor(level):  # most are not: asked before anything else
        return
    text = _told(record.event) if level == logging.WARNING else describe_event(record.event)
    if not text:
        level, text = logging.INFO, describe_event(record.event)
    if not heard(log, level):
        return
    if isinstance(record.event, ev.BackedOff) and record.run == ev.NODE_STREAM:
        admitted = lines.admit(record.event.supervisor, time.monotonic())
        lines.evict()
        if admitted is None:
            return
        text += f" (and {admitted[0]:,} more not told)" if admitted[0] else ""
    where = f"{record.place} {record.path}".rstrip()
    log.log(level, "%s: %s", where, text, extra=_extra(record, run))


def _extra(record: ev.Record, run: Run | None) -> dict[str, object]:
    extra: dict[str, object] = {
        "run": record.run,
        "seq": record.seq,
        "sub": record.sub,
        "path": record.path,
        "incarnation": record.incarnation,
        "cause": record.cause,
        "event": type(record.event).__name__,
    }
    if run is not None:
        trace = run.trace
        extra["trace_id"] = trace.id
        extra["span_id"] = trace.span(record.run, record.seq)
        extra["parent_id"] = trace.span(record.run, record.cause) if record.cause else trace.parent
    return extra


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
            what = f"{event.child} stays stopped" if event.alone else f"{event.supervisor} gave up"
            return f"{what}, more than {event.intensity} restarts in {event.within:g} s: {event.exit}"
        case ev.BudgetDenied():
            return f"budget {event.pool} refused: {said(event.unit)}, {event.spent} of {event.limit} spent"
        case ev.InDoubt():
            return f"in doubt: {event.name}, {event.effect}; settle it with `understudy doubts {event.doubt}`"
        case ev.Finished() if event.status in ("failed", "stopped"):
            return f"{event.status}: {event.reason}"
        case _:
            return ""
