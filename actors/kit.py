"""What one incarnation uses beside its mailbox: a stash, links, keyed timers, an idle timeout, a home, a desk.

Few incarnations use any of it, so a life has one place for all, empty until something is first used.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.actors.cell import Cell
    from understudy.actors.delivery import Handler, Life
    from understudy.actors.durable.desk import Desk
    from understudy.actors.home import Home
    from understudy.actors.keyed import Idle, Keyed
    from understudy.actors.lifecycle import Exit
    from understudy.actors.stash import Stash


class Kit:
    """See the module. `sweep` is the number of keyed timers at which the spent ones are looked for."""

    __slots__ = ("desk", "home", "idle", "links", "stash", "sweep", "timers")

    def __init__(self) -> None:
        self.stash: Stash | None = None
        self.links: dict[Cell, None] = {}
        self.timers: dict[Hashable, Keyed] = {}
        self.idle: Idle | None = None
        self.home: Home | None = None
        self.desk: Desk | None = None
        self.sweep = 64

    def through(self, life: Life, found: tuple[Handler, bool]) -> tuple[Handler, bool]:
        """How a handler is called, where somebody wants to know of its end."""
        if self.desk is not None:
            found = self.desk.through(life, found[0]), False
        if self.idle is not None:
            found = self.idle.through(found[0]), False
        return found

    def end(self, cell: Cell, life: Life, exit: Exit) -> None:
        """The incarnation was cut off: nothing of it may reach the next one, but what was put aside may."""
        for timer in self.timers.values():
            timer.cancel()
        self.timers.clear()
        if self.idle is not None:
            self.idle.cancel()
            self.idle = None
        if self.stash is not None:
            self.stash.give_back()
            self.stash = None
        if self.links:
            cell.kernel.links.sever(cell, life, exit)


def kit_of(life: Life) -> Kit:
    """The kit of a life, made when first needed."""
    kit = life.kit
    if kit is None:
        kit = life.kit = Kit()
    return kit


def home_of(life: Life) -> Home | None:
    """The home task of a life, if it has one."""
    return life.kit.home if life.kit is not None else None
