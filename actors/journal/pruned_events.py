"""What is kept of streams that were pruned. Read it as `events.Pruned`, with all others."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from understudy.actors.journal.event import Event

PRUNED: Final = "@pruned"
"""The stream of what is kept of others."""


class Carried(Struct, frozen=True):
    """What pruned runs spent in one pool that counts more than one run, up to the time `at`."""

    pool: str
    at: float
    spent: dict[str, int]


class Pruned(Event, frozen=True):
    """A snapshot in the place of `runs` runs with `events` events, which ended before `before` and are gone.

    `spends` and `over` are what later runs still need of them: what they spent, and the breaches that closed a pool.
    """

    runs: int
    events: int
    before: float
    spends: tuple[Carried, ...] = ()
    over: tuple[Carried, ...] = ()
