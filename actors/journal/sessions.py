"""Sessions: a run that goes on with the window of the run before it, and how that window is found again.

A run of a session names the one before it, so contents are stored once. What that run's window was is folded from its
stream, which may go on with another one's: back to where the window was written down whole. That is done whenever as
much was added as it holds, so what must be read is bounded by the window, and what is written by twice the contents.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from understudy.actors.errors import UsageError
from understudy.actors.journal import events as ev
from understudy.actors.journal.events import Record
from understudy.actors.journal.fold import fold
from understudy.actors.journal.shown import carried
from understudy.actors.journal.state import Run
from understudy.actors.journal.view import View

LONGEST = 200
"""Characters of a session's id."""


def checked(session: str) -> str:
    """The id, if it can be one. Raises `UsageError`."""
    if not 0 < len(session) <= LONGEST or not session.isprintable():
        raise UsageError(f"session {session!r}: a printable text of 1 to {LONGEST} characters")
    return session


def started(records: Sequence[Record]) -> ev.RunStarted | None:
    """How a run began."""
    event = records[0].event if records else None
    return event if isinstance(event, ev.RunStarted) else None


def needs(start: ev.RunStarted | None) -> str:
    """The run whose stream is needed to know the window that a run began with, "" for none."""
    return start.continues if start is not None and start.window is None else ""


async def completed(records: Sequence[Record], read: Callable[[str], Awaitable[Sequence[Record]]]) -> list[Record]:
    """A stream as `complete` makes it, what else it takes being read."""
    past: dict[str, Sequence[Record]] = {}
    name = needs(started(records))
    while name and name not in past:
        past[name] = await read(name)
        name = needs(started(past[name]))
    return complete(records, past)


def complete(records: Sequence[Record], past: Mapping[str, Sequence[Record]]) -> list[Record]:
    """The same stream, with the window that it began with written down in its first event, as replay and fold want it.

    `past`: streams by run. Raises `UsageError` naming one that is missing.
    """
    chain: list[tuple[str, int]] = []
    start = started(records)
    while start is not None and (name := needs(start)):
        if name not in past:
            raise UsageError(f"run {records[0].run} goes on with the window of run {name}, whose events are not there")
        chain.append((name, start.upto))
        start = started(past[name])
    view: View | None = None
    for name, upto in reversed(chain):
        view = window_after(fold(past[name][:upto], Run(name, before=view)))
    return [_with(records[0], view), *records[1:]] if view is not None else list(records)


def _with(first: Record, view: View) -> Record:
    return msgspec.structs.replace(first, event=msgspec.structs.replace(first.event, window=kept(view)))


def window_after(run: Run) -> View:
    """The window that a run leaves to the next one of its session."""
    return carried(run.id, run.main)


def kept(view: View) -> ev.Kept:
    """A window, whole."""
    return ev.Kept(tuple(view.items), view.next, view.counted, view.counted_size, view.spilled, view.left_out)


def written_down(view: View) -> ev.Kept | None:
    """The window whole, when as much was added as it holds since that was last done."""
    return kept(view) if view.items and view.since >= view.size else None
