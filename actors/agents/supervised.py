"""Supervision events: each is journalled in the run whose verdict or crash caused it, else in the node's stream."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from understudy.actors.agents.notices import log as noticed
from understudy.actors.agents.notices import notice
from understudy.actors.agents.outcomes import counted_of
from understudy.actors.agents.redacting import redacted
from understudy.actors.agents.runs import Runs
from understudy.actors.cell import Cell
from understudy.actors.errors import JournalError
from understudy.actors.journal import events as ev
from understudy.actors.telemetry import LineLimit, heard, log

Make = Callable[[], ev.AnyEvent]
_NOWHERE: Final = ev.NODE_STREAM, 0, 0.0, 0.0, 0


def observer_of(runs: Runs) -> Callable[[Cell, Make, bool], None]:
    """Whom supervisors tell what they do: the child, what makes the event, and whether an operator must see it."""
    return partial(_supervised, runs, LineLimit())


def _supervised(runs: Runs, lines: LineLimit, cell: Cell, make: Make, loud: bool) -> None:
    journal = runs.journal
    deaf = journal.volatile and not journal.listeners
    if deaf and not runs._assigned and not (loud and heard(noticed)):
        return
    child = cell.path
    assigned = runs.assigned(child)
    if deaf and not assigned:  # nobody could read it later, and it would only grow
        event = redacted(runs.redactor, ev.NODE_STREAM, make())
        notice(ev.Record(*_NOWHERE, child, 0, 0, event), lines)
        return
    event = make()
    culprits = [key for key in assigned if key in runs.crashed or runs.get(key[0]).subs[key[1]].restart]
    try:
        for run, sub in culprits or assigned:
            record = runs.append(run, event, sub=sub, path=child, cause=runs.get(run).subs[sub].seq)
            if not journal.volatile and (counted := counted_of(record)) is not None:
                journal.append(ev.NODE_STREAM, counted, path=child)
            return
        runs.append(ev.NODE_STREAM, event, path=child)
    except JournalError as error:
        if not runs.closing:  # a journal that failed has said so once
            log.error("not journalled: %s: %s", child, error)
