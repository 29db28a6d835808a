"""The event of a fork. Read it as `events.Forked`, with all others."""

from __future__ import annotations

from understudy.actors.journal.event import Event


class Forked(Event, frozen=True):
    """What stands before this was taken over from event 1 to `at` of `run`; from here on it is a run of its own.

    From here on `agent` has these `instructions` (None: its own) and asks `model` ("": its own). `changed`: the event
    whose result was replaced by another, 0 for none.
    """

    run: str
    at: int
    agent: str = ""
    instructions: str | None = None
    model: str = ""
    changed: int = 0
    by: str = ""
