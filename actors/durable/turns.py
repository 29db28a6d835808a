"""What goes into one event of plain actors, and what follows when it is committed."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from understudy.actors.durable.desk import Desk, Posted
from understudy.actors.journal.durable_events import Sent, Tried


class DeadPost(Struct, frozen=True):
    """A durable message that was given up: sent `by` (a path, "" for code outside of actors) to the path `to`.

    `tag` is its type's, `body` its JSON; it was handled `tries` times, last with `error`.
    """

    id: int
    to: str
    by: str
    tag: str
    body: str
    tries: int
    error: str


Committed = Callable[[BaseException | None], None]
"""Told None when something is committed, else why it is not."""


class Turn:
    """What is to go into one event, and what follows from it."""

    __slots__ = ("after", "desks", "dropped", "number", "posted", "sent", "tried")

    def __init__(self, number: int) -> None:
        self.number = number
        self.sent: list[Posted] = []
        self.desks: list[Desk] = []
        self.tried: list[Tried] = []
        self.dropped: list[Sent] = []
        self.posted: list[Posted] = []
        self.after: list[Committed] = []
