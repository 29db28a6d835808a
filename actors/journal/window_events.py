"""Events of the context window: what was left out of it, and which run of a session goes on with whose."""

from __future__ import annotations

from msgspec import Struct

from understudy.actors.journal.event import Event
from understudy.actors.journal.view import Cut, Item, Spans


class Kept(Struct, frozen=True):
    """A window written down whole. All but `items` as in `view.View`."""

    items: tuple[Item, ...]
    next: int
    counted: int = 0
    counted_size: int = 0
    spilled: bool = False
    left_out: int = 0


class InSession(Event, frozen=True):
    """In the stream of a session: its next run, and the agent that it belongs to. The newest one is its last."""

    run: str
    agent: str


class Compacted(Event, frozen=True):
    """The context window was made smaller by `rule`, from about `tokens` to about `left`.

    `dropped` items are not shown any more, and `text` stands for them; `cuts` shorten results. All of it stays in the
    journal.
    """

    rule: str
    dropped: Spans
    text: str
    cuts: tuple[Cut, ...]
    tokens: int
    left: int
    command: str = ""


class SummaryDenied(Event, frozen=True):
    """There was no room in a pool for the call that would have made a summary: another rule must make room."""

    pool: str
    unit: str
