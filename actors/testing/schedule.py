"""Which ready actor is served next in a simulated world: first come, first served, but for a few deviations.

A deviation is addressed by an actor and the nth message it begins, never by a task or a global step: other changes to
the program leave it valid. An actor is named by its path, or by the number of its address in the order they were
spawned, from 0 (what a strategy draws that knows no paths).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from understudy.actors.errors import UsageError
from understudy.actors.telemetry import Addressed
from understudy.actors.testing.faults import check_address

MAX_STEPS: Final = 64
"""Turns that one `Hold` lasts at most."""


class Hold(Struct, frozen=True, tag=True, tag_field="$"):
    """Before its `at`th message (from 1; 0: before it starts) the actor is held back for `steps` turns of others.

    What waits for it waits, too, in its order. A hold takes no virtual time; more than `MAX_STEPS` turns count as so
    many. Raises `UsageError` for numbers that cannot be.
    """

    actor: str | int
    at: int
    steps: int

    def __post_init__(self) -> None:
        check_address("Hold", self.actor, self.at, first=0)
        if type(self.steps) is not int or self.steps < 0:
            raise UsageError(
                f"Hold({self.actor!r}, at={self.at}): steps is {self.steps!r}; turns of others, at least 0"
            )


class Demote(Struct, frozen=True, tag=True, tag_field="$"):
    """From its `at`th message on (from 1) the actor is served only when no other one is ready.

    Later demotions weigh more. The rule is that of probabilistic concurrency testing (Burckhardt et al., 2010). Raises
    `UsageError` for numbers that cannot be.
    """

    actor: str | int
    at: int

    def __post_init__(self) -> None:
        check_address("Demote", self.actor, self.at, first=1)


Deviation = Hold | Demote


class Plan:
    """Carries out the deviations of one world. A `Scheduler`.

    `begun` counts the messages that each address has begun, by path; whoever begins them counts. `used` are the
    deviations that came true.
    """

    def __init__(self, schedule: Sequence[Deviation], *, inline: bool = True) -> None:
        self.begun: dict[str, int] = {}
        self.used: list[Deviation] = []
        self._inline = inline
        self._names: dict[int, str] = {}
        self._spawned = 0
        self._holds: dict[tuple[str, int], tuple[int, Hold]] = {}
        self._demotions: dict[str, list[tuple[int, int, Demote]]] = {}
        self._unnamed: dict[int, list[tuple[int, Deviation]]] = {}
        self._waits: dict[tuple[str, int], int] = {}
        for rank, each in enumerate(schedule):
            if isinstance(each.actor, int):
                self._unnamed.setdefault(each.actor, []).append((rank, each))
            else:
                self._add(each.actor, rank, each)
        self._empty = not schedule
        self._rank_of_next = len(schedule)
        self._declined = False

    def _add(self, path: str, rank: int, each: Deviation) -> None:
        if isinstance(each, Hold):
            self._holds[path, each.at] = (min(each.steps, MAX_STEPS), each)
        else:
            self._demotions.setdefault(path, []).append((each.at, rank, each))

    def add(self, each: Deviation) -> None:
        """One more, while the world runs; of an actor by its path."""
        assert isinstance(each.actor, str), "numbers are given to the actors as they are spawned"
        self._empty = False
        self._rank_of_next += 1
        self._add(each.actor, self._rank_of_next, each)

    def clear(self) -> None:
        """First come, first served from now on."""
        self._holds.clear()
        self._demotions.clear()
        self._unnamed.clear()
        self._empty = True

    def spawned(self, path: str) -> None:
        """An address was made."""
        number, self._spawned = self._spawned, self._spawned + 1
        for rank, each in self._unnamed.pop(number, ()):
            self._add(path, rank, each)

    def next_ready(self, ready: Sequence[Addressed]) -> int:
        """See `Scheduler`."""
        if self._empty:
            return 0
        best, lowest = -1, -1
        for index, cell in enumerate(ready):
            path = cell.path
            if self._holds and self._held(path, cell):
                continue
            rank = self._rank(path) if self._demotions else -1
            if best < 0 or rank < lowest:
                best, lowest = index, rank
                if rank < 0:
                    break
        self._declined = best < 0
        return best

    def _held(self, path: str, cell: Addressed) -> bool:
        at = 0 if getattr(cell, "fresh", False) else self.begun.get(path, 0) + 1
        found = self._holds.get((path, at))
        if found is None:
            return False
        steps, hold = found
        waited = self._waits.get((path, at), 0)
        if waited == 0 and steps > 0:
            self.used.append(hold)
        self._waits[path, at] = waited + 1
        return waited < steps

    def _rank(self, path: str) -> int:
        rank = -1
        for at, place, each in self._demotions.get(path, ()):
            if self.begun.get(path, 0) + 1 >= at and place > rank:
                rank = place
                if each not in self.used:
                    self.used.append(each)
        return rank

    def inline(self, path: str) -> bool:
        """See `Scheduler`: not while the actor asked is held or demoted, and in no world with `inline=False`."""
        if self._empty or not self._inline:
            return self._inline
        at = self.begun.get(path, 0) + 1
        return (path, at) not in self._holds and path not in self._demotions

    def end_turn(self, handled: int) -> bool:
        """See `Scheduler`."""
        return False

    def next_timer(self, due: Sequence[float]) -> int:
        """See `Scheduler`."""
        return 0
